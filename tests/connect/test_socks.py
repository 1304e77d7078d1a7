"""Tunnels through SOCKS 5 proxies: a real one, and what the wire may say."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Any

import pytest
from anyio.streams.tls import TLSAttribute

from keepalive import (
    AllocateTimeout,
    ConnectError,
    ConnectionManager,
    HTTPProxyConnector,
    ResolveError,
    Reuse,
    SOCKS5Connector,
    StaticResolver,
    TLSConnector,
    TLSSessionAttribute,
)
from tests.support import Greeting, Server
from tests.support.peers import free_port, microsocks
from tests.support.proxies import HttpProxy, Script
from tests.support.requests import ask, exchange, receive_exactly

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from keepalive import Connector

SECRET = "sesame-7391"
DONE = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38"


@pytest.fixture(scope="module")
def proxy() -> Iterator[int]:
    with microsocks() as port:
        yield port


@pytest.fixture(scope="module")
def locked_proxy() -> Iterator[int]:
    with microsocks("-u", "me", "-P", SECRET) as port:
        yield port


def to(port: int, **more: Any) -> SOCKS5Connector:
    """Make a connector through the proxy at a port of this machine."""
    return SOCKS5Connector(f"socks5://127.0.0.1:{port}", **more)


# -- a real proxy ------------------------------------------------------------------------------------


async def test_a_tunnel_is_kept(proxy: int, echo_server: Server) -> None:
    async with ConnectionManager(connectors={"via": SOCKS5Connector()}) as mgr:
        for turn in range(3):
            async with mgr.allocate(
                "via", "127.0.0.1", proxy, 5, for_addr="localhost", for_port=echo_server.port
            ) as conn:
                assert conn.from_cache is (Reuse.IMMEDIATE if turn else None)
                await exchange(conn, b"x" * 100_000)
        assert echo_server.accepted == 1


async def test_tls_inside(proxy: int, tls_server: Server, client_context: ssl.SSLContext) -> None:
    layer = TLSConnector(client_context, "localhost")
    connectors: dict[str, Connector] = {
        "https": to(proxy, inside={"https": layer}),
        "imaps": TLSConnector(client_context, "localhost", over=to(proxy)),
    }
    async with ConnectionManager(connectors=connectors, keep_alive=0) as mgr:
        for scheme in connectors:
            for turn in range(2):
                async with ask(mgr, tls_server, scheme=scheme, timeout=5) as conn:
                    await exchange(conn)
                    assert conn.extra(TLSAttribute.tls_version) == "TLSv1.3"
                    assert conn.extra(TLSSessionAttribute.session_reused) == bool(turn)


async def test_who_speaks_first_is_heard(proxy: int) -> None:
    with Server(Greeting()) as server:
        async with (
            ConnectionManager(connectors={"smtp": to(proxy)}) as mgr,
            ask(mgr, server, scheme="smtp", timeout=5) as conn,
        ):
            assert await receive_exactly(conn, 11) == b"220 ready\r\n"


async def test_credentials(locked_proxy: int, echo_server: Server) -> None:
    connectors = {
        "none": to(locked_proxy),
        "wrong": to(locked_proxy, auth=("me", "guessed")),
        "right": to(locked_proxy, auth=("me", SECRET)),
        "url": SOCKS5Connector(f"socks5h://me:{SECRET}@127.0.0.1:{locked_proxy}"),
    }
    async with ConnectionManager(connectors=connectors) as mgr:
        for scheme, text in (("none", "wants credentials"), ("wrong", "user name or the password")):
            with pytest.raises(ConnectError, match=text) as caught:
                await ask(mgr, echo_server, scheme=scheme, timeout=5)
            assert (caught.value.function, caught.value.error_num) == ("proxy", errno.EACCES)
        for scheme in ("right", "url"):
            async with ask(mgr, echo_server, scheme=scheme, timeout=5) as conn:
                await exchange(conn)
        assert mgr.stats().failed == {"proxy": 2}
    assert SECRET not in repr(connectors)


async def test_a_target_that_refuses(proxy: int) -> None:
    async with ConnectionManager(connectors={"http": to(proxy)}, max_per_host=1) as mgr:
        for _ in range(3):
            with pytest.raises(ConnectError, match="the proxy answered 5: connection refused") as caught:
                await mgr.allocate("http", "127.0.0.1", free_port(), 5)
            assert (caught.value.function, caught.value.error_num) == ("proxy", errno.ECONNREFUSED)
        assert mgr.stats().open == 0


# -- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("example.test", b"\x03\x0cexample.test"),
        ("192.0.2.1", b"\x01\xc0\x00\x02\x01"),
        ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ("b\xfccher.test", b"\x03\x12xn--bcher-kva.test"),
        ("n" * 255, b"\x03\xff" + b"n" * 255),
    ],
)
async def test_the_proxy_looks_names_up(host: str, sent: bytes) -> None:
    """With `remote_dns` no resolver here ever hears the target's name."""
    script = Script(b"\x05\x00", DONE)
    with Server(script) as server:
        async with (
            ConnectionManager(connectors={"http": to(server.port)}, resolver=StaticResolver({})) as mgr,
            mgr.allocate("http", host, 80, 5) as conn,
        ):
            await exchange(conn)
    assert script.heard[:2] == [b"\x05\x01\x00", b"\x05\x01\x00" + sent + b"\x00P"]


