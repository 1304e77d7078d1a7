"""How connections begin and end: the steps, not the decisions.

Every slot counts from its attempt to its end, wherever it stands; so each step here changes the state, the
places in which the slot stands, the counts and what is told, all together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER, CloseReason

from .records import Slot
from .states import (
    ABORT,
    CLOSE,
    CLOSING,
    GONE,
    GOODBYE,
    IDLE,
    OPEN,
    move,
)

if TYPE_CHECKING:
    from .parts import Parts
    from .records import KeyState

POLITE = frozenset(
    {
        CloseReason.EXPIRED,
        CloseReason.LIFETIME,
        CloseReason.RETIRED,
        CloseReason.SHUTDOWN,
        CloseReason.SURPLUS,
        CloseReason.USES,
    }
)
"""The ends that leave time for a goodbye. Elsewhere something failed, or a request needs the place now."""


class Connections:
    """The begin and the end of all connections of one pool."""

    def __init__(self, parts: Parts) -> None:
        self._capacity = parts.capacity
        self._effects = parts.effects
        self._extra_slots = parts.extra_slots
        self._idle = parts.idle
        self._timers = parts.timers
        self._opened = 0  # attempts so far: the last one's number

    def open(self, per_key: KeyState) -> Slot:
        """Start an attempt."""
        self._opened += 1
        slot = Slot(self._opened, per_key)
        per_key.opening[slot] = None
        self._capacity.add(per_key)
        self._effects.append((OPEN, slot))
        self._effects.notify("opening", per_key.key, slot.id)
        return slot

    def abort(self, slot: Slot) -> None:
        """Give an attempt up; it counts until the driver reports that nothing is left of it."""
        self._extra_slots.recall(slot)
        self.leave_opening(slot)
        move(slot, CLOSING)
        self._capacity.begin_closing(slot.per_key)
        self._effects.append((ABORT, slot))
        self._effects.notify("attempt_aborted", slot.per_key.key, slot.id)

    def leave_opening(self, slot: Slot) -> None:
        """Take a slot out of its key's attempts."""
        del slot.per_key.opening[slot]
        self._timers.clear(slot)

    def close(self, slot: Slot, reason: CloseReason, *, abruptly: bool = False) -> None:
        """End a connection that is open, wherever it stands."""
        if slot.state is IDLE:
            self._idle.remove(slot)
        elif slot in slot.per_key.preparing:
            self.leave_preparing(slot)
        self.close_taken(slot, reason, abruptly=abruptly)

    def close_taken(self, slot: Slot, reason: CloseReason, *, abruptly: bool = False) -> None:
        """End one that stands in no place."""
        per_key = slot.per_key
        if slot.shares is not None:
            per_key.shared.pop(slot, None)
            slot.shares.lent = 0  # whoever had one has lost it
        if per_key.limits.says_goodbye and reason in POLITE and not abruptly:
            move(slot, CLOSING)
            self._capacity.begin_closing(per_key)
            self._effects.append((GOODBYE, slot))
        else:
            move(slot, GONE)
            self._capacity.remove(per_key)
            self._effects.append((CLOSE, slot))
        per_key.counters.closed[reason] = per_key.counters.closed.get(reason, 0) + 1
        self._effects.notify("closed", per_key.key, slot.id, reason)

    def end_goodbye(self, slot: Slot) -> None:
        """Close one that has said goodbye."""
        self._timers.clear(slot)
        move(slot, GONE)
        self._capacity.end_closing(slot.per_key)
        self._effects.append((CLOSE, slot))

    def expire(self, slot: Slot, now: float) -> None:
        """Close one whose time is over."""
        self.close(slot, why_expired(slot, now))

    def leave_preparing(self, slot: Slot) -> None:
        """Note that no hook is at work on it any more."""
        del slot.per_key.preparing[slot]
        self._timers.clear(slot)


def why_expired(slot: Slot, now: float) -> CloseReason:
    """Say whether its time as an idle one is over, or its lifetime."""
    if slot.retires_at > now:
        return CloseReason.EXPIRED
    return CloseReason.RETIRED if slot.retires_at == -NEVER else CloseReason.LIFETIME
