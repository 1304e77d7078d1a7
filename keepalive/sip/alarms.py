"""One timer for all times of a pool: deadlines, and the expiry of connections."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from keepalive.base.timer_queue import TimerQueue
from keepalive.base.types import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.base.timer_queue import Entry
    from keepalive.transport.reactor import Reactor

logger = logging.getLogger("keepalive.sip")


class Deadline:
    """Something to be done at a time, unless it is withdrawn.

    :ivar since: when what it limits has begun, if that may change
    """

    __slots__ = ("act", "since", "timer")

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.since = 0.0
        self.timer: Entry | None = None


class Alarms:
    """Rings at the earliest of all times, and not when there is none.

    :param other: tells the next time that is not a deadline's
    :param due: called with the time at each ring, after the deadlines
    """

    def __init__(self, reactor: Reactor, other: Callable[[], float], due: Callable[[float], None]) -> None:
        self._clock = reactor.clock
        self._other = other
        self._due = due
        self._deadlines: TimerQueue[Deadline] = TimerQueue()
        self._timer = reactor.timer(self._ring)
        self._armed = NEVER
        self._ended = False

    def arm(self) -> None:
        """Move the timer if something is due before it rings."""
        when = min(self._other(), self._deadlines.next())
        if when < self._armed and not self._ended:
            self._armed = when
            self._timer.move(max(0.0, when - self._clock()))

    def _ring(self) -> None:
        if self._ended:
            return
        self._armed = NEVER
        now = self._clock()
        for deadline in self._deadlines.pop_due(now):
            try:
                deadline.act()
            except Exception:
                logger.exception("in %r", deadline.act)
        self._due(now)
        self.arm()

    def later(self, seconds: float, act: Callable[[], object]) -> Deadline:
        """Do something after so many seconds."""
        deadline = Deadline(act)
        self.put_off(deadline, self._clock() + seconds)
        return deadline

    def put_off(self, deadline: Deadline, when: float) -> None:
        """Give a deadline another time."""
        self._deadlines.enter(deadline, when)
        self.arm()

    def withdraw(self, deadline: Deadline) -> None:
        """Leave it undone."""
        self._deadlines.withdraw(deadline)

    def end(self) -> None:
        """Never ring again."""
        self._ended = True
        self._timer.cancel()
