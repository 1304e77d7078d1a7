"""TLS connections from the hand-shake to the end: time, tickets, goodbyes, alerts, layers."""

from __future__ import annotations

import hashlib
import random
import socket
import ssl
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from keepalive import AllocateTimeout, ConnectionManager, Reuse, TLSConnector, TLSError
from tests.support import Behaviour, Echo, Peer, Server
from tests.support.recorder import Recorder
from tests.support.requests import ask, exchange
from tests.support.tunnel import Tunnel
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keepalive import Connector
    from tests.support import Authority
    from tests.support.wires import Wire


@pytest.fixture
def connectors(client_context: ssl.SSLContext) -> dict[str, Connector]:
    return {"tls": TLSConnector(client_context, "localhost")}


class Says(Behaviour):
    """Answer the client's hello with something of its own, and maybe end the connection."""

    def __init__(self, answer: bytes, end: Callable[[Peer], None] | None = None) -> None:
        self.answer = answer
        self.end = end

    def received(self, peer: Peer, data: bytes) -> None:
        peer.send(self.answer)
        if self.end is not None:
            self.end(peer)


# -- the hand-shake ----------------------------------------------------------------------------------


async def test_the_handshake_is_inside_the_requests_timeout(
    silent_server: Server, connectors: dict[str, Connector]
) -> None:
    async with ConnectionManager(connectors=connectors, max_per_host=1) as manager:
        with pytest.raises(AllocateTimeout) as caught:
            await ask(manager, silent_server, scheme="tls", timeout=0.05)
        assert caught.value.function == "tls"
        assert manager.stats().waiting == 0
        assert manager.stats().open <= 1  # a spare attempt may live on, for ten seconds
    await silent_server.until(lambda server: not server.connections)


async def test_the_handshake_is_inside_connect_timeout(
    silent_server: Server, connectors: dict[str, Connector]
) -> None:
    async with ConnectionManager(connectors=connectors, connect_timeout=0.05) as manager:
        with pytest.raises(AllocateTimeout, match="connect_timeout") as caught:
            await ask(manager, silent_server, scheme="tls", timeout=5)
        assert caught.value.function == "tls"
        await silent_server.until(lambda server: not server.connections)
        assert manager.stats().open == 0


async def test_handshakes_do_not_wait_for_each_other(
    tls_server: Server, silent_server: Server, connectors: dict[str, Connector]
) -> None:
    async with ConnectionManager(connectors=connectors) as manager:
        hanging = ask(manager, silent_server, scheme="tls", timeout=5)
        await silent_server.until(lambda server: server.received > 0)
        for _ in range(3):
            async with ask(manager, tls_server, scheme="tls", timeout=5) as conn:
                await exchange(conn)
        assert hanging.cancel()


async def test_cancelled_in_the_handshake(silent_server: Server, connectors: dict[str, Connector]) -> None:
    async with ConnectionManager(connectors=connectors, max_per_host=2) as manager:
        for _ in range(10):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                request = ask(manager, silent_server, scheme="tls")
                group.start_soon(request.__aenter__)
                await turns()
                group.cancel_scope.cancel()
        assert manager.stats().waiting == 0
        assert manager.stats().open <= 2
        assert silent_server.peak <= 2
    await silent_server.until(lambda server: not server.connections)


@pytest.mark.parametrize(
    ("answer", "end", "text"),
    [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", None, "WRONG_VERSION_NUMBER"),
        (b"\x15\x03\x03\x00\x02\x02\x28", None, "ALERT_HANDSHAKE_FAILURE"),
        (b"\x15\x03\x03\x00\x02\x02\x70", None, "UNRECOGNIZED_NAME"),
        (b"\x16\x03\x03\x00\x05nonsense", None, ""),
        (b"", Peer.close, ""),
        (b"\x16\x03\x03", Peer.close, ""),
        (b"", Peer.reset, "Connection reset"),
    ],
)
async def test_a_peer_that_does_not_speak_tls(
    answer: bytes, end: Callable[[Peer], None] | None, text: str, connectors: dict[str, Connector]
) -> None:
    with Server(Says(answer, end)) as server:
        async with ConnectionManager(connectors=connectors, max_per_host=1) as manager:
            for _ in range(2):
                with pytest.raises(TLSError) as caught:
                    await ask(manager, server, scheme="tls", timeout=5)
                assert caught.value.function == "tls"
                assert text in caught.value.error_str
                assert caught.value.error_str
            assert manager.stats().open == 0
            await server.until(lambda server: not server.connections)


