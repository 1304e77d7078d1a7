"""Seeded random walks over the pool, as `model.World` sees it.

One walk again: ``python -m tests.pool.walk CONFIG SEED [INPUTS]``.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from keepalive.base.types import NEVER, CloseReason, Key
from keepalive.pool.invariants import check_pool
from keepalive.pool.pool import Pool
from keepalive.pool.states import Effect, Limits, SlotState, WaiterState

from .model import World
from .rules import need

if TYPE_CHECKING:
    from collections.abc import Callable

    from .seen import Ask, Link

SECONDS = (0.0, 0.0, 0.0, 0.0, 0.001, 0.01, 0.03, 0.1, 0.3)
ACTIONS = {
    "submit": 30,
    "claim": 30,
    "release": 20,
    "opened": 18,
    "discard": 3,
    "open_failed": 4,
    "aborted": 8,
    "borrow": 5,
    "repay": 1,
    "cancel": 8,
    "lost_idle": 2,
    "lost_reserved": 3,
    "late": 2,
}
AWAY = (SlotState.LENT, SlotState.CLOSING)


@dataclass(frozen=True)
class Config:
    """One kind of walk."""

    limits: Limits
    keys: int = 4
    fresh: float = 0.0
    timeouts: tuple[float, ...] = (NEVER, 30.0, 5.0, 1.0, 0.2, 0.0)
    seconds: tuple[float, ...] = SECONDS  # that pass between two steps
    lifetimes: tuple[float, ...] = (NEVER,)
    keep_for: tuple[float, ...] = (NEVER,)
    other_limits: tuple[Limits, ...] = ()
    episode: int = 4000
    end: bool = False  # shut down, in whatever phase the episode ends
    observed: bool = False
    prompt: bool = False  # aborted attempts end at once, as those without a task do
    weights: dict[str, int] = field(default_factory=dict)


TIGHT = Limits(max_per_host=2, max_open=3)
CONFIGS = {
    "tight": Config(TIGHT),
    "prompt": Config(
        Limits(max_per_host=3, max_open=5, connect_timeout=2.0, pause_after=3),
        prompt=True,
        fresh=0.2,
        weights={"resolved": 10, "warm": 2, "retire": 1},
    ),
    "one": Config(Limits(max_per_host=1, max_open=1), keys=3, fresh=0.2),
    "many_keys": Config(Limits(max_per_host=3, max_open=6), keys=12, weights={"submit": 40, "cancel": 12}),
    "few_keys": Config(Limits(max_per_host=5, max_open=8), keys=2, fresh=0.1),
    "nothing_idle": Config(replace(TIGHT, keep_alive=0.0), fresh=0.1),
    "few_idle": Config(
        Limits(max_per_host=3, max_open=8, max_idle=2),
        keys=5,
        fresh=0.1,
        weights={"submit": 16, "warm": 3, "lost_reserved": 6},
    ),
    "none_idle": Config(Limits(max_per_host=2, max_open=4, max_idle=0), fresh=0.2, weights={"warm": 2}),
    "fresh": Config(Limits(max_per_host=3, max_open=5), keys=3, fresh=0.5, weights={"lost_reserved": 10}),
    "mortal": Config(
        Limits(max_per_host=3, max_open=5, keep_alive=2.0, max_uses=2, connect_timeout=0.8),
        lifetimes=(NEVER, 10.0, 3.0, 1.0, 0.1),
        keep_for=(NEVER, NEVER, 1.0, 0.3, 0.0),
        fresh=0.2,
        weights={"resolved": 15, "opened": 12},
    ),
    "whole_seconds": Config(
        Limits(max_per_host=2, max_open=4, keep_alive=3.0, connect_timeout=2.0),
        seconds=(0.0, 0.0, 1.0),
        timeouts=(NEVER, 3.0, 2.0, 1.0),
        keep_for=(NEVER, 1.0, 2.0),
        lifetimes=(NEVER, 5.0, 2.0),
        fresh=0.2,
        weights={"late": 30, "resolved": 10},
    ),
    "short_queue": Config(replace(TIGHT, max_waiting=2), keys=3, fresh=0.2, weights={"submit": 50}),
    "impatient": Config(
        TIGHT,
        timeouts=(0.3, 0.1),
        weights={"cancel": 25, "opened": 6, "aborted": 4, "claim": 10},
        observed=True,
    ),
    "other_limits": Config(
        TIGHT,
        fresh=0.3,
        other_limits=(
            TIGHT,
            Limits(max_per_host=1, max_open=6),
            Limits(max_per_host=4, max_open=4),
            Limits(max_per_host=4, max_open=6, max_idle=1),
            Limits(max_per_host=3, max_open=2, keep_alive=1.0),
        ),
        weights={"set_limits": 4},
    ),
    "troubled": Config(
        Limits(max_per_host=3, max_open=4, pause_after=2, max_pause=20.0),
        fresh=0.4,
        weights={"open_failed": 25, "opened": 8, "warm": 4, "retire": 2, "submit": 40},
        observed=True,
    ),
    "troubled_one": Config(
        Limits(max_per_host=2, max_open=3, pause_after=1, max_pause=10.0),
        keys=3,
        fresh=0.5,
        weights={"open_failed": 20, "lost_idle": 8, "warm": 6, "retire": 6},
    ),
    "borrowing": Config(
        Limits(max_per_host=3, max_open=7, connect_timeout=3.0, pause_after=3),
        keys=4,
        fresh=0.4,
        weights={
            "borrow": 40,
            "repay": 6,
            "opened": 12,
            "open_failed": 8,
            "warm": 2,
            "resolved": 5,
            "aborted": 4,
        },
        observed=True,
    ),
    "warmed": Config(Limits(max_per_host=4, max_open=7), fresh=0.2, weights={"warm": 15, "retire": 4}),
    "ended": Config(
        replace(TIGHT, connect_timeout=1.0),
        fresh=0.2,
        episode=60,
        end=True,
        weights={"resolved": 8, "warm": 3},
        observed=True,
    ),
}


class Walk:
    """One seeded sequence of steps; each step is an input that users or the network could give."""

    def __init__(
        self, config: Config, seed: int, make: Callable[..., Pool] = Pool, *, recount_after: int = 1
    ) -> None:
        self.config = config
        self.recount_after = recount_after
        self.checks = 0
        self.rng = random.Random(seed)
        self.world = World(config.limits, observed=config.observed, prompt=config.prompt, make=make)
        self.keys = [Key("tcp", f"host{n}", 1, "tcp", f"host{n}", 1) for n in range(config.keys)]
        weights = ACTIONS | config.weights
        self.actions = [getattr(self, name) for name in weights]
        total = 0
        self.weights = [total := total + weight for weight in weights.values()]

    def run(self, steps: int) -> None:
        world, rng, trace = self.world, self.rng, self.world.trace
        actions = rng.choices(self.actions, cum_weights=self.weights, k=steps)
        for action in actions:
            world.now += rng.choice(self.config.seconds)
            if world.pool.timers.earliest <= world.now and rng.random() < 0.9:  # the timer may be late
                world.tick()
                self.check()
            before = len(trace)
            action()
            if len(trace) > before:
                self.check()

    def check(self) -> None:
        """Count the pool's books again after so many steps; the world has judged each of them already."""
        self.checks += 1
        if self.checks % self.recount_after == 0:
            self.recount()

    def recount(self) -> None:
        world = self.world
        away = [link.slot for link in world.links.values() if link.where in AWAY]
        check_pool(world.pool, away, lowered=world.lowered)

    def pick(self, where: SlotState) -> Link | None:
        links = [link for link in self.world.links.values() if link.where is where]
        return self.rng.choice(links) if links else None

    def pick_served(self) -> Ask | None:
        asks = [ask for ask in self.world.asks.values() if ask.state is WaiterState.SERVED]
        return self.rng.choice(asks) if asks else None

    def submit(self) -> None:
        config, rng = self.config, self.rng
        # The low keys come more often, so that both busy and quiet ones exist.
        key = self.keys[int(len(self.keys) * rng.random() ** 2)]
        ask = self.world.submit(key, rng.choice(config.timeouts), fresh=rng.random() < config.fresh)
        if self.world.pool.overfull(ask.waiter):
            self.world.refuse(ask)

    def claim(self) -> None:
        if ask := self.pick_served():
            self.world.claim(ask)

    def cancel(self) -> None:
        if asks := list(self.world.asks.values()):
            self.world.cancel(self.rng.choice(asks))

    def release(self) -> None:
        if link := self.pick(SlotState.LENT):
            self.world.release(link, self.rng.choice(self.config.keep_for))

    def discard(self) -> None:
        if link := self.pick(SlotState.LENT):
            self.world.discard(link)

    def opened(self) -> None:
        if link := self.pick_alone():
            self.world.opened(link, self.rng.choice(self.config.lifetimes))

    def open_failed(self) -> None:
        if link := self.pick_alone():
            self.world.open_failed(link)

    def pick_alone(self) -> Link | None:
        """Pick an attempt whose further sockets are closed before it ends, as a race does that is over."""
        link = self.pick(SlotState.OPENING)
        while link is not None and link.extra:
            self.world.repay(link)
            self.check()
        need(link is None or link.where is SlotState.OPENING, "repaying ended the attempt")
        return link

    def borrow(self) -> None:
        if link := self.pick(SlotState.OPENING) or self.pick(SlotState.CLOSING):
            self.world.borrow(link)

    def repay(self) -> None:
        if borrowers := [link for link in self.world.links.values() if link.extra]:
            self.world.repay(self.rng.choice(borrowers))

    def resolved(self) -> None:
        if link := self.pick(SlotState.OPENING) or self.pick(SlotState.CLOSING):
            self.world.resolved(link)

    def aborted(self) -> None:
        if link := self.pick(SlotState.CLOSING):
            self.world.aborted(link)

    def lost_idle(self) -> None:
        if link := self.pick(SlotState.IDLE):
            self.world.lost(link)

    def lost_reserved(self) -> None:
        if link := self.pick(SlotState.RESERVED):
            self.world.lost(link)

    def late(self) -> None:
        """Let much time pass in which the timer does not run, then let it run or not."""
        self.world.now += self.rng.choice((1.0, 5.0, 20.0))
        if self.rng.random() < 0.5:
            self.world.tick()

    def warm(self) -> None:
        self.world.warm(self.rng.choice(self.keys), self.rng.choice((1, 2, 3, 9)))

    def retire(self) -> None:
        links = list(self.world.links.values())
        self.world.retire(self.rng.sample(links, self.rng.randint(0, len(links))))

    def set_limits(self) -> None:
        self.world.set_limits(self.rng.choice(self.config.other_limits))

    def drain(self) -> None:
        """Let everybody go; then nothing may be left (7)."""
        world = self.world
        while world.links or world.asks:
            for ask in list(world.asks.values()):
                world.cancel(ask)
            for end in (self.aborted, self.opened, self.release):
                end()
            self.check()
            if not world.asks and all(link.where is SlotState.IDLE for link in world.links.values()):
                world.now += 1000.0
                world.tick()
        world.now += 1000.0
        world.tick()  # the pauses end
        self.recount()
        pool = world.pool
        need(
            pool.capacity.total == pool.requests.uncovered == 0 and not pool.requests.open,
            "something is left of nothing",
        )
        need(pool.next_deadline() == NEVER, "something is due, and nothing is there")
        need(tallied(pool) == +world.tally, "the pool's totals are not what happened")


