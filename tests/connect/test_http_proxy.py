"""Tunnels by HTTP's CONNECT: real proxies, what they are sent, and what must never leak."""

from __future__ import annotations

import base64
import errno
import logging
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from anyio import BrokenResourceError
from anyio.streams.tls import TLSAttribute

from keepalive import (
    AllocateError,
    ConnectError,
    ConnectionManager,
    HTTPProxyConnector,
    ResolveError,
    Reuse,
    TLSConnector,
    TLSError,
    TLSSessionAttribute,
)
from tests.support import Server
from tests.support.peers import free_port, tinyproxy
from tests.support.proxies import OK, SECRET, HttpProxy, Script, head
from tests.support.requests import ask, exchange

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from keepalive import Connector, Request
    from tests.support import Authority


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tinyproxy(tmp_path_factory.mktemp("tinyproxy")) as port:
        yield port


@pytest.fixture(scope="module")
def locked_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tinyproxy(tmp_path_factory.mktemp("tinyproxy"), f"BasicAuth me {SECRET}", "ConnectPort 9") as port:
        yield port


def via(mgr: ConnectionManager, port: int, server: Server, for_scheme: str = "echo", **more: Any) -> Request:
    """Request a tunnel to a server, the proxy being named by the key."""
    target = {"for_addr": "localhost", "for_port": server.port, **more}
    return mgr.allocate("via", "127.0.0.1", port, 5, for_scheme=for_scheme, **target)


# -- a real proxy ------------------------------------------------------------------------------------


async def test_a_tunnel_is_kept(proxy: int, echo_server: Server) -> None:
    async with ConnectionManager(connectors={"via": HTTPProxyConnector()}) as mgr:
        for turn in range(3):
            async with via(mgr, proxy, echo_server) as conn:
                assert conn.from_cache is (Reuse.IMMEDIATE if turn else None)
                await exchange(conn, b"x" * 100_000)
        assert echo_server.accepted == 1


async def test_tls_inside_for_https(proxy: int, tls_server: Server, client_context: ssl.SSLContext) -> None:
    connector = HTTPProxyConnector(inside={"https": TLSConnector(client_context)})
    async with ConnectionManager(connectors={"via": connector}, keep_alive=0) as mgr:
        for turn in range(2):
            async with via(mgr, proxy, tls_server, "https") as conn:
                await exchange(conn)
                assert conn.extra(TLSAttribute.tls_version) == "TLSv1.3"
                assert conn.extra(TLSSessionAttribute.session_reused) == bool(turn)


async def test_https_is_verified_by_default(proxy: int, tls_server: Server) -> None:
    async with ConnectionManager(connectors={"via": HTTPProxyConnector()}) as mgr:
        with pytest.raises(TLSError, match="certificate verify failed"):
            await via(mgr, proxy, tls_server, "https")
        assert mgr.stats().open == 0


async def test_below_a_tls_connector_it_only_makes_the_tunnel(
    proxy: int, tls_server: Server, client_context: ssl.SSLContext
) -> None:
    connector = TLSConnector(client_context, over=HTTPProxyConnector())
    async with ConnectionManager(connectors={"via": connector}) as mgr:
        for scheme in ("https", "imaps"):
            async with via(mgr, proxy, tls_server, scheme) as conn:
                await exchange(conn)


async def test_keys_that_name_the_target_alone(
    proxy: int, echo_server: Server, tls_server: Server, client_context: ssl.SSLContext
) -> None:
    connector = HTTPProxyConnector(
        f"http://127.0.0.1:{proxy}", inside={"https": TLSConnector(client_context, "localhost")}
    )
    async with ConnectionManager(connectors={"http": connector, "https": connector}) as mgr:
        for scheme, server in (("http", echo_server), ("https", tls_server)):
            for kind in (None, Reuse.IMMEDIATE):
                async with ask(mgr, server, scheme=scheme, timeout=5) as conn:
                    assert conn.from_cache is kind
                    await exchange(conn)


