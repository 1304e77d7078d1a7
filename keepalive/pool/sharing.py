"""Connections that are lent to many at once: their shares, and the inputs that concern these.

Theory. A shared connection is SHARED while somebody holds a share of it, and IDLE otherwise: then it stands
in the line of all idle ones, and expires or makes room as any other. A key's `shared` are those with shares
that are free beside lent ones; a request takes one of these first, so that few connections are kept busy and
others may expire. `capacity` may change at any time, also below what is lent: then nobody gets a share until
enough came back. One that lends no more is closed with its last share.

Invariants. `lent` counts the requests that hold a share or are to fetch one. A connection is among `shared`
exactly if it is SHARED, lends, and has a share that is free. Only the first share of a new connection is as
good as new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER, CloseReason

from .records import MANY, Shares
from .shares import offer, stop_lending
from .states import CLOSING, GONE, IDLE, SHARED, Failure

if TYPE_CHECKING:
    from .assignment import Assignment
    from .connections import Connections
    from .parts import Parts
    from .records import Slot, Waiter


class Sharing:
    """The inputs for shared connections."""

    def __init__(self, parts: Parts, assignment: Assignment, connections: Connections) -> None:
        self._idle = parts.idle
        self._requests = parts.requests
        self._room = parts.room
        self._assignment = assignment
        self._connections = connections

    def begin(self, slot: Slot, capacity: int | None) -> None:
        """Make a connection shared that is just opened, or not (None); the next of its key will be alike."""
        per_key = slot.per_key
        per_key.per_attempt = 1
        if capacity is not None:
            slot.shares = Shares(capacity)
            slot.trusted_until = slot.expires  # its resident sees to the rest
            per_key.per_attempt = min(max(capacity, 1), MANY)

    def give_back(self, slot: Slot, now: float, keep_for: float = NEVER) -> None:
        """Take a share back. Harmless when the connection has gone meanwhile."""
        if slot.state is not SHARED:
            return
        shares, per_key = slot.shares, slot.per_key
        assert shares is not None, "only a shared connection has shares"
        shares.lent -= 1
        if shares.lent:
            offer(slot)
        else:
            per_key.shared.pop(slot, None)
        slot.idle_since = now
        slot.expires = slot.trusted_until = min(
            now + min(keep_for, per_key.limits.keep_alive), slot.retires_at
        )
        self._assignment.assign(slot, now)
        # As at a release: while it stays open, with nobody waiting or on his way, nothing else can change.
        if (
            not (per_key.count and slot.state in (IDLE, SHARED))
            or per_key.queue is not None
            or per_key.opening
            or per_key.preparing
            or self._room.waiting
        ):
            self._assignment.reconcile(per_key, now)

    def set_capacity(self, slot: Slot, capacity: int, now: float) -> None:
        """Note how many may have a share from now on."""
        shares = slot.shares
        if shares is None or slot.state is GONE or slot.state is CLOSING:
            return
        if slot.state is IDLE:
            del self._idle.shelf(slot)[slot]
            shares.capacity = capacity
            self._idle.shelf(slot)[slot] = None
            if slot.per_key.queue is not None and capacity:
                self._assignment.take_out(slot)
                self._assignment.assign(slot, now)
        else:
            shares.capacity = capacity
            offer(slot)
            self._assignment.assign(slot, now)
        slot.per_key.per_attempt = min(max(capacity, 1), MANY)
        self._assignment.reconcile(slot.per_key, now)

    def retire(self, slot: Slot, now: float) -> None:
        """Lend it no more, and close it with its last share."""
        if slot.state is IDLE:
            self._connections.close(slot, CloseReason.RETIRED)
        elif slot.state is SHARED:
            stop_lending(slot)
            self._assignment.assign(slot, now)
        else:
            return
        self._assignment.reconcile(slot.per_key, now)

    def lost(self, slot: Slot, now: float, reason: CloseReason, error: Exception | None = None) -> None:
        """Close one that has died. Requests that did not fetch their share get another connection.

        :param error: fails the oldest of them if nobody has had a share: as a failed attempt does, or a peer
            that ends each connection at once would have one opened after the other, for ever
        """
        if slot.state is not SHARED and slot.state is not IDLE:
            return
        assert slot.shares is not None, "only a shared connection has shares"
        waiters = list(slot.shares.unfetched)
        for waiter in waiters:
            self._assignment.unreserve(waiter)
        self._connections.close(slot, reason)
        if error is not None and waiters and not slot.uses and not slot.was_idle:
            oldest = waiters.pop(0)
            oldest.error = error
            self._requests.fail(oldest, Failure.ATTEMPT, slot.phase)
        for waiter in reversed(waiters):
            self._assignment.requeue(waiter, now)
        self._assignment.reconcile(slot.per_key, now)

    def refuse(self, waiter: Waiter, now: float) -> None:
        """Take back what a request is about to fetch: its connection ends, and lends no more."""
        slot = self._assignment.unreserve(waiter)
        assert slot is not None, "a request that fetches has been served"
        stop_lending(slot)
        self._assignment.assign(slot, now)
        self._assignment.requeue(waiter, now)
        self._assignment.reconcile(slot.per_key, now)
