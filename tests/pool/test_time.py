"""Deadlines, idle times, lifetimes: heritage pools 3.37 to 3.39, on the pure pool."""

from __future__ import annotations

import pytest

from keepalive.base.types import NEVER, CloseReason
from keepalive.pool.pool import Pool
from keepalive.pool.states import GONE, IDLE, QUEUED, SERVED, Failure, Limits, WaiterState

from .kit import A, B, C, Scene, scene


def test_idle_ones_expire_without_traffic() -> None:
    """heritage pools 3.37 (httpcore2): closed at keep_alive, exactly; the shell is told when to ring."""
    world = scene()
    link = world.idle()
    assert world.pool.next_deadline() == 15.0
    world.at(14.9)
    assert link.where is IDLE
    world.at(15.0)
    assert link.slot.state is GONE
    assert world.closed() == {CloseReason.EXPIRED: 1}


@pytest.mark.parametrize("first", ["timer", "request"])
def test_expiry_at_the_moment_of_hand_out(first: str) -> None:
    """heritage pools 3.38 (agentkeepalive#23, undici#3141): in one instant: a good connection or a new
    one."""
    world = scene()
    link = world.idle()
    world.now = 15.0
    if first == "timer":
        world.tick()
    ask = world.ask()
    assert link.slot.state is GONE
    assert ask.state is not SERVED
    assert len(world.attempts()) == 1


def test_clock_jump() -> None:
    """heritage pools 3.39: the machine slept for a day; nothing old is reused, though no timer has run."""
    world = scene()
    links = [world.lend(), world.lend()]
    for link in links:
        world.release(link)
    world.now = 86400.0
    assert world.ask().state is not SERVED
    assert [link.slot.state for link in links] == [GONE, GONE]


def test_keep_for_shortens() -> None:
    """One that is kept for less than others before it expires first; more than keep_alive is not possible."""
    world = scene()
    links = [world.lend() for _ in range(4)]
    for link, keep_for in zip(links, (NEVER, 5.0, 1.0, 100.0), strict=True):
        world.release(link, keep_for)
    for now, left in ((0.9, 4), (1.0, 3), (4.9, 3), (5.0, 2), (14.9, 2), (15.0, 0)):
        world.at(now)
        assert len(world.in_state(IDLE)) == left


def test_keep_for_is_not_remembered() -> None:
    world = scene()
    link = world.lend()
    world.release(link, 1.0)
    world.release(world.claim(world.ask()))
    world.at(14.0)
    assert link.where is IDLE


def test_kept_for_too_short_a_time_is_not_found() -> None:
    """The warmest has expired, an older one has not: that one is taken, and the other closed."""
    world = scene()
    links = [world.lend(), world.lend()]
    world.release(links[0])
    world.release(links[1], 1.0)
    world.now = 2.0
    assert world.ask().link is links[0]
    assert links[1].slot.state is GONE


def test_nothing_is_kept() -> None:
    """keep_alive=0: a waiting request gets a released connection, an idle one is never seen."""
    world = scene(1, keep_alive=0.0)
    held = world.lend()
    ask = world.ask()
    world.release(held)
    assert ask.link is held
    world.release(world.claim(ask))
    assert held.slot.state is GONE
    assert world.closed() == {CloseReason.EXPIRED: 1}


def test_spare_is_not_kept_either() -> None:
    world = scene(1, keep_alive=0.0)
    world.cancel(world.ask())
    world.opened(world.attempts()[0])
    assert world.total == 0


@pytest.mark.parametrize("end", ["cancel", "timeout"])
def test_not_fetched_in_its_time(end: str) -> None:
    """Found by a walk: served, not fetched, given back when its idle time had long passed, and handed on."""
    world = scene(1)
    held = world.idle()
    first, second = world.ask(timeout=100.0), world.ask(timeout=200.0)
    assert first.link is held
    world.now = 100.0
    if end == "cancel":
        world.cancel(first)
    else:
        world.tick()
        assert first.waiter.failure is Failure.TIMEOUT
    assert held.slot.state is GONE
    world.opened(world.attempts()[0])
    assert second.state is SERVED


def test_not_fetched_but_still_good() -> None:
    """One that was served but is not fetched gives its connection back when its timeout has passed."""
    world = scene(1)
    held = world.idle()
    world.now = 1.0
    first, second = world.ask(timeout=5.0), world.ask()
    world.at(6.0)
    assert first.waiter.failure is Failure.TIMEOUT
    assert second.link is held


def test_lifetime() -> None:
    """It ends an idle connection by timer and a lent one at its release, never in use."""
    world = scene(3)
    idle = world.lend(lifetime=10.0)
    lent = world.lend(lifetime=10.0)
    world.release(idle)
    world.at(9.9)
    assert idle.where is IDLE
    ask = world.ask(timeout=50.0)
    assert ask.link is idle
    world.claim(ask)
    world.at(20.0)
    waiting = [world.ask(), world.ask()]
    for link in (idle, lent):
        world.release(link)
        assert link.slot.state is GONE
    assert world.closed() == {CloseReason.LIFETIME: 2}
    assert len(world.attempts()) == 2
    assert all(ask.state is WaiterState.QUEUED for ask in waiting)