async def test_refusals_of_a_real_proxy(proxy: int, locked_proxy: int, echo_server: Server) -> None:
    connectors: dict[str, Connector] = {
        "via": HTTPProxyConnector(),
        "wrong": HTTPProxyConnector(auth=("me", "guessed")),
        "right": HTTPProxyConnector(auth=("me", SECRET)),
    }
    async with ConnectionManager(connectors=connectors, max_per_host=1) as mgr:

        async def refuse(scheme: str, port: int, target: int) -> ConnectError:
            with pytest.raises(ConnectError) as caught:
                await mgr.allocate(scheme, "127.0.0.1", port, 5, for_addr="127.0.0.1", for_port=target)
            assert caught.value.function == "proxy"
            assert mgr.stats().open == 0
            return caught.value

        for scheme in ("via", "wrong"):
            error = await refuse(scheme, locked_proxy, echo_server.port)
            assert "the proxy answered 40" in error.error_str  # 407, or 401 by older ones
            assert error.error_num == errno.EACCES
        error = await refuse("right", locked_proxy, echo_server.port)  # only port 9 is open to it
        assert (error.error_num, "403" in error.error_str) == (errno.EACCES, True)
        assert "the proxy answered 50" in (await refuse("via", proxy, free_port())).error_str
        assert mgr.stats().failed == {"proxy": 4}


async def test_credentials_open_the_proxy(tmp_path: Path, echo_server: Server) -> None:
    with tinyproxy(tmp_path, f"BasicAuth me {SECRET}") as port:
        for connector in (
            HTTPProxyConnector(f"http://me:{SECRET}@127.0.0.1:{port}"),
            HTTPProxyConnector(f"http://127.0.0.1:{port}", auth=("me", SECRET)),
        ):
            async with (
                ConnectionManager(connectors={"http": connector}) as mgr,
                ask(mgr, echo_server) as conn,
            ):
                await exchange(conn)


async def test_each_target_is_a_key_of_its_own(echo_server: Server) -> None:
    """heritage poe 1.18, 1.19, 3.25: reuse and `max_per_host` are per target; `max_open` bounds them
    together."""
    with HttpProxy(echo_server) as proxy:
        connectors = {"via": HTTPProxyConnector()}
        async with ConnectionManager(connectors=connectors, max_per_host=1, max_open=2) as mgr:
            for _ in range(2):
                for name in ("one.test", "two.test"):
                    async with via(mgr, proxy.port, echo_server, for_addr=name) as conn:
                        await exchange(conn)
                        assert (conn.addr, conn.for_addr) == (proxy.host, name)
            assert proxy.accepted == 2
            async with via(mgr, proxy.port, echo_server, for_addr="three.test") as conn:
                await exchange(conn)
            assert (mgr.stats().open, mgr.stats().closed) == (2, {"evicted": 1})


# -- what is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("example.test", "example.test:80"),
        ("192.0.2.1", "192.0.2.1:80"),
        ("2001:db8::1", "[2001:db8::1]:80"),
        ("b\xfccher.test", "xn--bcher-kva.test:80"),
        ("fa\xdf.test", "xn--fa-hia.test:80"),
    ],
)
async def test_the_request(host: str, sent: str, echo_server: Server) -> None:
    with HttpProxy(echo_server) as proxy:
        connector = HTTPProxyConnector(f"http://us%C3%A9r:p%40ss%20@{proxy.host}:{proxy.port}")
        async with (
            ConnectionManager(connectors={"http": connector}) as mgr,
            mgr.allocate("http", host, 80, 5) as conn,
        ):
            await exchange(conn)
    token = base64.b64encode("us\xe9r:p@ss ".encode()).decode()
    lines = (f"CONNECT {sent} HTTP/1.1", f"Host: {sent}", f"Proxy-Authorization: Basic {token}", "", "")
    assert proxy.heads == ["\r\n".join(lines).encode()]


@pytest.mark.parametrize(
    "host",
    [
        "a/b", "a?b", "user@host", "a:1:b", "x\x01y", "[::1]", "fe80::1%1", "\xfc" * 70, "a" * 256, "\ud800",
        "evil.test:80",
    ],
)  # fmt: skip
async def test_hosts_that_are_never_sent(host: str, silent_server: Server) -> None:
    connector = HTTPProxyConnector(f"http://127.0.0.1:{silent_server.port}")
    async with ConnectionManager(connectors={"http": connector}) as mgr:
        with pytest.raises(ConnectError) as caught:
            await mgr.allocate("http", host, 80, 5)
        assert (caught.value.function, caught.value.error_num) == ("proxy", errno.EINVAL)
    assert silent_server.received == 0


