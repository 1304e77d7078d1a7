"""What bounds a peer: its lifetime, and filters that would go on for ever."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import TLSConnector
from keepalive.multi import (
    Disconnected,
    EndReason,
    Error,
    Input,
    LineFilter,
    MultiClient,
    PeerState,
    StreamFilter,
    Timeout,
)
from tests.support import Behaviour, Deaf, Greeting, Lines, Server, Silent, full_backlog

from .kit import Log

if TYPE_CHECKING:
    import ssl

    from keepalive.multi import Peer
    from tests.support import Peer as Visitor


class Dripping(Behaviour):
    """Answers each byte by one: a client that answers too keeps it going."""

    def opened(self, peer: Visitor) -> None:
        peer.send(b".")

    def received(self, peer: Visitor, data: bytes) -> None:
        peer.send(data)


class Stuck:
    """Gives a unit, and takes nothing."""

    def __init__(self, *, grow: bool = False) -> None:
        self.grow = grow
        self.calls = 0

    def decode(self, buffer: bytearray) -> bytes | None:
        self.calls += 1
        if self.grow:
            buffer += b"more"
        return bytes(buffer[:1])

    def encode(self, unit: bytes) -> bytes:
        return unit


@pytest.mark.parametrize("grow", [False, True])
async def test_filter_that_takes_nothing_ends_its_own_peer_only(
    grow: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log(on_initialize=lambda peer: peer.heap.setdefault("codec", peer.filter))
    codecs = iter([Stuck(grow=grow), LineFilter()])
    with Server(Greeting()) as server:
        async with log.client(filter=lambda: next(codecs)) as client:
            bad, good = (client.connect(server.host, server.port) for _ in range(2))
            await log.ended(bad)
            await log.until(lambda: log.inputs(good) == [b"220 ready"])
            assert good.state is PeerState.CONNECTED
    name, operation, number, text = log.of(bad)[-2]
    assert (name, operation, number) == ("error", "decode", 0)
    assert "Stuck" in text
    assert "took nothing" in text
    assert log.inputs(bad) == []
    assert bad.heap["codec"].calls == 1
    assert "decode of <Peer 1" in caplog.text


async def test_stuck_filter_set_in_the_middle() -> None:
    """It meets what the one before has left, in a callback or between two."""
    # heritage tcpmulti 1.5.

    def change(peer: Peer, unit: bytes) -> None:
        peer.input_filter = Stuck()

    log = Log(on_input=change)
    with Server(Greeting(b"line\nrest")) as server:
        async with log.client() as client:
            first = client.connect(server.host, server.port)
            await log.ended(first)
    assert log.words(first) == "initialize success input error disconnected"
    with Server(Greeting(b"rest")) as server:
        async with MultiClient() as client:
            second = client.connect(server.host, server.port)
            with anyio.fail_after(8):
                while not second.pending:
                    await anyio.lowlevel.checkpoint()
            second.filter = Stuck()
            told = []
            async for event in client:
                told.append(event)
                if isinstance(event, Disconnected):
                    break
            assert isinstance(told[-2], Error)
            assert told[-2].operation == "decode"


async def test_long_line_through_a_client_takes_no_longer_than_it_is_long() -> None:
    size, log = 30_000_000, Log()
    with Server(Greeting(b"x" * size + b"\nnext\n")) as server:
        async with log.client(filter=lambda: LineFilter(max_size=1 << 30)) as client:
            started = time.thread_time()
            peer = client.connect(server.host, server.port)
            await log.until(lambda: len(log.inputs(peer)) == 2, 30)
            assert time.thread_time() - started < 3
    assert [len(unit) for unit in log.inputs(peer)] == [size, 4]


async def test_exchanged_and_shared_filters_miss_no_line() -> None:
    """The line filter has looked at bytes that another filter takes, and is then set again."""
    lines = LineFilter()
    log = Log()
    with Server(Lines(lambda line: line)) as server:
        async with log.client(filter=lambda: lines) as client:
            peers = [client.connect(server.host, server.port) for _ in range(3)]
            for peer in peers:
                peer.output_filter = StreamFilter()
                peer.input_filter = lines
                peer.send(b"abc" * 7)
            for peer in peers:
                peer.send(b"\n")
                peer.send(b"end\n")
            await log.until(lambda: all(len(log.inputs(peer)) == 2 for peer in peers))
    for peer in peers:
        assert log.inputs(peer) == [b"abc" * 7, b"end"]


# -- lifetime ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
async def test_lifetime_ends_a_peer_that_never_stops(
    tls: bool, ca: Any, client_context: ssl.SSLContext
) -> None:
    log = Log(on_input=lambda peer, unit: peer.send(unit))
    with Server(Dripping(), tls=ca.server() if tls else None) as server:
        async with log.client(
            filter=StreamFilter, input_timeout=0.2, connectors={"https": TLSConnector(client_context)}
        ) as client:
            started = anyio.current_time()
            peer = client.connect(server.host, server.port, lifetime=0.4, scheme="https" if tls else "tcp")
            await log.ended(peer)
            assert 0.4 <= anyio.current_time() - started < 4
            assert log.words(peer).endswith("timeout disconnected")
            assert peer.reason is EndReason.LIFETIME
            assert len(log.inputs(peer)) > 5


async def test_lifetime_covers_the_attempt() -> None:
    log = Log()
    with full_backlog() as nowhere:
        async with log.client(lifetime=0.1) as client:
            peer = client.connect(nowhere.host, nowhere.port)
            quick = client.connect(nowhere.host, nowhere.port, connect_timeout=0.05)
            await log.ended(peer, quick)
    assert log.words(peer) == log.words(quick) == "initialize timeout disconnected"
    assert (peer.reason, quick.reason) == (EndReason.LIFETIME, EndReason.CONNECT_TIMEOUT)


async def test_lifetime_covers_output_and_the_shutdown() -> None:
    log = Log()
    with Server(Deaf(), receive_buffer=4096) as server:
        async with log.client(filter=StreamFilter, lifetime=0.2) as client:
            stuck, leaving = (client.connect(server.host, server.port) for _ in range(2))
            await log.connected(stuck, leaving)
            for peer in (stuck, leaving):
                peer.send(b"x" * 8_000_000)
            leaving.shutdown()
            await log.ended(stuck, leaving)
    assert log.words(stuck) == "initialize success timeout disconnected"
    assert log.words(leaving) == "initialize success disconnected"
    assert stuck.reason is leaving.reason is EndReason.LIFETIME


async def test_lifetime_begins_when_the_turn_comes() -> None:
    log = Log()
    with Server(Silent()) as server:
        async with log.client(max_open=1, lifetime=0.15) as client:
            peers = [client.connect(server.host, server.port) for _ in range(3)]
            await log.ended(*peers)
    assert log.count["success"] == log.count["timeout"] == 3


async def test_lifetime_of_one_peer_or_of_all() -> None:
    log = Log()
    with Server(Lines()) as server:
        async with log.client(lifetime=0.1) as client:
            short = client.connect(server.host, server.port)
            long = client.connect(server.host, server.port, lifetime=0)
            await log.ended(short)
            long.timeout = 5
            long.send(b"still")
            await log.until(lambda: log.inputs(long) == [b"STILL"])
    assert short.reason is EndReason.LIFETIME
    assert long.reason is EndReason.DIE


async def test_lifetime_of_a_peer_whose_events_nobody_takes() -> None:
    """The time of its input does not run meanwhile; that of its life does."""
    with Server(Greeting(b"a\nb\nc\n")) as server:
        async with MultiClient(max_events=3, lifetime=0.2, input_timeout=0.05) as client:
            peer = client.connect(server.host, server.port)
            with anyio.fail_after(8):
                while peer.state is not PeerState.CLOSED:  # noqa: ASYNC110  # nobody is told of it
                    await anyio.sleep(0.02)
            told = []
            async for event in client:
                told.append(event)
                if isinstance(event, Disconnected):
                    break
    assert [type(event) for event in told if not isinstance(event, Input)][-2:] == [Timeout, Disconnected]
    assert peer.reason is EndReason.LIFETIME


@pytest.mark.parametrize("value", [-1, float("nan"), True, "7"])
async def test_wrong_lifetime(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="lifetime"):
        MultiClient(lifetime=value)
    async with MultiClient() as client:
        with pytest.raises((TypeError, ValueError), match="lifetime"):
            client.connect("127.0.0.1", 1, lifetime=value)
        assert len(client) == 0
