"""The end in every phase: heritage pools 3.53, 3.54, on the pure pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keepalive.base.types import NEVER, CloseReason
from keepalive.pool.invariants import check_pool
from keepalive.pool.keys import MOST_RESTING
from keepalive.pool.pool import Pool
from keepalive.pool.states import CLOSING, GONE, LENT, Failure, Limits, WaiterState

from .kit import A, B, C, key, scene

if TYPE_CHECKING:
    from keepalive.pool.records import Slot


def test_end_in_every_phase_at_once() -> None:
    """heritage pools 3.53 (envoy#22527, PR#19780): waiters are told, attempts aborted, idle ones closed."""
    world = scene(2, 6)
    held = world.lend(A)
    idle = world.idle(B)
    served = world.ask(B)
    spare = world.ask(C)
    world.cancel(spare)
    asks = [*world.asks_of(A, A, A), served]
    world.shutdown()
    assert [ask.waiter.failure for ask in asks] == [Failure.SHUTDOWN] * 4
    assert idle.slot.state is GONE
    assert world.in_state(LENT) == [held]
    assert len(world.in_state(CLOSING)) == 2
    assert world.pool.next_deadline() == NEVER
    for link in world.in_state(CLOSING):
        world.aborted(link)
    assert held.where is LENT
    world.release(held)
    assert world.total == 0
    assert world.closed(A) == {CloseReason.SHUTDOWN: 1}
    assert world.pool.keys.states[A].counters.failed == {"shutdown": 3}


def test_end_twice() -> None:
    world = scene()
    world.ask()
    world.shutdown()
    world.shutdown()
    assert len(world.in_state(CLOSING)) == 1


def test_request_after_the_end() -> None:
    """heritage pools 3.54 (async-http-client PR#2251): it is told at once and does not hang."""
    world = scene()
    world.lend()
    world.shutdown()
    for ask in world.asks_of(A, B):
        assert ask.waiter.failure is Failure.SHUTDOWN
        assert ask.waiter.state is WaiterState.FAILED


@pytest.mark.parametrize("late", ["discard", "release", "tick", "set_limits"])
def test_nothing_begins_after_the_end(late: str) -> None:
    """heritage pools 3.53: whatever comes free, no attempt starts."""
    world = scene(1, 1)
    held = world.lend()
    world.asks_of(A, B)
    world.shutdown()
    if late == "tick":
        world.at(1000.0)
    elif late == "set_limits":
        world.set_limits(Limits(max_per_host=9))
    else:
        getattr(world, late)(held)
    assert not world.attempts()


@pytest.mark.parametrize("idle", [1, 50, MOST_RESTING + 50])
def test_end_with_more_keys_than_are_remembered(idle: int) -> None:
    """Found in review: a key forgotten while the end came was entered, and forgotten, once more."""
    pool = Pool(Limits(max_open=10_000))
    slots = [lend(pool, n) for n in range(idle)]
    for n in range(MOST_RESTING + 20):
        pool.discard(lend(pool, idle + n), 0.0, CloseReason.DISCARDED)
    for slot in slots:
        pool.release(slot, 0.0)
    pool.shutdown(0.0)
    pool.shutdown(0.0)
    check_pool(pool, ())
    assert len(pool.keys.states) == len(pool.keys.resting) == MOST_RESTING


def lend(pool: Pool, n: int) -> Slot:
    waiter = pool.submit(key(f"host{n}"), 0.0, NEVER)
    _, slot = pool.effects.pop()
    pool.opened(slot, n, 0.0)
    pool.effects.clear()
    return pool.claim(waiter, 0.0)


def test_totals_of_forgotten_keys_stay() -> None:
    """The totals of all keys are for ever; apart they are kept for the last thousand out of use."""
    pool = Pool(Limits())
    for n in range(3 * MOST_RESTING):
        host = key(f"host{n}")
        pool.submit(host, 0.0, 0.0)
        pool.cancel(pool.submit(host, 0.0, NEVER), 0.0)
        _, slot = pool.effects[-2]
        pool.open_failed(slot, OSError(), 0.0)
        pool.effects.clear()
    check_pool(pool, ())
    assert len(pool.keys.states) == len(pool.keys.direct) == MOST_RESTING
    assert pool.keys.past.timeouts == pool.keys.past.cancelled == 2 * MOST_RESTING
    assert pool.keys.past.requests == 4 * MOST_RESTING


def test_keys_behind_a_proxy_are_not_near() -> None:
    """Three parts find a key only if it is meant for what it connects to; forgotten ones are not found."""
    pool = Pool(Limits())
    far = A._replace(for_addr="far")
    for host in (far, A, B):
        pool.submit(host, 0.0, 0.0)
    assert pool.keys.direct == {A[:3]: pool.keys.states[A], B[:3]: pool.keys.states[B]}
    for n in range(MOST_RESTING):
        pool.submit(A._replace(for_port=n + 2), 0.0, 0.0)
    assert not pool.keys.direct
    assert far not in pool.keys.states
    check_pool(pool, ())


def test_key_in_use_is_never_forgotten() -> None:
    pool = Pool(Limits(max_open=10_000))
    lend(pool, 0)
    waiter = pool.submit(key("waits"), 0.0, NEVER)
    for n in range(2 * MOST_RESTING):
        pool.submit(key(f"other{n}"), 0.0, 0.0)
    assert pool.keys.states[key("host0")].count == 1
    assert pool.keys.states[key("waits")] is waiter.per_key


def test_observer_is_told_all() -> None:
    """Each transition, in the order in which it happens, with its reason."""
    pool = Pool(Limits(max_per_host=1, max_open=1, keep_alive=5.0), observed=True)
    first = pool.submit(A, 0.0, NEVER)
    late = pool.submit(B, 0.0, 1.0)
    slot = next(what for do, what in pool.effects if do.value == "open")
    pool.opened(slot, 1, 0.5)
    pool.claim(first, 0.75)
    pool.tick(1.0)
    pool.cancel(pool.submit(B, 1.0, NEVER), 1.0)
    pool.release(slot, 2.0)
    pool.tick(7.0)
    second = pool.submit(A, 7.0, NEVER)
    slot = pool.effects[-2][1]
    pool.open_failed(slot, error := OSError("no"), 7.0)
    pool.cancel(pool.submit(A, 8.0, NEVER), 8.0)
    pool.shutdown(9.0)
    told = [what for do, what in pool.effects if do.value == "notify"]
    assert told == [
        ("queued", (A, first.id)),
        ("opening", (A, 1)),
        ("queued", (B, late.id)),
        ("opened", (A, 1)),
        ("lent", (A, 1, first.id, None, 0.75)),
        ("failed", (B, late.id, "timeout", "queue")),
        ("queued", (B, 3)),
        ("cancelled", (B, 3)),
        ("idle", (A, 1)),
        ("closed", (A, 1, CloseReason.EXPIRED)),
        ("queued", (A, second.id)),
        ("opening", (A, 2)),
        ("attempt_failed", (A, 2, error)),
        ("failed", (A, second.id, "attempt", "resolve")),
        ("queued", (A, 5)),
        ("opening", (A, 3)),
        ("cancelled", (A, 5)),
        ("attempt_aborted", (A, 3)),
    ]


def test_who_is_not_observed_pays_nothing() -> None:
    pool = Pool(Limits())
    lend(pool, 0)
    pool.shutdown(0.0)
    assert not pool.effects
