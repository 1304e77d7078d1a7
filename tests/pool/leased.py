"""Seeded walks over a pool whose keys may have what a fleet allows, and over its books."""

from __future__ import annotations

import random
from math import inf
from typing import TYPE_CHECKING, Any

from keepalive.base.types import NEVER, CloseReason, Key
from keepalive.pool.invariants import check_pool
from keepalive.pool.leases import LeasedLimits
from keepalive.pool.pool import Pool
from keepalive.pool.states import (
    CLOSING,
    IDLE,
    LENT,
    OPENING,
    QUEUED,
    RESERVED,
    SERVED,
    Effect,
    Limits,
    plain_limits,
)

from .rules import need

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.pool.records import Slot, Waiter

LIMITS = Limits(max_per_host=5, max_open=8, keep_alive=5.0)
FAILED = OSError("refused")


class Walk:
    """One sequence of inputs. What is open is known from effects alone."""

    def __init__(
        self,
        seed: int,
        make: Callable[..., Pool] = Pool,
        make_limits: Callable[..., LeasedLimits] = LeasedLimits,
    ) -> None:
        self.rng = random.Random(seed)
        self.limits_of = make_limits(plain_limits)
        self.pool = make(LIMITS, limits_of=self.limits_of)
        self.keys = [Key("tcp", f"host{n}", 1, "tcp", f"host{n}", 1) for n in range(4)]
        self.now = 0.0
        self.open: dict[Slot, None] = {}
        self.asks: list[Waiter] = []
        self.short: list[Key] = []  # said to be waiting for places, in this step

    def run(self, steps: int) -> None:
        actions = (self.submit, self.submit, self.claim, self.release, self.opened, self.aborted, self.lost)
        for _ in range(steps):
            self.now += self.rng.choice((0.0, 0.0, 0.1, 1.0))
            if self.pool.timers.earliest <= self.now:
                self.pool.tick(self.now)
                self.finish()
            if self.rng.random() < 0.2:
                self.change()
            else:
                self.rng.choice(actions)()
            self.finish()

    def allowed(self, key: Key) -> float:
        return min(LIMITS.max_per_host, self.limits_of.places.get(key, 0))

    # -- inputs ---------------------------------------------------------------------------------------

    def submit(self) -> None:
        key = self.rng.choice(self.keys)
        waiter = self.pool.submit(key, self.now, self.now + self.rng.choice((NEVER, 3.0, 0.2)))
        self.asks.append(waiter)
        self.finish()
        if waiter.state is QUEUED and not waiter.covered and waiter.per_key.limits.leased:
            need(self.short == [key], "the fleet is not asked for places")

    def claim(self) -> None:
        if served := [ask for ask in self.asks if ask.state is SERVED]:
            self.pool.claim(self.rng.choice(served), self.now)

    def one(self, *states: object) -> Slot | None:
        slots = [slot for slot in self.open if slot.state in states]
        return self.rng.choice(slots) if slots else None

    def release(self) -> None:
        if slot := self.one(LENT):
            self.pool.release(slot, self.now)

    def opened(self) -> None:
        if slot := self.one(OPENING):
            if self.rng.random() < 0.2:
                del self.open[slot]
                self.pool.open_failed(slot, FAILED, self.now)
            else:
                self.pool.opened(slot, slot.id, self.now)

    def aborted(self) -> None:
        if slot := self.one(CLOSING):
            del self.open[slot]
            self.pool.aborted(slot, self.now)

    def lost(self) -> None:
        if slot := self.one(IDLE, RESERVED):
            self.pool.lost(slot, self.now, CloseReason.PEER)

    def change(self) -> None:
        """The fleet allows another number of connections of a key, and may want the rest cut."""
        key = self.rng.choice(self.keys)
        places = self.rng.choice((0, 1, 2, 3, 9, inf))
        per_key = self.pool.keys.states.get(key)
        if per_key is None:
            self.limits_of.places[key] = places
            return
        before = [slot for slot in self.open if slot.per_key is per_key]
        fair = [slot for slot in before if slot.state in (LENT, OPENING, RESERVED)]
        waited = any(ask.state is QUEUED for ask in self.asks if ask.per_key is per_key)
        more = places > self.limits_of.places.get(key, 0)
        self.limits_of.places[key] = places
        self.limits_of.apply(key, per_key.limits)
        self.pool.leases.changed(per_key, self.now)
        self.finish()
        kept = [slot for slot in fair if slot in self.open]
        need(kept == fair, "closed in somebody's hands")
        if more and waited and self.pool.capacity.total < LIMITS.max_open:
            room = per_key.count < self.allowed(key)
            need(not room or not per_key.queue or per_key.waiting <= len(per_key.opening), "places unused")
        need(per_key.count <= self.allowed(key) or per_key.limits.leased or places >= 5, "it is not told")
        if self.rng.random() < 0.3:
            most = self.allowed(key)
            self.pool.leases.cut(per_key, most, [slot for slot in before if slot in self.open], self.now)
            self.finish()
            left = [slot for slot in before if slot in self.open and slot.state is not CLOSING]
            need(len(left) <= most, "not cut")
            need(len(kept) <= most or len(left) == most, "more was cut than was to be")

    # -- what the pool wants ----------------------------------------------------------------------------

    def finish(self) -> None:
        effects = self.pool.effects
        self.short.clear()
        while effects:
            do, what = effects.popleft()
            if do is Effect.OPEN:
                self.open[what] = None
                count = sum(slot.per_key is what.per_key for slot in self.open)
                need(count <= self.allowed(what.per_key.key), "more than the fleet allows")
            elif do is Effect.CLOSE:
                need(what in self.open, "closed twice")
                del self.open[what]
            elif do is Effect.SHORT:
                self.short.append(what.key)
        self.asks = [ask for ask in self.asks if ask.state in (QUEUED, SERVED)]
        for slot in self.open:
            per_key = slot.per_key
            beyond = slot.state is IDLE and per_key.count > self.allowed(per_key.key)
            need(not beyond, "idle beyond what is allowed")
        away = [slot for slot in self.open if slot.state in (LENT, CLOSING)]
        check_pool(self.pool, away, lowered=True)


def walk(seed: int, steps: int, *makers: Callable[..., Any]) -> None:
    Walk(seed, *makers).run(steps)
