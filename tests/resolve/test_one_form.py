"""One form of host names everywhere, by IDNA 2008. The IDNA 2003 of Python's own codec leads elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from keepalive import (
    ConnectError,
    ConnectionManager,
    HostName,
    HTTPProxyConnector,
    Resolution,
    SOCKS5Connector,
    StaticResolver,
    SystemResolver,
    TLSConnector,
    http,
)
from keepalive.base.hostname import canonical
from keepalive.httpx.library import Library
from keepalive.httpx.network import NetworkStream
from keepalive.multi import MultiClient
from keepalive.sip.core.identity import matches
from tests.support import Server
from tests.support.proxies import Script
from tests.support.requests import exchange

if TYPE_CHECKING:
    import ssl

    from tests.support import Authority

# What IDNA 2003 makes of these: strasse, fuss, and names without their joiners.
NAMES = {
    "stra\u00dfe.test": "xn--strae-oqa.test",
    "fu\u00df.b\u00fccher.test": "xn--fu-hia.xn--bcher-kva.test",
    "\u03b2\u03cc\u03bb\u03bf\u03c2.test": "xn--nxasmm1c.test",
    "\u0dc1\u0dca\u200d\u0dbb\u0dd3.test": "xn--10cl1a0b660p.test",
}
EACH = pytest.mark.parametrize("name", NAMES)


class Asked(StaticResolver):
    def __init__(self) -> None:
        super().__init__(dict.fromkeys(NAMES, "127.0.0.1"))
        self.names: list[str] = []

    async def resolve(self, host: str) -> Resolution:
        self.names.append(host)
        return await super().resolve(host)


def watched(ca: Authority, name: str) -> tuple[ssl.SSLContext, list[str | None]]:
    """Return a server's context with a certificate of one name, and whom its clients ask for."""
    seen: list[str | None] = []
    context = ca.server(NAMES[name])
    context.sni_callback = lambda _sock, sni, _context: seen.append(sni)
    return context, seen


@EACH
def test_the_public_name_of_it(name: str) -> None:
    assert HostName(name) == NAMES[name] == HostName(HostName(name))
    with pytest.raises(ValueError, match="no host name"):
        HostName("a..test")


@EACH
async def test_dns_and_keys(name: str, echo_server: Server) -> None:
    """Two spellings are one key: they share connections and limits."""
    resolver = Asked()
    async with ConnectionManager(resolver=resolver, max_per_host=1) as mgr:
        for host in (name, NAMES[name]):
            async with mgr.allocate("echo", host, echo_server.port, 5, for_addr=host) as conn:
                await exchange(conn)
                assert conn.addr == conn.for_addr == NAMES[name]
        assert echo_server.accepted == 1
        assert len(mgr.stats().keys) == 1
        assert mgr.evict(addr=name) == 1
    assert resolver.names == [NAMES[name]]


@EACH
@pytest.mark.parametrize("how", ["addr", "for_addr", "server_hostname"])
async def test_tls(name: str, how: str, ca: Authority) -> None:
    context, seen = watched(ca, name)
    connector = TLSConnector(ca.client(), name if how == "server_hostname" else None)
    with Server(tls=context) as server:
        async with ConnectionManager(connectors={"https": connector}, resolver=Asked()) as mgr:
            addr, for_addr = (name, None) if how == "addr" else ("127.0.0.1", None)
            async with mgr.allocate(
                "https", addr, server.port, 5, for_addr=name if how == "for_addr" else for_addr
            ) as conn:
                await exchange(conn)
    assert seen == [NAMES[name]]


@EACH
async def test_the_host_field(name: str, http_server: Server) -> None:
    resolver = Asked()
    url = f"http://{name}:{http_server.port}/"
    assert http.parse_url(url).authority == f"{NAMES[name]}:{http_server.port}"
    async with (
        ConnectionManager(resolver=resolver) as mgr,
        http.Client(mgr).request("GET", url) as response,
    ):
        assert response.status == 200
    assert resolver.names == [NAMES[name]]


def test_urls_with_names_that_are_none() -> None:
    for url in ("http://\u2603.test/", "http://a..test/", "http://\uff41\uff0f.test/"):
        with pytest.raises(http.InvalidURL):
            http.parse_url(url)


@EACH
async def test_tunnels(name: str) -> None:
    connect = Script(b"HTTP/1.1 200 fine\r\n\r\n")
    socks = Script(b"\x05\x00", b"\x05\x00\x00\x01" + bytes(6))
    with Server(connect) as first, Server(socks) as second:
        connectors = {
            "c": HTTPProxyConnector(f"http://127.0.0.1:{first.port}"),
            "s": SOCKS5Connector(f"socks5h://127.0.0.1:{second.port}"),
        }
        async with ConnectionManager(connectors=connectors, resolver=Asked()) as mgr:
            for scheme in connectors:
                (await mgr.allocate(scheme, name, 443, 5)).discard()
            with pytest.raises(ConnectError):
                await mgr.allocate("c", "\u2603.test", 443, 5)
    wire = NAMES[name].encode()
    assert connect.heard[0].startswith(b"CONNECT %b:443 HTTP/1.1\r\nHost: %b:443\r\n" % (wire, wire))
    assert bytes([len(wire)]) + wire in socks.heard[1]


@EACH
async def test_multi(name: str, ca: Authority) -> None:
    context, seen = watched(ca, name)
    resolver = Asked()
    got: list[Any] = []
    over = anyio.Event()

    def connected(peer: Any) -> None:
        got.append("success")
        over.set()

    def refused(peer: Any, *what: object) -> None:
        got.append(what)
        over.set()

    connectors = {"https": TLSConnector(ca.client())}
    with Server(tls=context) as server, anyio.fail_after(10):
        async with MultiClient(
            connectors=connectors, resolver=resolver, on_success=connected, on_failure=refused
        ) as client:
            client.connect(name, server.port, scheme="https")
            await over.wait()
    assert (got, seen, resolver.names) == (["success"], [NAMES[name]], [NAMES[name]])


@EACH
def test_sip(name: str) -> None:
    assert canonical(name) == canonical(f"{name}.") == NAMES[name]
    assert matches({"subjectAltName": (("DNS", NAMES[name]),)}, name)
    assert not matches({"subjectAltName": (("DNS", "strasse.test"),)}, name)


@EACH
async def test_httpx_in_the_stream_of_a_response(name: str, ca: Authority) -> None:
    """The stream that an upgrade leaves begins TLS by the same name."""
    context, seen = watched(ca, name)
    with Server(tls=context) as server:
        async with await anyio.connect_tcp("127.0.0.1", server.port) as below:
            stream = NetworkStream(Library("httpx2"), cast("http.Response", SimpleNamespace(stream=below)))
            stream = await stream.start_tls(ca.client(), name, 5)
            await stream.aclose()
    assert seen == [NAMES[name]]


async def test_zones_of_the_system_s_resolver() -> None:
    """A link-local address means nothing without (RFC 4007 11)."""
    assert (await SystemResolver().resolve("fe80::1%lo")).addresses == ("fe80::1%lo",)
    assert (await SystemResolver().resolve("127.0.0.1")).addresses == ("127.0.0.1",)
