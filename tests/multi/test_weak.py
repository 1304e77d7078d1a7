"""The ancestor's weak spots, heritage tcpmulti 3.1 to 3.20, number by number: none is inherited."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keepalive import Resolution
from keepalive.multi import (
    BlockFilter,
    EndReason,
    LineFilter,
    MultiClient,
    OutputFull,
    PeerState,
    StreamFilter,
)
from tests.support import Deaf, Greeting, Lines, Server, Silent, full_backlog, refused_port
from tests.support.inside import core_of

from .kit import Log

if TYPE_CHECKING:
    from keepalive.multi import Peer


async def test_01_a_timer_on_the_default_path_closes() -> None:
    log = Log()
    with Server(Silent()) as server:
        async with log.client(input_timeout=0.1) as client:
            peer = client.connect(server.host, server.port)
            await log.ended(peer)
            assert log.of(peer)[-2:] == [("timeout",), ("disconnected",)]
            assert client.get(peer.id) is None
            await server.until(lambda s: s.connections == 0)


async def test_02_shutdown_has_an_upper_time_limit() -> None:
    # heritage tcpmulti 1.22.
    log = Log()
    with Server(Deaf(), receive_buffer=8192) as server:
        async with log.client(shutdown_timeout=0.2) as client:
            peer = client.connect(server.host, server.port)
            peer.filter = StreamFilter()
            await log.connected(peer)
            peer.send(bytes(10_000_000))
            peer.shutdown()
            await log.ended(peer)
    assert log.words(peer) == "initialize success disconnected"
    assert peer.reason is EndReason.CUT


async def test_03_shutdown_of_what_is_not_there() -> None:
    # heritage tcpmulti 1.26.
    log = Log()
    with Server() as server, refused_port() as port:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            failed = client.connect("127.0.0.1", port)
            await log.connected(peer)
            await log.ended(failed)
            assert client.shutdown(peer.id)
            assert not client.shutdown(peer.id)
            await log.ended(peer)
            for number in (peer.id, failed.id, 12345, 0, -1):
                assert not client.shutdown(number)
                assert not client.send(number, b"x")
                assert not client.close(number)
                assert client.get(number) is None
            assert not peer.shutdown()
            assert not peer.close()
            assert not peer.send(b"x")
            with pytest.raises(TypeError, match="id must be"):
                client.shutdown("1")  # type: ignore[arg-type]  # that is the test
    assert log.count["disconnected"] == 2


async def test_04_die_closes_sockets_in_every_state() -> None:
    class Never:
        async def resolve(self, host: str) -> Resolution:
            await anyio.sleep_forever()
            raise AssertionError

    log = Log()
    with Server() as server, full_backlog() as nowhere:
        async with log.client(resolver=Never(), max_connecting=3) as client:
            up = client.connect(server.host, server.port)
            await log.connected(up)
            peers = [
                client.connect(nowhere.host, nowhere.port),
                client.connect("name.test", 80),
                client.connect("127.0.0.1", server.port, scheme="https"),
                client.connect(server.host, server.port),
            ]
            assert [peer.state.value for peer in peers] == ["connecting"] * 3 + ["initialising"]
            client.die()
            assert client.connecting == 0
            await log.ended(up, *peers)
            await server.until(lambda s: s.connections == 0)
    assert {peer.reason for peer in peers} == {EndReason.DIE}
    assert {log.words(peer) for peer in peers} == {"initialize disconnected"}


async def test_05_reading_the_timeout_changes_nothing() -> None:
    # heritage tcpmulti 1.38, 1.39.
    log = Log()
    with Server(Silent()) as server:
        async with log.client(input_timeout=0.2) as client:
            peer = client.connect(server.host, server.port)
            assert peer.timeout == 30
            await log.connected(peer)
            assert peer.timeout == 0.2
            await log.ended(peer)
    assert peer.reason is EndReason.INPUT_TIMEOUT


async def test_06_timeouts_of_one_connection() -> None:
    # heritage tcpmulti 1.30.
    log = Log()
    with Server(Silent()) as server, full_backlog() as nowhere:
        async with log.client() as client:
            one = client.connect(server.host, server.port, input_timeout=0.1)
            two = client.connect(nowhere.host, nowhere.port, connect_timeout=0.1)
            three = client.connect(server.host, server.port, input_timeout=0)
            await log.ended(one, two)
            assert three.timeout == 0
            assert three.state is PeerState.CONNECTED
    assert (one.reason, two.reason) == (EndReason.INPUT_TIMEOUT, EndReason.CONNECT_TIMEOUT)


async def test_07_zero_is_zero_for_the_client_too() -> None:
    # heritage tcpmulti 1.30.
    log = Log()
    with Server(Silent()) as server:
        async with log.client(
            connect_timeout=0, input_timeout=0, write_timeout=0, shutdown_timeout=0
        ) as client:
            peer = client.connect(server.host, server.port)
            assert peer.timeout == 0
            await log.connected(peer)
            assert peer.timeout == 0
            assert len(core_of(client).timers) == 0


async def test_08_send_while_connecting_is_queued() -> None:
    log = Log(on_success=lambda peer: peer.send(b"three"))
    with Server(Lines()) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            assert peer.send(b"one", b"two")
            assert peer.waiting == 8
            await log.until(lambda: len(log.inputs(peer)) == 3)
            assert log.inputs(peer) == [b"ONE", b"TWO", b"THREE"]
            assert peer.waiting == 0
            late = client.connect(server.host, server.port)
            late.send(b"last words")
            assert late.shutdown()  # it is connected, says them, and ends
            await log.ended(late)
            assert log.words(late) == "initialize disconnected"
            await server.until(lambda s: s.received == len(b"one two three last words "))
    assert late.reason is EndReason.SHUTDOWN


async def test_09_filters_before_it_is_connected() -> None:
    def early(peer: Peer) -> None:
        peer.input_filter = BlockFilter(3)
        peer.output_filter = StreamFilter()
        peer.send(b"abcdef\n")

    log = Log(on_initialize=early)
    with Server(Lines()) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            await log.until(lambda: len(log.inputs(peer)) == 2)
            assert log.inputs(peer) == [b"ABC", b"DEF"]
            assert isinstance(peer.filter, BlockFilter)
            assert isinstance(peer.output_filter, StreamFilter)


async def test_10_a_timeout_too_ends_with_one_disconnected() -> None:
    # heritage tcpmulti 1.19, 1.21.
    log = Log()
    with full_backlog() as nowhere:
        async with log.client(connect_timeout=0.05) as client:
            peers = [client.connect(nowhere.host, nowhere.port) for _ in range(3)]
            await log.ended(*peers)
            await anyio.sleep(0.1)  # nothing may follow
    assert {log.words(peer) for peer in peers} == {"initialize timeout disconnected"}


async def test_11_flushed_is_told_when_all_has_gone() -> None:
    def more(peer: Peer) -> None:
        if log.count["flushed"] < 3:
            peer.send(b"again")  # from inside: no recursion

    log = Log(on_flushed=more)
    with Server(Deaf(), receive_buffer=8192) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            peer.output_filter = StreamFilter()
            await log.connected(peer)
            peer.send(bytes(5_000_000))
            await anyio.sleep(0.05)
            assert log.count["flushed"] == 0
            assert peer.waiting > 0
            server.resume_reading()
            with anyio.fail_after(5):
                await peer.drain()
            await log.until(lambda: log.count["flushed"] == 3)
            assert peer.waiting == 0


def test_12_what_is_offered_is_there() -> None:
    """The ancestor's `_child` raised, and routes of events were documented but missing."""
    # heritage tcpmulti 1.11.
    for name in ("on_child", "inline_states", "alias"):
        with pytest.raises(TypeError, match=name):
            MultiClient(**dict[str, Any]({name: None}))


