"""Every wrong argument is named at the call (heritage poe 1.3-1.6, 1.11-1.16, 1.64, 1.74; contract)."""

from __future__ import annotations

import math
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from keepalive import (
    ConnectionManager,
    Observer,
    StaticResolver,
    SystemResolver,
    TCPConnector,
    TLSConnector,
)
from tests.support.requests import ask, exchange
from tests.support.resolvers import HOST, TableResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.support import Server

    Case = tuple[str, object, type[Exception]]

NAN = math.nan
NOT_NUMBERS = ("1", b"1", True, [1], 1j, object())


def seconds(name: str, *, zero: bool, negative: bool = False) -> list[Case]:
    """List the wrong values of a number of seconds."""
    cases: list[Case] = [(name, value, TypeError) for value in NOT_NUMBERS]
    cases += [(name, NAN, ValueError), (name, 10**400, ValueError)]
    if not negative:
        cases += [(name, value, ValueError) for value in (-1, -0.001, -math.inf)]
    return cases if zero else [*cases, (name, 0, ValueError), (name, 0.0, ValueError)]


def counts(name: str, *, zero: bool) -> list[Case]:
    """List the wrong values of a whole number."""
    cases: list[Case] = [(name, value, TypeError) for value in (*NOT_NUMBERS, 1.0, 1.5, NAN)]
    cases.append((name, -1, ValueError))
    return cases if zero else [*cases, (name, 0, ValueError)]


CONSTRUCTION: list[Case] = [
    *counts("max_per_host", zero=False),
    *counts("max_open", zero=False),
    *counts("max_waiting", zero=True),
    *counts("max_uses", zero=False),
    *seconds("keep_alive", zero=True),
    *seconds("timeout", zero=True, negative=True),
    *seconds("connect_timeout", zero=False),
    *seconds("max_lifetime", zero=False),
    ("resolver", "8.8.8.8", TypeError),
    ("resolver", TableResolver, TypeError),
    ("resolver", object(), TypeError),
    ("observer", print, TypeError),
    ("observer", Observer, TypeError),
    ("bind_address", 5, TypeError),
    ("bind_address", (5, 80), TypeError),
    ("bind_address", (HOST, "80"), TypeError),
    ("bind_address", (HOST, 80, 0), TypeError),
    ("bind_address", [HOST, 80], TypeError),
    ("bind_address", "", ValueError),
    ("bind_address", "localhost", ValueError),
    ("bind_address", (HOST, -1), ValueError),
    ("bind_address", (HOST, 65536), ValueError),
    ("connectors", 5, TypeError),
    ("connectors", [("http", TCPConnector())], TypeError),
    ("connectors", {"http": "tcp"}, TypeError),
    ("connectors", {"http": TCPConnector}, TypeError),
    ("connectors", {"http": None}, TypeError),
    ("connectors", {80: TCPConnector()}, TypeError),
    ("connectors", {"": TCPConnector()}, ValueError),
]


def check(call: Callable[..., object], cases: Iterable[Case], *given: object) -> None:
    """Make all the calls; each must fail and say which argument was wrong."""
    for name, value, kind in cases:
        with pytest.raises(kind, match=rf"\b{name}\b") as caught:
            call(*given, **{name: value})
        assert type(caught.value) is kind, f"{name}={value!r}"


@pytest.mark.parametrize("name", list(dict.fromkeys(name for name, *_ in CONSTRUCTION)))
def test_construction(name: str) -> None:
    """heritage poe 1.3, 1.5, 1.6, 3.10 (B9): wrong type, zero, negative, NaN."""
    check(ConnectionManager, (case for case in CONSTRUCTION if case[0] == name))


def test_construction_takes_names_only() -> None:
    """heritage poe 1.4, 1.5."""
    make: Any = ConnectionManager
    with pytest.raises(TypeError, match="positional"):
        make(4)
    with pytest.raises(TypeError, match="'max_host'"):
        make(max_host=4)


