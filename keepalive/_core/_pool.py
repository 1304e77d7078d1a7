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
are not full themselves; room is made by closing the least recently used idle connection of all, or
by giving up a spare attempt. Attempts belong to keys: whatever comes first, a released connection or
an opened one, serves the oldest request. One attempt more than requests may live on as a spare.

Invariants, checked by the tests after every input:

 1. opening + reserved + lent + idle + closing = total <= max_open; likewise per key.
 2. Each slot stands in exactly one place, the one that its state names.
 3. Never a queued request beside an idle connection of its key that it could take.
 4. No lost wake-up: a request without an attempt exists only if its key is full, or the pool is
    full and nothing in it is idle.
 5. A request ends once; it is woken whenever it is served later than at once, or ends other than by
    its owner's claim. (Not when what it was served with is lost: it waits again.)
 6. First come, first served within a key.
 7. When all is released and cancelled, nothing is lent, reserved or waiting.
 8. A key has at most one attempt more than requests, and that one has a deadline.
 9. Equal inputs give equal effects.

Cost: every input is O(1) in waiters, keys and connections, or O(log n) where time or arrival order
must be sorted. `shutdown` and `set_limits` pay for all there is; a request whose reserved connection is
lost passes those that were put back into the queue before it.

Alternatives refused. A semaphore and a queue per request (the usual recipe): no place where the state
is whole, and a cancellation at each await. Effects as callbacks: re-entrancy. Separate layers for limits
and idle list: both limits, fairness and eviction are one decision over one state. Booleans per
connection instead of states: they come to disagree. A scan of all keys at each release: O(keys).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._books import Books
from ._records import HostState, Slot, Waiter
from ._types import (
    CANCELLED,
    CLAIMED,
    CLOSING,
    DEFERRED,
    IDLE,
    IMMEDIATE,
    LENT,
    NEVER,
    OPENING,
    QUEUED,
    RESERVED,
    SERVED,
    WAKE,
    CloseReason,
    Failure,
    IllegalMove,
)

if TYPE_CHECKING:
    from ._queue import WaitQueue
    from ._types import Key, Limits