def test_lifetime_while_idle() -> None:
    world = scene()
    link = world.lend(lifetime=10.0)
    world.release(link)
    world.at(10.0)
    assert world.closed() == {CloseReason.LIFETIME: 1}


def test_uses() -> None:
    world = Scene(Limits(max_uses=2))
    link = world.idle()
    world.release(world.claim(world.ask()))
    assert link.slot.state is GONE
    assert world.closed() == {CloseReason.USES: 1}


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_no_time_to_wait(timeout: float) -> None:
    """timeout <= 0 fails, unless an idle connection is there; nothing is left of a key that nobody uses."""
    world = scene()
    ask = world.ask(timeout=timeout)
    assert ask.waiter.failure is Failure.TIMEOUT
    assert not world.attempts()
    held = world.idle()
    assert world.ask(timeout=timeout).link is held


def test_next_deadline_is_exact() -> None:
    """Whatever is due next: a young request, an old one, a connection out of turn, a spare, an attempt."""
    world = Scene(Limits(connect_timeout=3.0))
    asks = [world.ask(A, timeout) for timeout in (9.0, 7.0)]
    assert world.pool.timers.earliest == world.pool.next_deadline() == 7.0
    world.at(1.0)
    young = world.ask(B, 2.5)
    assert world.pool.next_deadline() == 3.5
    world.resolved(world.attempts(A)[0])
    world.cancel(young)
    assert world.pool.next_deadline() == 4.0
    world.opened(world.attempts(A)[0])
    assert world.pool.next_deadline() == 7.0
    world.cancel(asks[1])
    assert world.pool.next_deadline() == 9.0
    world.release(world.claim(asks[0]), 2.0)
    assert world.pool.next_deadline() == 3.0


def test_earliest_never_makes_the_shell_sleep_too_long() -> None:
    """A withdrawn deadline costs at most one vain tick, after which the next one is exact."""
    world = scene()
    ask = world.ask(timeout=1.0)
    world.ask(timeout=5.0)
    world.cancel(ask)
    assert world.pool.timers.earliest == 1.0
    world.at(1.0)
    assert world.pool.timers.earliest == 5.0


def test_the_same_deadline_again_and_again() -> None:
    """Found in review: entries for one and the same time came to life again, and the agenda grew for ever."""
    world = scene(2)
    held = [world.lend(), world.lend()]
    world.release(held[1])
    world.release(held[0], 5.0)  # out of turn, so it stands in the agenda
    for _ in range(1000):
        ask = world.ask()
        assert ask.link is held[0]
        world.cancel(ask)  # back it goes, for the same time as before
        assert len(world.pool.timers.queue) < 200
    world.at(5.0)
    assert [link.where for link in held[1:]] == [IDLE]
    assert len(world.pool.timers.queue) == 0


def test_all_at_once() -> None:
    """A late tick: requests, idle ones, a spare, all long due, in one step."""
    world = scene(2, 4)
    world.idle(A)
    world.cancel(world.ask(B))
    world.lend(C)
    asks = [world.ask(C, 1.0) for _ in range(3)]
    world.at(1000.0)
    assert all(ask.waiter.failure is Failure.TIMEOUT for ask in asks)
    for link in world.attempts():
        world.open_failed(link)
    assert world.pool.keys.states[A].count == 0


def test_each_phase_of_a_request_has_its_own_clock() -> None:
    pool = Pool(Limits(max_per_host=1))
    held = pool.submit(A, 0.0, NEVER)
    pool.opened(next(iter(held.per_key.opening)), 1, 0.0)
    slot = pool.claim(held, 0.0)
    waiting = pool.submit(A, 0.0, NEVER, phases=(2.0, 1.0))
    assert pool.next_deadline() == waiting.deadline == 2.0
    pool.discard(slot, 1.9, CloseReason.DISCARDED)  # now an attempt stands for it
    assert waiting.deadline == 2.9
    pool.tick(2.5)
    assert waiting.state is QUEUED
    pool.tick(2.9)
    assert waiting.failure is Failure.TIMEOUT
    assert waiting.phase == "resolve"


def test_a_phase_of_no_time_fails_at_once_and_the_whole_ends_all() -> None:
    pool = Pool(Limits(max_per_host=1))
    assert pool.submit(A, 0.0, NEVER, phases=(NEVER, 0.0)).phase == "resolve"
    first = pool.submit(A, 0.0, 5.0, phases=(0.0, NEVER))  # there is an attempt
    assert first.deadline == 5.0
    assert pool.submit(A, 0.0, NEVER, phases=(0.0, NEVER)).phase == "queue"
    pool.cancel(first, 1.0)
