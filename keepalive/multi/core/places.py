"""Whose turn it is to be connected, and what is done when descriptors run out. Pure.

A place is held from the beginning of an attempt to the end of the connection. There are `max_open` of
them; when the system refuses a descriptor there are, for the time being, as many as are held then. Each
one that comes free goes to the first in the queue. Descriptors that others in the process (or in the
system) have closed are looked for from time to time: by one attempt, then by two, and so on.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from keepalive.base.types import NEVER

from .states import CONNECTING, FLUSHING

if TYPE_CHECKING:
    from .states import Effects, Limits, Record
    from .timers import PeerTimers

RETRY = 0.1
"""Seconds from a try without a free descriptor to the next one, unless a place comes free before."""
MOST_STEPS = 4096
"""When so many more could be tried, the shortage is over."""
SHORTAGE = 5.0
"""Seconds to wait for a descriptor when there is no place whose end could free one."""


class Places:
    """The queue for places, and the places.

    :ivar connecting: attempts under way
    :ivar taken: places of attempts, of connections, and those that attempts have borrowed
    :ivar paused: nobody can take further events: nothing is started, or read
    :ivar queue: peers that wait for their turn
    :ivar put_off: those that were tried, without a free descriptor
    :ivar room: how many places there are now; fewer than `max_open` after the system has refused one
    """

    def __init__(self, limits: Limits, effects: Effects, timers: PeerTimers) -> None:
        self.connecting = 0
        self.taken = 0
        self.paused = False
        self.queue: OrderedDict[Record, None] = OrderedDict()
        self.put_off: OrderedDict[Record, None] = OrderedDict()
        self.room = limits.max_open
        self._limits = limits
        self._effects = effects
        self._timers = timers
        self._step = 1  # so many more are tried next time
        self._short_since = NEVER  # no descriptor, and none of ours that could be closed

    def enter(self, record: Record, now: float) -> None:
        """Start a peer's attempt when its turn comes."""
        if not self.queue and not self.put_off and self._may_start():
            self._start(record, now)
        else:
            self.queue[record] = None

    def _may_start(self) -> bool:
        limits = self._limits
        return self.connecting < limits.max_connecting and self.taken < self.room and not self.paused

    def _start(self, record: Record, now: float) -> None:
        if record.state is not FLUSHING:
            record.state = CONNECTING
            record.since = now
        if record.lifetime:
            record.ends = now + record.lifetime
        record.attempting = True
        self.connecting += 1
        self.taken += 1
        if self._effects.open(record):
            self._timers.arm(record)
        else:
            self._wait_for_room(record, now)

    def start_next(self, now: float) -> None:
        """Start those whose turn it is."""
        while (queue := self.put_off or self.queue) and self._may_start():
            self._start(queue.popitem(last=False)[0], now)

    def attempt_ended(self, record: Record) -> None:
        """Note that an attempt is over; its place is kept."""
        record.attempting = False
        self.connecting -= 1

    def leave(self, record: Record) -> None:
        """Let a peer go: from its attempt or the queue; `close` comes next."""
        if record.attempting:
            self.attempt_ended(record)
        elif record.link is None:
            self.queue.pop(record, None)
            self.put_off.pop(record, None)

    def clear(self) -> None:
        """Forget who waits."""
        self.queue.clear()
        self.put_off.clear()

    # -- places -------------------------------------------------------------------------------------

    def borrow(self) -> bool:
        """Take a further place for an attempt, if there is one and nobody waits for it."""
        if self.queue or self.put_off or self.taken >= self.room:
            return False
        self.taken += 1
        return True

    def freed(self, now: float) -> None:
        """Take back a place that was borrowed, or whose descriptor was still to be closed."""
        self.taken -= 1
        self._short_since = NEVER
        self.start_next(now)

    def shortage_over(self) -> None:
        """Note a sign that descriptors come free: the wait for one begins anew."""
        self._short_since = NEVER

    def no_room(self, record: Record, now: float) -> None:
        """Put an attempt off that found no free descriptor."""
        self._wait_for_room(record, now)
        self.start_next(now)

    def _wait_for_room(self, record: Record, now: float) -> None:
        self.attempt_ended(record)
        record.ends = NEVER
        self.taken -= 1
        later = [other for other in self.put_off if other.id > record.id]
        self.put_off[record] = None
        for other in later:  # who has waited for longer is tried first
            self.put_off.move_to_end(other)
        self.room = self.taken
        self._step = 1
        if self.taken:
            self._short_since = NEVER
        elif self._short_since == NEVER:
            self._short_since = now
        self._timers.retry_at(now + RETRY)

    def look_for_room(self, now: float) -> list[Record]:
        """Try again; return those that have waited for too long."""
        self._timers.retry = NEVER
        waiting = self.put_off or self.queue
        if waiting and not self.taken and self._short_since + SHORTAGE <= now:
            return [*self.put_off, *self.queue]
        most = self._limits.max_open
        over = not waiting or self._step > MOST_STEPS
        self.room = most if over else min(self.taken + self._step, most)
        self._step *= 2
        self.start_next(now)
        if self.room < most and self._timers.retry == NEVER:
            self._timers.retry_at(now + RETRY)
        return []

    def given_up(self, now: float) -> None:
        """Begin anew, when all that waited for too long have been told."""
        self._short_since = NEVER
        self.room = self._limits.max_open
        self.start_next(now)
