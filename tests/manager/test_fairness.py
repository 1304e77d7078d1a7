"""Who is served when, and what it costs."""

from __future__ import annotations

import gc
import random
import sys
import time
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from keepalive import AllocateTimeout, Connection, ConnectionManager, Observer, Reuse
from tests.support import Server
from tests.support.requests import Awaited, ask, at_rest, exchange, run_out, take, warm
from tests.support.resolvers import GatedResolver
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keepalive import Key


class Order(Observer):
    """Writes down which request was served when, counted in hand-outs, not in seconds."""

    def __init__(self) -> None:
        self.served: list[int] = []
        self.by_new_ones: set[int] = set()

    def lent(self, key: Key, connection_id: int, request_id: int, reuse: Reuse | None, waited: float) -> None:
        self.served.append(request_id)
        if reuse is None:
            self.by_new_ones.add(request_id)


async def test_31_nobody_starves(echo_server: Server) -> None:
    """heritage pools 3.31: asyncpg#1247, HikariCP#1909: 100 workers, 10 slots: max wait <= 1.5 x ideal.

    A wait is how many others were served meanwhile: 90 when all is fair.
    """
    # heritage pools 2.5.
    rng = random.Random(31)
    order = Order()
    waits: list[int] = []
    async with ConnectionManager(max_per_host=10, observer=order) as mgr:

        async def worker(number: int) -> None:
            for _ in range(40):
                asked_at = len(order.served)
                async with ask(mgr, echo_server, 60) as conn:
                    waits.append(len(order.served) - 1 - asked_at)
                    if number % 10 == 0:
                        await exchange(conn)
                    await turns(rng.randrange(1, 4))

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(worker, number)
    assert len(waits) == 4000
    assert max(waits) <= 1.5 * 90
    assert echo_server.peak == 10


async def test_32_a_full_key_holds_up_nobody(echo_server: Server) -> None:
    """heritage pools 3.32: aiohttp PR#2964, POE: behind a key with 1000 waiters another is served at once."""
    async with ConnectionManager(max_per_host=2) as mgr:
        held = await take(mgr, echo_server, 2)
        crowd = [ask(mgr, echo_server) for _ in range(1000)]
        before = mgr.stats().requests
        async with ask(mgr, echo_server, n=2) as conn:
            await exchange(conn)
        async with ask(mgr, echo_server, n=2) as conn:
            assert conn.from_cache is Reuse.IMMEDIATE
        assert (mgr.stats().requests, mgr.stats().waiting) == (before + 2, 1000)
        for request in crowd:
            request.cancel()
        for conn in held:
            conn.release()
        assert at_rest(mgr)


async def test_32_all_full_means_order_of_arrival(echo_server: Server) -> None:
    """heritage pools 3.32: aiohttp PR#2964: a busy key never starves a quiet one: first come, first
    served."""
    order = Order()
    rng = random.Random(32)
    async with ConnectionManager(max_per_host=6, max_open=6, observer=order) as mgr:
        held = await take(mgr, echo_server, 6)
        keys = [1 if rng.random() < 0.9 else rng.randrange(2, 8) for _ in range(300)]
        requests = [ask(mgr, echo_server, n=n) for n in keys]
        del order.served[:]
        async with anyio.create_task_group() as group:

            async def user(number: int) -> None:
                async with requests[number]:
                    await turns(rng.randrange(3))

            for number in range(300):
                group.start_soon(user, number)
            await turns()
            for conn in held:
                conn.release()
        # Whoever is served leaves behind none older but those that the other five places are taken for. An
        # attempt may come too late for the one it was made for; then it serves the next of its key.
        waiting = [request.id for request in requests]
        overtaking = []
        for number in order.served:
            if waiting.index(number) > 5:
                overtaking.append(number)
            waiting.remove(number)
        assert order.by_new_ones.issuperset(overtaking)
        assert len(overtaking) <= 10
        assert (waiting, echo_server.peak) == ([], 6)


async def test_32_with_one_slot_the_order_is_exact(echo_server: Server) -> None:
    """heritage pools 3.32: POE's queue scan: one slot, many keys: served exactly in the order of arrival."""
    order = Order()
    rng = random.Random(33)
    async with ConnectionManager(max_open=1, observer=order) as mgr:
        held = await ask(mgr, echo_server, n=9)
        requests = [ask(mgr, echo_server, n=rng.randrange(1, 5)) for _ in range(60)]
        for request in requests[5::7]:
            request.cancel()
        del requests[5::7], order.served[:]
        held.release()
        for request in requests:
            async with request as conn:
                await exchange(conn)
        assert order.served == [request.id for request in requests]
        assert echo_server.peak == 1


