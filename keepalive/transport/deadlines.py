"""Deadlines of tasks that wait at links: one timer for all of them.

A cancel scope around each receive costs as much as the receive. Here a link has one time at which its waiting
tasks give up, and at most one entry in a queue. A later deadline leaves the entry where it is: when its time
comes, the link is looked at and entered anew. So an exchange with a time limit costs a comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.timer_queue import TimerQueue
from keepalive.base.types import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from .link import Link
    from .runtime import Timer


class Deadlines:
    """The deadlines of all links of one poller.

    :param timer: makes an alarm that calls a function
    """

    __slots__ = ("_armed", "_clock", "_queue", "_timer")

    def __init__(self, clock: Callable[[], float], timer: Callable[[Callable[[], None]], Timer]) -> None:
        self._clock = clock
        self._queue: TimerQueue[Link] = TimerQueue()
        self._timer = timer(self._ring)
        self._armed = NEVER

    def watch(self, link: Link) -> None:
        """Have the task that begins to wait at this link woken at its deadline."""
        link.late = False  # as it may have been left by a wait that ended otherwise
        entry = link.timer
        if entry is None or entry[0] > link.deadline:
            self._queue.enter(link, link.deadline)
            self._arm(self._clock())

    def forget(self, link: Link) -> None:
        """Note that a link is closed."""
        self._queue.withdraw(link)

    def cancel(self) -> None:
        """End; no link is watched any more."""
        self._timer.cancel()

    def _arm(self, now: float) -> None:
        when = self._queue.next()
        if when < self._armed:
            self._armed = when
            self._timer.move(max(0.0, when - now))

    def _ring(self) -> None:
        self._armed, now = NEVER, self._clock()
        waiting: list[Link] = []
        for link in self._queue.pop_due(now):
            if link.reader is None and link.writer is None:
                continue  # nobody waits
            if link.deadline > now:
                waiting.append(link)
            else:
                link.late = True
                link.wake()
        for link in waiting:
            self._queue.enter(link, link.deadline)
        self._arm(now)
