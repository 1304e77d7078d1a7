"""Whoever waits is served or told: heritage pools 3.1 to 3.9, on the pure pool."""

from __future__ import annotations

import pytest

from keepalive.base.types import CloseReason
from keepalive.pool.states import CLOSING, IDLE, SERVED, Failure, WaiterState

from .kit import A, B, C, Scene, key, scene


@pytest.mark.parametrize("later", [0.0, 1.0])
def test_cancelled_after_the_wakeup_before_it_runs(later: float) -> None:
    """heritage pools 3.1 (aiohttp#9670, cpython#90155): limit 1, B is served, then cancelled: C gets it."""
    world = scene(1)
    held = world.lend()
    b, c = world.ask(), world.ask()
    world.release(held)
    assert b.state is SERVED
    world.now += later
    world.cancel(b)
    assert c.link is held


def test_a_whole_queue_cancelled_after_the_wakeup() -> None:
    """heritage pools 3.1: each one in turn is served and cancelled; the connection ends up idle, once."""
    world = scene(1)
    held = world.lend()
    asks = [world.ask() for _ in range(5)]
    world.release(held)
    for ask in asks:
        assert ask.link is held
        world.cancel(ask)
    assert world.in_state(IDLE) == [held]


def test_cancelled_twice_costs_nothing() -> None:
    """heritage pools 3.2 (anyio#947, anyio#1170): no token is lost, and none is made, by cancelling."""
    world = scene(1)
    held = world.lend()
    for _ in range(3):
        ask = world.ask()
        world.cancel(ask)
        assert not world.pool.cancel(ask.waiter, world.now)
    world.release(held)
    assert world.ask().link is held


def test_failing_host_passes_its_place_on() -> None:
    """heritage pools 3.3 (aiohttp#835, #1623): limit 1, two requests to a bad name: both fail."""
    world = scene(1)
    first, second = world.ask(), world.ask()
    for ask in (first, second):
        (attempt,) = world.attempts()
        world.open_failed(attempt)
        assert ask.waiter.failure is Failure.ATTEMPT
    assert world.total == 0


def test_failing_host_passes_its_place_on_to_another_key() -> None:
    """heritage pools 3.3: the same at max_open; the place goes to whoever waits, whatever its key."""
    world = scene(4, 1)
    world.ask(A)
    world.ask(B)
    world.open_failed(world.attempts(A)[0])
    assert len(world.attempts(B)) == 1


def test_timed_out_request_leaves_the_queue() -> None:
    """heritage pools 3.4 (httpcore PR#502): after timeouts the queue is empty and every place free."""
    world = scene(1)
    held = world.lend()
    asks = [world.ask(timeout=5.0) for _ in range(10)]
    world.at(5.0)
    assert [ask.waiter.failure for ask in asks] == [Failure.TIMEOUT] * 10
    assert world.pool.keys.states[A].queue is None
    world.release(held)
    assert world.ask().link is held


def test_dead_at_the_hand_over() -> None:
    """heritage pools 3.5 (go#32336): the connection dies before its new owner has it: he is dialled for."""
    world = scene(1)
    held = world.lend()
    ask = world.ask()
    world.release(held)
    world.lost(held)
    (attempt,) = world.attempts()
    world.opened(attempt)
    assert ask.link is attempt


def test_dead_at_the_hand_over_and_cancelled() -> None:
    """heritage pools 3.5 (go#65705): he is cancelled instead; the attempt serves the next one."""
    world = scene(1)
    held = world.lend()
    first, second = world.ask(), world.ask()
    world.release(held)
    world.lost(held)
    world.cancel(first)
    world.opened(world.attempts()[0])
    assert second.state is SERVED


def test_hosts_dial_in_parallel() -> None:
    """heritage pools 3.6 (redis-py#3056, PR#2997): requests to a hundred hosts: a hundred attempts at
    once."""
    world = scene(1)
    for n in range(100):
        world.ask(key(f"host{n}"))
        assert len(world.attempts()) == n + 1


