"""The scenarios of heritage tcpmulti 2.1 to 2.10, number by number."""

from __future__ import annotations

import errno
import random
from functools import partial
from typing import TYPE_CHECKING

import anyio

from keepalive.multi import BlockFilter, EndReason, LineFilter, PeerState
from tests.support import Behaviour, Echo, Greeting, Parting, Server, Silent, full_backlog, refused_port

from .kit import Log

if TYPE_CHECKING:
    from keepalive.multi import Peer
    from tests.support import Peer as Visitor


async def test_01_thirty_echoes_then_die() -> None:
    # heritage tcpmulti 1.1.
    rng = random.Random(1)
    lines: dict[int, bytes] = {}

    def success(peer: Peer) -> None:
        lines[peer.id] = bytes(rng.choices(range(33, 127), k=200))
        peer.send(lines[peer.id])

    def line(peer: Peer, unit: bytes) -> None:
        assert unit == lines[peer.id]
        client.shutdown(peer.id)

    def gone(peer: Peer) -> None:
        if log.count["disconnected"] == 30:
            client.die()

    log = Log(on_success=success, on_input=line, on_disconnected=gone)
    with Server() as server:
        async with log.client() as client:
            peers = [client.connect(server.host, server.port) for _ in range(30)]
            await log.ended(*peers)
            for peer in peers:
                assert log.words(peer) == "initialize success flushed input disconnected"
                assert peer.reason is EndReason.SHUTDOWN
            await server.until(lambda s: s.connections == 0 and s.accepted == 30)


async def test_02_window_of_attempts() -> None:
    ports = iter(range(500))

    def gone(peer: Peer) -> None:
        if next(ports, None) is not None:
            client.connect("127.0.0.1", closed)

    log = Log(on_disconnected=gone)
    with refused_port() as closed:
        async with log.client(max_connecting=20) as client:
            for _ in range(100):
                client.connect("127.0.0.1", closed)
                assert client.connecting <= 20
            await log.until(lambda: log.count["disconnected"] == 600)
            assert len(client) == 0
    assert log.count["failure"] == 600


async def test_03_refused() -> None:
    # heritage tcpmulti 1.16, 1.29.
    seen: list[object] = []

    def look(peer: Peer, *_: object) -> None:
        seen.append(peer.heap["x"])

    log = Log(on_initialize=look, on_failure=look, on_disconnected=look)
    with refused_port() as port:
        async with log.client() as client:
            peer = client.connect("127.0.0.1", port, heap={"x": 1})
            assert peer.state is PeerState.CONNECTING
            await log.ended(peer)
    failure = ("failure", "connect", errno.ECONNREFUSED, "Connection refused")
    assert log.of(peer) == [("initialize",), failure, ("disconnected",)]
    assert seen == [1, 1, 1]
    assert peer.reason is EndReason.FAILURE


async def test_04_a_line_and_the_end() -> None:
    # heritage tcpmulti 1.18.
    class Farewell(Greeting):
        def opened(self, peer: Visitor) -> None:
            super().opened(peer)
            peer.close()

    log = Log()
    with Server(Farewell(b"hello\r\n")) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            await log.ended(peer)
    assert log.of(peer)[2:] == [("input", b"hello"), ("error", "read", 0, ""), ("disconnected",)]


async def test_05_input_timeout() -> None:
    # heritage tcpmulti 1.8, 1.39.
    def more(than: int) -> bool:
        return len(log.inputs(busy)) > than

    log = Log()
    with Server() as server, Server(Silent()) as silent:
        async with log.client(input_timeout=1) as client:
            start = anyio.current_time()
            late = client.connect(silent.host, silent.port, heap={"a": 1}, input_timeout=0.3)
            never = client.connect(silent.host, silent.port)
            never.timeout = 0  # concerns the attempt only
            busy = client.connect(server.host, server.port)
            await log.connected(late, never, busy)
            assert (never.timeout, late.timeout) == (1, 0.3)
            never.timeout = 0
            busy.send(b"?")
            while anyio.current_time() < start + 1.3:
                before = len(log.inputs(busy))
                await log.until(partial(more, before))
                await anyio.sleep(0.05)  # the traffic is part of what is tested
                busy.send(b"?")
            assert log.words(late) == "initialize success timeout disconnected"
            assert (late.heap, late.reason) == ({"a": 1}, EndReason.INPUT_TIMEOUT)
            assert set(client.peers) == {never.id, busy.id}
            await silent.until(lambda s: s.connections == 1)


