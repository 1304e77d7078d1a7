"""What an input costs, without a clock: lines of the core that are run, and what is kept in memory.

Loops that run in C are not seen here; there are none over waiters, keys or connections but those of
the heaps' clean-up, which the sizes bound.
"""

from __future__ import annotations

import gc
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import keepalive.pool
from keepalive.base.types import NEVER, CloseReason
from keepalive.pool.invariants import check_pool
from keepalive.pool.pool import Pool
from keepalive.pool.records import Slot, Waiter
from keepalive.pool.states import ABORT, OPEN, Limits

from .kit import A, B, key

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

CORE = keepalive.pool.__path__[0]
FEW, MANY = 100, 10_000


def lines(act: Callable[[], object]) -> int:
    """Count the lines of the core that are run."""
    count = 0

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(CORE) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def connect(pool: Pool) -> list[Slot]:
    """Let all attempts succeed that the pool has asked for."""
    slots = [what for do, what in pool.effects if do is OPEN]
    pool.effects.clear()
    for slot in slots:
        pool.opened(slot, slot.id, 0.0)
    pool.effects.clear()
    return slots


def lend(pool: Pool, n: int, host: Callable[[int], Any]) -> list[Slot]:
    waiters = [pool.submit(host(i), 0.0, NEVER, fresh=True) for i in range(n)]
    connect(pool)
    return [pool.claim(waiter, 0.0) for waiter in waiters]


def same(n: int) -> Any:
    return A


def other(n: int) -> Any:
    return key(f"host{n}")


def waiting_in_one_key(n: int) -> tuple[Pool, list[Slot], list[Waiter]]:
    pool = Pool(Limits(max_per_host=8))
    slots = lend(pool, 8, same)
    return pool, slots, [pool.submit(A, 0.0, 100.0 + i, fresh=i % 7 == 6) for i in range(n)]


def waiting_keys(n: int) -> tuple[Pool, list[Slot], list[Waiter]]:
    pool = Pool(Limits(max_per_host=8, max_open=8))
    slots = lend(pool, 8, same)
    return pool, slots, [pool.submit(other(i), 0.0, 100.0 + i) for i in range(n)]


def idle_in_one_key(n: int) -> tuple[Pool, list[Slot], list[Waiter]]:
    pool = Pool(Limits(max_per_host=n + 8, max_open=n + 8))
    slots = lend(pool, n + 8, same)
    for slot in slots[8:]:
        pool.release(slot, 1.0)
    return pool, slots[:8], []


def idle_keys(n: int) -> tuple[Pool, list[Slot], list[Waiter]]:
    pool = Pool(Limits(max_per_host=8, max_open=n + 8))
    slots = lend(pool, 8, same)
    for slot in lend(pool, n, other):
        pool.release(slot, 1.0)
    return pool, slots, []


def attempts(n: int) -> tuple[Pool, list[Slot], list[Waiter]]:
    pool = Pool(Limits(max_per_host=n + 8, max_open=n + 8))
    slots = lend(pool, 8, same)
    return pool, slots, [pool.submit(A, 0.0, 100.0 + i) for i in range(n)]


CROWDS = [waiting_in_one_key, waiting_keys, idle_in_one_key, idle_keys, attempts]