def tallied(pool: Pool) -> Counter[str]:
    found: Counter[str] = Counter()
    for counters in (pool.keys.past, *(host.counters for host in pool.keys.states.values())):
        for name in ("requests", "immediate", "deferred", "new", "opened", "timeouts", "cancelled"):
            found[name] += getattr(counters, name)
        found["failed"] += sum(counters.failed.values())
    return +found


def replay(config: Config, trace: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Give a new pool the same inputs; return its effects."""
    pool = Pool(config.limits, observed=config.observed)
    records: dict[str, dict[int, Any]] = {"waiter": {}, "slot": {}}
    waiters, slots = records["waiter"], records["slot"]
    seen: list[tuple[Any, ...]] = []
    for what, now, *details in trace:
        if what == "submit":
            key, timeout, fresh = details
            waiter = pool.submit(key, now, now + timeout, fresh=fresh)
            waiters[waiter.id] = waiter
        elif what in ("tick", "shutdown"):
            getattr(pool, what)(now)
        elif what == "set_limits":
            pool.set_limits(details[0], now)
        elif what == "warm":
            pool.preconnect(pool.keys.of(details[0]), details[1], now)
        elif what == "retire":
            pool.retire([slots[number] for number in details[0]], now)
        elif what in ("refuse", "claim", "cancel"):
            getattr(pool, what)(waiters[details[0]], now)
        else:
            _replay_slot(pool, what, slots[details[0]], now, details)
        while pool.effects:
            do, record = pool.effects.popleft()
            if do is Effect.OPEN:
                slots[record.id] = record
            elif do is Effect.RECALL:
                for _ in range(record.extra):
                    pool.give_back_extra(record, now)
            elif do is Effect.ABORT and config.prompt:
                pool.aborted(record, now)
            seen.append(seal(do, record))
    return seen


def _replay_slot(pool: Pool, what: str, slot: Any, now: float, details: list[Any]) -> None:
    if what == "release":
        pool.release(slot, now, details[1])
    elif what == "opened":
        pool.opened(slot, slot.id, now, details[1])
    elif what == "open_failed":
        pool.open_failed(slot, OSError("refused"), now)
    elif what in ("discard", "lost"):
        reason = CloseReason.DISCARDED if what == "discard" else CloseReason.PEER
        getattr(pool, what)(slot, now, reason)
    elif what == "resolved":
        pool.limit(slot, now + pool.limits.connect_timeout)
    elif what == "borrow":
        pool.take_extra(slot)
    elif what == "repay":
        pool.give_back_extra(slot, now)
    else:
        getattr(pool, what)(slot, now)


def seal(do: Effect, what: Any) -> tuple[Any, ...]:
    """Return an effect in a form that equals that of another run."""
    if do is Effect.NOTIFY:
        return do, str(what)
    return (do, what.id, what.state) if do is Effect.WAKE else (do, what.id)


def walk(
    name: str,
    seed: int,
    inputs: int,
    *,
    make: Callable[..., Pool] = Pool,
    again: bool = False,
    recount_after: int = 1,
) -> None:
    """Walk until there were so many inputs, in episodes with a pool each.

    :param again: whether a second pool is to show the same effects of the same inputs
    :param recount_after: the number of steps between two looks at the whole of the pool's books
    """
    config = CONFIGS[name]
    done = episode = 0
    while done < inputs:
        one = Walk(config, seed * 1_000_000 + episode, make, recount_after=recount_after)
        try:
            one.run(min(config.episode, inputs))
            if config.end:
                one.world.shutdown()
                one.check()
            one.drain()
            if again:
                need(replay(config, one.world.trace) == one.world.effects, "equal inputs, other effects (9)")
        except Exception as error:
            error.add_note(f"input {len(one.world.trace)} of episode {episode}: {one.world.trace[-1]}")
            error.add_note(f"again: python -m tests.pool.walk {name} {seed} {inputs}")
            raise
        done += len(one.world.trace)
        episode += 1


if __name__ == "__main__":
    arguments = sys.argv[1:]
    walk(arguments[0], int(arguments[1]), int((arguments[2:] or ["100000"])[0]))
