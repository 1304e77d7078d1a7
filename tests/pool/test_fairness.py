"""Who gets what: heritage pools 3.20, 3.31 to 3.33, on the pure pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keepalive.base.types import CloseReason, Reuse
from keepalive.pool.states import GONE, IDLE, LENT, OPENING, SERVED, IllegalTransition

from .kit import A, B, C, Scene, scene

if TYPE_CHECKING:
    from keepalive.pool.records import Slot

    from .seen import Link


def test_never_two_owners() -> None:
    """heritage pools 3.20 (httpx2 PR#974, pravega#3632): two requests at once get two connections."""
    world = scene(2)
    world.idle()
    first, second = world.ask(), world.ask()
    assert first.state is SERVED
    assert second.state is not SERVED


@pytest.mark.parametrize("what", ["release", "discard"])
@pytest.mark.parametrize("before", ["release", "discard"])
def test_given_back_twice(what: str, before: str) -> None:
    """heritage pools 3.20 (POE croaks): an error, and nothing has changed."""
    world = scene(2)
    slot = world.lend().slot
    give(world, slot, before)
    with pytest.raises(IllegalTransition, match="not lent"):
        give(world, slot, what)
    with pytest.raises(IllegalTransition):
        world.pool.opened(slot, None, 0.0)


def give(world: Scene, slot: Slot, what: str) -> None:
    link = next((link for link in world.in_state(LENT) if link.slot is slot), None)
    if link is not None:
        getattr(world, what)(link)
    elif what == "release":
        world.pool.release(slot, 0.0)
    else:
        world.pool.discard(slot, 0.0, CloseReason.DISCARDED)


def test_illegal_inputs_are_refused() -> None:
    """Each input is allowed in one state only; the message names the connection and its state."""
    world = scene(2)
    ask = world.ask()
    (attempt,) = world.attempts()
    slot, pool = attempt.slot, world.pool
    with pytest.raises(IllegalTransition, match="request 1 is queued, not served"):
        pool.claim(ask.waiter, 0.0)
    for act in (pool.release, pool.aborted):
        with pytest.raises(IllegalTransition, match="connection 1 is opening, not "):
            act(slot, 0.0)
    with pytest.raises(IllegalTransition, match="is opening, not idle"):
        pool.lost(slot, 0.0, CloseReason.PEER)
    world.opened(attempt)
    with pytest.raises(IllegalTransition, match="is reserved, not opening"):
        pool.open_failed(slot, OSError(), 0.0)
    world.claim(ask)
    with pytest.raises(IllegalTransition, match="request 1 is claimed, not served"):
        pool.claim(ask.waiter, 0.0)
    with pytest.raises(IllegalTransition, match="is lent, not idle"):
        pool.lost(slot, 0.0, CloseReason.PEER)
    assert world.total == 1


def test_nobody_starves() -> None:
    """heritage pools 3.31 (asyncpg#1247, HikariCP#1909): 100 workers, 10 places: each waits its turn."""
    world = scene(10, 10)
    asked = {world.ask([A, B, C][n % 3]).number: 0 for n in range(100)}
    busy: list[Link] = []
    waits = []
    for now in range(100):
        for link in busy:
            world.release(link)
        for link in world.attempts():
            world.opened(link)
        served = [ask for ask in world.asks.values() if ask.state is SERVED]
        busy = [world.claim(ask) for ask in served]
        for ask in served:
            waits.append(now - asked[ask.number])
            asked[world.ask(ask.key).number] = now  # each worker comes again at once
    assert len(waits) > 900
    assert max(waits) <= 11  # ten is ideal


def test_full_key_does_not_block_others() -> None:
    """heritage pools 3.32 (aiohttp PR#2964): A is full and hundreds wait; B is served at once."""
    world = scene(1, 10)
    world.lend(A)
    for _ in range(200):
        world.ask(A)
    world.ask(B)
    assert len(world.attempts(B)) == 1


def test_strict_order_when_the_pool_is_full() -> None:
    """heritage pools 3.32: a busy key does not starve a quiet one; the order of arrival counts, over all
    keys."""
    world = scene(2, 2)
    held = [world.lend(A), world.lend(A)]
    first, _, third = world.ask(A), world.ask(B), world.ask(A)
    world.release(held[0])
    assert first.link is held[0]
    world.release(held[1])  # B came before the third: room is made for it
    assert held[1].slot.state is GONE
    assert [link.key for link in world.attempts()] == [B]
    world.release(world.claim(first))
    assert third.link is held[0]


def test_keys_are_served_in_order_of_arrival() -> None:
    world = scene(4, 1)
    held = world.lend(A)
    for key in (C, B, A, C):
        world.ask(key)
    order = []
    for _ in range(4):
        world.discard(held)
        (attempt,) = world.attempts()
        order.append(attempt.key)
        world.opened(attempt)
        held = world.claim(next(ask for ask in world.asks.values() if ask.state is SERVED))
    assert order == [C, B, A, C]


def test_first_come_first_served_within_a_key() -> None:
    world = scene(1)
    held = world.lend()
    asks = [world.ask() for _ in range(10)]
    for ask in asks:
        world.release(held)
        assert ask.link is held
        world.claim(ask)


def test_warmest_first() -> None:
    world = scene(3)
    links = [world.lend() for _ in range(3)]
    for n in (1, 0, 2):
        world.release(links[n])
    assert [world.ask().link for _ in range(3)] == [links[2], links[0], links[1]]


def test_how_it_came() -> None:
    world = scene(1)
    ask = world.ask()
    world.opened(world.attempts()[0])
    assert ask.waiter.reuse is None
    held = world.claim(ask)
    ask = world.ask()
    world.release(held)
    assert ask.waiter.reuse is Reuse.DEFERRED
    world.release(world.claim(ask))
    assert world.ask().waiter.reuse is Reuse.IMMEDIATE


def test_fresh_takes_no_used_one() -> None:
    """It opens one beside the idle one while there is room, and in its place when there is none."""
    world = scene(2)
    idle = world.idle()
    world.ask(fresh=True)
    assert idle.where is IDLE
    assert len(world.attempts()) == 1
    world.ask(fresh=True)
    assert idle.slot.state is GONE
    assert len(world.attempts()) == 2


def test_fresh_takes_a_spare() -> None:
    world = scene(2)
    world.cancel(world.ask())
    (attempt,) = world.attempts()
    world.opened(attempt)
    assert world.ask(fresh=True).link is attempt


def test_fresh_is_not_starved_by_plain_ones() -> None:
    """A released connection, which it cannot use, makes room for it, though younger ones could use it."""
    world = scene(1)
    held = world.lend()
    fresh, plain = world.ask(fresh=True), world.ask()
    world.release(held)
    (attempt,) = world.attempts()
    world.opened(attempt)
    assert fresh.link is attempt
    world.release(world.claim(fresh))
    assert plain.link is attempt


def test_plain_one_overtakes_a_fresh_one_that_has_its_attempt() -> None:
    world = scene(2)
    held = world.lend()
    fresh, plain = world.ask(fresh=True), world.ask()
    world.release(held)
    assert plain.link is held
    assert fresh.state is not SERVED
    assert [link.where for link in world.attempts()] == [OPENING]


def test_failed_attempt_fails_the_oldest_of_its_key() -> None:
    world = scene(1)
    first, second, other = world.ask(A, fresh=True), world.ask(A), world.ask(B)
    world.open_failed(world.attempts(A)[0])
    assert first.number not in world.asks
    assert second.number in world.asks
    assert other.number in world.asks
    assert isinstance(first.waiter.error, OSError)
    assert world.pool.keys.states[A].counters.failed == {"resolve": 1}
