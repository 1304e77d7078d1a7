"""Seeded random walks over an agent's desk and its borrowers.

One walk again: ``python -m tests.agent.walk CONFIG SEED [STEPS]``.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keepalive.agent.core.desk import Desk
from keepalive.agent.core.kept import Kept

from .world import FORBIDDEN, World, key_of

if TYPE_CHECKING:
    from .world import Borrower

ACTIONS = {
    "join": 3,
    "leave": 1,
    "ask": 30,
    "ask_forbidden": 1,
    "cancel": 4,
    "release": 25,
    "discard": 4,
    "read": 40,
    "expire": 8,
    "opened": 20,
    "open_failed": 4,
    "ping": 8,
}


@dataclass(frozen=True)
class Config:
    """One kind of walk."""

    keys: int = 3
    sticky: tuple[float, ...] = (0.0, 0.02)
    patience: tuple[float | None, ...] = (None, 3.0, 50.0)
    seconds: tuple[float, ...] = (0.0, 0.0, 0.001, 0.01, 0.1)
    borrowers: int = 5
    weights: dict[str, int] = field(default_factory=dict)


CONFIGS = {
    "mixed": Config(),
    "sticky": Config(keys=2, sticky=(0.02, 0.5), weights={"release": 40, "ask": 40}),
    "one_key": Config(keys=1, sticky=(0.0, 0.1)),
    "deadly": Config(weights={"leave": 8, "join": 12, "cancel": 12}),
    "silent": Config(seconds=(0.0, 0.1, 1.0, 4.0), weights={"ping": 3, "read": 20}),
    "crowded": Config(keys=5, sticky=(0.1,), borrowers=8),
}


class Walk:
    """One seeded sequence of steps."""

    def __init__(
        self, config: Config, seed: int, make: type[Desk] = Desk, kept: type[Kept[Any]] = Kept
    ) -> None:
        self.config = config
        self.rng = random.Random(seed)
        self.world = World(make, kept)
        weights = ACTIONS | config.weights
        self.actions = [getattr(self, name) for name in weights]
        self.weights = list(weights.values())

    def run(self, steps: int) -> None:
        world, rng = self.world, self.rng
        for action in rng.choices(self.actions, self.weights, k=steps):
            world.now += rng.choice(self.config.seconds)
            if world.desk.earliest <= world.now:
                world.tick()
            action()
            world.act()
            world.check()
        world.end()

    def pick(self) -> Borrower | None:
        return self.rng.choice(self.world.borrowers) if self.world.borrowers else None

    def join(self) -> None:
        if len(self.world.borrowers) < self.config.borrowers:
            self.world.join(self.rng.choice(self.config.sticky), self.rng.choice(self.config.patience))

    def leave(self) -> None:
        if borrower := self.pick():
            self.world.leave(borrower)

    def ask(self) -> None:
        if borrower := self.pick():
            borrower.ask(key_of(self.rng.randrange(self.config.keys)))

    def ask_forbidden(self) -> None:
        if borrower := self.pick():
            borrower.ask(FORBIDDEN)

    def cancel(self) -> None:
        if (borrower := self.pick()) and borrower.asked:
            borrower.cancel(self.rng.choice(list(borrower.asked)))

    def release(self) -> None:
        if (borrower := self.pick()) and borrower.in_use:
            borrower.release(self.rng.choice(list(borrower.in_use.values())))

    def discard(self) -> None:
        if (borrower := self.pick()) and borrower.in_use:
            borrower.give_back(self.rng.choice(list(borrower.in_use.values())), fit=False)

    def read(self) -> None:
        if (borrower := self.pick()) and borrower.mail:
            borrower.read()

    def expire(self) -> None:
        if borrower := self.pick():
            borrower.expire()

    def ping(self) -> None:
        if borrower := self.pick():
            self.world.say(borrower, "ping", 0)

    def opened(self) -> None:
        if self.world.opening:
            self.world.opened(self.rng.choice(self.world.opening))

    def open_failed(self) -> None:
        if self.world.opening:
            self.world.open_failed(self.rng.choice(self.world.opening))


def walk(name: str, seed: int, steps: int, make: type[Desk] = Desk, kept: type[Kept[Any]] = Kept) -> World:
    """Take one walk to its end."""
    one = Walk(CONFIGS[name], seed, make, kept)
    one.run(steps)
    return one.world


if __name__ == "__main__":
    walk(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 2000)
