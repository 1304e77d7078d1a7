"""Neither limit is ever exceeded, as the peer counts: heritage pools 3.25 to 3.30, on the pure pool.

The model counts sockets itself, at each effect, so a scene that ends well has kept its limits.
"""

from __future__ import annotations

import pytest

from keepalive.base.types import NEVER, CloseReason
from keepalive.pool.states import CLOSING, GONE, IDLE, LENT, SERVED, Failure, Limits

from .kit import A, B, C, D, scene


def test_newcomer_between_wakeup_and_fetch() -> None:
    """heritage pools 3.25 (aiohttp#4936, anyio#1170): who comes meanwhile neither gets it nor opens one
    more."""
    world = scene(1)
    held = world.lend()
    first = world.ask()
    world.release(held)
    second = world.ask()
    assert first.link is held
    assert not world.attempts()
    assert second.state is not SERVED


def test_failed_requests_leave_the_counts_right() -> None:
    """heritage pools 3.26 (netty#3988, #4031, go#29889): timeouts and refusals in the queue."""
    world = scene(1, 1, max_waiting=1)
    held = world.lend()
    for _ in range(3):
        waiting, late = world.ask(timeout=1.0), world.ask(B, timeout=1.0)
        assert world.pool.overfull(late.waiter)
        world.refuse(late)
        world.at(world.now + 1.0)
        assert waiting.waiter.failure is Failure.TIMEOUT
    world.release(held)
    assert world.ask().link is held


def test_idle_ones_count() -> None:
    """heritage pools 3.27: limit 2, ten hosts in turn: never more than two sockets, the coldest goes
    first."""
    world = scene(4, 2)
    for host in [A, B, C, D] * 3:
        world.idle(host)
        assert world.total <= 2
    assert [link.key for link in world.in_state(IDLE)] == [C, D]


def test_aborted_attempts_count_until_they_are_gone() -> None:
    """heritage pools 3.28 (curl#15857): the socket of an attempt that is given up is still there."""
    world = scene(4, 1)
    world.cancel(world.ask(A))
    world.ask(B)
    (attempt,) = world.in_state(CLOSING)
    assert not world.attempts()
    world.aborted(attempt)
    assert [link.key for link in world.attempts()] == [B]


def test_only_idle_ones_are_evicted() -> None:
    """heritage pools 3.29 (urllib3#1252, #951): neither what is lent nor what is reserved."""
    world = scene(4, 3)
    held = world.lend(A)
    world.idle(B)
    reserved = world.ask(B)
    idle = world.idle(C)
    world.ask(D)
    assert held.where is LENT
    assert reserved.state is SERVED
    assert idle.slot.state is GONE
    world.ask(D)
    assert len(world.attempts(D)) == 1


def test_least_recently_used_goes_first() -> None:
    # heritage poe 1.49.
    world = scene(4, 3)
    first, second, third = (world.idle(host) for host in (A, B, C))
    world.release(world.claim(world.ask(A)))
    world.ask(D)
    assert world.in_state(IDLE) == [first, third]
    assert second.slot.state is GONE


def test_max_idle_closes_the_least_recently_used_of_all_keys() -> None:
    world = scene(max_idle=2)
    first, second = world.idle(A), world.idle(B)
    third = world.idle(C)
    assert [link.where for link in (second, third)] == [IDLE, IDLE]
    assert first.slot.state is GONE
    assert world.pool.keys.states[A].counters.closed == {CloseReason.SURPLUS: 1}
    for _ in range(5):  # one key that is busy keeps its connection, whatever the others have
        world.release(world.claim(world.ask(C)))
    assert world.tally["opened"] == 3


def test_max_idle_of_zero_still_hands_over() -> None:
    world = scene(1, max_idle=0)
    held = world.lend()
    waiting = world.ask()
    world.release(held)
    assert waiting.link is held
    world.release(world.claim(waiting))
    assert world.total == 0


def test_lowered_limits() -> None:
    """heritage pools 3.30 (anyio PR#1223): idle ones beyond them go at once, lent ones when they come
    back."""
    world = scene(4, 8)
    lent = [world.lend(A) for _ in range(4)]
    others = [world.idle(B), world.idle(C)]
    waiting = world.ask(A)
    world.set_limits(Limits(max_per_host=2, max_open=5))
    assert [link.slot.state for link in others] == [GONE, IDLE]
    for place, link in enumerate(lent[:3]):
        world.release(link)
        assert (waiting.link is link) == (place == 2)
    assert world.closed()[CloseReason.LIMIT] == 2


def test_lowered_limits_cost_nothing_once_they_are_kept() -> None:
    """The short way of a release, closed while more is open than may be, opens again by itself."""
    world = scene(4, 8)
    held = [world.lend(key) for key in (A, A, A, B)]
    world.set_limits(Limits(max_per_host=1, max_open=2))
    for link in held[:2]:
        assert world.pool.capacity.shrunk
        world.release(link)
    assert not world.pool.capacity.shrunk
    world.release(held[2])
    assert [link.key for link in world.in_state(IDLE)] == [A]


def test_raised_limits() -> None:
    """heritage pools 3.30: whoever waited gets the new room, the oldest first, and no more than that."""
    world = scene(1, 2)
    for host in (A, B):
        world.lend(host)
    world.asks_of(B, A, B, C)
    world.set_limits(Limits(max_per_host=3, max_open=4))
    assert [link.key for link in world.attempts()] == [B, A]


def test_lowered_limit_takes_a_key_out_of_the_line() -> None:
    """Found by a walk: a key stood in line, became full by lower limits, and another key's turn crashed."""
    world = scene(4, 2)
    world.lend(A)
    world.lend(A)
    world.asks_of(A, B)
    world.set_limits(Limits(max_per_host=2, max_open=3))
    assert [link.key for link in world.attempts()] == [B]


def test_lowered_limit_while_attempts_run() -> None:
    """What opens beyond the limit is closed again; those who waited for it wait on, and are served."""
    world = scene(4)
    asks = [world.ask() for _ in range(4)]
    world.set_limits(Limits(max_per_host=1))
    for attempt in world.attempts():
        world.opened(attempt)
    assert [ask.state is SERVED for ask in asks] == [True, False, False, False]
    assert world.total == 1


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_max_waiting(bound: int) -> None:
    world = scene(2, max_waiting=bound)
    held = [world.lend(), world.lend()]
    asks = [world.ask() for _ in range(bound)]
    assert not any(world.pool.overfull(ask.waiter) for ask in asks)
    late = world.ask()
    assert world.pool.overfull(late.waiter)
    world.refuse(late)
    assert world.pool.keys.states[A].counters.failed == {"queue": 1}
    for link in held:
        world.release(link)
    assert sum(ask.state is SERVED for ask in asks) == min(bound, 2)


def test_max_waiting_counts_only_those_without_an_attempt() -> None:
    world = scene(3, max_waiting=0)
    asks = [world.ask() for _ in range(3)]
    assert not any(world.pool.overfull(ask.waiter) for ask in asks)
    assert world.pool.overfull(world.ask().waiter)


def test_no_limits() -> None:
    world = scene(10**9, 10**9)
    for _ in range(500):
        world.ask()
    assert len(world.attempts()) == 500
    assert world.pool.next_deadline() == NEVER