@pytest.mark.parametrize("idle", range(4))
def test_as_many_attempts_as_requests_need(idle: int) -> None:
    """heritage pools 3.7 (HikariCP#452): N requests, N places: N attempts or hand-overs, always."""
    world = scene(4)
    for link in [world.lend() for _ in range(idle)]:
        world.release(link)
    asks = [world.ask() for _ in range(4)]
    assert len(world.attempts()) == 4 - idle
    for attempt in world.attempts():
        world.opened(attempt)
    assert all(ask.state is SERVED for ask in asks)


def test_server_away_for_long() -> None:
    """heritage pools 3.8 (psycopg#1315, #370), 3.9 (pgbouncer#328): a hundred failures leave no trace."""
    world = scene(2)
    for n in range(100):
        world.ask(timeout=1.0)
        if n % 2:
            world.open_failed(world.attempts()[0])
        world.at(world.now + 10.0)
        for link in world.in_state(CLOSING):
            world.aborted(link)
    assert world.total == 0
    ask = world.ask()
    world.opened(world.attempts()[0])
    assert ask.state is SERVED


def test_opened_for_one_who_has_gone() -> None:
    """heritage pools 3.17 (httpcomponents-core PR#277, netty#9669): it serves the next one in the same
    step."""
    world = scene(1)
    first, second = world.ask(), world.ask()
    world.cancel(first)
    world.opened(world.attempts()[0])
    assert second.state is SERVED


def test_released_connection_serves_while_an_attempt_runs() -> None:
    """Late binding: whatever comes first serves the oldest; the attempt then serves the next one."""
    world = scene(2)
    held = world.lend()
    first, second = world.ask(), world.ask()
    (attempt,) = world.attempts()
    world.release(held)
    assert first.link is held
    world.opened(attempt)
    assert second.link is attempt


def test_lost_reserved_connection_is_replaced_by_an_idle_one() -> None:
    world = scene(2)
    links = [world.lend(), world.lend()]
    for link in links:
        world.release(link)
    ask = world.ask()
    assert ask.link is links[1]
    world.lost(links[1])
    assert ask.link is links[0]
    assert ask.waiter.reuse == "immediate"


def test_lost_reserved_connections_keep_the_order() -> None:
    """Three that had been served lose their connections in any order; they are served again as they came."""
    world = scene(3)
    links = [world.lend() for _ in range(3)]
    asks = [world.ask() for _ in range(5)]
    for link in links:
        world.release(link)
    for n in (1, 0, 2):
        world.lost(links[n])
    for place in range(3):
        world.opened(world.attempts()[0])
        assert [ask.state for ask in asks[: place + 1]] == [SERVED] * (place + 1)
    assert asks[3].state is asks[4].state is WaiterState.QUEUED


def test_lost_reserved_connection_after_the_deadline() -> None:
    """Its request had no time left: it fails, at once, and is not forgotten."""
    world = scene(1)
    held = world.lend()
    ask = world.ask(timeout=1.0)
    world.release(held)
    world.now = 2.0
    world.lost(held)
    assert ask.waiter.failure is Failure.TIMEOUT


@pytest.mark.parametrize("end", ["discard", "release", "open_failed", "cancel"])
def test_every_end_makes_room_for_another_key(end: str) -> None:
    """No lost wake-up (invariant 4), whichever way a place comes free."""
    world = scene(2, 1)
    waiting = freed(world, end)
    assert [link.key for link in world.attempts()] == [waiting]


def freed(world: Scene, end: str) -> object:
    if end in ("discard", "release"):
        held = world.lend(A)
        world.ask(C)
        world.ask(A)
        getattr(world, end)(held)  # C came first
        return C
    ask = world.ask(A)
    (attempt,) = world.attempts()
    world.ask(C)
    if end == "open_failed":
        world.open_failed(attempt)
    else:
        world.cancel(ask)  # C needs the place of what is now a spare attempt
        assert world.in_state(CLOSING) == [attempt]
        assert not world.attempts()
        world.aborted(attempt)
    return C


def test_who_was_served_at_once_is_not_woken() -> None:
    """Nobody awaits a request that was just made; all others are woken (the model checks it)."""
    world = scene(1)
    world.idle()
    before = len(world.effects)
    world.ask()
    assert len(world.effects) == before


def test_closing_reasons_are_told() -> None:
    world = scene(1)
    world.lost(world.idle())
    world.discard(world.lend())
    assert world.closed() == {CloseReason.PEER: 1, CloseReason.DISCARDED: 1}
