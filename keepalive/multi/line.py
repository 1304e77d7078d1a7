"""Whose turn it is to be connected, and what is done when descriptors run out. Pure.

A place is held from the beginning of an attempt to the end of the connection. There are `max_open` of
them; when the system refuses a descriptor there are, for the time being, as many as are held then. Each
one that comes free goes to the first in line. Descriptors that others in the process (or in the system)
have closed are looked for from time to time: by one attempt, then by two, and so on.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from .later import Later
from .timers import Timers
from .types import CONNECTING, FLUSHING, NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from .peer import Peer
    from .types import Hands, Limits

RETRY = 0.1
"""Seconds from a try without a free descriptor to the next one, unless a place comes free before."""
MOST_STEPS = 4096
"""When so many more could be tried, the shortage is over."""
SHORTAGE = 5.0
"""Seconds to wait for a descriptor when there is no place whose end could free one."""


class Line:
    """The lowest part of the desk; see `_desk`."""

    def __init__(self, limits: Limits, hands: Hands, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.hands = hands
        self.clock = clock
        self.connecting = 0
        self.holding = 0  # places: attempts, connections, and what attempts have borrowed
        self.stalled = False  # nobody can take further input
        self.later = Later(hands)
        self.do_later = self.later.add
        self._timers = Timers(limits, hands)
        self._queue: OrderedDict[Peer, None] = OrderedDict()
        self._put_off: OrderedDict[Peer, None] = OrderedDict()  # were tried, without a free descriptor
        self._room = limits.max_open  # fewer after the system has refused one
        self._step = 1  # so many more are tried next time
        self._short_since = NEVER  # no descriptor, and none of ours that could be closed

    def _may_start(self) -> bool:
        limits = self.limits
        return self.connecting < limits.max_connecting and self.holding < self._room and not self.stalled

    def _start(self, peer: Peer) -> None:
        now = self.clock()
        if peer._state is not FLUSHING:
            peer._state = CONNECTING
            peer._since = now
        if peer._lifetime:
            peer._ends = now + peer._lifetime
        peer._attempt = True
        self.connecting += 1
        self.holding += 1
        if self.hands.open(peer):
            self._timers.arm(peer)
        else:
            self._wait_for_room(peer)
            self._put_off.move_to_end(peer, last=False)

    def _start_next(self) -> None:
        while (line := self._put_off or self._queue) and self._may_start():
            self._start(line.popitem(last=False)[0])

    def _leave(self, peer: Peer) -> None:
        self._queue.pop(peer, None)
        self._put_off.pop(peer, None)

    # -- places -------------------------------------------------------------------------------------

    def borrow(self) -> bool:
        """Take a further place for an attempt, if there is one and nobody waits for it."""
        if self._queue or self._put_off or self.holding >= self._room:
            return False
        self.holding += 1
        return True

    def freed(self) -> None:
        """Take back a place that was borrowed, or whose descriptor was still to be closed."""
        self.holding -= 1
        self._short_since = NEVER
        self._start_next()

    def _wait_for_room(self, peer: Peer) -> None:
        """Put an attempt off that found no free descriptor."""
        peer._attempt = False
        peer._ends = NEVER
        self.connecting -= 1
        self.holding -= 1
        self._put_off[peer] = None
        self._room = self.holding
        self._step = 1
        now = self.clock()
        if self.holding:
            self._short_since = NEVER
        elif self._short_since == NEVER:
            self._short_since = now
        self._timers.retry_at(now + RETRY)

    def _look_for_room(self, now: float) -> list[Peer]:
        """Try again; return those that have waited for too long."""
        self._timers.retry = NEVER
        waiting = self._put_off or self._queue
        if waiting and not self.holding and self._short_since + SHORTAGE <= now:
            return [*self._put_off, *self._queue]
        over = not waiting or self._step > MOST_STEPS
        self._room = self.limits.max_open if over else min(self.holding + self._step, self.limits.max_open)
        self._step *= 2
        self._start_next()
        if self._room < self.limits.max_open and self._timers.retry == NEVER:
            self._timers.retry_at(now + RETRY)
        return []
