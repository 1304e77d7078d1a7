"""What the world outside the pool notes of connections, requests and keys. See `model`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keepalive.base.types import NEVER
from keepalive.pool.states import CLOSING, GONE, IDLE, LENT, OPENING, QUEUED, RESERVED

if TYPE_CHECKING:
    from keepalive.base.types import Key
    from keepalive.pool.records import Slot, Waiter
    from keepalive.pool.states import Limits, SlotState, WaiterState


TOLD = {
    "opening": OPENING,
    "opened": RESERVED,
    "idle": IDLE,
    "lent": LENT,
    "closed": GONE,
    "attempt_failed": GONE,
    "attempt_aborted": CLOSING,
}
"""The state of a connection after each event that an observer is told."""


@dataclass(slots=True, eq=False)
class Link:
    """One connection, as the peer and its user see it."""

    slot: Slot
    key: Key
    where: SlotState | None = OPENING  # None: in the pool's hands during this very step
    uses: int = 0
    dies: float = NEVER
    since: float = 0.0  # when it was given back, or opened
    expires: float = NEVER
    gives_up: float = NEVER
    extra: int = 0  # further sockets of its attempt, in borrowed places


@dataclass(slots=True, eq=False)
class Ask:
    """One request, as its owner sees it."""

    number: int
    waiter: Waiter
    key: Key
    deadline: float
    fresh: bool
    state: WaiterState = QUEUED
    link: Link | None = None

    def __lt__(self, other: Ask) -> bool:
        return self.number < other.number


@dataclass(slots=True)
class Place:
    """What the world knows of one key."""

    key: Key
    count: int = 0  # sockets, as the peer counts: attempts and what is left of them too
    dialing: int = 0
    extra: int = 0  # of these sockets, those in borrowed places
    queue: list[Ask] = field(default_factory=list)
    idle: list[Link] = field(default_factory=list)  # used ones, the coldest first
    unused: list[Link] = field(default_factory=list)
    spare_since: float = NEVER
    warming: int = 0
    failures: int = 0  # in a row
    failed_at: float = 0.0
    pauses_until: float | None = None

    def fail(self, now: float, limits: Limits) -> bool:
        """Note a failed attempt; say whether these are enough for a pause."""
        if now - self.failed_at > 2 * limits.max_pause:
            self.failures = 0
        self.failures += 1
        self.failed_at = now
        return self.failures >= limits.pause_after

    def head(self) -> Ask | None:
        """Return the oldest request that no attempt stands for."""
        return self.queue[self.dialing] if len(self.queue) > self.dialing else None


@dataclass(slots=True)
class Step:
    """What happened in one step."""

    what: str
    subject: Link | Ask | None = None
    opened: list[Link] = field(default_factory=list)
    aborted: list[Link] = field(default_factory=list)
    recalled: list[Link] = field(default_factory=list)
    evictions: int = 0
    displaced: list[Link] = field(default_factory=list)  # closed when it had just been handed in
    late: Counter[Key] = field(default_factory=Counter)  # attempts whose time is over
    paused: set[Key] = field(default_factory=set)  # at the beginning of a tick
    in_hand: list[Link] = field(default_factory=list)
    served: list[tuple[Ask, Link, bool]] = field(default_factory=list)  # the flag: handed over just now
    failed: list[Ask] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)
    woken: set[int] = field(default_factory=set)

    @property
    def key(self) -> Key:
        assert self.subject is not None
        return self.subject.key