async def test_reset_before_the_hello_is_answered(
    silent_server: Server, connectors: dict[str, Connector]
) -> None:
    async with ConnectionManager(connectors=connectors) as manager:
        request = ask(manager, silent_server, scheme="tls", timeout=5)
        await silent_server.until(lambda server: server.received > 0)
        silent_server.reset_all()
        with pytest.raises(TLSError) as caught:
            await request
        assert isinstance(caught.value.__cause__, BrokenResourceError)
        assert manager.stats().open == 0


# -- tickets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tickets", [0, 1, 2, 9])
async def test_tickets_are_no_bytes(tickets: int, ca: Authority, connectors: dict[str, Connector]) -> None:
    with Server(tls=ca.server(tickets=tickets)) as server:
        async with ConnectionManager(connectors=connectors) as manager:
            for turn in range(6):
                async with ask(manager, server, scheme="tls") as conn:
                    assert conn.from_cache is (Reuse.IMMEDIATE if turn else None)
                    if turn == 3:
                        await exchange(conn)
                        engine = conn.extra(TLSAttribute.ssl_object)
                        assert isinstance(engine, ssl.SSLObject)
                        assert engine.session is not None
                        assert engine.session.has_ticket == bool(tickets)
                await turns(5)  # the tickets may come now
        assert server.accepted == 1


async def test_tickets_come_late_and_to_a_connection_that_nobody_ever_had(
    ca: Authority, connectors: dict[str, Connector]
) -> None:
    recorder = Recorder()
    with Server(tls=ca.server(), accepting=False) as server:
        async with ConnectionManager(connectors=connectors, observer=recorder) as manager:
            request = ask(manager, server, scheme="tls", timeout=5)
            await turns()
            request.cancel()
            server.resume_accepting()
            await recorder.until(lambda: "idle" in recorder.names())
            await turns(20)
            async with ask(manager, server, scheme="tls") as conn:
                assert conn.from_cache is None  # as good as new
                await exchange(conn)
        assert server.accepted == 1


# -- ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tls", "tls12"])
@pytest.mark.parametrize("how", ["disconnect_all", "cut_all", "reset_all"])
async def test_an_idle_connections_end_is_noticed(
    name: str, how: str, make_wire: Callable[[str], Wire]
) -> None:
    recorder = Recorder()
    wire = make_wire(name)
    with wire.serve() as server:
        async with wire.manager(observer=recorder) as manager:
            async with wire.ask(manager, server) as conn:
                await exchange(conn)
            getattr(server, how)()
            await recorder.until(lambda: recorder.reasons() == ["peer"], 1)
            assert manager.stats().open == 0


async def test_bytes_while_idle_close(tls_server: Server, connectors: dict[str, Connector]) -> None:
    recorder = Recorder()
    async with ConnectionManager(connectors=connectors, observer=recorder) as manager:
        async with ask(manager, tls_server, scheme="tls") as conn:
            await exchange(conn)
        tls_server.push(b"unasked")
        await recorder.until(lambda: recorder.reasons() == ["unread"], 1)


async def test_opened_bytes_left_behind_close(tls_server: Server, connectors: dict[str, Connector]) -> None:
    """The kernel's buffer is empty, but the TLS layer holds the rest of a record."""
    recorder = Recorder()
    async with ConnectionManager(connectors=connectors, observer=recorder) as manager:
        async with ask(manager, tls_server, scheme="tls") as conn:
            await conn.send(b"0123456789")
            assert await conn.receive(4) == b"0123"
        assert recorder.reasons() == ["unread"]


@pytest.mark.parametrize("name", ["tls", "tls12"])
@pytest.mark.parametrize(
    ("how", "strict", "ends_as"),
    [
        ("disconnect_all", True, EndOfStream),
        ("disconnect_all", False, EndOfStream),
        ("cut_all", True, BrokenResourceError),  # anybody can cut a wire: RFC 8446 6.1
        ("cut_all", False, EndOfStream),
        ("reset_all", False, BrokenResourceError),
    ],
)
async def test_goodbye_or_cut(
    name: str,
    how: str,
    strict: bool,
    ends_as: type[Exception],
    make_wire: Callable[[str], Wire],
    client_context: ssl.SSLContext,
) -> None:
    with make_wire(name).serve() as server:
        connector = TLSConnector(client_context, "localhost", standard_compatible=strict)
        async with ConnectionManager(connectors={"tls": connector}) as manager:
            conn = await ask(manager, server, scheme="tls")
            await exchange(conn)
            getattr(server, how)()
            for _ in range(2):
                with pytest.raises(ends_as):
                    await conn.receive()
            conn.release()
            assert manager.stats().open == 0


