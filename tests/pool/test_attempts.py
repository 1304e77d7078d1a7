"""Attempts belong to keys: heritage pools 3.49 to 3.51, on the pure pool."""

from __future__ import annotations

import pytest

from keepalive.base.types import NEVER
from keepalive.pool.states import CLOSING, GONE, IDLE, OPENING, SERVED, Failure, Limits

from .kit import A, B, C, D, Scene, scene


def test_short_deadlines() -> None:
    """heritage pools 3.49 (go#59017): timeout 10 ms, dial 50 ms, ten requests in a row: one gets a
    connection."""
    world = scene(1)
    served = 0
    for n in range(10):
        ask = world.ask(timeout=0.010)
        served += ask.state is SERVED
        world.at(world.now + 0.010)
        if n == 4:
            world.opened(world.attempts()[0])
    assert served == 5


@pytest.mark.parametrize("timeout", [NEVER, 1.0])
def test_abandoned_attempts_are_bounded(timeout: float) -> None:
    """heritage pools 3.50 (go#76784): ten thousand cancelled requests to a black hole: one spare attempt."""
    world = scene(4)
    for _ in range(2000):
        asks = [world.ask(timeout=timeout) for _ in range(5)]
        if timeout == NEVER:
            for ask in asks:
                world.cancel(ask)
        else:
            world.at(world.now + timeout)
        assert len(world.attempts()) == 1
        for link in world.in_state(CLOSING):
            world.aborted(link)


def test_whose_attempt_it_is() -> None:
    """heritage pools 3.51 (hyper#3199): the request that "owns" the attempt is cancelled; it serves the
    others."""
    world = scene(2)
    first, second, third = world.asks_of(A, A, A)
    world.cancel(first)
    attempts = world.attempts()
    assert len(attempts) == 2
    world.opened(attempts[1])
    world.opened(attempts[0])
    assert (second.link, third.link) == (attempts[1], attempts[0])


def test_spare_attempt_ends_after_ten_seconds() -> None:
    world = scene()
    world.cancel(world.ask())
    (attempt,) = world.attempts()
    world.at(9.999)
    assert world.attempts() == [attempt]
    assert world.pool.timers.earliest == 10.0
    world.at(10.0)
    assert world.in_state(CLOSING) == [attempt]


def test_spare_attempt_becomes_an_idle_connection() -> None:
    """It may be taken as new, by a fresh request too."""
    world = scene()
    world.cancel(world.ask())
    (attempt,) = world.attempts()
    world.opened(attempt)
    world.at(14.0)
    assert attempt.where is IDLE
    ask = world.ask(fresh=True)
    assert ask.link is attempt
    assert ask.waiter.reuse is None


def test_spare_attempt_is_wanted_again() -> None:
    """Somebody waits for it: it has no deadline of its own any more."""
    world = scene()
    world.cancel(world.ask())
    world.at(9.0)
    ask = world.ask()
    world.at(100.0)
    (attempt,) = world.attempts()
    world.opened(attempt)
    assert ask.link is attempt


def test_spare_attempts_are_given_up_for_other_keys() -> None:
    """As many as are needed, the oldest first, and their places count until they are gone."""
    world = scene(2, 3)
    for key in (A, B, C):
        world.cancel(world.ask(key))
    world.ask(A)
    spares = [*world.attempts(B), *world.attempts(C)]
    world.asks_of(A)
    assert [link.where for link in spares] == [CLOSING, OPENING]
    assert len(world.attempts(A)) == 1
    world.aborted(spares[0])
    assert len(world.attempts(A)) == 2
    assert spares[1].where is OPENING


def test_one_step_gives_up_all_that_are_needed() -> None:
    """Two keys come to want room in one step, by new limits; both spares go at once."""
    world = scene(1, 4)
    for key in (A, B):
        world.lend(key)
    for key in (C, D):
        world.cancel(world.ask(key))
    world.asks_of(A, B)
    assert len(world.attempts()) == 2
    world.set_limits(Limits(max_per_host=2, max_open=4))
    assert len(world.in_state(CLOSING)) == 2


def test_connect_timeout() -> None:
    """It runs from the moment the name is known, and fails the oldest request of the key."""
    world = Scene(Limits(connect_timeout=2.0))
    first, second = world.ask(timeout=100.0), world.ask(timeout=100.0)
    attempts = world.attempts()
    world.now = 5.0
    world.resolved(attempts[1])
    attempts[1].slot.phase = "tls"
    world.at(6.999)
    assert first.number in world.asks
    world.at(7.0)
    assert first.waiter.failure is Failure.CONNECT_TIMEOUT
    assert first.waiter.phase == "tls"
    assert attempts[1].where is CLOSING
    assert second.number in world.asks
    world.opened(attempts[0])
    assert second.state is SERVED


def test_connect_timeout_ends_with_the_attempt() -> None:
    world = Scene(Limits(connect_timeout=2.0, keep_alive=NEVER))
    world.ask()
    (attempt,) = world.attempts()
    world.resolved(attempt)
    world.opened(attempt)
    world.at(3.0)
    assert world.pool.next_deadline() == NEVER


def test_resolved_too_late() -> None:
    """The look-up of an attempt that was given up meanwhile ends: nothing happens."""
    world = Scene(Limits(connect_timeout=2.0, max_open=1))
    world.cancel(world.ask(A))
    world.ask(B)
    (attempt,) = world.in_state(CLOSING)
    world.resolved(attempt)
    assert world.pool.next_deadline() == NEVER
    world.aborted(attempt)
    assert attempt.slot.state is GONE


def test_timeouts_name_the_phase() -> None:
    """That of the attempt if one stood for the request, else the queue's."""
    world = scene(1)
    first, second = world.ask(timeout=1.0), world.ask(timeout=1.0)
    world.attempts()[0].slot.phase = "connect"
    world.at(1.0)
    assert [ask.waiter.phase for ask in (first, second)] == ["connect", "queue"]
    held = world.attempts()[0]
    world.opened(held)
    world.claim(world.ask())
    third = world.ask(timeout=1.0)
    world.at(2.0)
    assert third.waiter.phase == "queue"
