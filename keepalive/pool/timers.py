"""All times of one pool: deadlines of requests, idle connections, attempts, spares and pauses.

Theory. Most requests are served and claimed long before the next tick, and a deadline in the timer queue
costs more than the rest of a request. So the deadlines of requests that came since the last tick stay
outside; the tick enters those that are still there. `earliest` is a lower bound of the next moment a tick is
wanted: whoever sets the alarm clock looks at nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.timer_queue import TimerQueue
from keepalive.base.types import NEVER

if TYPE_CHECKING:
    from .records import KeyState, Pause, Slot, Waiter


class Timers:
    """What is due when.

    :ivar earliest: a lower bound of the next moment `Pool.tick` is wanted
    """

    __slots__ = ("earliest", "queue")

    def __init__(self) -> None:
        self.queue: TimerQueue[Waiter | Slot | KeyState | Pause] = TimerQueue()
        self.earliest = NEVER

    def set(self, record: Waiter | Slot | KeyState | Pause, when: float) -> None:
        """Set when a record is to be looked at; an earlier time of it counts no more."""
        self.queue.enter(record, when)
        if when < self.earliest:
            self.earliest = when

    def clear(self, record: Waiter | Slot | KeyState | Pause) -> None:
        """Forget a record's time, if it has one."""
        if record.timer is not None:
            self.queue.withdraw(record)
