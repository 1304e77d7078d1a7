"""The requests that have not ended, and how they end.

Invariants. A request ends once, and exactly one counter of its key tells how. It is woken whenever it ends
other than by its owner's claim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER

from .states import FAILED, WAKE, Failure, illegal

if TYPE_CHECKING:
    from .records import Waiter
    from .states import Effects, WaiterState
    from .timers import Timers


class Requests:
    """All requests of one pool that are under way.

    :ivar open: those that have not ended by their numbers, oldest first
    :ivar last_id: the newest number; they begin with 1
    :ivar uncovered: how many are queued without an attempt that stands for them
    :ivar timed: requests up to this number have their deadlines in the timer queue
    """

    __slots__ = ("_effects", "_timers", "last_id", "open", "timed", "uncovered")

    def __init__(self, timers: Timers, effects: Effects) -> None:
        self.open: dict[int, Waiter] = {}
        self.last_id = 0
        self.uncovered = 0
        self.timed = 0
        self._timers = timers
        self._effects = effects

    def begin_phase(self, waiter: Waiter, now: float) -> None:
        """Start the clock of a request's phase: queued, or with an attempt that stands for it."""
        assert waiter.phases is not None, "who has no phases has one deadline"
        ends, queued, opening = waiter.phases
        waiter.deadline = when = min(ends, now + (opening if waiter.covered else queued))
        if waiter.id <= self.timed:
            self._timers.set(waiter, when)
        elif when < self._timers.earliest:
            self._timers.earliest = when

    def leave_queue(self, waiter: Waiter) -> None:
        """Take a request out of its key's queue; an empty queue goes."""
        queue = waiter.per_key.queue
        assert queue is not None, "a queued request has a queue"
        self.uncovered -= not waiter.covered
        queue.remove(waiter)
        if not queue.waiting:
            waiter.per_key.queue = None

    def end(self, waiter: Waiter, state: WaiterState) -> None:
        """Note the end of a request."""
        if state not in waiter.state.next:
            raise illegal(waiter, state)
        waiter.state = state
        del self.open[waiter.id]
        if waiter.timer is not None:
            self._timers.clear(waiter)

    def fail(self, waiter: Waiter, failure: Failure, phase: str = "queue") -> None:
        """End a request with an error."""
        waiter.failure = failure
        waiter.phase = phase
        self.end(waiter, FAILED)
        counters = waiter.per_key.counters
        if failure is Failure.ATTEMPT or failure is Failure.PAUSED or failure is Failure.SHUTDOWN:
            where = "shutdown" if failure is Failure.SHUTDOWN else phase
            counters.failed[where] = counters.failed.get(where, 0) + 1
        else:
            counters.timeouts += 1
        self._effects.append((WAKE, waiter))
        self._effects.notify("failed", waiter.per_key.key, waiter.id, failure.value, phase)

    def set_timers(self) -> None:
        """Enter the deadlines of the requests that came since the last tick."""
        for waiter in self._young():
            self._timers.set(waiter, waiter.deadline)
        self.timed = self.last_id
        # Either way the holes behind the newest request, which the next walk would pass again, are gone.
        if self.open:
            self.open.setdefault(*self.open.popitem())
        else:
            self.open.clear()

    def next_deadline(self) -> float:
        """Return the earliest deadline that is not in the timer queue, or `NEVER`."""
        return min((waiter.deadline for waiter in self._young()), default=NEVER)

    def _young(self) -> list[Waiter]:
        """Return the requests whose deadlines are not in the timer queue yet."""
        young: list[Waiter] = []
        if self.timed == self.last_id:
            return young
        for number in reversed(self.open):
            if number <= self.timed:
                break
            young.append(self.open[number])
        return young
