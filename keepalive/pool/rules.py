"""The pool's rules: who gets what when something has become free, and what is done when nothing is.

Theory and invariants stand in the preface of `_pool`, whose inputs end here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import DEFERRED, IMMEDIATE, NEVER, CloseReason

from .books import Books
from .records import Pause
from .states import QUEUED, WAKE, Failure

if TYPE_CHECKING:
    from .records import HostState, Slot, Waiter
    from .waitqueue import WaitQueue

FIRST_PAUSE = 0.1
"""Seconds; each further failure doubles it."""
GOLDEN_RATIO = 0.618033988749895
"""Multiples of it, modulo 1, lie as far apart from each other as can be."""


class Rules(Books):
    """What follows from the books."""

    def _give(self, slot: Slot, now: float) -> None:
        """Find the next place of a connection that has just become free."""
        host = slot.host
        if self.closed:
            return self._close(slot, CloseReason.SHUTDOWN)
        # One just given back, or never used, may serve whoever waits, however short its time as an idle
        # one; a used one that was given to a request and not fetched has used its time up meanwhile.
        if slot.expires <= now and (slot.dies <= now or (slot.uses and slot.idle_since < now)):
            return self._expire(slot, now)
        if slot.uses >= self.limits.max_uses:
            return self._close(slot, CloseReason.USES)
        if self._over_limit(host):
            return self._close(slot, CloseReason.LIMIT)
        if host.queue is not None:
            waiter = host.queue.oldest_plain() if slot.uses else host.queue.oldest()
            if waiter is not None and not (slot.uses and self._outranked(host.queue, waiter)):
                self._leave(waiter)
                self._reserve(waiter, slot, DEFERRED)
                self.effects.append((WAKE, waiter))
                return None
        if slot.expires <= now:
            return self._expire(slot, now)
        self._shelve(slot)
        return self._trim(CloseReason.SURPLUS)

    def _trim(self, reason: CloseReason) -> None:
        """Close the least recently used of all idle connections, as long as there are too many."""
        while len(self._lru) > self.limits.max_idle:
            coldest = next(iter(self._lru))
            self._close(coldest, reason)
            self._fail_alone(coldest.host)
            self._rest(coldest.host)

    def _outranked(self, queue: WaitQueue, waiter: Waiter) -> bool:
        """Say whether somebody older, who cannot use this connection, needs its place."""
        bare = queue.oldest_bare()
        if bare is not None and bare.id < waiter.id and self._may_try(waiter.host):
            return True  # a fresh request of the same key
        first = self._line.first()
        return first is not None and first.claim < waiter.id

    def _settle(self, host: HostState, now: float) -> None:
        """Bring a key in order after a change: cover its requests, bound its spares, use the room."""
        queue = host.queue
        waiting = 0
        if queue is not None:
            self._cover(host, queue, now)
            waiting = queue.waiting
            if not waiting:
                host.queue = None
        if host.warming > len(host.opening):
            host.warming = len(host.opening)
        while len(host.opening) > waiting + (host.warming or 1):
            self._abort(next(reversed(host.opening)))
        self._fail_alone(host)
        if len(host.opening) > waiting:
            if host not in self._spares:
                self._spares[host] = None
                self._alarm(host, now + self.limits.spare_for)
        elif self._spares and host in self._spares:
            self._drop_spare(host)
        self._stand_in_line(host)
        if self._line.claims:
            self._use_room(now)
        self._rest(host)

    def _stand_in_line(self, host: HostState) -> None:
        """Enter the key's claim to room, or correct it, or take it back."""
        queue = host.queue
        head = None
        room = host.count < self.limits.max_per_host or host.idle or host.extra
        if queue is not None and room and self._may_try(host):
            head = queue.oldest_bare()
        number = 0 if head is None else head.id
        if number != host.claim:
            self._line.claim(host, number)

    def _may_try(self, host: HostState) -> bool:
        """Say whether one more attempt may be started: not in a pause, and alone after one."""
        return host.pause is None and (host.failures < self.limits.pause_after or not host.opening)

    def _note_failure(self, slot: Slot, error: Exception | None, now: float) -> None:
        """Count a failed attempt; a key with too many in a row is left alone for a while.

        The pause doubles each time. It is up to a quarter shorter, so that what many pools do after the
        end of one server is scattered.
        """
        host, limits = slot.host, self.limits
        if limits.pause_after == NEVER:
            return  # an error keeps much alive: the frames of its traceback
        host.trouble = slot.phase, error
        if host.pause is not None:
            return  # it was on its way when the pause began
        if now - host.failed_at > 2 * limits.max_pause:
            host.failures = 0  # what was then says nothing of now
        host.failures += 1
        host.failed_at = now
        if host.failures >= limits.pause_after and not self.closed:
            times = min(host.failures - limits.pause_after, 30)
            jitter = (self._seed + slot.id * GOLDEN_RATIO) % 1
            seconds = min(limits.max_pause, FIRST_PAUSE * 2**times) * (1 - jitter / 4)
            host.pause = Pause(host)
            self._alarm(host.pause, now + seconds)
            if self._observed:
                self._tell("paused", host.key, host.failures, seconds)

    def _recover(self, host: HostState) -> None:
        """Forget a key's failures."""
        host.failures = 0
        host.trouble = "", None
        if host.pause is not None:
            self._agenda.withdraw(host.pause)
            host.pause = None

    def _fail_alone(self, host: HostState) -> None:
        """Fail the requests of a key that pauses, if nothing is open that could serve them."""
        queue = host.queue
        if host.pause is None or queue is None or host.count != host.closing:
            return
        phase, error = host.trouble
        for waiter in queue.snapshot():
            self._leave(waiter)
            waiter.error = error
            self._fail(waiter, Failure.PAUSED, phase)
        host.queue = None

    def _surplus(self, host: HostState) -> int:
        """Return how many attempts nobody waits for."""
        return max(0, len(host.opening) - (host.queue.waiting if host.queue is not None else 0))

    def _end_spares(self, host: HostState) -> None:
        """Give up the attempts that nobody waits for."""
        host.warming = 0
        for _ in range(self._surplus(host)):
            self._abort(next(reversed(host.opening)))

    def _use_room(self, now: float) -> None:
        """Start attempts, oldest claim first, as long as room can be made."""
        while not self.closed and (host := self._line.first()):
            if not self._make_room(host):
                return
            self._new_slot(host)
            assert host.queue is not None, "who claims room has a queue"
            self._cover(host, host.queue, now)
            self._stand_in_line(host)

    def _make_room(self, host: HostState) -> bool:
        """Make room for one more connection of this key, if that is possible at once."""
        if host.count >= self.limits.max_per_host:
            # It stands in line all the same: for a borrowed place, or that of an idle one it may not take.
            if host.extra or not host.idle:
                return self._recall_one(host)
            self._close(next(iter(host.idle)), CloseReason.EVICTED)
        if self.total >= self.limits.max_open and (self._borrowers or self._recalled):
            return self._recall_one(None)
        while self.total >= self.limits.max_open and self._lru:
            victim = next(iter(self._lru))
            self._close(victim, CloseReason.EVICTED)
            self._fail_alone(victim.host)
            self._rest(victim.host)
        if self.total < self.limits.max_open:
            return True
        while self._spares and self._closing < self._line.claims:
            spare = next(iter(self._spares))
            self._abort(next(reversed(spare.opening)))
            spare.warming = min(spare.warming, len(spare.opening))
            if not self._surplus(spare):
                self._drop_spare(spare)
        return False

    def _replace(self, waiter: Waiter, now: float) -> None:
        """Find something else for a request whose reserved connection was lost."""
        host = waiter.host
        other = self._take_idle(host, waiter.fresh, now)
        if other is not None:
            was_there = waiter.reuse is IMMEDIATE and other.idle_since <= waiter.since
            self._reserve(waiter, other, IMMEDIATE if was_there else DEFERRED)
        elif waiter.deadline <= now:
            self._fail(waiter, Failure.TIMEOUT)
        else:
            waiter.state = QUEUED
            self._queue_of(host).put_back(waiter)
            self.bare += not waiter.covered

    def _fail_oldest(self, slot: Slot, failure: Failure, error: Exception | None) -> None:
        oldest = slot.host.queue.oldest() if slot.host.queue is not None else None
        if oldest is not None:
            self._leave(oldest)
            oldest.error = error
            self._fail(oldest, failure, slot.phase)

    def _time_out(self, waiter: Waiter, now: float) -> None:
        host, phase = waiter.host, "queue"
        if waiter.state is QUEUED:
            if waiter.covered:
                attempt = next(iter(host.opening))
                phase = attempt.phase
                waiter.phase_since = max(attempt.born, waiter.since)
            self._leave(waiter)
        slot = self._unreserve(waiter)
        self._fail(waiter, Failure.TIMEOUT, phase)
        if slot is not None:
            self._give(slot, now)
        self._settle(host, now)
