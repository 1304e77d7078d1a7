"""The pool: one state machine that decides everything and does nothing.

Theory. A request for a key becomes a `Waiter`, a connection (from the start of its attempt to its end) a
`Slot`. Inputs are plain methods with the time as an argument; each one takes the pool from one consistent
state to the next and appends to `effects` what the driver must do about it. Nothing is announced and
re-checked: a resource changes owner in the step that frees it.

    Waiter:  QUEUED --serve--> SERVED --claim--> CLAIMED      SERVED --cancel--> CANCELLED, and
               | timeout, failed attempt, shutdown --> FAILED   its slot goes to the next in line
    Slot:    OPENING --> RESERVED --> LENT --> RESERVED (direct hand-over) | IDLE | GONE
             OPENING --> CLOSING --> GONE (aborted)    IDLE --> RESERVED | GONE
      hooks: LENT --> RESETTING, IDLE --> CHECKING --> RESERVED | IDLE | GONE    any --> CLOSING (goodbye)
      shares: OPENING | IDLE --> SHARED --> IDLE | GONE

Who gets what is told in `assignment`. Attempts belong to keys: whatever comes first, a released connection
or an opened one, serves the oldest request. One attempt more than requests may live on as a spare.

Parts. `Assignment` decides, `Connections` begins and ends slots; `RoomQueue` (the line of keys), `WaitQueue`
(the line in a key), `IdleConnections`, `Capacity` with `ExtraSlots`, `Spares`, `Backoff`, `Timers`,
`Requests` and `Keys` answer their questions, each with its own invariants. This class is their sum: the
inputs. `sharing`, `hooks` and `leases` have inputs of their own; what is done by the clock is in `Due`.

Invariants, checked by the tests after every input:

 1. opening + extra + reserved + lent + idle + closing = total <= max_open; likewise per key.
 2. Each slot stands in exactly one place, the one that its state names.
 3. Never a queued request beside an idle connection of its key that it could take.
 4. No lost wake-up: a request without an attempt exists only if its key is full, or pauses (10), or the
    pool is full and nothing in it is idle.
 5. A request ends once; it is woken whenever it is served later than at once, or ends other than by
    its owner's claim. (Not when what it was served with is lost: it waits again.)
 6. First come, first served within a key.
 7. When all is released and cancelled, nothing is lent, reserved or waiting.
 8. A key has at most one attempt more than requests, or a preconnect's; who has more has a deadline for them.
 9. Equal inputs give equal effects.
10. While a key pauses after failures no attempt of it is started, and after the pause one at a time
    until one succeeds. A request never waits for a pause alone: it fails if nothing of its key is open.
11. No attempt has an extra slot while a request waits that could use it; what was recalled is given back
    within the step.
12. Never more than `max_idle` are idle: the least recently used of all keys goes, not the newest.
13. A connection that is checked or reset stands for a request, as an attempt does, and has a deadline. An
    attempt of a key whose connections are shared stands for as many requests as the last one had shares.
14. Never are more shares lent than the capacity was when the last one was; never is there a free share beside
    a queued request that could take it.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from keepalive.base.types import DEFERRED, IMMEDIATE, NEVER, CloseReason

from .assignment import Assignment
from .connections import Connections
from .due import Due
from .hooks import Hooks
from .leases import Leases
from .parts import Parts
from .records import KeyState, Slot, Waiter
from .shares import stop_lending
from .sharing import Sharing
from .states import (
    CANCELLED,
    CHECKING,
    CLAIMED,
    CLOSING,
    GONE,
    IDLE,
    LENT,
    OPENING,
    QUEUED,
    RESERVED,
    RESETTING,
    SERVED,
    SHARED,
    WAKE,
    Failure,
    illegal,
    move,
    plain_limits,
    unexpected,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keepalive.base.types import Key

    from .states import Limits, LimitsOf, SlotState


class Pool:
    """All decisions of one manager. See the module's preface.

    :param limits: copied; `set_limits` changes them
    :param limits_of: the bounds of each key
    :param observed: whether effects for an observer are wanted
    :param seed: 0 to 1; see `Backoff`
    """

    def __init__(
        self,
        limits: Limits,
        *,
        limits_of: LimitsOf = plain_limits,
        observed: bool = False,
        seed: float = 0.0,
    ) -> None:
        self._parts = parts = Parts(replace(limits), limits_of, observed=observed, seed=seed)
        self._connections = connections = Connections(parts)
        self._assignment = assignment = Assignment(parts, connections)
        self.sharing = Sharing(parts, assignment, connections)
        self.hooks = Hooks(assignment, connections)
        self._due = Due(parts, assignment, connections, self.hooks)
        self.leases = Leases(parts, assignment, connections, self.sharing)
        self.limits = parts.limits
        self.effects = parts.effects
        self.timers = parts.timers
        self.keys = parts.keys
        self.requests = parts.requests
        self.capacity = parts.capacity
        self.extra_slots = parts.extra_slots
        self.idle = parts.idle
        self.room = parts.room
        self.spares = parts.spares
        self.backoff = parts.backoff

    @property
    def closed(self) -> bool:
        """Whether it was shut down."""
        return self._parts.closed

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
        """Enter a request; see `enter`."""
        return self.enter(self.keys.of(key), now, deadline, fresh, phases)

    def enter(
        self,
        per_key: KeyState,
        now: float,
        deadline: float,
        fresh: bool,
        phases: tuple[float, float] | None = None,
    ) -> Waiter:
        """Enter a request; its state says whether it was served, queued or failed at once.

        `phases` are seconds that each phase may take from when it begins: while no attempt stands for the
        request, and while one does. Zero is over at once.
        """
        assignment, requests = self._assignment, self.requests
        requests.last_id = number = requests.last_id + 1
        waiter = requests.open[number] = Waiter(number, per_key, now, deadline, fresh, phases)
        per_key.counters.requests += 1
        if deadline < self.timers.earliest:
            self.timers.earliest = deadline
        if per_key.shared:
            slot = assignment.find(per_key, now, fresh)
        else:
            slot = self.idle.take(per_key, fresh)
            if slot is not None and slot.trusted_until <= now:
                slot = assignment.pass_doubtful(slot, now, fresh)
        if slot is not None:
            assignment.give(waiter, slot, IMMEDIATE, now)
        elif deadline <= now or self._parts.closed:
            self.requests.fail(waiter, Failure.SHUTDOWN if self._parts.closed else Failure.TIMEOUT)
            assignment.reconcile(per_key, now)  # what it passed may have changed
        else:
            assignment.enqueue(waiter, now)
            if waiter.state is QUEUED and waiter.deadline <= now:
                self._due.time_out(waiter, now)
        return waiter

    def overfull(self, waiter: Waiter) -> bool:
        """Say whether this new request has no attempt and stands beyond `max_waiting`."""
        waits = waiter.state is QUEUED and not waiter.covered
        return waits and self.requests.uncovered > self.limits.max_waiting

    def refuse(self, waiter: Waiter, now: float) -> None:
        """Take an overfull request out again; it counts as failed in the queue."""
        self.requests.leave_queue(waiter)
        self.requests.fail(waiter, Failure.ATTEMPT)
        self._assignment.reconcile(waiter.per_key, now)

    def claim(self, waiter: Waiter, now: float) -> Slot:
        """Hand the reserved connection over to the request's owner."""
        slot = waiter.slot
        if slot is None:
            raise unexpected(waiter, SERVED)
        if slot.shares is not None:
            del slot.shares.unfetched[waiter]
        elif LENT not in slot.state.next:
            raise illegal(slot, LENT)
        else:
            slot.state = LENT
        slot.waiter = waiter.slot = None  # a request that is kept keeps no connection
        slot.uses += 1
        self.requests.end(waiter, CLAIMED)
        reuse, counters = waiter.reuse, slot.per_key.counters
        if reuse is IMMEDIATE:
            counters.immediate += 1
        elif reuse is DEFERRED:
            counters.deferred += 1
        else:
            counters.new += 1
        if self.effects.observed:
            self.effects.notify("lent", slot.per_key.key, slot.id, waiter.id, reuse, now - waiter.since)
        return slot

    def cancel(self, waiter: Waiter, now: float) -> bool:
        """Withdraw a request in any phase. False if it had ended already."""
        if waiter.state is QUEUED:
            self.requests.leave_queue(waiter)
        elif waiter.state is not SERVED:
            return False
        slot = self._assignment.unreserve(waiter)
        self.requests.end(waiter, CANCELLED)
        waiter.per_key.counters.cancelled += 1
        self.effects.append((WAKE, waiter))
        self.effects.notify("cancelled", waiter.per_key.key, waiter.id)
        if slot is not None:
            self._assignment.assign(slot, now)
        self._assignment.reconcile(waiter.per_key, now)
        return True

    # -- attempts ---------------------------------------------------------------------------------

    def enter_phase(self, slot: Slot, phase: str, now: float) -> None:
        """Note what an attempt is doing from now on."""
        slot.phase, slot.phase_since = phase, now

    def limit(self, slot: Slot, when: float, overdue: Failure = Failure.CONNECT_TIMEOUT) -> None:
        """Set when an attempt has taken too long (`NEVER`: not yet known), and what has run out then."""
        if slot.state is OPENING or (slot.state is CLOSING and slot.link is not None):
            slot.overdue = overdue
            self.timers.set(slot, when)

    def take_extra(self, slot: Slot) -> bool:
        """Give an attempt a slot for one more socket, if there is room; see `ExtraSlots`."""
        return self.extra_slots.take(slot)

    def give_back_extra(self, slot: Slot, now: float) -> None:
        """Take back such a slot."""
        self.extra_slots.give_back(slot)
        self._assignment.reconcile(slot.per_key, now)

    def opened(
        self, slot: Slot, link: Any, now: float, lifetime: float = NEVER, capacity: int | None = None
    ) -> None:
        """Take a new connection in; it serves the oldest request of its key, or waits idle.

        :param capacity: how many requests may share it; None: it has one user at a time
        """
        _expect(slot, OPENING)
        per_key = slot.per_key
        self._connections.leave_opening(slot)
        slot.link = link
        slot.opened_at = now
        slot.retires_at = now + lifetime
        per_key.counters.opened += 1
        self.backoff.reset(per_key)
        self.effects.notify("opened", per_key.key, slot.id)
        slot.idle_since = now
        slot.expires = min(now + per_key.limits.keep_alive, slot.retires_at)
        slot.trusted_until = min(slot.expires, now + per_key.limits.check_after)
        self.sharing.begin(slot, capacity)
        self._assignment.assign(slot, now)
        self._assignment.reconcile(per_key, now)

    def open_failed(self, slot: Slot, error: Exception, now: float) -> None:
        """Note that an attempt failed: the oldest request of its key fails, no other."""
        _expect(slot, OPENING)
        per_key = slot.per_key
        self._connections.leave_opening(slot)
        move(slot, GONE)
        self.capacity.remove(per_key)
        self.effects.notify("attempt_failed", per_key.key, slot.id, error)
        self._assignment.fail_oldest(slot, Failure.ATTEMPT, error)
        self.backoff.failed(slot, error, now, closed=self.closed)
        self._assignment.reconcile(per_key, now)

    def aborted(self, slot: Slot, now: float) -> None:
        """Note that nothing is left of an attempt that was told to abort."""
        _expect(slot, CLOSING)
        move(slot, GONE)
        self.capacity.end_closing(slot.per_key)
        self._assignment.reconcile(slot.per_key, now)

    def preconnect(self, per_key: KeyState, ready: int, now: float) -> list[Slot]:
        """Start attempts for nobody, until so many connections are idle or on their way there.

        Only within free room: nothing is closed for them. They end as spare attempts do.
        """
        started: list[Slot] = []
        missing: float = ready - len(per_key.idle) - len(per_key.unused) - per_key.surplus
        missing = min(missing, self.limits.max_idle - len(self.idle.line))
        while len(started) < missing and not self.closed and self.backoff.allows(per_key):
            if not self.capacity.has_room(per_key):
                break
            started.append(self._connections.open(per_key))
        if started:
            self.keys.wake(per_key)
            per_key.preconnecting = per_key.surplus
            self.spares.forget(per_key)  # it is entered anew, with a later deadline
        self._assignment.reconcile(per_key, now)
        return started

    # -- connections ------------------------------------------------------------------------------

    def release(self, slot: Slot, now: float, keep_for: float = NEVER) -> None:
        """Take a connection back for reuse: it serves the next request, or waits idle."""
        if slot.state is not LENT:
            _expect(slot, LENT)
        assignment, per_key = self._assignment, slot.per_key
        limits = per_key.limits
        if keep_for > limits.keep_alive:
            keep_for = limits.keep_alive
        slot.idle_since = now
        slot.expires = slot.trusted_until = expires = now + keep_for
        if expires > slot.retires_at:
            slot.expires = slot.trusted_until = slot.retires_at
        if now + limits.check_after < slot.trusted_until:
            slot.trusted_until = now + limits.check_after
        if limits.resets:
            assignment.reset(slot, now)
        else:
            assignment.assign(slot, now)
        # While it stays open, nothing else can change, unless the key has an attempt that could be one too
        # many now, or a request that it leaves waiting beside itself, or a key waits for room.
        state = slot.state
        if (
            per_key.opening
            or per_key.preparing
            or self.room.waiting
            or (state is not RESERVED and (per_key.queue is not None or state is not IDLE))
        ):
            assignment.reconcile(per_key, now)

    def discard(self, slot: Slot, now: float, reason: CloseReason) -> None:
        """Close a lent connection."""
        _expect(slot, LENT)
        self._connections.close(slot, reason, abruptly=True)
        self._assignment.reconcile(slot.per_key, now)

    def lost(self, slot: Slot, now: float, reason: CloseReason) -> None:
        """Close an idle or reserved connection; its request takes another, or its old place in the queue."""
        waiter = slot.waiter
        _expect(slot, IDLE if waiter is None else RESERVED)
        if waiter is not None:
            self._assignment.unreserve(waiter)
        self._connections.close(slot, reason)
        if waiter is not None:
            self._assignment.requeue(waiter, now)
        self._assignment.reconcile(slot.per_key, now)

    def retire(self, slots: Iterable[Slot], now: float) -> int:
        """Close those that are idle, and let those that are lent or reserved close at their release."""
        closed, count = list[Slot](), 0
        for slot in slots:
            if slot.state is IDLE:
                self._connections.close(slot, CloseReason.RETIRED)
                closed.append(slot)
                count += 1
            elif slot.state is SHARED:
                stop_lending(slot)
                closed.append(slot)
            elif slot.state in (LENT, RESERVED, CHECKING, RESETTING):
                slot.retires_at = slot.expires = -NEVER
        for slot in closed:
            self._assignment.reconcile(slot.per_key, now)
        return count

    def evict_coldest(self, now: float) -> bool:
        """Close the coldest idle connection if a request waits; return whether there was one."""
        victim = self.idle.coldest()
        if victim is None or not any(waiter.state is QUEUED for waiter in self.requests.open.values()):
            return False
        self._connections.close(victim, CloseReason.EVICTED)
        self._assignment.reconcile(victim.per_key, now)
        return True

    # -- time, limits and the end -----------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do all that is due by `now`: timeouts, idle expiry, spare attempts, pauses, hooks."""
        self._due.tick(now)

    def next_deadline(self) -> float:
        """Return the exact time of the next thing due, or `NEVER`."""
        return self._due.next()

    def set_limits(self, limits: Limits, now: float) -> None:
        """Change the limits: what is idle beyond them closes now, what is lent at its release."""
        for field in fields(limits):
            setattr(self.limits, field.name, getattr(limits, field.name))
        self.keys.relimit()
        assignment, connections, states = self._assignment, self._connections, self.keys.states
        for slot in list(self.idle.line):
            if self.capacity.exceeded(slot.per_key):
                connections.close(slot, CloseReason.LIMIT)
        assignment.trim(CloseReason.LIMIT)
        for slot in list(self.extra_slots.holders):
            self.extra_slots.recall(slot)
        self.capacity.measure(states.values())
        for per_key in states.values():
            assignment.wait_for_room(per_key)  # all of them first: the oldest request gets the new room
        assignment.use_room(now)
        for per_key in list(states.values()):
            self.keys.rest(per_key)

    def shutdown(self, now: float) -> None:
        """Fail all requests, abort all attempts, close all idle connections; lent ones at their release."""
        assignment, connections = self._assignment, self._connections
        self._parts.closed = True
        for waiter in list(self.requests.open.values()):
            if waiter.state is QUEUED:
                self.requests.leave_queue(waiter)
            slot = assignment.unreserve(waiter)
            self.requests.fail(waiter, Failure.SHUTDOWN)
            if slot is not None:
                assignment.assign(slot, now)  # to nobody
        for slot in list(self.idle.line):
            connections.close(slot, CloseReason.SHUTDOWN)
        for per_key in list(self.keys.states.values()):
            for slot in list(per_key.opening):
                connections.abort(slot)
            for slot in list(per_key.preparing):
                connections.close(slot, CloseReason.SHUTDOWN, abruptly=True)
            self.backoff.reset(per_key)
            assignment.reconcile(per_key, now)


def _expect(slot: Slot, state: SlotState) -> None:
    """Refuse an input for a connection that is in another state."""
    if slot.state is not state:
        raise unexpected(slot, state)