async def test_13_a_heap_of_any_mapping_also_of_an_earlier_peer() -> None:
    # heritage tcpmulti 1.24.
    log = Log()
    with Server() as server:
        async with log.client() as client:
            data = {"n": [1]}
            one = client.connect(server.host, server.port, heap=data)
            two = client.connect(server.host, server.port, heap=one.heap)
            assert one.heap == two.heap == data
            assert one.heap is not data
            assert two.heap is not one.heap
            wrong: Any = [("n", 1)]
            with pytest.raises(TypeError, match="heap must be a mapping"):
                client.connect(server.host, server.port, heap=wrong)
            assert len(client) == 2


async def test_14_no_key_of_the_heap_is_reserved() -> None:
    # heritage tcpmulti 1.32, 1.35.
    log = Log()
    keys = dict.fromkeys(("-ID", "-ADDR", "-TIMEOUT", "id", "addr", "state", "_link", None), "mine")
    with Server() as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port, heap=keys)
            await log.connected(peer)
            assert peer.heap == keys
            assert (peer.id, peer.addr, peer.port) == (1, server.host, server.port)
            fresh = client.connect(server.host, server.port)
            assert fresh.heap == {}
            assert fresh.heap is fresh.heap


async def test_15_each_peer_has_a_filter_of_its_own_from_a_factory() -> None:
    # heritage tcpmulti 1.9.
    made: list[LineFilter] = []

    def factory() -> LineFilter:
        made.append(LineFilter(b"|", max_size=10))
        return made[-1]

    log = Log()
    with Server(Greeting(b"a|b|")) as server:
        async with log.client(filter=factory) as client:
            peers = [client.connect(server.host, server.port) for _ in range(3)]
            await log.until(lambda: log.count["input"] == 6)
            assert [peer.filter for peer in peers] == made
            with pytest.raises(ValueError, match="10"):
                peers[0].send(bytes(11))
    assert log.inputs(peers[2]) == [b"a", b"b"]