class Ends(Echo):
    """Note how each connection ends."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def ended(self, peer: Peer) -> None:
        assert isinstance(peer.sock, ssl.SSLSocket)
        try:
            peer.sock.unwrap()
        except (OSError, ValueError):
            self.ends.append("cut")
        else:
            self.ends.append("goodbye")
        peer.close()


@pytest.mark.parametrize("back", ["discard", "release", "leave"])
async def test_our_own_end_says_goodbye(
    back: str, server_contexts: dict[str, ssl.SSLContext], connectors: dict[str, Connector]
) -> None:
    """A TLS end reaches the peer however a connection is closed: a cut would look like an attack."""
    ends = Ends()
    with Server(ends, tls=server_contexts["tls"]) as server:
        async with ConnectionManager(connectors=connectors, keep_alive=0) as manager:
            conn = await ask(manager, server, scheme="tls")
            await exchange(conn)  # with that the tickets are read; closed before, the kernel sends a reset
            if back != "leave":
                getattr(conn, back)()
                await server.until(lambda server: not server.connections)
        await server.until(lambda server: bool(ends.ends))
    assert ends.ends == ["goodbye"]


# -- TLS in TLS --------------------------------------------------------------------------------------


@pytest.fixture
def tunnel(tls_server: Server, server_contexts: dict[str, ssl.SSLContext]) -> Iterator[Tunnel]:
    with Tunnel(tls_server, tls=server_contexts["tls"]) as tunnel:
        yield tunnel


@pytest.fixture
def nested(client_context: ssl.SSLContext) -> dict[str, Connector]:
    outer = TLSConnector(client_context, "localhost")
    return {"nested": TLSConnector(client_context, "localhost", over=outer)}


async def test_tls_in_tls(tunnel: Tunnel, tls_server: Server, nested: dict[str, Connector]) -> None:
    recorder = Recorder()
    async with ConnectionManager(connectors=nested, observer=recorder) as manager:
        for turn in range(4):
            async with manager.allocate("nested", tunnel.host, tunnel.port, timeout=5) as conn:
                assert conn.from_cache is (Reuse.IMMEDIATE if turn else None)
                await exchange(conn, b"x" * 10_000)
                await turns()
        assert (tls_server.accepted, tunnel.accepted) == (1, 1)
        tls_server.disconnect_all()
        await recorder.until(lambda: recorder.reasons() == ["peer"], 2)
        with pytest.raises(EndOfStream):
            async with manager.allocate("nested", tunnel.host, tunnel.port, timeout=5) as conn:
                await exchange(conn)
                tls_server.disconnect_all()
                await conn.receive()


async def test_much_through_tls_in_tls(tunnel: Tunnel, nested: dict[str, Connector]) -> None:
    data = random.Random(5).randbytes(8_000_000)
    got = hashlib.sha256()
    async with (
        ConnectionManager(connectors=nested) as manager,
        manager.allocate("nested", tunnel.host, tunnel.port, timeout=5) as conn,
        anyio.create_task_group() as group,
    ):
        group.start_soon(conn.send, data)
        left = len(data)
        while left:
            chunk = await conn.receive()
            got.update(chunk)
            left -= len(chunk)
    assert got.digest() == hashlib.sha256(data).digest()


class Expects(Behaviour):
    """Answer when so many bytes have come."""

    def __init__(self, size: int) -> None:
        self.size = size

    def received(self, peer: Peer, data: bytes) -> None:
        if peer.received == self.size:
            peer.send(b"done")


async def test_nothing_stays_between_the_layers(
    server_contexts: dict[str, ssl.SSLContext], nested: dict[str, Connector]
) -> None:
    """When send returns, all is in the kernel: what a layer still held would go out by chance only."""
    with (
        Server(Expects(200_000), tls=server_contexts["tls"]) as server,
        Tunnel(server, tls=server_contexts["tls"]) as tunnel,
    ):
        async with (
            ConnectionManager(connectors=nested) as manager,
            manager.allocate("nested", tunnel.host, tunnel.port, timeout=5) as conn,
        ):
            conn.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await conn.send(bytes(200_000))
            with anyio.fail_after(5):
                assert await conn.receive() == b"done"


async def test_tls_in_tls_fails_as_a_whole(
    tunnel: Tunnel, tls_server: Server, client_context: ssl.SSLContext
) -> None:
    outer = TLSConnector(client_context, "localhost")
    connectors: dict[str, Connector] = {"nested": TLSConnector(client_context, "wrong.test", over=outer)}
    async with ConnectionManager(connectors=connectors) as manager:
        with pytest.raises(TLSError) as caught:
            await manager.allocate("nested", tunnel.host, tunnel.port, timeout=5)
        assert "wrong.test" in caught.value.error_str
        assert manager.stats().open == 0
        await tls_server.until(lambda server: not server.connections)