async def test_06_connect_timeout() -> None:
    # heritage tcpmulti 1.7, 1.30.
    log = Log()
    with full_backlog() as nowhere:
        async with log.client(connect_timeout=30) as client:
            start = anyio.current_time()
            peer = client.connect(nowhere.host, nowhere.port, connect_timeout=0.2)
            other = client.connect(nowhere.host, nowhere.port)
            await log.ended(peer)
            assert 0.19 < anyio.current_time() - start < 3
            assert log.words(peer) == "initialize timeout disconnected"
            assert peer.reason is EndReason.CONNECT_TIMEOUT
            assert other.state is PeerState.CONNECTING
    assert log.words(other) == "initialize disconnected"


async def test_07_shutdown_right_after_much() -> None:
    """And the server answers all of it, while nobody listens."""
    # heritage tcpmulti 1.17, 1.27.
    log = Log()
    with Server(Echo(), receive_buffer=8192) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            peer.filter = BlockFilter(8_000_000)
            await log.connected(peer)
            peer.send(bytes(8_000_000))
            peer.shutdown()
            assert peer.state is PeerState.FLUSHING
            assert not peer.send(bytes(8_000_000))
            await log.ended(peer)
            assert server.received == 8_000_000
    assert log.words(peer) == "initialize success disconnected"
    assert peer.reason is EndReason.SHUTDOWN


async def test_08_filter_change_in_mid_stream() -> None:
    # heritage tcpmulti 1.36, 1.37.
    def change(peer: Peer, unit: bytes) -> None:
        if unit == b"line":
            peer.filter = BlockFilter(4)
        elif unit == b"EFGH":
            peer.input_filter = LineFilter()

    log = Log(on_input=change)
    with Server(Greeting(b"line\r\nABCDEFGHrest\nlast")) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            await log.until(lambda: len(log.inputs(peer)) == 4)
            assert log.inputs(peer) == [b"line", b"ABCD", b"EFGH", b"rest"]
            assert peer.pending == b"last"
            peer.input_filter = BlockFilter(2)  # outside of any callback
            await log.until(lambda: len(log.inputs(peer)) == 6)
            assert log.inputs(peer)[4:] == [b"la", b"st"]


async def test_09_die_spares_other_clients() -> None:
    # heritage tcpmulti 1.2, 1.28.
    log, others = Log(), Log()
    with Server() as server:
        async with log.client() as client, others.client() as other:
            mine = [client.connect(server.host, server.port) for _ in range(10)]
            theirs = [other.connect(server.host, server.port) for _ in range(5)]
            await log.connected(*mine)
            await others.connected(*theirs)
            client.die()
            client.die()
            assert len(client) == 0
            await log.ended(*mine)
            await server.until(lambda s: s.connections == 5)
            theirs[0].send(b"still here")
            await others.until(lambda: others.inputs(theirs[0]) == [b"still here"])
    assert {peer.reason for peer in mine} == {EndReason.DIE}


async def test_10_a_thousand_connects_in_a_loop() -> None:
    # heritage tcpmulti 1.1.
    class Held(Behaviour):
        def received(self, peer: Visitor, data: bytes) -> None:
            peer.send(data)

    log = Log(on_success=lambda peer: peer.send(b"%d" % peer.id))
    with Server(Held(), backlog=2000) as server:
        async with log.client() as client:
            peers = [client.connect(server.host, server.port) for _ in range(1024)]
            await log.until(lambda: log.count["input"] == 1024)
            assert all(log.told.count(("input", peer.id, b"%d" % peer.id)) == 1 for peer in peers[::50])
            assert server.peak == 1024
    assert log.count["disconnected"] == 1024


async def test_peer_that_closes_after_an_answer() -> None:
    log = Log(on_success=lambda peer: peer.send(b"one"))
    with Server(Parting()) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            await log.ended(peer)
    assert log.words(peer) == "initialize success flushed input error disconnected"
