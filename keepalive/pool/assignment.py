"""Who gets what when something has become free, and what is done when nothing is: the place that decides.

Within a key: first come, first served; among idle connections the warmest, and a free share before any.
Between keys, when `max_open` is reached: the oldest request that no attempt stands for, over all keys that
are not full themselves. `assign` finds the next place of a free connection: the oldest request of its key,
unless an older one of another key needs its place; else it waits idle. `reconcile` brings a key in order
after any change: each attempt covers one request, the oldest first; spare attempts are bounded; and as long
as room can be made, the keys that wait for some start attempts in order of arrival. Room is made by
recalling an extra slot, by closing the coldest idle connection of all, or by giving a spare attempt up. The
parts that it asks decide nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import DEFERRED, IMMEDIATE, NEVER, CloseReason

from .connections import why_expired
from .shares import least_lent, lends, load, offer, return_share, within
from .states import (
    CHECK,
    CHECKING,
    IDLE,
    QUEUED,
    RESERVED,
    RESET,
    RESETTING,
    SERVED,
    SHARED,
    SHORT,
    VALIDATE,
    WAKE,
    Failure,
    illegal,
    move,
)
from .waitqueue import WaitQueue

if TYPE_CHECKING:
    from keepalive.base.types import Reuse

    from .connections import Connections
    from .parts import Parts
    from .records import KeyState, Shares, Slot, Waiter
    from .states import SlotState


class Assignment:
    """The decisions of one pool. See the module's preface."""

    def __init__(self, parts: Parts, connections: Connections) -> None:
        self._parts = parts
        self._connections = connections
        self._limits = parts.limits
        self._effects = parts.effects
        self._timers = parts.timers
        self._keys = parts.keys
        self._requests = parts.requests
        self._capacity = parts.capacity
        self._extra_slots = parts.extra_slots
        self._idle = parts.idle
        self._room = parts.room
        self._spares = parts.spares
        self._backoff = parts.backoff

    # -- a connection is free -------------------------------------------------------------------------

    def assign(self, slot: Slot, now: float) -> None:
        """Find the next place of a connection that has just become free."""
        if slot.shares is None:
            if (
                slot.uses >= slot.per_key.limits.max_uses
                or slot.expires <= now
                or self._parts.closed
                or self._capacity.shrunk
            ) and (reason := self._unusable(slot, now)) is not None:
                self._connections.close(slot, reason)
                return
            queue = slot.per_key.queue
            if queue is not None:
                waiter = queue.oldest_plain() if slot.uses else queue.oldest()
                if waiter is not None and not (
                    slot.uses and (queue.mixed or self._room.waiting) and self._outranked(queue, waiter)
                ):
                    self._requests.leave_queue(waiter)
                    self.reserve(waiter, slot, DEFERRED)
                    self._effects.append((WAKE, waiter))
                    return
            if slot.expires <= now:
                self._connections.expire(slot, now)
                return
        elif not self._assign_shares(slot, slot.shares, now):
            return
        # It waits idle. One whose capacity has changed may have done so before.
        if IDLE not in slot.state.next and slot.state is not IDLE:
            raise illegal(slot, IDLE)
        slot.state = IDLE
        self._idle.add(slot)
        if not slot.uses:
            self._effects.append((VALIDATE, slot))
        if self._effects.observed:
            self._effects.notify("idle", slot.per_key.key, slot.id)
        if len(self._idle.line) > self._limits.max_idle:
            self.trim(CloseReason.SURPLUS)

    def _assign_shares(self, slot: Slot, shares: Shares, now: float) -> bool:
        """Give the free shares of a connection to requests; say whether it waits idle, without a borrower."""
        per_key = slot.per_key
        ends = self._parts.closed or not lends(slot, now)
        if not shares.lent and (ends or self._capacity.exceeded(per_key)):
            reason = self._unusable(slot, now) or CloseReason.USES
            self._connections.close_taken(slot, reason)
            return False
        if ends:
            per_key.shared.pop(slot, None)
            return False
        if per_key.count > per_key.limits.max_per_host:
            offer(slot)  # lends nothing until one of the key has ended with its last share
            return False
        while shares.lent < shares.capacity and (queue := per_key.queue) is not None and lends(slot, now):
            used = slot.uses or shares.lent
            waiter = queue.oldest_plain() if used else queue.oldest()
            if waiter is None or (slot.uses and not shares.lent and self._outranked(queue, waiter)):
                break
            self._requests.leave_queue(waiter)
            self.share(waiter, slot, DEFERRED)
            self._effects.append((WAKE, waiter))
        if not shares.lent and slot.expires <= now:
            self._connections.close_taken(slot, why_expired(slot, now))
            return False
        offer(slot)
        return not shares.lent

    def trim(self, reason: CloseReason) -> None:
        """Close the least recently used of all idle connections, as long as there are too many."""
        while len(self._idle.line) > self._limits.max_idle and (coldest := self._idle.coldest()):
            self._displace(coldest, reason)

    def _displace(self, slot: Slot, reason: CloseReason) -> None:
        """Close an idle connection, of another key perhaps."""
        self._connections.close(slot, reason)
        self._fail_alone(slot.per_key)
        self.wait_for_room(slot.per_key)
        self._keys.rest(slot.per_key)

    def _unusable(self, slot: Slot, now: float) -> CloseReason | None:
        """Say what forbids to use a free connection again."""
        if self._parts.closed:
            return CloseReason.SHUTDOWN
        # One just given back, or never used, may serve whoever waits, however short its time as an idle
        # one; a used one that was given to a request and not fetched has used its time up meanwhile.
        if slot.expires <= now and (slot.retires_at <= now or (slot.uses and slot.idle_since < now)):
            return why_expired(slot, now)
        if slot.uses >= slot.per_key.limits.max_uses:
            return CloseReason.USES
        if self._capacity.exceeded(slot.per_key):
            return CloseReason.LIMIT
        return None

    def _outranked(self, queue: WaitQueue[Waiter], waiter: Waiter) -> bool:
        """Say whether somebody older, who cannot use this connection, needs its place."""
        other = queue.oldest_uncovered()
        if other is not None and other.id < waiter.id and self._backoff.allows(waiter.per_key):
            return True  # a fresh request of the same key
        first = self._room.first()
        return first is not None and first.position < waiter.id

    def reserve(self, waiter: Waiter, slot: Slot, reuse: Reuse) -> None:
        """Give a connection to a request; a never used one counts as new."""
        if RESERVED not in slot.state.next or SERVED not in waiter.state.next:  # `move`, twice a request
            raise illegal(slot, RESERVED)
        slot.state, waiter.state = RESERVED, SERVED
        slot.waiter, waiter.slot = waiter, slot
        waiter.reuse = reuse if slot.uses else None

    def share(self, waiter: Waiter, slot: Slot, reuse: Reuse) -> None:
        """Give a request a share of a connection; the first share of a never used one counts as new."""
        shares = slot.shares
        assert shares is not None, "only a shared connection has shares"
        if (slot.state is not SHARED and SHARED not in slot.state.next) or SERVED not in waiter.state.next:
            raise illegal(slot, SHARED)  # `move`, twice a request
        slot.state, waiter.state = SHARED, SERVED
        waiter.slot, waiter.reuse = slot, reuse if slot.uses or shares.lent else None
        shares.lent += 1
        shares.unfetched[waiter] = None
        offer(slot)

    def give(self, waiter: Waiter, slot: Slot, reuse: Reuse, now: float) -> None:
        """Give a request a connection, or a share of it."""
        if slot.shares is None:
            self.reserve(waiter, slot, reuse)
            return
        self.share(waiter, slot, reuse)
        if slot.per_key.limits.open_when < 1:
            self._open_ahead(slot.per_key, now)

    def unreserve(self, waiter: Waiter) -> Slot | None:
        """Take back what a request was given, if it was."""
        slot = waiter.slot
        if slot is not None:
            slot.waiter = waiter.slot = None
            if slot.shares is not None:
                del slot.shares.unfetched[waiter]
                return_share(slot)
        return slot

    def find(self, per_key: KeyState, now: float, fresh: bool) -> Slot | None:
        """Take the best that this kind of request may have at once: a free share, or an idle connection."""
        limits, slot = per_key.limits, None
        if per_key.shared and not fresh and per_key.count <= limits.max_per_host:
            if limits.open_when < 1:
                slot = least_lent(per_key, now)
            else:
                slot = next((slot for slot in per_key.shared if lends(slot, now)), None)
        if (slot is not None and not (per_key.idle or per_key.unused)) or within(slot, limits.open_when):
            return slot
        idle = self._idle.take(per_key, fresh)
        return slot if idle is None else self.pass_doubtful(idle, now, fresh) or slot

    def _open_ahead(self, per_key: KeyState, now: float) -> None:
        """Start an attempt beside shared connections that are lent beyond `open_when`, if there is room."""
        nobody = not (per_key.opening or per_key.idle or per_key.unused)
        if nobody and self._capacity.has_room(per_key) and self._backoff.allows(per_key):
            part = per_key.limits.open_when
            if not any(load(slot) <= part for slot in per_key.shared):
                self._connections.open(per_key)
                self.reconcile(per_key, now)

    def pass_doubtful(self, slot: Slot | None, now: float, fresh: bool) -> Slot | None:
        """Return this idle one that was taken, or the next one that can be handed out as it is.

        Those whose time is over are closed. One that was idle for long is checked first: then there is none.
        """
        while slot is not None and slot.trusted_until <= now:
            if slot.expires > now:
                self._check(slot, now)
                unused = slot.per_key.unused
                trusted = unused and next(reversed(unused)).trusted_until > now
                return self._idle.take(slot.per_key, fresh=True) if trusted else None
            self._connections.close_taken(slot, why_expired(slot, now))
            slot = self._idle.take(slot.per_key, fresh)
        return slot

    def take_out(self, slot: Slot) -> None:
        """Take an idle connection out of its line."""
        self._idle.remove(slot)

    # -- hooks are at work on a connection --------------------------------------------------------------

    def _check(self, slot: Slot, now: float) -> None:
        self._prepare(slot, CHECKING, now)
        self._effects.append((CHECK, slot))

    def reset(self, slot: Slot, now: float) -> None:
        """Let a connection that was given back be made fit for its next user, unless it has none."""
        reason = self._unusable(slot, now)
        if reason is not None:
            self._connections.close(slot, reason)
            return
        self._prepare(slot, RESETTING, now)
        self._effects.append((RESET, slot))

    def _prepare(self, slot: Slot, state: SlotState, now: float) -> None:
        move(slot, state)
        slot.phase, slot.phase_since = state.value[:5], now  # "check" or "reset"
        slot.per_key.preparing[slot] = None
        self._timers.set(slot, now + self._limits.check_timeout)

    def _check_idle(self, per_key: KeyState, queue: WaitQueue[Waiter], now: float) -> None:
        """Check idle connections for requests that nothing stands for, as long as there are both.

        One that is trusted was left idle for the sake of another key: it is not this one's.
        """
        while queue.plain_uncovered and (shelf := per_key.idle or per_key.unused):
            if next(reversed(shelf)).trusted_until > now:
                return
            self.pass_doubtful(self._idle.take(per_key, fresh=False), now, fresh=False)
            self._cover(per_key, queue, now)

    # -- a request waits ------------------------------------------------------------------------------

    def enqueue(self, waiter: Waiter, now: float) -> None:
        """Let a new request wait, and see whether an attempt can be started for it."""
        per_key = waiter.per_key
        queue = per_key.queue or self._queue_of(per_key)
        crowded = queue.waiting > queue.covered
        queue.append(waiter)
        self._requests.uncovered += 1
        if self._effects.observed:
            self._effects.notify("queued", per_key.key, waiter.id)
        if not crowded or per_key.idle or per_key.preparing:
            self.reconcile(per_key, now)
        # Otherwise others wait already that no attempt stands for: one more changes nothing for anybody.
        if per_key.limits.leased and not waiter.covered and waiter.state is QUEUED:
            self._effects.append((SHORT, per_key))
        if waiter.phases is not None and waiter.state is QUEUED and not waiter.covered:
            self._requests.begin_phase(waiter, now)

    def requeue(self, waiter: Waiter, now: float) -> None:
        """Find something else for a request whose reserved connection was lost."""
        other = self.find(waiter.per_key, now, waiter.fresh)
        if other is not None:
            was_there = waiter.reuse is IMMEDIATE and other.idle_since <= waiter.since
            move(waiter, QUEUED)
            self.give(waiter, other, IMMEDIATE if was_there else DEFERRED, now)
        elif waiter.deadline <= now:
            self._requests.fail(waiter, Failure.TIMEOUT)
        else:
            move(waiter, QUEUED)
            self._queue_of(waiter.per_key).put_back(waiter)
            self._requests.uncovered += not waiter.covered

    def _queue_of(self, per_key: KeyState) -> WaitQueue[Waiter]:
        """Return the queue that a request of this key is to enter."""
        self._keys.wake(per_key)
        if per_key.queue is None:
            per_key.queue = WaitQueue()
        return per_key.queue

    def fail_oldest(self, slot: Slot, failure: Failure, error: Exception | None) -> None:
        """Let a failed attempt fail the oldest request of its key, no other."""
        queue = slot.per_key.queue
        oldest = None if queue is None else queue.oldest()
        if oldest is not None:
            self._requests.leave_queue(oldest)
            oldest.error = error
            self._requests.fail(oldest, failure, slot.phase)

    # -- a key is brought in order --------------------------------------------------------------------

    def reconcile(self, per_key: KeyState, now: float) -> None:
        """Bring a key in order after a change: cover its requests, bound its spares, use the room."""
        queue = per_key.queue
        if queue is not None or per_key.opening or per_key.preconnecting:
            if queue is not None and per_key.shared:
                queue = self._lend_free(per_key, now)
            if queue is not None:
                self._cover(per_key, queue, now)
                if per_key.limits.check_after != NEVER:
                    self._check_idle(per_key, queue, now)
            for _ in range(self._spares.excess(per_key)):
                self._connections.abort(next(reversed(per_key.opening)))
        self._fail_alone(per_key)
        self._spares.note(per_key, now)
        self.wait_for_room(per_key)
        if self._room.waiting:
            self.use_room(now)
        if not per_key.count:
            self._keys.rest(per_key)

    def _lend_free(self, per_key: KeyState, now: float) -> WaitQueue[Waiter] | None:
        """Lend what was free and not lent while the key was beyond a lowered limit; return who waits then."""
        for slot in list(per_key.shared):
            if per_key.queue is not None and slot.shares is not None:
                self._assign_shares(slot, slot.shares, now)
        return per_key.queue

    def _cover(self, per_key: KeyState, queue: WaitQueue[Waiter], now: float) -> None:
        """Let each attempt stand for one request, the oldest first."""
        before = queue.covered
        for waiter in queue.balance(per_key.coming):
            if waiter.phases is not None:
                self._requests.begin_phase(waiter, now)
        self._requests.uncovered += before - queue.covered

    def _fail_alone(self, per_key: KeyState) -> None:
        """Fail the requests of a key that pauses, if nothing is open that could serve them."""
        queue = per_key.queue
        if per_key.pause is None or queue is None or per_key.count != per_key.closing:
            return
        phase, error = per_key.last_failure
        for waiter in queue.snapshot():
            self._requests.leave_queue(waiter)
            waiter.error = error
            self._requests.fail(waiter, Failure.PAUSED, phase)

    def wait_for_room(self, per_key: KeyState) -> None:
        """Let a key wait for room, or correct its position, or take it out of the line."""
        queue = per_key.queue
        position = 0
        # A full key waits too: for an extra slot, or that of an idle connection that it may not take.
        if (
            queue is not None
            and (per_key.idle or per_key.extra or not self._capacity.full_for(per_key))
            and self._backoff.allows(per_key)
        ):
            oldest = queue.oldest_uncovered()
            position = 0 if oldest is None else oldest.id
        if position != per_key.position:
            self._room.place(per_key, position)

    def use_room(self, now: float) -> None:
        """Start attempts, the oldest request first, as long as room can be made."""
        while not self._parts.closed and (per_key := self._room.first()):
            if not self._make_room(per_key):
                return
            self._connections.open(per_key)
            assert per_key.queue is not None, "who waits for room has a queue"
            self._cover(per_key, per_key.queue, now)
            self.wait_for_room(per_key)

    def _make_room(self, per_key: KeyState) -> bool:
        """Make room for one more connection of this key, if that is possible at once."""
        capacity, extra = self._capacity, self._extra_slots
        if capacity.full_for(per_key):
            if per_key.extra or not per_key.idle:
                extra.recall_one(per_key)
                return False
            self._connections.close(next(iter(per_key.idle)), CloseReason.EVICTED)
        if capacity.full and (extra.holders or extra.recalled):
            extra.recall_one(None)
            return False
        while capacity.full and (victim := self._idle.coldest()) is not None:
            self._displace(victim, CloseReason.EVICTED)
        if not capacity.full:
            return True
        self._give_up_spares()
        return False

    def _give_up_spares(self) -> None:
        """Abort spare attempts, as many as there are keys that wait for their room."""
        spares = self._spares
        while spares.keys and self._capacity.closing < self._room.waiting:
            per_key = next(iter(spares.keys))
            self._connections.abort(next(reversed(per_key.opening)))
            per_key.preconnecting = min(per_key.preconnecting, len(per_key.opening))
            if not per_key.surplus:
                spares.forget(per_key)