async def free_cost(mgr: ConnectionManager, server: Server, waiters: int, keys: int) -> float:
    """Give back what somebody waits for; return the median CPU time of a release with its hand-over."""
    held: list[Connection] = [await ask(mgr, server, n=1 + n) for n in range(keys)]
    requests = [ask(mgr, server, 60, n=1 + n % keys) for n in range(waiters)]
    served = 0
    times = []
    for _ in range(3 if keys > 50 else 60):
        for n in range(keys):
            start = time.thread_time()
            held[n].release()
            times.append(time.thread_time() - start)
            held[n] = await requests[served + n]
        served += keys
    for request in requests[served:]:
        request.cancel()
    for conn in held:
        conn.release()
    return median(times)


async def test_33_cost_of_a_release_with_many_waiters(echo_server: Server) -> None:
    """heritage pools 3.33: curl#2369, httpx#3215, PR#1035: 10,000 waiters on 100 keys: < 50 us per free."""
    # heritage pools 2.5.
    async with ConnectionManager(max_per_host=1, max_open=100) as mgr:
        few = await free_cost(mgr, echo_server, 300, 100)
        many = await free_cost(mgr, echo_server, 10_000, 100)
        one_key = await free_cost(mgr, echo_server, 10_000, 1)
        assert at_rest(mgr)
    assert max(many, one_key) < 50e-6
    assert max(many, one_key) < 4 * few + 10e-6


async def test_33_cost_of_a_release_at_the_total_limit(echo_server: Server) -> None:
    """heritage pools 3.33: httpx#3215: the same when what is freed goes to another key, by way of a new
    dial."""
    async with ConnectionManager(max_per_host=1, max_open=1) as mgr:
        times = []
        held = await ask(mgr, echo_server, n=1)
        requests = [ask(mgr, echo_server, 60, n=2 + n % 500) for n in range(10_000)]
        for request in requests[:20]:
            start = time.thread_time()
            held.release()
            times.append(time.thread_time() - start)
            held = await request
        for request in requests[20:]:
            request.cancel()
        held.release()
        assert at_rest(mgr)
    # It closes a socket and starts a task, which is what most of this is.
    assert median(times) < 500e-6


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with Server() as one, Server() as two, Server() as three:
        yield [one, two, three]


async def test_a_blocked_key_holds_up_no_other(servers: list[Server]) -> None:
    """heritage poe 3.1 (B1): with one request blocked by its own limit, another host is served at once."""
    async with ConnectionManager(max_per_host=1) as mgr, anyio.create_task_group() as group:
        held = await ask(mgr, servers[0])
        blocked = [Awaited(group, ask(mgr, servers[0])) for _ in range(3)]
        for server in servers[1:]:
            async with ask(mgr, server, 1) as conn:
                await exchange(conn)
            async with ask(mgr, server, 1) as conn:
                assert conn.from_cache is Reuse.IMMEDIATE
        assert mgr.stats().waiting == 3
        held.release()
        for request in blocked:
            (await request.connection()).release()


async def test_a_full_key_in_front_holds_up_no_other_at_max_open(servers: list[Server]) -> None:
    """heritage poe 3.1 (B1), 1.47: a place that comes free goes past those whose own key is full."""
    async with ConnectionManager(max_per_host=1, max_open=2) as mgr, anyio.create_task_group() as group:
        first, second = await ask(mgr, servers[0]), await ask(mgr, servers[1])
        full = Awaited(group, ask(mgr, servers[0]))
        other = Awaited(group, ask(mgr, servers[2]))
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
        warmest = await ask(mgr, one)
        assert warmest.extra(SocketAttribute.local_port) == ports[1]
        warmest.release()
        # Idle now, the coldest first: one, two, two, one.
        held = []
        for left in ((1, 2), (1, 1), (1, 0), (0, 0)):
            held.append(await ask(mgr, three))
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
            conn = await ask(mgr, echo_server, None)
            line = [ask(mgr, echo_server, None, for_port=1 + n % keys) for n in range(waiting)]
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
        held = [await ask(mgr, echo_server) for _ in range(8)]
        began = process_time()
        line = [ask(mgr, echo_server) for _ in range(10_000)]
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
        held = await ask(mgr, echo_server)
        patient = ask(mgr, echo_server)
        for _ in range(3):
            error = await run_out(mgr, echo_server)
            assert error.function == "queue"
            assert (mgr.stats().waiting, mgr.stats().queued) == (1, 1)
        held.release()
        async with patient as conn:
            assert conn.from_cache is Reuse.DEFERRED


async def test_order_of_service_is_order_of_arrival(echo_server: Server) -> None:
    """heritage poe 3.16: neither the end of a look-up nor a later call changes the order within a key."""
    resolver = GatedResolver()
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
    resolver = GatedResolver()
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
        held = [await ask(mgr, echo_server, **targets[0]) for _ in range(2)]
        more = Awaited(group, ask(mgr, echo_server, **targets[0]))
        held.append(await ask(mgr, echo_server, **targets[1]))
        last = Awaited(group, ask(mgr, echo_server, **targets[1]))
        assert (echo_server.connections, mgr.stats().waiting) == (3, 2)
        held.pop(0).release()
        (await more.connection()).release()
        (await last.connection()).release()
        for conn in held:
            conn.release()
        assert echo_server.peak == 3
