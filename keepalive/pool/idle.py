"""The idle connections: which one a request takes, which one makes room, and when each expires.

Theory. Within a key the most recently used goes first, so that few stay warm and the rest expires; a request
that wants a new connection may take one that was never handed out. Over all keys the least recently used one
makes room. With one `keep_alive` for all, the order of release is the order of expiry, so that the line in
which they stand for eviction tells the next expiry too. One that expires sooner than its place in the line
tells (a shorter `keep_for`, the end of its lifetime) has a timer of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from keepalive.base.types import NEVER

if TYPE_CHECKING:
    from .records import KeyState, Slot
    from .timers import Timers


class IdleConnections:
    """All idle connections of one pool.

    :ivar line: all of them, the coldest first
    """

    __slots__ = ("_latest", "_timers", "line")

    def __init__(self, timers: Timers) -> None:
        self.line: OrderedDict[Slot, None] = OrderedDict()
        self._timers = timers
        self._latest = 0.0  # nobody in the line without a timer expires before those ahead of it

    def shelf(self, slot: Slot) -> dict[Slot, None]:
        """Return where one stands for the requests of its key."""
        per_key = slot.per_key
        if slot.shares is not None and not slot.shares.capacity:
            return per_key.unlendable
        return per_key.idle if slot.uses else per_key.unused

    def add(self, slot: Slot) -> None:
        """Enter one, the warmest from now on."""
        expires, timers = slot.expires, self._timers
        slot.was_idle = True
        shelf = slot.per_key.idle if slot.uses and slot.shares is None else self.shelf(slot)
        shelf[slot] = self.line[slot] = None
        if expires < self._latest:
            timers.set(slot, expires)
        else:
            self._latest = expires
            if expires < timers.earliest:
                timers.earliest = expires

    def remove(self, slot: Slot) -> None:
        """Take one out, wherever it stands."""
        del self.shelf(slot)[slot]
        del self.line[slot]
        self._timers.clear(slot)

    def take(self, per_key: KeyState, fresh: bool) -> Slot | None:
        """Take out the warmest one of a key that this kind of request may have."""
        shelf = per_key.unused if fresh or not per_key.idle else per_key.idle
        if not shelf:
            return None
        # Unlike a look at the last one, this never passes the holes that it leaves in the dict.
        slot, _ = shelf.popitem()
        del self.line[slot]
        if slot.timer is not None:
            self._timers.clear(slot)
        return slot

    def coldest(self) -> Slot | None:
        """Return the one that was used least recently."""
        return next(iter(self.line), None)

    def next_expiry(self) -> float:
        """Return when the first of those without a timer expires, or `NEVER`."""
        coldest = self.coldest()
        return NEVER if coldest is None else coldest.expires