class Pool(Books):
    """All decisions of one manager. See the module's preface."""

    # -- requests ---------------------------------------------------------------------------------

    def submit(self, key: Key, now: float, deadline: float, *, fresh: bool = False) -> Waiter:
        """Enter a request; its state says whether it was served, queued or failed at once."""
        return self.enter(self.host_of(key), now, deadline, fresh)

    def enter(self, host: HostState, now: float, deadline: float, fresh: bool) -> Waiter:
        """Enter a request for a key that has a record; see `submit`."""
        waiter = Waiter()
        self.last_id = waiter.id = number = self.last_id + 1
        self.requests[number] = waiter
        waiter.host = host
        waiter.since = now
        waiter.deadline = deadline
        waiter.fresh = fresh
        waiter.entry = waiter.waker = None
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
        if queue is not None and queue.waiting > queue.covered and deadline > now and not host.idle:
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

    def resolved(self, slot: Slot, now: float) -> None:
        """Note that the attempt's name is known: `connect_timeout` starts."""
        if slot.state is OPENING:
            self._alarm(slot, now + self.limits.connect_timeout)

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
        self._settle(host, now)

    def aborted(self, slot: Slot, now: float) -> None:
        """Note that nothing is left of an attempt that was told to abort."""
        self._expect(slot, CLOSING)
        slot.host.closing -= 1
        self._closing -= 1
        self._gone(slot)
        self._settle(slot.host, now)

    # -- connections ------------------------------------------------------------------------------

    def release(self, slot: Slot, now: float, keep_for: float = NEVER) -> None:
        """Take a connection back for reuse: it serves the next request, or waits idle."""
        if slot.state is not LENT:
            self._expect(slot, LENT)
        host = slot.host
        queue = host.queue
        # As `_date` has it, without its call.
        limits = self.limits
        slot.idle_since = now
        if keep_for > limits.keep_alive:
            keep_for = limits.keep_alive
        expires = now + keep_for
        if expires > slot.dies:
            expires = slot.dies
        slot.expires = expires
        alone = not (self._line.claims or self._shrunk or self.closed) and slot.uses < limits.max_uses
        if alone and queue is None and expires > now:
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

    # -- time, limits and the end -----------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do all that is due by `now`: timeouts, idle expiry, spare attempts."""
        self._enter_young()
        for record in self._agenda.pop_due(now):
            if isinstance(record, Waiter):
                self._time_out(record, now)
            elif isinstance(record, HostState):
                self._abort(next(reversed(record.opening)))
                self._settle(record, now)
            elif record.state is OPENING:
                self._abort(record)
                self._fail_oldest(record, Failure.CONNECT_TIMEOUT, None)
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
        self._shrunk = any(self._over_limit(host) for host in self.hosts.values())
        for host in self.hosts.values():
            self._stand_in_line(host)  # all of them first, so that the oldest request gets the new room
        self._use_room()
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
            self._settle(host, now)

    # -- the rules --------------------------------------------------------------------------------

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
        return self._shelve(slot)

    def _over_limit(self, host: HostState) -> bool:
        return self.total > self.limits.max_open or host.count > self.limits.max_per_host

    def _outranked(self, queue: WaitQueue, waiter: Waiter) -> bool:
        """Say whether somebody older, who cannot use this connection, needs its place."""
        bare = queue.oldest_bare()
        if bare is not None and bare.id < waiter.id:
            return True  # a fresh request of the same key
        first = self._line.first()
        return first is not None and first.claim < waiter.id

    def _settle(self, host: HostState, now: float) -> None:
        """Bring a key in order after a change: cover its requests, bound its spares, use the room."""
        queue = host.queue
        waiting = 0
        if queue is not None:
            self._cover(host, queue)
            waiting = queue.waiting
            if not waiting:
                host.queue = None
        while len(host.opening) > waiting + 1:
            self._abort(next(reversed(host.opening)))
        if len(host.opening) > waiting:
            if host not in self._spares:
                self._spares[host] = None
                self._alarm(host, now + self.limits.spare_for)
        elif self._spares and host in self._spares:
            self._drop_spare(host)
        self._stand_in_line(host)
        if self._line.claims:
            self._use_room()
        self._rest(host)

    def _stand_in_line(self, host: HostState) -> None:
        """Enter the key's claim to room, or correct it, or take it back."""
        queue = host.queue
        head = None
        if queue is not None and (host.count < self.limits.max_per_host or host.idle):
            head = queue.oldest_bare()
        number = 0 if head is None else head.id
        if number != host.claim:
            self._line.claim(host, number)

    def _use_room(self) -> None:
        """Start attempts, oldest claim first, as long as room can be made."""
        while not self.closed and (host := self._line.first()):
            if not self._make_room(host):
                return
            self._new_slot(host)
            assert host.queue is not None, "who claims room has a queue"
            self._cover(host, host.queue)
            self._stand_in_line(host)

    def _make_room(self, host: HostState) -> bool:
        """Make room for one more connection of this key, if that is possible at once."""
        if host.count >= self.limits.max_per_host:
            # It stands in line all the same: a fresh request, beside idle ones it may not take.
            self._close(next(iter(host.idle)), CloseReason.EVICTED)
        while self.total >= self.limits.max_open and self._lru:
            victim = next(iter(self._lru))
            self._close(victim, CloseReason.EVICTED)
            self._rest(victim.host)
        if self.total < self.limits.max_open:
            return True
        while self._spares and self._closing < self._line.claims:
            spare = next(iter(self._spares))
            self._drop_spare(spare)
            self._abort(next(reversed(spare.opening)))
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
                phase = next(iter(host.opening)).phase
            self._leave(waiter)
        slot = self._unreserve(waiter)
        self._fail(waiter, Failure.TIMEOUT, phase)
        if slot is not None:
            self._give(slot, now)
        self._settle(host, now)
