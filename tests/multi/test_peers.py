"""Peers that misbehave, and what comes and goes in pieces."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio

from keepalive.multi import (
    BlockFilter,
    LengthFilter,
    LineFilter,
    PeerState,
    StreamFilter,
)
from tests.support import (
    Behaviour,
    Greeting,
    Lines,
    Server,
    full_backlog,
)

from .kit import Log

if TYPE_CHECKING:
    from keepalive.multi import Peer
    from tests.support import Peer as Visitor


class Farewell(Behaviour):
    """Says something and closes at once."""

    def __init__(self, words: bytes) -> None:
        self.words = words

    def opened(self, peer: Visitor) -> None:
        peer.send(self.words)
        peer.close()


async def test_a_reset_is_an_error_with_its_number() -> None:
    # heritage tcpmulti 1.18.
    log = Log()
    with Server() as server:
        async with log.client() as client:
            peers = [client.connect(server.host, server.port) for _ in range(3)]
            await log.connected(*peers)
            await server.until(lambda s: s.connections == 3)
            server.reset_all()
            await log.ended(*peers)
    for peer in peers:
        assert log.of(peer)[-2:] == [
            ("error", "read", errno.ECONNRESET, "Connection reset by peer"), ("disconnected",)
        ]  # fmt: skip


async def test_what_came_before_a_broken_send_is_not_lost() -> None:
    log = Log()
    with Server(Farewell(b"why\n")) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            peer.output_filter = StreamFilter()
            peer.send(bytes(4_000_000))
            await log.ended(peer)
    assert log.inputs(peer) == [b"why"]
    assert log.of(peer)[-2][0] == "error"


async def test_half_a_unit_is_no_unit() -> None:
    log = Log()
    with Server(Farewell(b"whole\nhal")) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            await log.ended(peer)
    assert log.inputs(peer) == [b"whole"]
    assert log.of(peer)[-2:] == [("error", "read", 0, ""), ("disconnected",)]


async def test_a_flood_leaves_room_for_others() -> None:
    flood = b"x" * 63 + b"\n"

    class Flood(Lines):
        def opened(self, peer: Visitor) -> None:
            if not self.flooded:
                self.flooded = True
                peer.send(flood * 400_000)

        flooded = False

    log = Log()
    with Server(Flood()) as server, Server(Lines()) as calm:
        async with log.client() as client:
            noisy = client.connect(server.host, server.port)
            await log.until(lambda: log.count["input"] > 1000)
            quiet = client.connect(calm.host, calm.port)
            for n in range(5):
                quiet.send(b"turn %d" % n)
                with anyio.fail_after(5):
                    await log.until(lambda n=n: len(log.inputs(quiet)) > n)  # type: ignore[misc]  # a default binds it
            assert log.count["input"] < 400_000, "the flood was over before the others had their turn"
            noisy.close()


async def test_chatter_leaves_room_for_the_rest_of_the_loop() -> None:
    """There are more events than the kernel gives at once, and each one leads to another."""
    far: dict[int, socket.socket] = {}

    def success(peer: Peer) -> None:
        far[peer.id] = stack.enter_context(listener.accept()[0])
        far[peer.id].send(b"a word\n")

    def more(peer: Peer, unit: bytes) -> None:
        if log.count["input"] < 30_000:
            far[peer.id].send(b"another\n")

    log = Log(on_success=success, on_input=more)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=200))
        async with log.client() as client:
            for _ in range(200):
                client.connect("127.0.0.1", listener.getsockname()[1])
            await log.until(lambda: log.count["input"] >= 1000)
            assert log.count["input"] < 10_000


async def test_a_stale_event_is_nobody_elses_success() -> None:
    """A descriptor may be closed and given out again while an event of its former owner waits its turn."""
    made: list[Peer] = []

    def swap(peer: Peer, unit: bytes) -> None:
        for other in list(client.peers.values()):
            if other is not peer and other not in made:
                other.close()
                made.append(client.connect(nowhere.host, nowhere.port))

    log = Log(on_input=swap)
    with Server() as server, full_backlog() as nowhere:
        async with log.client() as client:
            peers = [client.connect(server.host, server.port) for _ in range(5)]
            await log.connected(*peers)
            await server.until(lambda s: s.accepted == 5)
            server.push(b"now\n")  # so that all events are taken at once
            await log.until(lambda: len(made) == 4)
            await anyio.sleep(0.05)  # nothing may follow
            assert [peer.state.value for peer in made] == ["connecting"] * 4


async def test_bad_units_end_their_own_peer_only() -> None:
    class Picky:
        def decode(self, buffer: bytearray) -> bytes:
            raise KeyError("no sense in it")

        def encode(self, unit: bytes) -> bytes:
            return unit

    log = Log()
    with Server(Greeting(b"x" * 100)) as server:
        async with log.client() as client:
            long = client.connect(server.host, server.port)
            long.filter = LineFilter(max_size=98)
            huge = client.connect(server.host, server.port)
            huge.filter = LengthFilter(2, max_size=1000)
            odd = client.connect(server.host, server.port)
            odd.filter = Picky()
            fine = client.connect(server.host, server.port)
            fine.filter = BlockFilter(50)
            await log.ended(long, huge, odd)
            await log.until(lambda: len(log.inputs(fine)) == 2)
            assert fine.state is PeerState.CONNECTED
    assert log.of(long)[-2][1:] == ("decode", errno.EMSGSIZE, "a line of at least 99 bytes; the limit is 98")
    assert log.of(huge)[-2][1:] == ("decode", errno.EMSGSIZE, "a unit of 30840 bytes; the limit is 1000")
    assert log.of(odd)[-2][1:] == ("decode", 0, "'no sense in it'")