async def test_no_head_can_be_smuggled_in_by_a_path(silent_server: Server) -> None:
    """With "unix" as for_scheme, for_addr may be anything."""
    async with ConnectionManager(connectors={"via": HTTPProxyConnector()}) as mgr:
        for addr, port in (("a\r\nX: y", 80), ("name", 0)):
            with pytest.raises(ConnectError, match="proxy"):
                await via(mgr, silent_server.port, silent_server, "unix", for_addr=addr, for_port=port)
    assert silent_server.received == 0


async def test_a_target_must_be_named(silent_server: Server) -> None:
    async with ConnectionManager(connectors={"http": HTTPProxyConnector()}) as mgr:
        with pytest.raises(ConnectError, match="for_addr and for_port"):
            await ask(mgr, silent_server, timeout=5)
    assert silent_server.accepted == 0


# -- the way to the proxy ----------------------------------------------------------------------------


async def test_tls_with_the_proxy(tls_server: Server, ca: Authority, client_context: ssl.SSLContext) -> None:
    """Its name is the proxy's, not the target's; with TLS inside there are two layers."""
    names: list[str | None] = []
    context = ca.server("localhost")
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    inside = {"https": TLSConnector(client_context, "localhost")}
    with HttpProxy(tls_server, tls=context) as proxy:
        connector = HTTPProxyConnector(
            f"https://localhost:{proxy.port}", over=TLSConnector(client_context), inside=inside
        )
        async with ConnectionManager(connectors={"https": connector}, keep_alive=0) as mgr:
            for _ in range(2):
                async with mgr.allocate("https", "target.test", 443, 5) as conn:
                    await exchange(conn, b"x" * 50_000)
            assert (mgr.stats().handshakes, mgr.stats().resumed) == (4, 2)
        assert names == ["localhost", "localhost"]
        strict = HTTPProxyConnector(f"https://localhost:{proxy.port}")
        async with ConnectionManager(connectors={"https": strict}) as mgr:
            with pytest.raises(TLSError, match=r"certificate verify failed.* the proxy localhost:\d+"):
                await mgr.allocate("https", "target.test", 443, 5)
    assert len(proxy.heads) == 2


async def test_an_https_proxy_is_never_spoken_to_in_the_clear() -> None:
    """Whatever `over` is, if it is no TLS then TLS comes over it."""
    with Server(Script(OK)) as first:
        inner = HTTPProxyConnector(f"http://127.0.0.1:{first.port}")
        connector = HTTPProxyConnector(f"https://me:{SECRET}@second.test:1", over=inner)
        async with ConnectionManager(connectors={"http": connector}) as mgr:
            with pytest.raises(TLSError):
                await mgr.allocate("http", "target.test", 1, 5)
        behaviour = first.behaviour
        assert isinstance(behaviour, Script)
        assert behaviour.heard[0].startswith(b"CONNECT second.test:1 ")
        assert behaviour.heard[1].startswith(b"\x16\x03\x01")
        assert not any(b"Proxy-Authorization" in heard for heard in behaviour.heard)


async def test_a_chain(echo_server: Server) -> None:
    with HttpProxy(echo_server) as last, HttpProxy(last) as first:
        way = HTTPProxyConnector(f"http://127.0.0.1:{first.port}")
        connector = HTTPProxyConnector(f"http://last.test:{last.port}", over=way)
        async with (
            ConnectionManager(connectors={"http": connector}) as mgr,
            mgr.allocate("http", "target.test", 7, 5) as conn,
        ):
            await exchange(conn)
        assert first.heads[0].startswith(b"CONNECT last.test:%d " % last.port)
        assert last.heads[0].startswith(b"CONNECT target.test:7 ")


