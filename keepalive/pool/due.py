"""What is done when its time has come: timeouts, idle expiry, spare attempts, pauses, hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .records import KeyState, Pause, Waiter
from .states import CLOSING, IDLE, OPENING, QUEUED, Failure

if TYPE_CHECKING:
    from .assignment import Assignment
    from .connections import Connections
    from .hooks import Hooks
    from .parts import Parts
    from .records import Slot


class Due:
    """All that a pool does by the clock."""

    def __init__(self, parts: Parts, assignment: Assignment, connections: Connections, hooks: Hooks) -> None:
        self._parts = parts
        self._assignment = assignment
        self._connections = connections
        self._hooks = hooks
        self._requests = parts.requests
        self._timers = parts.timers
        self._idle = parts.idle
        self._backoff = parts.backoff

    def tick(self, now: float) -> None:
        """Do all that is due by `now`: timeouts, idle expiry, spare attempts, pauses."""
        self._requests.set_timers()
        for record in self._timers.queue.pop_due(now):
            if isinstance(record, Waiter):
                self.time_out(record, now)
            elif isinstance(record, KeyState):
                self._end_spares(record)
                self._assignment.reconcile(record, now)
            elif isinstance(record, Pause):
                record.per_key.pause = None
                self._assignment.reconcile(record.per_key, now)
            elif record.state is OPENING:
                self._give_up_overdue(record, now)
            elif record.state is CLOSING:
                self._hooks.gone(record, now)
            elif record.state is not IDLE:
                self._hooks.failed(record, now)
            else:
                self._end_idle(record, now)
        while (coldest := self._idle.coldest()) is not None and coldest.expires <= now:
            self._end_idle(coldest, now)
        self._timers.earliest = self.next()

    def _end_idle(self, slot: Slot, now: float) -> None:
        """Close an idle connection whose time is over, unless its key is to have so many ready."""
        per_key = slot.per_key
        limits = per_key.limits
        expires = min(now + limits.keep_alive, slot.retires_at)
        ready = len(per_key.idle) + len(per_key.unused)
        if ready <= limits.min_idle and expires > now and slot not in per_key.unlendable:
            self._idle.remove(slot)
            slot.expires = slot.trusted_until = expires
            if slot.shares is None:  # else its resident sees to it
                slot.trusted_until = min(expires, slot.idle_since + limits.check_after)
            self._idle.add(slot)
            return
        self._connections.expire(slot, now)
        self._assignment.reconcile(per_key, now)

    def next(self) -> float:
        """Return the exact time of the next thing due, or `NEVER`."""
        return min(self._requests.next_deadline(), self._idle.next_expiry(), self._timers.queue.next())

    def time_out(self, waiter: Waiter, now: float) -> None:
        """Fail a request whose time has run out, and tell what it was waiting for."""
        per_key, phase = waiter.per_key, waiter.per_key.queue_phase
        if waiter.state is QUEUED:
            if waiter.covered:
                attempt = next(iter(per_key.opening or per_key.preparing))
                phase = attempt.phase
                waiter.phase_since = max(attempt.phase_since, waiter.since)
            self._requests.leave_queue(waiter)
        slot = self._assignment.unreserve(waiter)
        self._requests.fail(waiter, Failure.TIMEOUT, phase)
        if slot is not None:
            self._assignment.assign(slot, now)
        self._assignment.reconcile(per_key, now)

    def _give_up_overdue(self, slot: Slot, now: float) -> None:
        """Abort an attempt that has taken too long; it counts as a failure of its key."""
        slot.was_overdue = True
        self._connections.abort(slot)
        self._assignment.fail_oldest(slot, slot.overdue, None)
        self._backoff.failed(slot, None, now, closed=self._parts.closed)
        self._assignment.reconcile(slot.per_key, now)

    def _end_spares(self, per_key: KeyState) -> None:
        """Give up the attempts that nobody waits for."""
        per_key.preconnecting = 0
        for _ in range(per_key.surplus):
            self._connections.abort(next(reversed(per_key.opening)))
