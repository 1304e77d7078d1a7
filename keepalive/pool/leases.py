"""How many connections of a key a fleet allows at the moment, beside this manager's own limits.

Theory. What a fleet allows is one more bound of the key: nothing else of the pool knows of it. A key whose
requests wait only for that says so by the effect SHORT; the answer comes as another number of places, sooner
or later, from outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import CloseReason

from .states import CHECKING, LENT, RESERVED, RESETTING, SHARED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keepalive.base.types import Key

    from .assignment import Assignment
    from .connections import Connections
    from .parts import Parts
    from .records import KeyState, Slot
    from .sharing import Sharing
    from .states import KeyLimits, Limits, LimitsOf


class LeasedLimits:
    """The bounds of each key, and what the fleet allows: `LimitsOf`.

    :ivar places: what is allowed, by key; a key that is not there has none
    """

    def __init__(self, limits_of: LimitsOf) -> None:
        self._limits_of = limits_of
        self.places: dict[Key, float] = {}

    def __call__(self, key: Key, limits: Limits) -> KeyLimits:
        """Return what holds for this key."""
        found = self._limits_of(key, limits)
        found.own = found.max_per_host
        self.apply(key, found)
        return found

    def apply(self, key: Key, found: KeyLimits) -> None:
        """Bound a key's limits by what is allowed now."""
        places = self.places.get(key, 0)
        found.max_per_host = min(found.own, places)
        found.leased = places < found.own


class Leases:
    """The inputs for what a fleet allows."""

    def __init__(
        self, parts: Parts, assignment: Assignment, connections: Connections, sharing: Sharing
    ) -> None:
        self._parts = parts
        self._connections = connections
        self._sharing = sharing
        self._assignment = assignment

    def changed(self, per_key: KeyState, now: float) -> None:
        """Bring a key in order whose `max_per_host` has changed: what is idle beyond it closes."""
        parts, assignment = self._parts, self._assignment
        if per_key.extra and per_key.count > per_key.limits.max_per_host:
            for slot in per_key.opening:
                parts.extra_slots.recall(slot)
        for shelf in (per_key.unlendable, per_key.idle, per_key.unused):
            for slot in list(shelf):
                if per_key.count > per_key.limits.max_per_host:
                    self._connections.close(slot, CloseReason.LIMIT)
        parts.capacity.measure_one(per_key)
        assignment.reconcile(per_key, now)

    def cut(self, per_key: KeyState, most: float, slots: Iterable[Slot], now: float) -> None:
        """Close connections of a key, in use or not, until no more than so many are left.

        :param slots: those of the key that are open, in the order in which they go
        """
        assignment = self._assignment
        while per_key.count - per_key.closing > most and per_key.opening:
            self._connections.abort(next(reversed(per_key.opening)))
        for slot in slots:
            if per_key.count - per_key.closing <= most:
                break
            waiter = slot.waiter
            if slot.state is RESERVED and waiter is not None:
                assignment.unreserve(waiter)
                self._connections.close(slot, CloseReason.LIMIT, abruptly=True)
                assignment.requeue(waiter, now)
            elif slot.state is SHARED:
                self._sharing.lost(slot, now, CloseReason.LIMIT)
            elif slot.state in (LENT, CHECKING, RESETTING):
                self._connections.close(slot, CloseReason.LIMIT, abruptly=True)
        assignment.reconcile(per_key, now)