async def test_a_proxy_that_cannot_be_reached() -> None:
    port = free_port()
    connectors = {
        "http": HTTPProxyConnector(f"http://me:{SECRET}@127.0.0.1:{port}"),
        "u": HTTPProxyConnector("http://nowhere.invalid:1"),
    }
    async with ConnectionManager(connectors=connectors) as mgr:
        with pytest.raises(
            ConnectError, match=rf"refused \(on the way to the proxy 127\.0\.0\.1:{port}\)"
        ) as one:
            await mgr.allocate("http", "target.test", 1, 5)
        assert (one.value.function, one.value.error_num) == ("connect", errno.ECONNREFUSED)
        assert isinstance(one.value.__cause__, OSError | BrokenResourceError)
        with pytest.raises(ResolveError, match=r"the proxy nowhere\.invalid:1"):
            await mgr.allocate("u", "target.test", 1, 5)


# -- arguments, and what they must not tell ----------------------------------------------------------


async def test_credentials_are_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Server(Script(head("HTTP/1.1 407 No"))) as proxy:
        connector = HTTPProxyConnector(f"http://me:{SECRET}@127.0.0.1:{proxy.port}")
        token = base64.b64encode(f"me:{SECRET}".encode()).decode()
        async with ConnectionManager(connectors={"http": connector}) as mgr:
            with pytest.raises(AllocateError) as caught:
                await mgr.allocate("http", "target.test", 1, 5)
            told = [repr(mgr), repr(mgr.stats()), repr(connector), str(connector), caplog.text]
        told += [repr(caught.value), str(caught.value), pickle.dumps(caught.value).decode("latin-1")]
        assert not any(secret in text for secret in (SECRET, token) for text in told)
        assert repr(connector) == f"<HTTPProxyConnector http://127.0.0.1:{proxy.port}>"


@pytest.mark.parametrize(
    "proxy",
    [
        f"me:{SECRET}@host:1", f"ftp://me:{SECRET}@host:1", f"http://me:{SECRET}/x@host:1", f"http://me:{SECRET}@",
        f"http://me:{SECRET}@host:0", f"http://me:{SECRET}@host:70000", f"http://me:{SECRET}@host:1/path",
        f"http://me:{SECRET}@host:1?q", f"http://me:{SECRET}@ho st", f"http://me:{SECRET}@[::1", "", "host",
        f"http://me:{SECRET}@host\r\nX: y", f"http://me{SECRET}%3Ax:y@host", f"http://me:{SECRET}%0d@host",
    ],
)  # fmt: skip
def test_proxies_that_are_none(proxy: str) -> None:
    with pytest.raises(ValueError, match=r"proxy must be|auth must have") as caught:
        HTTPProxyConnector(proxy)
    text = f"{caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r}"
    assert SECRET not in text.replace("None", "")


def test_urls() -> None:
    for url, told in (
        ("http://[::1]:3128/", "http://[::1]:3128"),
        ("HTTPS://Proxy.test", "https://proxy.test:443"),
        ("http://a:b@proxy.test", "http://proxy.test:80"),
    ):
        assert repr(HTTPProxyConnector(url)) == f"<HTTPProxyConnector {told}>"


def test_wrong_arguments() -> None:
    wrong: Any
    for wrong in (b"http://x", 5):
        with pytest.raises(TypeError, match="proxy"):
            HTTPProxyConnector(wrong)
    for wrong in (SECRET, ("a",), ("a", 5), ("a", "b", "c"), ["a", "b"]):
        with pytest.raises(TypeError, match="auth") as caught:
            HTTPProxyConnector(auth=wrong)
        assert SECRET not in str(caught.value)
    for pair in (("a:b", "c"), ("a\n", "b"), ("a", "\0")):
        with pytest.raises(ValueError, match="auth"):
            HTTPProxyConnector(auth=pair)
    with pytest.raises(ValueError, match="auth must not be given beside"):
        HTTPProxyConnector("http://a:b@c", auth=("a", "b"))
    for wrong in (TLSConnector, 5, {"https": None}):
        with pytest.raises((TypeError, AttributeError)):
            HTTPProxyConnector(inside={"https": wrong})
    with pytest.raises(TypeError, match="over"):
        HTTPProxyConnector(over=wrong)
