"""Fairness and cost: heritage pools 3.31 to 3.33."""

from __future__ import annotations

import random
import time
from statistics import median
from typing import TYPE_CHECKING

import anyio

from keepalive import Connection, ConnectionManager, Observer, Reuse

from .stepping import ask, at_rest, exchange, take, turns

if TYPE_CHECKING:
    from keepalive import Key
    from tests.support import Server


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
