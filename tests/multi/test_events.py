"""The same as a stream of events."""

from __future__ import annotations

import anyio
import pytest

from keepalive.multi import (
    Disconnected,
    EndReason,
    Error,
    Event,
    Failure,
    Flushed,
    Initialize,
    Input,
    MultiClient,
    Peer,
    Success,
    Timeout,
)
from tests.support import Behaviour, Greeting, Lines, Server, Silent, refused_port
from tests.support import Peer as Visitor
from tests.support.inside import core_of, events_of


async def full(client: MultiClient) -> None:
    """Wait until nothing more is read."""
    with anyio.fail_after(8):
        while not core_of(client).places.paused:  # noqa: ASYNC110  # nobody is told of it
            await anyio.sleep(0.01)


async def test_all_events_by_match() -> None:
    seen: dict[int, list[str]] = {}
    with Server(Lines()) as server, Server(Silent()) as silent, refused_port() as port:
        async with MultiClient() as client:
            talker = client.connect(server.host, server.port)
            client.connect("127.0.0.1", port)
            client.connect(silent.host, silent.port, input_timeout=0.2)
            async for event in client:
                seen.setdefault(event.peer.id, []).append(type(event).__name__)
                match event:
                    case Initialize(peer) | Flushed(peer):
                        assert peer.id
                    case Success(Peer(id=1) as peer):
                        peer.send(b"quit")
                    case Input(peer, unit):
                        assert (peer, unit) == (talker, b"bye")
                    case Failure(_, operation, number, text):
                        assert (operation, number, text) == ("connect", 111, "Connection refused")
                    case Error(_, "read", 0, ""):
                        pass
                    case Timeout(peer):
                        assert peer.id == 3
                    case Disconnected() if len(client) == 0:
                        client.die()
    assert seen == {
        1: ["Initialize", "Success", "Flushed", "Input", "Error", "Disconnected"],
        2: ["Initialize", "Failure", "Disconnected"],
        3: ["Initialize", "Success", "Timeout", "Disconnected"],
    }


async def test_a_flood_waits_for_whoever_takes_the_events() -> None:
    """Back-pressure: the queue is bounded, and the server feels it."""

    class Flood(Behaviour):
        def opened(self, peer: Visitor) -> None:
            peer.send(b"%050d\n" % 7 * 400_000)

    with Server(Flood()) as server:
        async with MultiClient(max_events=100) as client:
            peers = [client.connect(server.host, server.port) for _ in range(2)]
            events = events_of(client)
            assert events is not None
            await full(client)
            await anyio.sleep(0.1)  # nothing may follow
            assert 100 <= len(events._events) <= 110
            assert sum(peer.waiting for peer in peers) == 0
            took = dict.fromkeys((peer.id for peer in peers), 0)
            async for event in client:
                assert len(events._events) <= 110
                if isinstance(event, Input):
                    assert event.unit == b"%050d" % 7
                    took[event.peer.id] += 1
                    if sum(took.values()) == 60_000:
                        break
            assert min(took.values()) > 5000, "one of them was starved"
            more = client.connect(server.host, server.port)
            assert more.state.value == "initialising" or client.connecting <= 1


async def test_what_has_come_in_time_counts_however_late_it_is_taken() -> None:
    """It is not the peer who is late when nobody takes its events."""
    seen: list[Event] = []
    with Server(Greeting(b"word\n" * 50)) as server:
        async with MultiClient(max_events=10) as client:
            peer = client.connect(server.host, server.port)
            await full(client)
            peer.timeout = 0.05
            await anyio.sleep(0.2)
            async for event in client:
                seen.append(event)
                if isinstance(event, Disconnected):
                    break
    assert [type(event).__name__ for event in seen] == [
        "Initialize", "Success", *["Input"] * 50, "Timeout", "Disconnected"
    ]  # fmt: skip


async def test_a_client_is_closed_in_good_order_by_the_task_that_takes_its_events() -> None:
    with Server() as server:
        async with MultiClient(max_events=2, max_connecting=1) as client:
            peers = [client.connect(server.host, server.port) for _ in range(5)]
            for peer in peers:
                peer.send(b"all of them")
            await client.aclose(grace=10)
            assert {peer.reason for peer in peers} == {EndReason.SHUTDOWN}
            assert server.received == 5 * len("all of them\n")
            ends = [event.peer async for event in client if isinstance(event, Disconnected)]
            # Each one once. Which comes first is a matter of when the server has read to its end.
            assert sorted(ends, key=lambda peer: peer.id) == peers


async def test_cancelled_takers_lose_nothing() -> None:
    with Server(Greeting(b"one\ntwo\n")) as server:
        async with MultiClient() as client:
            with anyio.move_on_after(0.02):
                await anext(client)
            client.connect(server.host, server.port)
            found: list[Event] = []

            async def take() -> None:
                found.append(await anext(client))

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(take)
            found.append(await anext(client))
    assert [type(event) for event in found] == [Initialize, Success, Input, Input]


async def test_the_end_of_the_client_ends_the_stream() -> None:
    with Server() as server:
        async with MultiClient() as client:
            client.connect(server.host, server.port)
            client.die()
            assert [type(event) async for event in client] == [Initialize, Disconnected]
            with pytest.raises(StopAsyncIteration):
                await anext(client)
        assert client.connecting == 0


async def test_a_client_is_for_callbacks_or_for_events() -> None:
    async with MultiClient(on_input=print) as client:
        with pytest.raises(RuntimeError, match="cannot be iterated"):
            async for _ in client:
                raise AssertionError
    with pytest.raises(RuntimeError, match="not been entered"):
        aiter(MultiClient())
