"""Server names per peer, and what a connection says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from keepalive import HTTPProxyConnector, Key, TLSConnector, UnixConnector
from keepalive.multi import LineFilter, MultiClient
from tests.support import Lines, Server, has_ipv6
from tests.support.proxies import HttpProxy

from .kit import Log

if TYPE_CHECKING:
    import ssl


async def test_server_name_of_each_peer(ca: Any, client_context: ssl.SSLContext) -> None:
    log = Log()
    context, names = ca.server("one.test", "*.two.test"), []
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    with Server(Lines(), tls=context) as server:
        connectors = {"https": TLSConnector(client_context)}
        async with log.client(scheme="https", connectors=connectors) as client:
            right = [
                client.connect(server.host, server.port, for_addr=name)
                for name in ("one.test", "a.two.test", "one.test.")
            ]
            wrong = [
                client.connect(server.host, server.port, for_addr="three.test"),
                client.connect(server.host, server.port),
            ]
            for peer in right:
                peer.send(peer.for_addr.encode())
            await log.until(lambda: all(log.inputs(peer) for peer in right))
            await log.ended(*wrong)
            for peer in right:
                assert peer.addr == server.host
                found = peer.extra(TLSAttribute.peer_certificate)
                assert found is not None
                assert ("DNS", "one.test") in found["subjectAltName"]
    for peer in wrong:
        assert log.of(peer)[1][:2] == ("failure", "tls")
    assert sorted(map(str, names)) == ["None", "a.two.test", "one.test", "one.test", "three.test"]
    assert [peer.for_addr for peer in wrong] == ["three.test", server.host]


async def test_contexts_see_the_server_name(ca: Any, client_context: ssl.SSLContext) -> None:
    """A context that is chosen by key, and sessions, which belong to a name."""
    keys = []

    def choose(key: Key) -> ssl.SSLContext:
        keys.append(key)
        return client_context

    log = Log()
    with Server(Lines(), tls=ca.server("one.test")) as server:
        async with log.client(connectors={"https": TLSConnector(choose)}) as client:
            peer = client.connect(
                server.host, server.port, scheme="https", for_addr="one.test", for_port=443, for_scheme="x"
            )
            await log.connected(peer)
            assert (peer.for_scheme, peer.for_addr, peer.for_port) == ("x", "one.test", 443)
    assert keys == [Key("https", server.host, server.port, "x", "one.test", 443)]


async def test_target_behind_a_proxy(ca: Any, client_context: ssl.SSLContext) -> None:
    log = Log()
    with Server(Lines(), tls=ca.server("target.test")) as server, HttpProxy(server) as proxy:
        connector = HTTPProxyConnector(inside={"https": TLSConnector(client_context)})
        async with log.client(scheme="via", connectors={"via": connector}) as client:
            without = client.connect("127.0.0.1", proxy.port)
            await log.ended(without)
            assert "no target" in log.of(without)[1][3]
            peer = client.connect(
                "127.0.0.1", proxy.port, for_scheme="https", for_addr="target.test", for_port=7
            )
            peer.send(b"through")
            await log.until(lambda: log.inputs(peer) == [b"THROUGH"])
            assert peer.extra(TLSAttribute.peer_certificate)
            assert peer.extra(SocketAttribute.remote_port) == proxy.port
    assert [head.split(b"\r\n")[0] for head in proxy.heads] == [b"CONNECT target.test:7 HTTP/1.1"]


async def test_attributes_of_tls(ca: Any, client_context: ssl.SSLContext) -> None:
    with Server(Lines(), tls=ca.server(alpn=("two", "one"))) as server:
        connectors = {"https": TLSConnector(client_context, alpn=("one", "two"))}
        seen: list[Any] = []

        def success(peer: Any) -> None:
            seen.append(peer.extra(TLSAttribute.alpn_protocol))
            seen.append(peer.extra(TLSAttribute.tls_version))
            seen.append(peer.extra(SocketAttribute.remote_port) == server.port)

        log = Log(on_success=success)
        async with log.client(scheme="https", connectors=connectors) as client:
            peer = client.connect("localhost", server.port)
            with pytest.raises(anyio.TypedAttributeLookupError, match="no such attribute now"):
                peer.extra(TLSAttribute.alpn_protocol)
            assert peer.extra(TLSAttribute.alpn_protocol, "not yet") == "not yet"
            await log.connected(peer)
            assert peer.extra(TLSAttribute.peer_certificate_binary)
            assert peer.extra(SocketAttribute.raw_socket) is peer.socket
            peer.close()
            assert peer.extra(TLSAttribute.alpn_protocol, None) is None
            assert not peer.extra_attributes
    assert seen == ["two", "TLSv1.3", True]


NO_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=NO_IPV6)])
async def test_attributes_of_tcp(host: str) -> None:
    # heritage tcpmulti 1.15.
    log = Log()
    with Server(Lines(), host=host) as server:
        async with log.client() as client:
            peer = client.connect(host, server.port)
            peer.send(b"there")
            await log.until(lambda: log.inputs(peer))
            assert peer.extra(SocketAttribute.remote_address) == (host, server.port)
            assert peer.extra(SocketAttribute.local_address)[0] == host
            local = peer.extra(SocketAttribute.local_port)
            assert server.peer_addresses[0][1] == local
            assert peer.extra(TLSAttribute.cipher, "none") == "none"
            with pytest.raises(anyio.TypedAttributeLookupError):
                peer.extra(TLSAttribute.cipher)


async def test_attributes_of_a_unix_socket(tmp_path: Any) -> None:
    log = Log()
    with Server(Lines(), path=tmp_path / "s") as server:
        async with log.client(connectors={"unix": UnixConnector()}, filter=LineFilter) as client:
            peer = client.connect(server.host, 0, scheme="unix")
            await log.connected(peer)
            assert peer.extra(SocketAttribute.remote_address) == server.host
            assert peer.extra(SocketAttribute.remote_port, None) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"for_addr": ""}, {"for_addr": 5}, {"for_addr": "a b"}, {"for_port": 0}, {"for_port": "443"},
        {"for_scheme": ""}, {"for_addr": "a\0b"},
    ],
)  # fmt: skip
async def test_wrong_names(wrong: dict[str, Any]) -> None:
    async with MultiClient() as client:
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            client.connect("127.0.0.1", 1, **wrong)
        assert len(client) == 0
