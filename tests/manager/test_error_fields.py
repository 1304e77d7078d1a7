"""What errors tell and that they travel (heritage poe 1.31-1.34, 3.22, 3.23; contract)."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import ssl
import traceback
from typing import TYPE_CHECKING

import pytest

from keepalive import (
    AllocateError,
    AllocateTimeout,
    ConnectError,
    ConnectionManager,
    KeepaliveError,
    Key,
    ManagerClosed,
    QueueFull,
    RequestCancelled,
    ResolveError,
    TLSConnector,
    TLSError,
)
from tests.support import refused_path, refused_port
from tests.support.requests import ask
from tests.support.resolvers import HOST, TableResolver

if TYPE_CHECKING:
    from pathlib import Path

    from keepalive import Dial, Link
    from tests.support import Server

KEY = Key("http", "proxy.test", 8080, "https", "far.test", 443)
PLAIN = Key("http", "peer.test", 80, "http", "peer.test", 80)
KINDS = [AllocateError, ResolveError, ConnectError, TLSError, AllocateTimeout]


def test_family() -> None:
    """The contract: one root; all that concerns a connection is an OSError, a time-out a TimeoutError too."""
    for kind in KINDS:
        assert issubclass(kind, AllocateError)
        assert issubclass(kind, OSError)
    others: list[type[KeepaliveError]] = [QueueFull, RequestCancelled, ManagerClosed]
    assert issubclass(AllocateError, KeepaliveError)
    for other in others:
        assert issubclass(other, KeepaliveError)
        assert not issubclass(other, OSError)
    assert issubclass(AllocateTimeout, TimeoutError)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [errno.ECONNREFUSED, None])
@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_allocate_errors_travel(kind: type[AllocateError], number: int | None, copied: object) -> None:
    """The contract: to another process, say; all but the context, which may be anything."""
    error = kind(KEY, "connect", number, "it is so", request_id=7, context=lambda: None)
    found = pickle.loads(pickle.dumps(error)) if copied is pickle.dumps else copied(error)  # type: ignore[operator]  # one of three ways
    assert type(found) is kind
    assert str(found) == str(error)
    assert found.args == error.args == (number, "it is so")
    for name in ("key", "function", "error_num", "error_str", "errno", "strerror", "request_id", "for_addr"):
        assert getattr(found, name) == getattr(error, name)
    assert found.context is None


@pytest.mark.parametrize("kind", [KeepaliveError, QueueFull, RequestCancelled, ManagerClosed])
def test_the_others_travel(kind: type[KeepaliveError]) -> None:
    """The contract: so do the plain ones."""
    found = pickle.loads(pickle.dumps(kind("it is so")))
    assert type(found) is kind
    assert str(found) == "it is so"


def test_texts() -> None:
    """heritage poe 1.31: for whom, in which phase, what, and the number if there is one."""
    assert str(ConnectError(PLAIN, "connect", 111, "refused")) == (
        "http://peer.test:80: connect: refused (errno 111)"
    )
    assert str(ResolveError(KEY, "resolve", None, "unknown")) == (
        "https://far.test:443 via http://proxy.test:8080: resolve: unknown"
    )


async def failure(mgr: ConnectionManager, *place: object, **more: object) -> AllocateError:
    """Request something that fails; gives the error."""
    try:
        conn = await mgr.allocate(*place, **more)  # type: ignore[arg-type]  # one of three ways
    except AllocateError as exc:
        return exc
    raise AssertionError(f"got {conn!r}")


async def test_fields_of_a_refused_connection(tmp_path: Path) -> None:
    """heritage poe 1.31-1.33, 1.29: the system's number and text, the request's fields, the original
    error."""
    tag = object()
    async with ConnectionManager() as mgr:
        with refused_port() as port:
            request = mgr.allocate("http", HOST, port, 5, for_port=443, context=tag)
            with pytest.raises(ConnectError) as caught:
                await request
        with refused_path(tmp_path) as path:
            local = await failure(mgr, "unix", path, 0, 5)
        missing = await failure(mgr, "unix", str(tmp_path / "none"), 0, 5)
    refused = caught.value
    assert (refused.request_id, refused.context, refused.for_port) == (request.id, tag, 443)
    assert refused.key == Key("http", HOST, port, "http", HOST, 443)
    for error, number in (
        (refused, errno.ECONNREFUSED),
        (local, errno.ECONNREFUSED),
        (missing, errno.ENOENT),
    ):
        assert type(error) is ConnectError
        assert (error.function, error.error_num, error.error_str) == ("connect", number, os.strerror(number))
        assert isinstance(error.__cause__, OSError)
        assert error.__cause__.errno == number
        assert type(pickle.loads(pickle.dumps(error))) is ConnectError


async def test_fields_of_an_unknown_name() -> None:
    """heritage poe 1.33, 1.34: no number; a text that names the host."""
    async with ConnectionManager(resolver=TableResolver(void="")) as mgr:
        unknown = await failure(mgr, "http", "peer", 80, 5)
        void = await failure(mgr, "http", "void", 80, 5)
    assert (type(unknown), unknown.function, unknown.error_num) == (ResolveError, "resolve", None)
    assert unknown.error_str == "no such name: peer"
    assert (type(void), void.error_str, void.error_num) == (ResolveError, "void has no address", None)


async def test_fields_of_a_bad_certificate(tls_server: Server) -> None:
    """heritage poe 1.33, 3.20: no number; the reason in words, the library's error as the cause."""
    async with ConnectionManager() as mgr:
        error = await failure(mgr, "https", HOST, tls_server.port, 5, for_addr="localhost")
    assert (type(error), error.function, error.error_num) == (TLSError, "tls", None)
    assert error.error_str.startswith("certificate verify failed: ")
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