async def test_or_the_manager_does() -> None:
    """Its addresses are tried in turn, each on a connection of its own; the first error is told."""
    script = Script(b"\x05\x00", b"\x05\x04\x00\x01" + bytes(6))
    resolver = StaticResolver({"two.test": ["192.0.2.1", "2001:db8::1"]})
    with Server(script) as server:
        connectors = {"http": to(server.port, remote_dns=False)}
        async with ConnectionManager(connectors=connectors, resolver=resolver) as mgr:
            with pytest.raises(ConnectError, match="host unreachable") as caught:
                await mgr.allocate("http", "two.test", 80, 5)
            assert caught.value.error_num == errno.EHOSTUNREACH
            with pytest.raises(ResolveError):
                await mgr.allocate("http", "unknown.test", 80, 5)
        assert (server.accepted, server.peak) == (2, 1)
    assert [heard[3] for heard in script.heard if len(heard) > 3] == [1, 4]


@pytest.mark.parametrize("host", ["n" * 256, "a/b", "fe80::1%1", "\xfc" * 70])
async def test_hosts_that_are_never_sent(host: str, silent_server: Server) -> None:
    async with ConnectionManager(connectors={"http": to(silent_server.port)}) as mgr:
        with pytest.raises(ConnectError) as caught:
            await mgr.allocate("http", host, 80, 5)
        assert (caught.value.function, caught.value.error_num) == ("proxy", errno.EINVAL)
    assert silent_server.received == 0


# -- what is answered --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        DONE,
        b"\x05\x00\x00\x04" + bytes(18),
        b"\x05\x00\x00\x03\x00\x00\x00",
        b"\x05\x00\x00\x03\x02\xff\xfe\x00P",
        b"\x05\x00\x00\x03\xff" + b"n" * 255 + b"\x00\x50",
    ],
)
async def test_what_follows_the_answer_belongs_to_the_tunnel(answer: bytes) -> None:
    with Server(Script(b"\x05\x00", answer + b"220 ready\r\n")) as server:
        async with (
            ConnectionManager(connectors={"smtp": to(server.port)}) as mgr,
            mgr.allocate("smtp", "mail.test", 25, 5) as conn,
        ):
            assert await receive_exactly(conn, 11) == b"220 ready\r\n"
            await exchange(conn)


@pytest.mark.parametrize(
    ("lines", "text", "number"),
    [
        ([b"HTTP/1.1 400 Bad"], "does not speak SOCKS 5", None),
        ([b"\x04\x00"], "does not speak SOCKS 5", None),
        ([b"\x05\xff"], "does not accept these credentials (method 255)", errno.EACCES),
        ([b"\x05\x01"], "does not accept these credentials (method 1)", errno.EACCES),
        ([b"\x05\x80"], "does not accept these credentials (method 128)", errno.EACCES),
        ([b"\x05"], None, None),
        ([None], "closed the connection before it had answered", errno.ECONNRESET),
        ([b"\x05\x02", b"\x01\x01"], "refused the user name or the password", errno.EACCES),
        ([b"\x05\x02", None], "closed the connection before it had answered", errno.ECONNRESET),
        ([b"\x05\x00", b"\x04\x00\x00\x01" + bytes(6)], "does not speak SOCKS 5", None),
        ([b"\x05\x00", b"\x05\x01\x00\x01"], "answered 1: general failure", None),
        ([b"\x05\x00", b"\x05\x02\x00\x01"], "answered 2: not allowed", errno.EACCES),
        ([b"\x05\x00", b"\x05\x03\x00\x01"], "answered 3: network unreachable", errno.ENETUNREACH),
        ([b"\x05\x00", b"\x05\x06\x00\x01"], "answered 6: time to live", errno.EHOSTUNREACH),
        ([b"\x05\x00", b"\x05\x07\x00\x01"], "answered 7: it knows no CONNECT", errno.EOPNOTSUPP),
        ([b"\x05\x00", b"\x05\x08\x00\x01"], "answered 8: it does not support", errno.EAFNOSUPPORT),
        ([b"\x05\x00", b"\x05\x5b\x00\x01"], "answered 91: unknown", None),
        ([b"\x05\x00", b"\x05\x00\x00\x07" + bytes(20)], "an unknown kind of address, 7", None),
    ],
)
async def test_answers_that_are_no_tunnel(
    lines: list[bytes | None], text: str | None, number: int | None
) -> None:
    with Server(Script(*lines)) as server:
        connectors = {"http": to(server.port, auth=("me", SECRET))}
        async with ConnectionManager(connectors=connectors) as mgr:
            with pytest.raises(AllocateTimeout if text is None else ConnectError) as caught:
                await mgr.allocate("http", "target.test", 1, 5 if text else 0.05)
            assert caught.value.function == "proxy"
            assert caught.value.error_num == (number if text else errno.ETIMEDOUT)
            assert (text or "no connection within") in caught.value.error_str
            assert SECRET not in repr(caught.value) + str(caught.value)
            assert mgr.stats().open == (0 if text else 1)  # a spare attempt has ten seconds


async def test_a_chain_of_two_kinds(proxy: int, echo_server: Server) -> None:
    with HttpProxy(echo_server) as last:
        connector = HTTPProxyConnector(f"http://localhost:{last.port}", over=to(proxy))
        async with (
            ConnectionManager(connectors={"http": connector}) as mgr,
            mgr.allocate("http", "target.test", 1, 5) as conn,
        ):
            await exchange(conn)


# -- arguments ---------------------------------------------------------------------------------------


def test_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio.socks5", None)
    with pytest.raises(ImportError, match=r"keepalive-manager\[socks\]"):
        SOCKS5Connector()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="socks5://host:1080"):
        SOCKS5Connector(f"http://me:{SECRET}@host:1")
    for pair in (("", "b"), ("a", ""), ("a" * 256, "b"), ("a", "\xfc" * 128), ("a", "\udc80")):
        with pytest.raises(ValueError, match="auth"):
            SOCKS5Connector(auth=pair)
    wrong: Any = "no"
    with pytest.raises(TypeError, match="remote_dns"):
        SOCKS5Connector(remote_dns=wrong)
