"""Scenes: a world (see `model`) in which each step is also held against the invariants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER, Key
from keepalive.pool.invariants import check_pool
from keepalive.pool.states import CLOSING, LENT, OPENING, Limits

from .model import World

if TYPE_CHECKING:
    from keepalive.base.types import CloseReason
    from keepalive.pool.states import SlotState

    from .seen import Ask, Link


def key(name: str) -> Key:
    return Key("tcp", name, 1, "tcp", name, 1)


A, B, C, D = (key(name) for name in "ABCD")


class Scene(World):
    """A world with short words for what scenes are made of."""

    def _finish(self) -> None:
        super()._finish()
        away = [link.slot for link in self.links.values() if link.where in (LENT, CLOSING)]
        check_pool(self.pool, away, lowered=self.lowered)

    def ask(self, key: Key = A, timeout: float = NEVER, *, fresh: bool = False) -> Ask:
        return self.submit(key, timeout, fresh=fresh)

    def asks_of(self, *keys: Key) -> list[Ask]:
        return [self.ask(key) for key in keys]

    def in_state(self, state: SlotState, key: Key | None = None) -> list[Link]:
        found = [link for link in self.links.values() if link.where is state]
        return [link for link in found if key is None or link.key == key]

    def attempts(self, key: Key | None = None) -> list[Link]:
        return self.in_state(OPENING, key)

    def lend(self, key: Key = A, lifetime: float = NEVER) -> Link:
        """Return a connection in use that was just opened."""
        ask = self.ask(key, fresh=True)
        self.opened(self.attempts(key)[-1], lifetime)
        return self.claim(ask)

    def idle(self, key: Key = A) -> Link:
        """Return a used connection that waits for its next use."""
        link = self.lend(key)
        self.release(link)
        return link

    def at(self, now: float) -> None:
        """Let time pass, and the timer ring."""
        self.now = now
        self.tick()

    def closed(self, key: Key = A) -> dict[CloseReason, int]:
        return self.pool.keys.states[key].counters.closed


def scene(
    max_per_host: int = 4,
    max_open: int = 128,
    *,
    max_idle: float = NEVER,
    keep_alive: float = 15.0,
    max_waiting: float = NEVER,
) -> Scene:
    return Scene(
        Limits(
            max_per_host=max_per_host,
            max_open=max_open,
            max_idle=max_idle,
            keep_alive=keep_alive,
            max_waiting=max_waiting,
        )
    )