def test_what_is_no_mistake() -> None:
    """The contract: `None` is no limit, a timeout may have any sign, infinite is no limit."""
    for name in ("max_per_host", "max_open", "max_waiting", "max_uses", "keep_alive", "timeout"):
        arguments: Any = {name: None}
        ConnectionManager(**arguments)
    ConnectionManager(timeout=-1, keep_alive=0, max_waiting=0, bind_address="::1")
    ConnectionManager(timeout=math.inf, keep_alive=math.inf, connectors={}, bind_address=(HOST, 0))


PARTS: list[Case] = [
    *((name, value, TypeError) for name in ("scheme", "addr") for value in (None, 5, b"http", ["http"])),
    *((name, value, TypeError) for name in ("for_scheme", "for_addr") for value in (5, b"http", ["http"])),
    *((name, "", ValueError) for name in ("scheme", "addr", "for_scheme", "for_addr")),
    *((name, "a b", ValueError) for name in ("addr", "for_addr")),
    *((name, "a\0", ValueError) for name in ("addr", "for_addr")),
    *((name, "peer\n", ValueError) for name in ("addr", "for_addr")),
    *((name, value, TypeError) for name in ("port", "for_port") for value in ("80", 80.0, True, [80])),
    ("port", None, TypeError),
    *((name, value, ValueError) for name in ("port", "for_port") for value in (0, -1, 65536)),
]


async def test_allocate() -> None:
    """heritage poe 1.11-1.16: one mistake at a time, named, at the call, without any effect."""
    async with ConnectionManager() as mgr:
        for name, value, kind in PARTS:
            given: dict[str, Any] = {"scheme": "http", "addr": HOST, "port": 80}
            given.pop(name, None)
            check(partial(mgr.allocate, **given), [(name, value, kind)])
        check(mgr.allocate, seconds("timeout", zero=True, negative=True), "http", HOST, 80)
        assert (mgr.stats().requests, mgr.stats().keys) == (0, {})


async def test_allocate_on_a_known_key(echo_server: Server) -> None:
    """heritage poe 1.13: what equals a known key is still not one: 80 == 80.0, 1 == True."""
    async with ConnectionManager() as mgr:
        async with ask(mgr, echo_server, for_port=1) as conn:
            await exchange(conn)
        port: Any
        for port in (float(echo_server.port), echo_server.port + 0j):
            with pytest.raises(TypeError, match=r"\bport\b"):
                mgr.allocate("http", HOST, port, 5, for_port=1)
        for port in (1.0, True):
            with pytest.raises(TypeError, match="for_port"):
                mgr.allocate("http", HOST, echo_server.port, 5, for_port=port)
        assert mgr.stats().requests == 1


async def test_allocate_for_unix() -> None:
    """The contract: a path may be anything but empty; its port is 0."""
    async with ConnectionManager() as mgr:
        with pytest.raises(ValueError, match=r"\baddr\b"):
            mgr.allocate("unix", "", 0)
        with pytest.raises(ValueError, match=r"\baddr\b"):
            mgr.allocate("unix", "/run/a\0b", 0)
        with pytest.raises(ValueError, match=r"\bport\b"):
            mgr.allocate("unix", "/run/x", -1)
        assert mgr.allocate("unix", "/run/with a blank", 0).cancel()


async def test_allocate_with_too_little_or_too_much() -> None:
    """heritage poe 1.13, 1.14, 1.16: missing and unknown ones are named."""
    async with ConnectionManager() as mgr:
        allocate: Any = mgr.allocate
        with pytest.raises(TypeError, match="'scheme', 'addr', and 'port'"):
            allocate()
        with pytest.raises(TypeError, match="'port'"):
            allocate("http", HOST)
        with pytest.raises(TypeError, match="'address'"):
            allocate("http", HOST, 80, address=HOST)
        with pytest.raises(TypeError, match="positional"):
            allocate("http", HOST, 80, 5, "https")
        assert mgr.stats().requests == 0


async def test_deallocate(echo_server: Server) -> None:
    """heritage poe 1.74: a number that this manager never issued."""
    async with ConnectionManager() as mgr, ConnectionManager() as other:
        foreign = [ask(other, echo_server) for _ in range(3)][-1]
        request = ask(mgr, echo_server)
        wrong: Any
        for wrong in (0, -1, foreign.id, None, "1", 1.0, True, [1]):
            with pytest.raises(ValueError, match=r"req_id .* was never issued by this manager"):
                mgr.deallocate(wrong)
        assert mgr.deallocate(request.id)


