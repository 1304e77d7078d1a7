"""The pool: one state machine that decides everything and does nothing.

Theory. A request for a key becomes a `Waiter`, a connection (from the start of its attempt to its
end) a `Slot`. Inputs are plain methods with the time as an argument; each one takes the books from
one consistent state to the next and appends to `effects` what the shell must do about it. Nothing
is announced and re-checked: a resource changes owner in the step that frees it.

    Waiter:  QUEUED --serve--> SERVED --claim--> CLAIMED      SERVED --cancel--> CANCELLED, and
               | timeout, failed attempt, shutdown --> FAILED   its slot goes to the next in line
    Slot:    OPENING --> RESERVED --> LENT --> RESERVED (direct hand-over) | IDLE | GONE
             OPENING --> CLOSING --> GONE (aborted)    IDLE --> RESERVED | GONE

Who gets what. Within a key: first come, first served; among idle connections the warmest. Between
keys, when `max_open` is reached: the oldest request that no attempt stands for, over all keys that
are not full themselves; room is made by calling a borrowed place back, by closing the least recently
used idle connection of all, or by giving up a spare attempt. Attempts belong to keys: whatever comes
first, a released connection or an opened one, serves the oldest request. One attempt more than requests
may live on as a spare; a warm-up starts several.

Invariants, checked by the tests after every input:

 1. opening + borrowed + reserved + lent + idle + closing = total <= max_open; likewise per key.
 2. Each slot stands in exactly one place, the one that its state names.
 3. Never a queued request beside an idle connection of its key that it could take.
 4. No lost wake-up: a request without an attempt exists only if its key is full, or pauses (10), or the
    pool is full and nothing in it is idle.
 5. A request ends once; it is woken whenever it is served later than at once, or ends other than by
    its owner's claim. (Not when what it was served with is lost: it waits again.)
 6. First come, first served within a key.
 7. When all is released and cancelled, nothing is lent, reserved or waiting.
 8. A key has at most one attempt more than requests, or as many as a warm-up started; who has more
    attempts than requests has a deadline for them.
 9. Equal inputs give equal effects.
10. While a key pauses after failures no attempt of it is started, and after the pause one at a time
    until one succeeds. A request never waits for a pause alone: it fails if nothing of its key is open.
11. Nothing is borrowed while a request waits that could use the place; what was called back is repaid
    within the step.
12. Never more than `max_idle` are idle: the least recently used of all keys goes, not the newest.

Cost: every input is O(1) in waiters, keys and connections, or O(log n) where time or arrival order must
be sorted. `shutdown` and `set_limits` pay for all there is; a request whose reserved connection is lost
passes those put back into the queue before it; calling a key's borrowed place back passes its attempts.

Alternatives refused. A semaphore and a queue per request: no place where the state is whole, a cancellation
at each await. Effects as callbacks: re-entrancy. Separate layers for limits and idle list: limits, fairness
and eviction are one decision. Booleans for states: they come to disagree. A scan of all keys: O(keys).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepalive.base.types import DEFERRED, IMMEDIATE, NEVER, CloseReason

from .records import HostState, Pause, Slot, Waiter
from .rules import Rules
from .states import (
    CANCELLED,
    CLAIMED,
    CLOSING,
    IDLE,
    LENT,
    OPENING,
    QUEUED,
    RESERVED,
    SERVED,
    WAKE,
    Failure,
    IllegalMove,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keepalive.base.types import Key

    from .states import Limits


class Pool(Rules):
    """All decisions of one manager. See the module's preface."""

    # -- requests ---------------------------------------------------------------------------------

    def submit(
        self,
        key: Key,
        now: float,
        deadline: float,
        *,
        fresh: bool = False,
        phases: tuple[float, float] | None = None,
    ) -> Waiter:
        """Enter a request; its state says whether it was served, queued or failed at once.

        `phases` are seconds that each phase may take from when it begins: while no attempt stands for the
        request, and while one does. Zero is over at the next tick.
        """
        return self.enter(self.host_of(key), now, deadline, fresh, phases)

    def enter(
        self,
        host: HostState,
        now: float,
        deadline: float,
        fresh: bool,
        phases: tuple[float, float] | None = None,
    ) -> Waiter:
        """Enter a request for a key that has a record; see `submit`."""
        waiter = Waiter()
        self.last_id = waiter.id = number = self.last_id + 1
        self.requests[number] = waiter
        waiter.host = host
        waiter.since = now
        waiter.deadline = deadline
        waiter.fresh = fresh
        waiter.entry = waiter.waker = None
        waiter.phases = None if phases is None else (deadline, *phases)
        host.counters.requests += 1
        if deadline < self.earliest:
            self.earliest = deadline
        if host.idle and not fresh:
            # The hot path: what `_take_idle` and `_reserve` do, without their calls.
            slot, _ = host.idle.popitem()
            if slot.expires > now:
                del self._lru[slot]
                if slot.entry is not None:
                    self._agenda.withdraw(slot)
                slot.state = RESERVED
                slot.waiter = waiter
                waiter.state = SERVED
                waiter.slot = slot
                waiter.reuse = IMMEDIATE
                return waiter
            host.idle[slot] = None
        waiter.state = QUEUED
        waiter.slot = waiter.reuse = None
        queue = host.queue
        alike = queue is not None and queue.waiting > queue.covered and phases is None
        if queue is not None and alike and deadline > now and not host.idle:
            # Others wait that no attempt stands for: one more changes nothing for anybody.
            queue.append(waiter)
            self.bare += 1
            if self._observed:
                self._tell("queued", host.key, number)
        else:
            self._submit(waiter, now)
        return waiter

    def _submit(self, waiter: Waiter, now: float) -> None:
        host = waiter.host
        slot = self._take_idle(host, waiter.fresh, now)
        if slot is not None:
            self._reserve(waiter, slot, IMMEDIATE)
        elif waiter.deadline <= now or self.closed:
            self._fail(waiter, Failure.SHUTDOWN if self.closed else Failure.TIMEOUT)
            self._rest(host)
        else:
            self._queue_of(host).append(waiter)
            self.bare += 1
            if self._observed:
                self._tell("queued", host.key, waiter.id)
            self._settle(host, now)
            if waiter.phases is not None and waiter.state is QUEUED:
                if not waiter.covered:
                    self._begin_phase(waiter, now)
                if waiter.deadline <= now:
                    self._time_out(waiter, now)

    def overfull(self, waiter: Waiter) -> bool:
        """Say whether this new request has no attempt and stands beyond `max_waiting`."""
        queued = waiter.state is QUEUED
        return queued and not waiter.covered and self.bare > self.limits.max_waiting

    def refuse(self, waiter: Waiter, now: float) -> None:
        """Take an overfull request out again; it counts as failed in the queue."""
        self._leave(waiter)
        self._fail(waiter, Failure.ATTEMPT)
        self._settle(waiter.host, now)

    def claim(self, waiter: Waiter, now: float) -> Slot:
        """Hand the reserved connection over to the request's owner."""
        slot = waiter.slot
        if waiter.state is not SERVED or slot is None:
            msg = f"request {waiter.id} is {waiter.state.value}, not served"
            raise IllegalMove(msg)
        slot.state = LENT
        slot.waiter = waiter.slot = None  # a request that is kept keeps no connection
        slot.uses += 1
        waiter.state = CLAIMED
        del self.requests[waiter.id]
        if waiter.entry is not None:
            self._agenda.withdraw(waiter)
        reuse, counters = waiter.reuse, slot.host.counters
        if reuse is IMMEDIATE:
            counters.immediate += 1
        elif reuse is DEFERRED:
            counters.deferred += 1
        else:
            counters.new += 1
        if self._observed:
            self._tell("lent", slot.host.key, slot.id, waiter.id, reuse, now - waiter.since)
        return slot

    def cancel(self, waiter: Waiter, now: float) -> bool:
        """Withdraw a request in any phase. False if it had ended already."""
        if waiter.state is QUEUED:
            self._leave(waiter)
        elif waiter.state is not SERVED:
            return False
        slot = self._unreserve(waiter)
        self._end(waiter, CANCELLED)
        waiter.host.counters.cancelled += 1
        self.effects.append((WAKE, waiter))
        if self._observed:
            self._tell("cancelled", waiter.host.key, waiter.id)
        if slot is not None:
            self._give(slot, now)
        self._settle(waiter.host, now)
        return True

    # -- attempts ---------------------------------------------------------------------------------

    def limit(self, slot: Slot, when: float, patience: Failure = Failure.CONNECT_TIMEOUT) -> None:
        """Set when an attempt has taken too long (`NEVER`: not yet known), and what has run out then."""
        if slot.state is OPENING:
            slot.patience = patience
            self._alarm(slot, when)

    def repay(self, slot: Slot, now: float) -> None:
        """Take back a place that an attempt had borrowed."""
        self._repaid(slot)
        self._settle(slot.host, now)

    def opened(self, slot: Slot, link: Any, now: float, lifetime: float = NEVER) -> None:
        """Take a new connection in; it serves the oldest request of its key, or waits idle."""
        self._expect(slot, OPENING)
        host = slot.host
        self._agenda.withdraw(slot)
        del host.opening[slot]
        slot.link = link
        slot.born = now
        slot.dies = now + lifetime
        host.counters.opened += 1
        self._recover(host)
        if self._observed:
            self._tell("opened", host.key, slot.id)
        self._date(slot, now, NEVER)
        self._give(slot, now)
        self._settle(host, now)

    def open_failed(self, slot: Slot, error: Exception, now: float) -> None:
        """Note that an attempt failed: the oldest request of its key fails, no other."""
        self._expect(slot, OPENING)
        host = slot.host
        self._agenda.withdraw(slot)
        del host.opening[slot]
        self._gone(slot)
        if self._observed:
            self._tell("attempt_failed", host.key, slot.id, error)
        self._fail_oldest(slot, Failure.ATTEMPT, error)
        self._note_failure(slot, error, now)
        self._settle(host, now)

    def aborted(self, slot: Slot, now: float) -> None:
        """Note that nothing is left of an attempt that was told to abort."""
        self._expect(slot, CLOSING)
        slot.host.closing -= 1
        self._closing -= 1
        self._gone(slot)
        self._settle(slot.host, now)

    def warm(self, host: HostState, ready: int, now: float) -> list[Slot]:
        """Start attempts for nobody, until so many connections are idle or on their way there.

        Only within free room: nothing is closed for them. They end as spare attempts do.
        """
        started: list[Slot] = []
        missing: float  # max_idle may be NEVER
        missing = ready - len(host.idle) - len(host.unused) - self._surplus(host)
        missing = min(missing, self.limits.max_idle - len(self._lru))
        may = not self.closed and self._may_try(host)
        while len(started) < missing and may:
            if self.total >= self.limits.max_open or host.count >= self.limits.max_per_host:
                break
            started.append(self._new_slot(host))
            may = self._may_try(host)
        if started:
            self._dormant.pop(host, None)
            host.warming = self._surplus(host)
            self._drop_spare(host)  # it is entered anew, with a later deadline
        self._settle(host, now)
        return started

    # -- connections ------------------------------------------------------------------------------

    def release(self, slot: Slot, now: float, keep_for: float = NEVER) -> None:
        """Take a connection back for reuse: it serves the next request, or waits idle."""
        if slot.state is not LENT:
            self._expect(slot, LENT)
        host = slot.host
        queue = host.queue
        limits = self.limits  # the next lines are those of `_date`, without its call
        slot.idle_since = now
        if keep_for > limits.keep_alive:
            keep_for = limits.keep_alive
        expires = now + keep_for
        if expires > slot.dies:
            expires = slot.dies
        slot.expires = expires
        alone = not (self._line.claims or self._shrunk or self.closed) and slot.uses < limits.max_uses
        if alone and queue is None and expires > now and len(self._lru) < limits.max_idle:
            # As `_shelve` has it for a used one, without its call.
            slot.state = IDLE
            slot.shelved = True
            host.idle[slot] = self._lru[slot] = None
            if expires < self._latest:
                self._agenda.enter(slot, expires)
            else:
                self._latest = expires
            if expires < self.earliest:
                self.earliest = expires
            if self._observed:
                self._tell("idle", host.key, slot.id)
        elif alone and queue is not None and slot.dies > now and (waiter := queue.pop_plain()) is not None:
            # Only plain requests of this key wait, and no attempt runs: nobody else is concerned.
            self.bare -= 1
            if not queue.waiting:
                host.queue = None
            slot.state = RESERVED
            slot.waiter = waiter
            waiter.state = SERVED
            waiter.slot = slot
            waiter.reuse = DEFERRED
            self.effects.append((WAKE, waiter))
        else:
            self._give(slot, now)
            self._settle(host, now)

    def discard(self, slot: Slot, now: float, reason: CloseReason) -> None:
        """Close a lent connection."""
        self._expect(slot, LENT)
        self._close(slot, reason)
        self._settle(slot.host, now)

    def lost(self, slot: Slot, now: float, reason: CloseReason) -> None:
        """Close a connection found unusable while idle, or while reserved for a request.

        The request then takes another idle one, or its old place in the queue.
        """
        host, waiter = slot.host, slot.waiter
        if slot.state is not RESERVED:
            self._expect(slot, IDLE)
        if waiter is not None:
            self._unreserve(waiter)
        self._close(slot, reason)
        if waiter is not None:
            self._replace(waiter, now)
        self._settle(host, now)

    def retire(self, slots: Iterable[Slot], now: float) -> int:
        """Close those that are idle, and let those that are lent or reserved close at their release."""
        closed: list[Slot] = []
        for slot in slots:
            if slot.state is IDLE:
                self._close(slot, CloseReason.RETIRED)
                closed.append(slot)
            elif slot.state is LENT or slot.state is RESERVED:
                slot.dies = slot.expires = -NEVER
        for slot in closed:
            self._settle(slot.host, now)
        return len(closed)

    # -- time, limits and the end -----------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do all that is due by `now`: timeouts, idle expiry, spare attempts."""
        self._enter_young()
        for record in self._agenda.pop_due(now):
            if isinstance(record, Waiter):
                self._time_out(record, now)
            elif isinstance(record, HostState):
                self._end_spares(record)
                self._settle(record, now)
            elif isinstance(record, Pause):
                record.host.pause = None
                self._settle(record.host, now)
            elif record.state is OPENING:
                record.dies = now  # it was overdue
                self._abort(record)
                self._fail_oldest(record, record.patience, None)
                self._note_failure(record, None, now)
                self._settle(record.host, now)
            else:
                self._expire(record, now)
                self._settle(record.host, now)
        while self._lru and (coldest := next(iter(self._lru))).expires <= now:
            self._expire(coldest, now)
            self._settle(coldest.host, now)
        self.earliest = self.next_deadline()

    def set_limits(self, limits: Limits, now: float) -> None:
        """Change the limits: what is idle beyond them closes now, what is lent at its release."""
        self.limits = limits
        for slot in list(self._lru):
            if self._over_limit(slot.host):
                self._close(slot, CloseReason.LIMIT)
        self._trim(CloseReason.LIMIT)
        for slot in list(self._borrowers):
            self._recall(slot)
        self._over = {host for host in self.hosts.values() if host.count > limits.max_per_host}
        self._shrunk = bool(self._over) or self.total > limits.max_open
        for host in self.hosts.values():
            self._stand_in_line(host)  # all of them first, so that the oldest request gets the new room
        self._use_room(now)
        for host in list(self.hosts.values()):
            self._rest(host)

    def shutdown(self, now: float) -> None:
        """Fail all requests, abort all attempts, close all idle connections; lent ones at their release."""
        self.closed = True
        for waiter in list(self.requests.values()):
            if waiter.state is QUEUED:
                self._leave(waiter)
            slot = self._unreserve(waiter)
            self._fail(waiter, Failure.SHUTDOWN)
            if slot is not None:
                self._close(slot, CloseReason.SHUTDOWN)
        for slot in list(self._lru):
            self._close(slot, CloseReason.SHUTDOWN)
        for host in list(self.hosts.values()):
            for slot in list(host.opening):
                self._abort(slot)
            self._recover(host)
            self._settle(host, now)