def cycles(crowd: Callable[[int], tuple[Pool, list[Slot], list[Waiter]]], n: int) -> dict[str, int]:
    """Count the lines of each input, each done some times beside such a crowd; the cheapest counts.

    (Each may once in a while pay for a heap's clean-up.)
    """
    pool, slots, waiters = crowd(n)
    pool.tick(2.0)
    cost: dict[str, list[int]] = {}

    def run(name: str, act: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        result: list[Any] = []
        count = lines(lambda: result.append(act(*arguments, **options)))
        cost.setdefault(name, []).append(count)
        return result[0]

    for _ in range(4):
        new = run("submit", pool.submit, A, 3.0, 50.0)
        run("cancel", pool.cancel, new, 3.0)
        new = run("submit elsewhere", pool.submit, B, 3.0, 50.0)
        run("cancel elsewhere", pool.cancel, new, 3.0)
        new = run("submit fresh", pool.submit, A, 3.0, 50.0, fresh=True)
        run("cancel fresh", pool.cancel, new, 3.0)
        for slot in [slot for do, slot in pool.effects if do is ABORT]:
            run("aborted", pool.aborted, slot, 3.0)
        pool.effects.clear()
        run("release", pool.release, slots.pop(), 3.0)
        run("discard", pool.discard, slots.pop(), 3.0, CloseReason.DISCARDED)
        run("tick", pool.tick, 3.0)
        run("deadline", pool.next_deadline)
        if waiters:
            run("cancel a middle one", pool.cancel, waiters.pop(len(waiters) // 2), 3.0)
        check_pool(pool)
    assert all(min(counts) > 0 for counts in cost.values())
    return {name: min(counts) for name, counts in cost.items()}


@pytest.mark.parametrize("crowd", CROWDS)
def test_no_input_costs_more_in_a_crowd(
    crowd: Callable[[int], tuple[Pool, list[Slot], list[Waiter]]],
) -> None:
    """heritage pools 3.33 (curl#2369, httpx#3215, httpcore PR#1035): a hundred times as many cost the
    same."""
    assert cycles(crowd, MANY) == cycles(crowd, FEW)


def test_last_ones_cost_what_the_first_ones_do() -> None:
    """heritage pools 3.33: 10,000 waiters on 100 keys; each hand-over runs the same few lines."""
    pool = Pool(Limits(max_per_host=1, max_open=100))
    slots = lend(pool, 100, other)
    for n in range(MANY):
        pool.submit(other(n % 100), 0.0, 100.0)
    costs = set()
    for n in range(MANY):
        costs.add(lines(partial(pool.release, slots[n % 100], 1.0)))
        pool.claim(pool.effects.pop()[1], 1.0)
    assert 0 < max(costs) < 60
    assert not pool.requests.open


@pytest.mark.parametrize("ticks", [False, True])
def test_cancelled_requests_leave_nothing(ticks: bool) -> None:
    """heritage pools 3.19 (go#33849, #33850, hyper#1315): 200,000 cancelled requests; memory is flat."""
    pool = Pool(Limits(max_per_host=1, max_open=2))
    held = lend(pool, 1, same)
    waiting = pool.submit(A, 0.0, 1e9)
    for n in range(200_000):
        new = pool.submit(A if n % 2 else B, n * 0.001, n * 0.001 + 120.0)
        if ticks and n % 10 == 0:
            pool.tick(n * 0.001)
        pool.cancel(new, n * 0.001)
        if n % 2 == 0:
            abandoned = [slot for do, slot in pool.effects if do is ABORT]
            for slot in abandoned:
                pool.aborted(slot, n * 0.001)
        pool.effects.clear()
        del new
    gc.collect()
    assert sum(isinstance(thing, Waiter) for thing in gc.get_objects()) < 10
    assert sum(isinstance(thing, Slot) for thing in gc.get_objects()) < 10
    assert list(pool.requests.open.values()) == [waiting]
    assert len(pool.timers.queue) < 200
    assert len(pool.room) < 200
    assert pool.keys.states[A].count == len(held)


def test_served_requests_leave_nothing() -> None:
    """heritage pools 3.19: nor do requests that were served and claimed, with a server's own keep-alive
    time."""
    pool = Pool(Limits())
    for slot in lend(pool, 2, same):
        pool.release(slot, 0.0, 14.0)
    for n in range(50_000):
        now = n * 0.001
        pool.release(pool.claim(pool.submit(A, now, now + 120.0), now), now, 5.0 + n % 3)
        if n % 1000 == 0:
            pool.tick(now)
    gc.collect()
    assert sum(isinstance(thing, Waiter) for thing in gc.get_objects()) == 0
    assert len(pool.timers.queue) < 200
    assert len(pool.idle.line) == 1  # nobody wanted the other one
    assert not pool.requests.open


def test_claimed_request_keeps_no_connection() -> None:
    """heritage pools 3.19: whoever keeps a request that has ended keeps nothing of the pool's alive by it."""
    pool = Pool(Limits())
    pool.submit(A, 0.0, NEVER)
    connect(pool)
    waiter = pool.requests.open[1]
    pool.claim(waiter, 0.0)
    assert waiter.slot is None
