"""Weak spots of the ancestor (heritage, poe 3): who is served when, and what wakes him (1, 11, 12, 14, 16,
25)."""

from __future__ import annotations

import gc
import sys
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, ConnectionManager, Reuse
from tests.support import Server

from .kit import Awaited, Gated, exchange, get, run_out, until, warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with Server() as one, Server() as two, Server() as three:
        yield [one, two, three]


async def test_a_blocked_key_holds_up_no_other(servers: list[Server]) -> None:
    """heritage poe 3.1 (B1): with one request blocked by its own limit, another host is served at once."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await get(mgr, servers[0])
        blocked = [Awaited(group, get(mgr, servers[0])) for _ in range(3)]
        for server in servers[1:]:
            async with get(mgr, server, 1) as conn:
                await exchange(conn)
            async with get(mgr, server, 1) as conn:
                assert conn.from_cache is Reuse.IMMEDIATE
        assert mgr.stats().waiting == 3
        held.release()
        for request in blocked:
            (await request.connection()).release()


async def test_a_full_key_in_front_holds_up_no_other_at_max_open(servers: list[Server]) -> None:
    """heritage poe 3.1 (B1), 1.47: a place that comes free goes past those whose own key is full."""
    async with ConnectionManager(max_per_host=1, max_open=2) as mgr, anyio.create_task_group() as group:
        first, second = await get(mgr, servers[0]), await get(mgr, servers[1])
        full = Awaited(group, get(mgr, servers[0]))
        other = Awaited(group, get(mgr, servers[2]))
        second.discard()
        (await other.connection()).release()
        assert not full.done.is_set()
        first.release()
        assert (await full.connection()).from_cache is Reuse.DEFERRED
        assert max(server.peak for server in servers) == 1


async def test_least_recently_used_is_evicted_most_recently_used_is_reused(servers: list[Server]) -> None:
    """heritage poe 3.11: neither choice is left to chance."""
    one, two, three = servers
    async with ConnectionManager(max_open=4) as mgr:
        ports = await warm(mgr, one, 2)
        await warm(mgr, two, 2)
        warmest = await get(mgr, one)
        assert warmest.extra(SocketAttribute.local_port) == ports[1]
        warmest.release()
        # Idle now, the coldest first: one, two, two, one.
        held = []
        for left in ((1, 2), (1, 1), (1, 0), (0, 0)):
            held.append(await get(mgr, three))
            assert (one.connections, two.connections, three.connections) == (*left, len(held))
        assert mgr.stats().closed == {"evicted": 4}
        for conn in held:
            conn.release()


def steps(action: Callable[[], object]) -> int:
    """Count the calls that an action leads to."""
    counted = 0

    def count(*_: object) -> None:
        nonlocal counted
        counted += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(before)
    return counted


@pytest.mark.parametrize("many_keys", [False, True])
async def test_a_hand_over_costs_the_same_however_many_wait(echo_server: Server, many_keys: bool) -> None:
    """heritage poe 3.12: what one release does depends neither on the waiting requests nor on their keys."""
    costs = []
    for waiting in (300, 3000):
        keys = waiting // 10 if many_keys else 1
        async with ConnectionManager(max_open=1, keep_alive=None, timeout=None) as mgr:
            conn = await get(mgr, echo_server, None)
            line = [get(mgr, echo_server, None, for_port=1 + n % keys) for n in range(waiting)]
            gc.collect()  # finalisers would be counted too
            spent = []
            for request in line[:50]:
                spent.append(steps(conn.release))
                conn = await request
            costs.append(median(spent))
            conn.discard()
    assert costs[1] <= costs[0] * 1.1


async def test_ten_thousand_wait(echo_server: Server) -> None:
    """heritage poe 3.12: 10 000 waiting requests, which took the ancestor 40 s, in order of arrival."""
    async with ConnectionManager(max_per_host=8, timeout=None) as mgr:
        held = [await get(mgr, echo_server) for _ in range(8)]
        began = process_time()
        line = [get(mgr, echo_server) for _ in range(10_000)]
        for request in line:
            held.pop(0).release()
            conn = await request
            assert conn.from_cache is Reuse.DEFERRED
            held.append(conn)
        assert process_time() - began < 5
        assert (echo_server.accepted, mgr.stats().deferred) == (8, 10_000)
        for conn in held:
            conn.release()


async def test_timed_out_requests_leave_the_queue_at_once(echo_server: Server) -> None:
    """heritage poe 3.14: neither the queue's length nor the queue's room remembers them."""
    async with ConnectionManager(max_per_host=1, max_waiting=2) as mgr:
        held = await get(mgr, echo_server)
        patient = get(mgr, echo_server)
        for _ in range(3):
            error = await run_out(mgr, echo_server)
            assert error.function == "queue"
            assert (mgr.stats().waiting, mgr.stats().queued) == (1, 1)
        held.release()
        async with patient as conn:
            assert conn.from_cache is Reuse.DEFERRED


async def test_order_of_service_is_order_of_arrival(echo_server: Server) -> None:
    """heritage poe 3.16: neither the end of a look-up nor a later call changes the order within a key."""
    resolver = Gated()
    async with (
        ConnectionManager(max_per_host=2, resolver=resolver) as mgr,
        anyio.create_task_group() as group,
    ):
        served: list[int] = []

        async def use(request: Awaited) -> None:
            conn = await request.connection()
            served.append(request.request.id)
            await exchange(conn)
            conn.release()

        requests = [Awaited(group, mgr.allocate("http", "peer", echo_server.port, 5)) for _ in range(5)]
        for request in requests:
            group.start_soon(use, request)
        await until(lambda: resolver.asked == ["peer"])
        resolver.open()
        late = Awaited(group, mgr.allocate("http", "peer", echo_server.port, 5))
        await use(late)
        assert len(served) == 6
        # Two may be served at a time, and then trio shuffles whose task runs first.
        assert all(abs(place - number) < 2 for place, number in enumerate(served, 1))


async def test_a_request_being_resolved_is_not_overtaken(echo_server: Server) -> None:
    """heritage poe 3.16: a connection given back meanwhile goes to it and not to a later request."""
    resolver = Gated()
    async with ConnectionManager(resolver=resolver) as mgr:
        resolver.open()
        held = await mgr.allocate("http", "peer", echo_server.port, 5)
        resolver.gate = anyio.Event()
        first = mgr.allocate("http", "peer", echo_server.port, 5)
        held.release()
        second = mgr.allocate("http", "peer", echo_server.port, 0)
        with pytest.raises(AllocateTimeout):
            await second
        async with first as conn:
            assert conn.from_cache is Reuse.DEFERRED


async def test_limits_are_per_key_and_in_all(echo_server: Server) -> None:
    """heritage poe 3.25: two targets behind one proxy are two keys; `max_open` bounds what the proxy sees."""
    async with ConnectionManager(max_per_host=2, max_open=3) as mgr, anyio.create_task_group() as group:
        names = ("one.test", "two.test")
        targets: list[dict[str, Any]] = [{"for_addr": name, "for_scheme": "https"} for name in names]
        held = [await get(mgr, echo_server, **targets[0]) for _ in range(2)]
        more = Awaited(group, get(mgr, echo_server, **targets[0]))
        held.append(await get(mgr, echo_server, **targets[1]))
        last = Awaited(group, get(mgr, echo_server, **targets[1]))
        assert (echo_server.connections, mgr.stats().waiting) == (3, 2)
        held.pop(0).release()
        (await more.connection()).release()
        (await last.connection()).release()
        for conn in held:
            conn.release()
        assert echo_server.peak == 3
