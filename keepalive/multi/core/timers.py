"""When each peer's patience ends. Pure.

A timer belongs to its peer and is told by two of its fields: when it was started, and how long it runs.
All that an incoming unit does is to set the first. The queue has at most one entry per peer, for a time
not later than the true one; when it surfaces too early, it is entered again for the true time. So ten
thousand peers that time out after 300 seconds cost one look at each every 300 seconds, and a unit costs
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.timer_queue import TimerQueue
from keepalive.base.types import NEVER

from .states import CONNECTED, CONNECTING, FLUSHING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .states import Effects, Limits, Record


class PeerTimers:
    """The timers of all peers of a client."""

    __slots__ = ("_armed", "_effects", "_limits", "_queue", "retry")

    def __init__(self, limits: Limits, effects: Effects) -> None:
        self._limits = limits
        self._effects = effects
        self._queue: TimerQueue[Record] = TimerQueue()
        self._armed = NEVER  # when the effects are to call `Dispatch.tick`
        self.retry = NEVER  # when to look for free descriptors

    def end_of(self, record: Record) -> float:
        """Return when a peer's patience ends, as things are now."""
        state = record.state
        if state is FLUSHING:
            limit = self._limits.shutdown_timeout
            end = record.since + limit if limit else NEVER
        elif state is CONNECTED or (state is CONNECTING and record.attempting):
            end = record.since + record.timeout if record.timeout else NEVER
            if state is CONNECTED and record.outbox is not None and self._limits.write_timeout:
                end = min(end, record.progress_at + self._limits.write_timeout)
        else:
            return NEVER
        return min(end, record.ends)

    def arm(self, record: Record) -> None:
        """See to it that a peer is looked at when its patience ends, or before."""
        self.look_by(record, self.end_of(record))

    def look_by(self, record: Record, end: float) -> None:
        """See to it that a peer is looked at at this time, or before."""
        entry = record.timer
        if end < (NEVER if entry is None else entry[0]):
            self._queue.enter(record, end)
            self._wake_by(end)

    def retry_at(self, when: float) -> None:
        """Set the time at which `Dispatch.tick` looks for free descriptors."""
        self.retry = when
        self._wake_by(when)

    def _wake_by(self, end: float) -> None:
        if end < self._armed:
            self._armed = end
            self._effects.wake_at(end)

    def withdraw(self, record: Record) -> None:
        """Forget a peer."""
        self._queue.withdraw(record)

    def due(self, now: float) -> Iterator[Record]:
        """Yield the peers whose patience has ended; to be followed by `set`."""
        self._armed = -NEVER  # until then nobody needs to be woken
        for record in self._queue.pop_due(now):
            end = self.end_of(record)
            if end <= now:
                yield record
            else:
                self._queue.enter(record, end)

    def next(self) -> float:
        """Return when the first peer is looked at; `NEVER` if none is."""
        return self._queue.next()

    def set(self) -> None:
        """Have `tick` called for the first one that is left."""
        self._armed = min(self.next(), self.retry)
        if self._armed != NEVER:
            self._effects.wake_at(self._armed)

    def __len__(self) -> int:
        """Return the number of entries, withdrawn ones included (for memory tests)."""
        return len(self._queue)