async def test_16_timeout_has_no_argument_but_the_peer() -> None:
    # heritage tcpmulti 1.42.
    log = Log()
    with full_backlog() as nowhere:
        async with log.client(connect_timeout=0.05) as client:
            peer = client.connect(nowhere.host, nowhere.port, heap={"email": "me"})
            await log.ended(peer)
    assert log.of(peer)[1] == ("timeout",)


async def test_17_limits_of_attempts_and_output() -> None:
    log = Log()
    with Server() as server, full_backlog() as nowhere:
        async with log.client(max_connecting=2, max_output=100, filter=StreamFilter) as client:
            held = [client.connect(nowhere.host, nowhere.port) for _ in range(2)]
            peer = client.connect(server.host, server.port)
            assert (client.connecting, peer.state) == (2, PeerState.INITIALISING)
            peer.send(bytes(60))
            with pytest.raises(OutputFull, match="60 bytes wait, 41 more exceed max_output=100"):
                peer.send(bytes(40), b"x")
            assert peer.waiting == 60
            peer.send(bytes(40))
            held[0].close()
            await log.until(lambda: sum(map(len, log.inputs(peer))) == 100)
            assert held[1].state is PeerState.CONNECTING


async def test_17_names_are_looked_up_once_and_never_block() -> None:
    asked: list[str] = []
    gate = anyio.Event()

    class Slow:
        async def resolve(self, host: str) -> Resolution:
            asked.append(host)
            await gate.wait()
            if host.startswith("no"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return Resolution(("127.0.0.1",))

    log = Log()
    with Server() as server:
        async with log.client(resolver=Slow()) as client:
            good = [client.connect("yes.test", server.port) for _ in range(50)]
            bad = [client.connect("NO.test.", server.port) for _ in range(5)]
            literal = client.connect("127.0.0.1", server.port)
            local = client.connect("localhost", server.port)
            await log.connected(literal, local)
            good[0].close()
            gate.set()
            await log.connected(*good[1:])
            await log.ended(*bad, good[0])
            assert sorted(asked) == ["no.test", "yes.test"]
            assert {peer.address for peer in (*good[1:], local)} == {"127.0.0.1"}
    assert log.of(bad[0])[1] == ("failure", "resolve", 0, "Name or service not known")
    assert log.words(good[0]) == "initialize disconnected"


async def test_18_a_peer_that_never_reads_is_noticed() -> None:
    class Chatty(Deaf):
        """Talks all the time but takes nothing."""

    log = Log()
    with Server(Chatty(), receive_buffer=8192) as server:
        async with log.client(write_timeout=0.3, input_timeout=5) as client:
            peer = client.connect(server.host, server.port)
            peer.output_filter = StreamFilter()
            await log.connected(peer)
            peer.send(bytes(8_000_000))
            for _ in range(20):
                server.push(b"still here\n")
                await anyio.sleep(0.03)
            await log.ended(peer)
            with pytest.raises(anyio.ClosedResourceError):
                await peer.drain()
    assert peer.reason is EndReason.WRITE_TIMEOUT
    assert log.of(peer)[-2:] == [("timeout",), ("disconnected",)]
    assert log.inputs(peer)


async def test_19_one_id_from_beginning_to_end() -> None:
    # heritage tcpmulti 1.34, 1.41.
    seen: set[int] = set()
    log = Log(on_initialize=lambda p: seen.add(p.id), on_disconnected=lambda p: seen.add(p.id))
    with Server() as server:
        async with log.client() as client:
            number = client.connect(server.host, server.port).id
            assert client.send(number, b"queued")
            await log.until(lambda: log.inputs(number) == [b"queued"])
            assert client.get(number) is client.peers[number]
            assert client.shutdown(number)
            await log.until(lambda: log.count["disconnected"])
    assert seen == {number} == {1}


async def test_20_nothing_follows_the_end() -> None:
    """The ancestor kept its books twice; here, whatever ends a peer, once is once."""
    # heritage tcpmulti 1.20, 1.21.

    def end_it_all(peer: Peer, *_: object) -> None:
        peer.close()
        peer.shutdown()
        client.close(peer.id)
        raise RuntimeError("and then it raised")

    log = Log(on_input=end_it_all)
    with Server(Greeting(b"1\n2\n3\n")) as server:
        async with log.client() as client:
            peer = client.connect(server.host, server.port)
            await log.ended(peer)
            await anyio.sleep(0.05)  # nothing may follow
    assert log.of(peer)[2:] == [
        ("input", b"1"), ("error", "on_input", 0, "and then it raised"), ("disconnected",)
    ]  # fmt: skip
    assert peer.reason is EndReason.CLOSE