async def test_fields_of_a_time_out(echo_server: Server) -> None:
    """heritage poe 1.33, 3.23: ETIMEDOUT, the phase, and how full the pool is."""
    async with ConnectionManager(max_per_host=1, max_open=9) as mgr, ask(mgr, echo_server):
        waiting = ask(mgr, echo_server)
        error = await failure(mgr, "http", HOST, echo_server.port, 0.02, context="tag")
        assert waiting.cancel()
    assert (type(error), error.function, error.error_num) == (AllocateTimeout, "queue", errno.ETIMEDOUT)
    assert isinstance(error, TimeoutError)
    assert error.context == "tag"
    assert error.error_str == (
        "no connection within timeout=0.02 s; 1 of 9 connections open, 1 of 1 for this key, 1 requests queued"
    )


async def test_each_request_has_an_error_of_its_own() -> None:
    """The contract: tracebacks do not grow from one failure to the next."""
    async with ConnectionManager(resolver=TableResolver()) as mgr:
        lengths = set()
        for _ in range(4):
            error = await failure(mgr, "http", "peer", 80, 5)
            lengths.add(len(traceback.format_exception(error)))
        assert len(lengths) == 1


class Broken:
    """A connector that raises something."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def connect(self, dial: Dial) -> Link:
        raise self.error


@pytest.mark.parametrize(
    ("raised", "number", "text"),
    [
        (OSError(errno.EMFILE, "Too many open files"), errno.EMFILE, "Too many open files"),
        (OSError("odd"), None, "odd"),
        (ConnectionResetError(), None, "ConnectionResetError"),
        (ZeroDivisionError("division by zero"), None, "division by zero"),
    ],
)
async def test_errors_of_connectors(
    echo_server: Server, caplog: pytest.LogCaptureFixture, raised: Exception, number: int | None, text: str
) -> None:
    """heritage poe 1.32: whatever the failing call is, the request is told, and the place is free."""
    async with ConnectionManager(connectors={"odd": Broken(raised)}, max_open=1) as mgr:
        error = await failure(mgr, "odd", HOST, 80, 5)
        assert isinstance(error, ConnectError)
        assert error.error_num == number
        assert text in error.error_str
        assert error.__cause__ is raised
        async with ask(mgr, echo_server):
            assert mgr.stats().open == 1
    assert bool(caplog.records) is not isinstance(raised, OSError)


async def test_a_tls_connector_over_a_broken_one() -> None:
    """heritage poe 1.32: the phase is that in which it failed, not that of the outermost layer."""
    over = Broken(ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)))
    async with ConnectionManager(connectors={"https": TLSConnector(over=over)}) as mgr:
        error = await failure(mgr, "https", HOST, 80, 5)
    assert isinstance(error, ConnectError)
    assert error.error_num == errno.ECONNREFUSED
