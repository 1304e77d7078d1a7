"""What a connection tells of itself: anyio's typed attributes, just as anyio's own streams give them."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import TypedAttributeLookupError
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from keepalive import ConnectionManager, TLSConnector, TLSSessionAttribute
from tests.support import Server, has_ipv6
from tests.support.requests import ask, exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import AnyByteStream

    from keepalive import Connection

# These differ from one connection to the next.
OWN = {
    SocketAttribute.local_address,
    SocketAttribute.local_port,
    SocketAttribute.raw_socket,
    TLSAttribute.channel_binding_tls_unique,
    TLSAttribute.ssl_object,
}


def values(stream: AnyByteStream | Connection) -> Mapping[Any, Any]:
    """Take down all attributes."""
    return {name: get() for name, get in stream.extra_attributes.items()}


def compare(ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> None:
    """See that there are the same attributes, with the same types, and values where these can be equal."""
    assert set(ours) - {TLSSessionAttribute.session_reused} == set(theirs)
    for name, value in theirs.items():
        if name is not SocketAttribute.raw_socket:  # a socket here, asyncio's view of one there
            assert type(ours[name]) is type(value), name
        assert name in OWN or ours[name] == value, name


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_tcp(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("needs IPv6 on the loopback interface")
    with Server(host=host) as server:
        async with (
            ConnectionManager() as manager,
            ask(manager, server) as conn,
            await anyio.connect_tcp(host, server.port) as theirs,
        ):
            compare(values(conn), values(theirs))
            assert conn.extra(SocketAttribute.remote_address) == (host, server.port)
            raw = conn.extra(SocketAttribute.raw_socket)
            assert raw.getsockname()[1] == conn.extra(SocketAttribute.local_port)
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert not raw.getblocking()


async def test_unix(unix_server: Server) -> None:
    async with (
        ConnectionManager() as manager,
        manager.allocate("unix", unix_server.host, 0) as conn,
        await anyio.connect_unix(unix_server.host) as theirs,
    ):
        compare(values(conn), values(theirs))
        with pytest.raises(TypedAttributeLookupError):
            conn.extra(SocketAttribute.remote_port)
        assert conn.extra(SocketAttribute.remote_port, None) is None


@pytest.mark.parametrize("name", ["tls_server", "tls12_server"])
async def test_tls(name: str, request: pytest.FixtureRequest, client_context: ssl.SSLContext) -> None:
    server: Server = request.getfixturevalue(name)
    connectors = {"tls": TLSConnector(client_context, server_hostname="localhost")}
    tcp = await anyio.connect_tcp(server.host, server.port)
    async with (
        ConnectionManager(connectors=connectors) as manager,
        ask(manager, server, scheme="tls") as conn,
        await TLSStream.wrap(tcp, hostname="localhost", ssl_context=client_context) as theirs,
    ):
        compare(values(conn), values(theirs))
        await exchange(conn)
        await exchange(theirs)
        compare(values(conn), values(theirs))
        assert conn.extra(TLSAttribute.tls_version) == ("TLSv1.2" if "12" in name else "TLSv1.3")
        certificate = conn.extra(TLSAttribute.peer_certificate)
        assert certificate is not None
        assert "subjectAltName" in certificate
        assert conn.extra(TLSAttribute.alpn_protocol) is None
        assert isinstance(conn.extra(TLSAttribute.ssl_object), ssl.SSLObject)


async def test_no_tls_attributes_without_tls(echo_server: Server) -> None:
    async with ConnectionManager() as manager, ask(manager, echo_server) as conn:
        for name in (TLSAttribute.alpn_protocol, TLSAttribute.ssl_object):
            with pytest.raises(TypedAttributeLookupError):
                conn.extra(name)


async def test_a_peer_that_has_gone_still_has_its_address(echo_server: Server) -> None:
    """As anyio does, look the address up while the connection is there."""
    async with ConnectionManager() as manager, ask(manager, echo_server) as conn:
        await exchange(conn)
        echo_server.disconnect_all()
        assert conn.extra(SocketAttribute.remote_port) == echo_server.port
