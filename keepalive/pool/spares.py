"""Attempts that nobody waits for.

Theory. An attempt belongs to its key, not to the request that started it. When that request is served
otherwise or goes away, the attempt may live on as a *spare*, for a while: what it opens serves the next
request, or waits idle. A key has one spare at most, or as many as a preconnect started. A key with spares has
a deadline for them, and they are the first to go when another key needs room.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import KeyState
    from .states import Limits
    from .timers import Timers


class Spares:
    """The keys with spare attempts.

    :ivar keys: those keys, in the order in which their spares are given up for others
    """

    __slots__ = ("_limits", "_timers", "keys")

    def __init__(self, limits: Limits, timers: Timers) -> None:
        self._limits = limits
        self._timers = timers
        self.keys: OrderedDict[KeyState, None] = OrderedDict()

    def excess(self, per_key: KeyState) -> int:
        """Return how many attempts a key has beyond its requests and the spares it may have."""
        attempts = len(per_key.opening)
        if per_key.preconnecting > attempts:
            per_key.preconnecting = attempts
        return per_key.surplus - (per_key.preconnecting or 1)

    def note(self, per_key: KeyState, now: float) -> None:
        """Set the deadline of a key's spares, or take it back."""
        if per_key.opening and per_key.surplus:
            if per_key not in self.keys:
                self.keys[per_key] = None
                self._timers.set(per_key, now + self._limits.spare_for)
        elif self.keys and per_key in self.keys:
            self.forget(per_key)

    def forget(self, per_key: KeyState) -> None:
        """Note that a key has no spares any more."""
        self.keys.pop(per_key, None)
        self._timers.clear(per_key)
