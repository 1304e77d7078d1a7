"""Places that attempts borrow for further sockets, and when they are called back."""

from __future__ import annotations

from keepalive.pool.states import CLOSING, IDLE, Limits

from .kit import A, B, C, Scene, scene


def test_called_back_beside_an_aborted_attempt() -> None:
    """Found by a walk: a request waited for the end of an aborted attempt beside a borrowed place."""
    world = scene(4, 4)
    for ask in world.asks_of(A, A, A):
        world.cancel(ask)
    first, second = world.in_state(CLOSING)
    world.aborted(first)
    (attempt,) = world.attempts()
    world.borrow(attempt)
    world.borrow(attempt)
    world.ask(B)
    assert second.where is CLOSING
    assert (attempt.extra, len(world.attempts(B))) == (0, 1)


def test_called_back_before_a_connection_is_closed() -> None:
    """What a second address may bring is worth less than a connection that is there."""
    world = scene(2, 3)
    idle = world.idle(C)
    world.ask(A)
    (attempt,) = world.attempts(A)
    world.borrow(attempt)
    world.ask(B)
    assert (attempt.extra, idle.where) == (0, IDLE)
    world.ask(A)
    assert idle.slot.id not in world.links


def test_one_late_tick_calls_back_and_goes_on() -> None:
    """A key's place is on its way back when another key is settled in the same tick."""
    world = Scene(Limits(max_per_host=4, pause_after=2, max_pause=1.0, connect_timeout=30.0))
    world.asks_of(A, A, A, A)
    first, second, third, fourth = world.attempts()
    world.resolved(third)
    for link in (first, second):
        world.open_failed(link)
    world.borrow(fourth)
    world.borrow(fourth)
    world.asks_of(A, A)
    world.now = 20.0
    for _ in range(2):
        world.ask(B, timeout=10.0)
    assert fourth.extra == 2
    world.at(30.0)  # the failures are forgotten with the next one, and all may be tried again
    assert fourth.extra == 0
    assert len(world.attempts(A)) == 3
