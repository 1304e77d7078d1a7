"""How peers are opened: local addresses, several addresses, TLS, connectors."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from keepalive import StaticResolver, TLSConnector
from keepalive.multi import (
    EndReason,
    StreamFilter,
)
from tests.support import (
    Greeting,
    Lines,
    Server,
    full_backlog,
    has_ipv6,
    refused_port,
)

from .kit import Log

if TYPE_CHECKING:
    import ssl

    from keepalive import Dial, Link


async def test_local_addresses() -> None:
    # heritage tcpmulti 1.23.
    log = Log()
    with Server() as server:
        async with log.client(bind_address="127.0.0.2") as client:
            own = client.connect(server.host, server.port)
            other = client.connect(server.host, server.port, bind_address=("127.0.0.3", 0))
            await log.connected(own, other)
            for peer, expected in ((own, "127.0.0.2"), (other, "127.0.0.3")):
                assert peer.socket is not None
                assert peer.socket.getsockname()[0] == expected
            assert other.socket is not None
            taken = other.socket.getsockname()[1]
            clash = client.connect(server.host, server.port, bind_address="127.0.0.3", bind_port=taken)
            wrong = client.connect(server.host, server.port, bind_address="::1")
            alien = client.connect(server.host, server.port, bind_address="192.0.2.1")
            await log.ended(clash, wrong, alien)
    assert log.of(clash)[1][:3] in (
        ("failure", "bind", errno.EADDRINUSE), ("failure", "connect", errno.EADDRNOTAVAIL)
    )  # fmt: skip
    assert log.of(wrong)[1][:3] == ("failure", "bind", errno.EAFNOSUPPORT)
    assert log.of(alien)[1][:3] == ("failure", "bind", errno.EADDRNOTAVAIL)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_all_addresses_are_tried_and_the_first_error_is_told() -> None:
    # heritage tcpmulti 1.13.
    table = StaticResolver({"two.test": ("::1", "127.0.0.1"), "none.test": ("127.0.0.1", "::1")})
    log = Log()
    with Server() as server, Server(host="::1") as six, refused_port() as port:
        async with log.client(resolver=table) as client:
            peer = client.connect("two.test", server.port)  # nobody listens there on ::1
            literal = client.connect("::1", six.port)
            none = client.connect("none.test", port)
            await log.connected(peer, literal)
            await log.ended(none)
            assert (peer.address, literal.address) == ("127.0.0.1", "::1")
    assert log.of(none)[1][1:3] == ("connect", errno.ECONNREFUSED)


async def test_an_address_that_is_silent_holds_nobody_up() -> None:
    """As the IPv6 address of a host does where IPv6 leads nowhere."""
    log = Log()
    with full_backlog("127.0.0.2") as nowhere, Server(port=nowhere.port) as server:
        table = StaticResolver({"two.test": (nowhere.host, server.host)})
        async with log.client(resolver=table) as client:
            peer = client.connect("two.test", server.port)
            peer.send(b"found")
            await log.until(lambda: log.inputs(peer) == [b"found"])
            assert peer.address == server.host
            bound = client.connect("two.test", server.port, bind_address="::1")
            await log.ended(bound)
    assert log.of(bound)[1][:3] == ("failure", "bind", errno.EAFNOSUPPORT)


async def test_tls(ca: Any, client_context: ssl.SSLContext) -> None:
    log = Log()
    with Server(Lines(), tls=ca.server()) as server:
        async with log.client(
            connectors={"https": TLSConnector(client_context), "strangers": TLSConnector()},
            scheme="https",
        ) as client:
            peer = client.connect("127.0.0.1", server.port)
            peer.send(b"early")
            await log.until(lambda: log.inputs(peer) == [b"EARLY"])
            peer.filter = StreamFilter()
            peer.send(b"x" * 3_000_000 + b"\n")
            assert peer.waiting > 0
            await log.until(lambda: sum(map(len, log.inputs(peer))) == 3_000_006)
            assert peer.waiting == 0
            peer.send(b"last\n")
            peer.shutdown()
            await log.ended(peer)
            await server.until(lambda s: s.received == 6 + 3_000_001 + 5)
            untrusted = client.connect("127.0.0.1", server.port, scheme="strangers")
            await log.ended(untrusted)
    assert peer.reason is EndReason.SHUTDOWN
    assert log.of(untrusted)[1][:3] == ("failure", "tls", 0)


async def test_a_greeting_that_came_with_the_handshake(ca: Any, client_context: ssl.SSLContext) -> None:
    log = Log()
    with Server(Greeting(b"hello\n"), tls=ca.server()) as server:
        async with log.client(connectors={"https": TLSConnector(client_context)}) as client:
            peers = [client.connect("127.0.0.1", server.port, scheme="https") for _ in range(10)]
            await log.until(lambda: log.count["input"] == 10)
            peers[0].close()
            server.disconnect_all()
            await log.ended(*peers)
    assert log.of(peers[1])[-2:] == [("error", "read", 0, ""), ("disconnected",)]


async def test_connectors_of_ones_own(unix_server: Server) -> None:
    class Broken:
        async def connect(self, dial: Dial) -> Link:
            dial.phase = "gateway"
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the gateway said no")

    log = Log()
    async with log.client(connectors={"far": Broken()}) as client:
        peer = client.connect("x", 1, scheme="far")
        local = client.connect(unix_server.host, 0, scheme="unix")
        local.send(b"there")
        await log.ended(peer)
        await log.until(lambda: log.inputs(local) == [b"there"])
        assert local.address is None
    assert log.of(peer)[1] == ("failure", "gateway", errno.ECONNREFUSED, "the gateway said no")
