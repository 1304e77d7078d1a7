"""Walks over connections that have a life: shared ones, checks, resets and goodbyes.

The world here is smaller than that of `model`: it owns requests, shares and connections, learns of the pool's
decisions by effects alone, counts again, and holds what it sees against what is promised. Run one again:
python -m tests.pool.life_walk CONFIG SEED [STEPS]
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from keepalive.base.types import NEVER, CloseReason, Key
from keepalive.pool.invariants import check_pool
from keepalive.pool.pool import Pool
from keepalive.pool.states import (
    CLOSING,
    GONE,
    IDLE,
    LENT,
    OPENING,
    QUEUED,
    SERVED,
    SHARED,
    Effect,
    KeyLimits,
    Limits,
    WaiterState,
)

from .rules import need

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.pool.records import Slot, Waiter


@dataclass(frozen=True)
class Config:
    """What keys are like, and what happens how often."""

    limits: Limits = field(default_factory=lambda: Limits(max_per_host=3, max_open=5, keep_alive=3.0))
    check_after: float = NEVER
    resets: bool = False
    goodbye: bool = False
    shared: bool = False
    max_uses: float = NEVER
    capacities: tuple[int | None, ...] = (None,)
    lifetimes: tuple[float, ...] = (NEVER,)
    open_when: float = 1.0
    min_idle: int = 0
    fresh: float = 0.1
    keys: int = 3

    def of(self, key: Key, limits: Limits) -> KeyLimits:
        return KeyLimits(
            limits.max_per_host,
            limits.keep_alive,
            self.max_uses,
            check_after=self.check_after,
            resets=self.resets,
            says_goodbye=self.goodbye,
            shared=self.shared,
            min_idle=self.min_idle,
            open_when=self.open_when,
        )


CONFIGS = {
    "checked": Config(check_after=1.0),
    "roomy": Config(Limits(max_per_host=4, max_open=9, keep_alive=9.0), check_after=0.3, fresh=0.0, keys=2),
    "always_checked": Config(check_after=0.0, goodbye=True),
    "reset": Config(resets=True, lifetimes=(NEVER, 2.0)),
    "polite": Config(goodbye=True, lifetimes=(NEVER, 2.0), max_uses=4),
    "all_hooks": Config(check_after=0.5, resets=True, goodbye=True, lifetimes=(NEVER, 4.0)),
    "shared": Config(shared=True, capacities=(1, 2, 3, 5)),
    "shared_tight": Config(
        Limits(max_per_host=2, max_open=3, keep_alive=1.0), shared=True, capacities=(0, 1, 4), goodbye=True
    ),
    "spread": Config(
        Limits(max_per_host=3, max_open=7, keep_alive=2.0), shared=True, capacities=(2, 4, 0), open_when=0.5
    ),
    "kept_ready": Config(shared=True, capacities=(None, 3), check_after=0.2, min_idle=1, goodbye=True),
    "shared_or_not": Config(
        shared=True, capacities=(None, 2), lifetimes=(NEVER, 3.0), check_after=1.0, max_uses=5
    ),
}


class LifeWalk:
    """One seeded walk."""

    def __init__(self, config: Config, seed: int, make: Callable[..., Pool] = Pool) -> None:
        self.config = config
        self.rng = random.Random(seed)
        self.pool = make(config.limits, limits_of=config.of)
        self.now = 0.0
        self.keys = [Key("t", f"h{n}", 1, "t", f"h{n}", 1) for n in range(config.keys)]
        self.asks: list[Waiter] = []  # that have not ended, oldest first
        self.users: list[Slot] = []  # one entry per connection or share in a user's hands
        self.slots: dict[Slot, str] = {}  # what the world knows it to be: opening, open, hook, goodbye
        self.unclean: set[Slot] = set()  # given back, and not reset since
        self.served: set[Waiter] = set()
        self.step = ""
        self.steps = 0

    # -- what the pool does ---------------------------------------------------------------------------

    def carry_out(self) -> None:
        while self.pool.effects:
            do, what = self.pool.effects.popleft()
            if do is Effect.WAKE:
                need(what in self.asks or what.state is not SERVED, "served twice")
            elif do is Effect.OPEN:
                need(what not in self.slots, "opened twice")
                queue = what.per_key.queue
                plain = queue is not None and not any(waiter.fresh for waiter in queue.snapshot())
                beside = plain and (what.per_key.idle or what.per_key.unused) and self.step != "warm"
                need(not beside, "opened one beside an idle one that could be checked")
                self.slots[what] = "opening"
                own = sum(slot.per_key is what.per_key for slot in self.slots)
                need(own <= self.pool.limits.max_per_host, "more than max_per_host, as the peer counts")
                need(len(self.slots) <= self.pool.limits.max_open, "more than max_open")
            elif do is Effect.ABORT:
                need(self.slots[what] == "opening", "aborted what is no attempt")
                self.slots[what] = "aborted"
            elif do is Effect.CHECK or do is Effect.RESET:
                need(what.shares is None, "a hook beside a resident")
                need(self.slots[what] == "open" and what not in self.users, "a hook on what is not free")
                self.slots[what] = "hook"
            elif do is Effect.GOODBYE:
                need(self.config.goodbye and self.slots[what] in ("open", "hook"), "a goodbye of its own")
                self.slots[what] = "goodbye"
                self.users = [slot for slot in self.users if slot is not what]
                self.pool.limit(what, self.now + 1.0)
            elif do is Effect.CLOSE:
                need(self.slots.pop(what) in ("open", "hook", "goodbye"), "closed what is not open")
                self.users = [slot for slot in self.users if slot is not what]

    def check(self) -> None:
        self.carry_out()
        for waiter in self.asks:
            if waiter.state is SERVED and waiter.slot is not None and waiter.slot.shares is not None:
                need(waiter in waiter.slot.shares.unfetched, "a share that is not its")
        self.asks = [waiter for waiter in self.asks if waiter.state in (QUEUED, SERVED)]
        served = {waiter for waiter in self.asks if waiter.state is SERVED}
        for waiter in served - self.served:
            slot = waiter.slot
            assert slot is not None
            coming = 1 if slot.shares is None else len(slot.shares.unfetched)
            need(slot.uses + coming <= self.config.max_uses, "more uses than max_uses")
            need(slot.retires_at > self.now or slot.shares is None, "a share of one that lends no more")
        self.served = served
        for slot in self.slots:
            if slot.state is SHARED and slot.shares is not None:
                held = self.users.count(slot) + len(slot.shares.unfetched)
                need(slot.shares.lent == held, "another number of shares than of borrowers")
        away = [slot for slot in self.slots if slot.state in (LENT, SHARED, CLOSING)]
        limits = self.pool.limits
        lowered = limits.max_per_host < self.config.limits.max_per_host
        check_pool(self.pool, away, lowered=lowered or limits.max_open < self.config.limits.max_open)

    # -- what users, hooks and the network do ---------------------------------------------------------

    def submit(self) -> None:
        timeout = self.rng.choice((NEVER, 5.0, 1.0, 0.0))
        key, fresh = self.rng.choice(self.keys), self.rng.random() < self.config.fresh
        older = [waiter for waiter in self.asks if waiter.per_key.key == key and waiter.state is QUEUED]
        before = self._lending(key)
        waiter = self.pool.submit(key, self.now, self.now + timeout, fresh=fresh)
        if waiter.slot is not None and waiter.slot.shares is not None:
            self._check_share(waiter.slot, before)
        if waiter.state in (QUEUED, SERVED):
            self.asks.append(waiter)
        if waiter.state is SERVED and not fresh:
            need(
                all(other.fresh for other in older if other.state is QUEUED),
                "served before an older one of its key",
            )

    def _lending(self, key: Key) -> dict[Slot, float]:
        """Find what lends shares now, and the part of each that is lent."""
        found = {}
        for slot in self.slots:
            shares = slot.shares
            if shares is not None and slot.state is SHARED and slot.per_key.key == key:
                uses = slot.uses + len(shares.unfetched)
                if (
                    shares.lent < shares.capacity
                    and slot.retires_at > self.now
                    and uses < self.config.max_uses
                ):
                    found[slot] = shares.lent / shares.capacity
        return found

    def _check_share(self, slot: Slot, before: dict[Slot, float]) -> None:
        """Check at a request that was served at once which share it got, and what was opened beside."""
        here = [other for other in self.slots if other.state is not GONE]
        own = [other for other in here if other.per_key is slot.per_key]
        part, limits = self.config.open_when, self.pool.limits
        need(len(own) <= limits.max_per_host, "a share of one that is beyond a lowered limit")
        if part < 1:
            least = min(before.values(), default=1.0)
            need(before.get(slot, 0.0) <= least, "a share of one of which more is lent")
            room = len(own) < limits.max_per_host and len(here) < limits.max_open
            coming = any(
                other.state is OPENING or (other.state is IDLE and other.shares and other.shares.capacity)
                for other in own
            )
            wanted = (
                room and not coming and all(load > part for load in self._lending(slot.per_key.key).values())
            )
            opens = any(do is Effect.OPEN for do, _ in self.pool.effects)
            need(opens == wanted, "another number is opened ahead")

    def claim(self) -> None:
        if ready := [waiter for waiter in self.asks if waiter.state is SERVED]:
            waiter = self.rng.choice(ready)
            slot = waiter.slot
            assert slot is not None
            need(self.slots[slot] == "open", "a connection that is not open")
            if slot.shares is None:
                need(slot not in self.users, "one connection for two")
            need(slot not in self.unclean, "not reset between two users")
            self.pool.claim(waiter, self.now)
            self.users.append(slot)

    def cancel(self) -> None:
        if self.asks:
            self.pool.cancel(self.rng.choice(self.asks), self.now)

    def release(self) -> None:
        if self.users:
            slot = self.users.pop(self.rng.randrange(len(self.users)))
            if slot.shares is not None:
                self.pool.sharing.give_back(slot, self.now)
            elif self.rng.random() < 0.1:
                self.pool.discard(slot, self.now, CloseReason.DISCARDED)
            else:
                if self.config.resets:
                    self.unclean.add(slot)
                self.pool.release(slot, self.now)

    def end_attempt(self) -> None:
        if attempts := [slot for slot, what in self.slots.items() if what == "opening"]:
            slot = self.rng.choice(attempts)
            if self.rng.random() < 0.15:
                del self.slots[slot]
                self.pool.open_failed(slot, OSError("refused"), self.now)
                return
            self.slots[slot] = "open"
            lifetime, capacity = (
                self.rng.choice(self.config.lifetimes),
                self.rng.choice(self.config.capacities),
            )
            self.pool.opened(slot, slot.id, self.now, lifetime, capacity)

    def end_abort(self) -> None:
        if aborted := [slot for slot, what in self.slots.items() if what == "aborted"]:
            slot = self.rng.choice(aborted)
            del self.slots[slot]
            self.pool.aborted(slot, self.now)

    def end_hook(self) -> None:
        if hooks := [slot for slot, what in self.slots.items() if what == "hook"]:
            slot = self.rng.choice(hooks)
            if self.rng.random() < 0.2:
                self.pool.hooks.failed(slot, self.now)
            else:
                self.slots[slot] = "open"
                self.unclean.discard(slot)
                self.pool.hooks.ready(slot, self.now)

    def end_goodbye(self) -> None:
        if goodbyes := [slot for slot, what in self.slots.items() if what == "goodbye"]:
            self.pool.hooks.gone(self.rng.choice(goodbyes), self.now)

    def resize(self) -> None:
        if shared := [slot for slot in self.slots if slot.shares is not None and self.slots[slot] == "open"]:
            capacity = self.rng.choice([n for n in self.config.capacities if n is not None])
            self.pool.sharing.set_capacity(self.rng.choice(shared), capacity, self.now)

    def end_lending(self) -> None:
        if shared := [slot for slot in self.slots if slot.shares is not None and self.slots[slot] == "open"]:
            slot = self.rng.choice(shared)
            if self.rng.random() < 0.5:
                self.pool.sharing.retire(slot, self.now)
            else:
                self.users = [other for other in self.users if other is not slot]
                first = not slot.uses and not slot.was_idle and bool(slot.shares and slot.shares.unfetched)
                failed = self.failed()
                self.pool.sharing.lost(slot, self.now, CloseReason.ENDED, OSError("ended"))
                need(self.failed() == failed + first, "a death fails one request if nobody had a share")

    def failed(self) -> int:
        return sum(sum(of.counters.failed.values()) for of in self.pool.keys.states.values())

    def set_limits(self) -> None:
        limits = self.config.limits
        host, most = self.rng.choice((1, limits.max_per_host)), self.rng.choice((2, limits.max_open))
        self.pool.set_limits(replace(limits, max_per_host=host, max_open=most), self.now)

    def refuse(self) -> None:
        ready = [
            w for w in self.asks if w.state is SERVED and w.slot is not None and w.slot.shares is not None
        ]
        if ready:
            self.pool.sharing.refuse(self.rng.choice(ready), self.now)

    def retire(self) -> None:
        slots = list(self.slots)
        self.pool.retire(self.rng.sample(slots, self.rng.randint(0, len(slots))), self.now)

    def warm(self) -> None:
        self.pool.preconnect(self.pool.keys.of(self.rng.choice(self.keys)), self.rng.choice((1, 2)), self.now)

    ACTIONS: ClassVar = {
        "submit": 30,
        "claim": 20,
        "cancel": 4,
        "release": 22,
        "end_attempt": 14,
        "end_abort": 5,
        "end_hook": 14,
        "end_goodbye": 6,
        "resize": 4,
        "end_lending": 1,
        "refuse": 1,
        "retire": 1,
        "set_limits": 1,
        "warm": 1,
    }

    def run(self, steps: int) -> None:
        actions = [getattr(self, name) for name in self.ACTIONS]
        for action in self.rng.choices(actions, weights=list(self.ACTIONS.values()), k=steps):
            self.steps += 1
            self.now += self.rng.choice((0.0, 0.01, 0.2, 1.0))
            if self.pool.timers.earliest <= self.now and self.rng.random() < 0.9:
                self.pool.tick(self.now)
                self.check()
            self.step = action.__name__
            action()
            self.check()

    def drain(self, *, shut_down: bool) -> None:
        """Let everybody go; then nothing may be left."""
        if shut_down or self.config.min_idle:
            self.pool.shutdown(self.now)
            self.check()
            need(not self.asks, "a request outlived the end")
            need("hook" not in self.slots.values(), "a hook outlived the end")
        for _ in range(10_000):
            if not self.slots and not self.asks:
                break
            for end in (self.cancel, self.end_abort, self.end_attempt, self.end_hook, self.end_goodbye):
                end()
                self.check()
            self.release()
            self.now += 0.5
            self.pool.tick(self.now)
            self.check()
        need(not self.slots and not self.asks, "something is left of nothing")
        need(self.pool.capacity.total == 0, "something counts that is not there")
        need(all(slot.state is WaiterState.CLAIMED for slot in self.asks), "somebody waits")


def walk(name: str, seed: int, steps: int, make: Callable[..., Pool] = Pool) -> None:
    """Walk so many steps, in episodes with a pool each."""
    episode = 0
    while steps > 0:
        one = LifeWalk(CONFIGS[name], seed * 1_000_000 + episode, make)
        try:
            one.run(min(1000, steps))
            one.drain(shut_down=bool(episode % 2))
        except Exception as error:
            error.add_note(f"step {one.steps} of episode {episode}")
            error.add_note(f"again: python -m tests.pool.life_walk {name} {seed} {steps}")
            raise
        steps -= 1000
        episode += 1


if __name__ == "__main__":
    given: list[Any] = sys.argv[1:]
    walk(given[0], int(given[1]), int((given[2:] or ["20000"])[0]))
