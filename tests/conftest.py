"""The three loops, the leak check, and the servers that tests use."""

from __future__ import annotations

import gc
import ssl
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from keepalive import TLSConnector
from tests.support import Authority, HttpOrigin, Lines, Server, Silent
from tests.support.leaks import LoopWatch, descriptors, left_threads, threads
from tests.support.wires import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


_tests = count(1)


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture(scope="session", autouse=True)
def warm_up() -> None:
    """Let libuv make its pipe for signals, one for the whole process, before any test is checked.

    What is imported by now stays to the end: the collector, which runs twice per test, need not look at it.
    """
    uvloop.new_event_loop().close()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leak_check(warm_up: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a descriptor or a thread; the first fixture set up, so the last to end."""
    descriptors_before, threads_before = descriptors(), threads()
    yield
    left = left_threads(threads_before)
    assert not left, f"threads left: {left}"
    leaked = sorted(descriptors() - descriptors_before)
    assert not leaked, f"descriptors left: {leaked}"
    if request.session.testscollected > 200 and next(_tests) % 100 == 0:
        gc.collect()
        gc.freeze()  # the reports of the tests so far: the collector would look at all of them in each test


@pytest.fixture(autouse=True)
def loop_leak_check(leak_check: None, request: pytest.FixtureRequest) -> None:
    """Check an async test's loop too; set up after `leak_check`, so that the loop is closed before that."""
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("loop_watch")


@pytest.fixture
async def loop_watch(anyio_backend: object) -> AsyncIterator[None]:
    watch = LoopWatch()
    yield
    left = await watch.verdict()
    assert not left, f"left on the loop: {left}"


@pytest.fixture(scope="session")
def ca() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def client_context(ca: Authority) -> ssl.SSLContext:
    return ca.client()


@pytest.fixture
def echo_server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def line_server() -> Iterator[Server]:
    with Server(Lines()) as server:
        yield server


@pytest.fixture
def silent_server() -> Iterator[Server]:
    with Server(Silent()) as server:
        yield server


@pytest.fixture
def http_server() -> Iterator[Server]:
    with Server(HttpOrigin()) as server:
        yield server


@pytest.fixture
def tls_server(ca: Authority) -> Iterator[Server]:
    """Echo over TLS 1.3, with session tickets."""
    with Server(tls=ca.server()) as server:
        yield server


@pytest.fixture
def tls12_server(ca: Authority) -> Iterator[Server]:
    """Echo over TLS 1.2."""
    with Server(tls=ca.server(version=ssl.TLSVersion.TLSv1_2)) as server:
        yield server


@pytest.fixture
def unix_server(tmp_path: Path) -> Iterator[Server]:
    """Echo on a Unix socket; its path is ``server.host``."""
    with Server(path=tmp_path / "echo.sock") as server:
        yield server


@pytest.fixture(scope="session")
def server_contexts(ca: Authority) -> dict[str, ssl.SSLContext]:
    """Servers' TLS by the name of the wire; certificates take their time to make."""
    return {"tls": ca.server(), "tls12": ca.server(version=ssl.TLSVersion.TLSv1_2)}


@pytest.fixture
def make_wire(
    server_contexts: dict[str, ssl.SSLContext], client_context: ssl.SSLContext, tmp_path: Path
) -> Callable[[str], Wire]:
    """Make a wire by its name: tcp, unix, tls (1.3) or tls12."""

    def make(name: str) -> Wire:
        options: dict[str, Any] = {}
        if name == "unix":
            options = {"path": tmp_path / "wire.sock"}
        elif name != "tcp":
            options = {"tls": server_contexts[name]}
        return Wire(name, {"tls": TLSConnector(client_context, server_hostname="localhost")}, options)

    return make


@pytest.fixture(params=["tcp", "unix", "tls", "tls12"])
def wire(request: pytest.FixtureRequest, make_wire: Callable[[str], Wire]) -> Wire:
    """Every kind of connection."""
    return make_wire(request.param)


@pytest.fixture(params=["tcp", "tls"])
def net(request: pytest.FixtureRequest, make_wire: Callable[[str], Wire]) -> Wire:
    """The two kinds of connection that differ in what they can do to a stream."""
    return make_wire(request.param)