async def test_free(echo_server: Server) -> None:
    """heritage poe 1.64: nothing but a lent connection of this manager."""
    async with ConnectionManager() as mgr, ConnectionManager() as other:
        foreign = await ask(other, echo_server)
        for wrong in (None, "not a socket", foreign, ask(mgr, echo_server)):
            with pytest.raises(ValueError, match="is not a connection of this manager"):
                mgr.free(wrong)  # type: ignore[arg-type]  # that is the test
        await exchange(foreign)
        foreign.release()
        with pytest.raises(ValueError, match="is not a connection of this manager"):
            mgr.free(foreign)


async def test_release(echo_server: Server) -> None:
    """The contract: a wrong `keep_for` is told, and the connection is still lent."""
    async with ConnectionManager() as mgr:
        conn = await ask(mgr, echo_server)
        check(conn.release, seconds("keep_for", zero=True))
        await exchange(conn)
        assert mgr.stats().lent == 1
        conn.release()


async def test_aclose(echo_server: Server) -> None:
    """The contract: a wrong `grace` is told, and the manager goes on."""
    async with ConnectionManager() as mgr:
        for name, value, kind in seconds("grace", zero=True):
            wrong: Any = value
            with pytest.raises(kind, match=name):
                await mgr.aclose(wrong)
        async with ask(mgr, echo_server) as conn:
            await exchange(conn)


async def test_set_limits(echo_server: Server) -> None:
    """The limits of a running manager are checked as those of a new one; a wrong one changes none."""
    async with ConnectionManager(max_open=1) as mgr:
        check(mgr.set_limits, [*counts("max_per_host", zero=False), *counts("max_open", zero=False)])
        with pytest.raises(ValueError, match="max_open"):
            mgr.set_limits(max_per_host=9, max_open=0)
        held = await ask(mgr, echo_server)
        assert mgr.stats().open == 1
        assert ask(mgr, echo_server).cancel()
        held.release()


async def test_stream_arguments(echo_server: Server) -> None:
    """The contract: what is no bytes is not sent; nothing less than a byte can be received."""
    async with ConnectionManager() as mgr, ask(mgr, echo_server) as conn:
        for wrong in (5, "text", None, [1, 2], 5.0):
            with pytest.raises(TypeError):
                await conn.send(wrong)  # type: ignore[arg-type]  # that is the test
        for number in (0, -1):
            with pytest.raises(ValueError, match="max_bytes"):
                await conn.receive(number)
        await exchange(conn)
        for data in (bytearray(b"some"), memoryview(b"more")):
            await exchange(conn, data)  # type: ignore[arg-type]  # that is the test


def test_tls_connector() -> None:
    """The contract: what a connector is made with is checked when it is made."""
    check(
        TLSConnector,
        [
            ("ssl_context", "default", TypeError),
            ("ssl_context", ssl.SSLContext, TypeError),
            ("ssl_context", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ValueError),
            ("server_hostname", 5, TypeError),
            ("server_hostname", b"one.test", TypeError),
            ("server_hostname", "", ValueError),
            ("alpn", "h2", TypeError),
            ("alpn", 5, TypeError),
            ("alpn", [b"h2"], TypeError),
            ("alpn", ["h2", ""], ValueError),
            ("alpn", ["x" * 256], ValueError),
            ("alpn", ["h\u00b2"], ValueError),
            ("over", "tcp", TypeError),
            ("over", TCPConnector, TypeError),
        ],
    )


def test_resolvers() -> None:
    """The contract: so are the resolvers."""
    check(SystemResolver, counts("threads", zero=False))
    with pytest.raises(TypeError, match="peer"):
        StaticResolver({"peer": 5})  # type: ignore[dict-item]  # that is the test
    with pytest.raises(ValueError, match="peer"):
        StaticResolver({"peer": "not an address"})
