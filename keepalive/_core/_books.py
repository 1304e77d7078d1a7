"""The pool's books: what stands where, and the moves that keep every count equal to what it counts.

No rule about who gets what is in here; those are in `_pool`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from ._agenda import Agenda
from ._records import Counters, HostState, Slot, Waiter
from ._types import (
    CLOSING,
    FAILED,
    GONE,
    IDLE,
    NEVER,
    RESERVED,
    SERVED,
    SLOT_MOVES,
    CloseReason,
    Do,
    Failure,
    IllegalMove,
    SlotState,
    WaiterState,
)

if TYPE_CHECKING:
    from ._types import Key, Limits, Reuse

DORMANT_KEYS = 1024
"""Keys without connections or requests whose totals are still kept apart."""


class Books:
    """All records of one pool."""

    def __init__(self, limits: Limits, *, observed: bool) -> None:
        self.limits = limits
        self.effects: deque[tuple[Do, Any]] = deque()
        self.earliest = NEVER  # a lower bound of the next moment `tick` is wanted
        self.total = 0  # slots of any state but GONE
        self.bare = 0  # queued requests that no attempt stands for
        self.last_id = 0
        self.closed = False
        self.hosts: dict[Key, HostState] = {}
        self.requests: dict[int, Waiter] = {}  # not yet ended, oldest first
        self.past = Counters()  # of keys that have been forgotten
        self._observed = observed
        self._slots = 0
        self._closing = 0
        self._seen = 0  # requests up to this number have their deadlines in the agenda
        self._lru: OrderedDict[Slot, None] = OrderedDict()  # all idle ones, the coldest first
        self._latest = 0.0  # no idle one outside the agenda expires before those ahead of it
        self._agenda: Agenda[Waiter | Slot | HostState] = Agenda()
        self._dormant: OrderedDict[HostState, None] = OrderedDict()

    # -- requests ---------------------------------------------------------------------------------

    def _reserve(self, waiter: Waiter, slot: Slot, reuse: Reuse) -> None:
        """Give a connection to a request; a never used one counts as new."""
        slot.state = RESERVED
        slot.waiter = waiter
        waiter.state = SERVED
        waiter.slot = slot
        waiter.reuse = reuse if slot.uses else None

    def _leave(self, waiter: Waiter) -> None:
        """Take a request out of its queue."""
        queue = waiter.host.queue
        assert queue is not None, "a queued request has a queue"
        if not waiter.covered:
            self.bare -= 1
        queue.remove(waiter)

    def _end(self, waiter: Waiter, state: WaiterState) -> None:
        waiter.state = state
        del self.requests[waiter.id]
        self._agenda.withdraw(waiter)

    def _fail(self, waiter: Waiter, failure: Failure, phase: str = "queue") -> None:
        waiter.failure = failure
        waiter.phase = phase
        self._end(waiter, FAILED)
        counters = waiter.host.counters
        if failure is Failure.ATTEMPT or failure is Failure.SHUTDOWN:
            where = waiter.phase if failure is Failure.ATTEMPT else "shutdown"
            counters.failed[where] = counters.failed.get(where, 0) + 1
        else:
            counters.timeouts += 1
        self.effects.append((Do.WAKE, waiter))
        if self._observed:
            self._tell("failed", waiter.host.key, waiter.id, failure.value, phase)

    # -- connections ------------------------------------------------------------------------------

    def _expect(self, slot: Slot, state: SlotState, to: SlotState) -> None:
        """Refuse an input that the table does not allow for this slot."""
        if slot.state is not state or to not in SLOT_MOVES[state]:
            msg = f"connection {slot.id} is {slot.state.value}, not {state.value}"
            raise IllegalMove(msg)

    def _shelve(self, slot: Slot) -> None:
        """Put a connection among the idle ones, until its `expires`."""
        slot.state = IDLE
        host = slot.host
        (host.idle if slot.uses else host.unused)[slot] = None
        self._lru[slot] = None
        expires = slot.expires
        if expires < self._latest:
            self._agenda.enter(slot, expires)  # sooner than its place among the idle ones tells
        else:
            self._latest = expires
        if expires < self.earliest:
            self.earliest = expires
        if self._observed:
            self._tell("idle", host.key, slot.id)

    def _unshelve(self, slot: Slot) -> None:
        host = slot.host
        del (host.idle if slot.uses else host.unused)[slot]
        del self._lru[slot]
        if slot.due != NEVER:
            self._agenda.withdraw(slot)

    def _take_idle(self, host: HostState, fresh: bool, now: float) -> Slot | None:
        """Take the warmest idle connection that this kind of request may have."""
        while True:
            shelf = host.unused if fresh or not host.idle else host.idle
            if not shelf:
                return None
            slot = next(reversed(shelf))
            if slot.expires > now:
                self._unshelve(slot)
                return slot
            self._expire(slot, now)

    def _expire(self, slot: Slot, now: float) -> None:
        self._close(slot, CloseReason.LIFETIME if slot.dies <= now else CloseReason.EXPIRED)

    def _close(self, slot: Slot, reason: CloseReason) -> None:
        """End a connection that is open, wherever it stands."""
        if slot.state is IDLE:
            self._unshelve(slot)
        self._gone(slot)
        closed = slot.host.counters.closed
        closed[reason] = closed.get(reason, 0) + 1
        self.effects.append((Do.CLOSE, slot))
        if self._observed:
            self._tell("closed", slot.host.key, slot.id, reason)

    def _abort(self, slot: Slot) -> None:
        """Give an attempt up; it counts until the shell reports that nothing is left of it."""
        host = slot.host
        del host.opening[slot]
        self._agenda.withdraw(slot)
        slot.state = CLOSING
        host.closing += 1
        self._closing += 1
        self.effects.append((Do.ABORT, slot))
        if self._observed:
            self._tell("attempt_aborted", host.key, slot.id)

    def _new_slot(self, host: HostState) -> None:
        self._slots += 1
        slot = Slot(self._slots, host)
        host.opening[slot] = None
        host.count += 1
        self.total += 1
        self.effects.append((Do.OPEN, slot))
        if self._observed:
            self._tell("opening", host.key, slot.id)

    def _gone(self, slot: Slot) -> None:
        slot.state = GONE
        slot.host.count -= 1
        self.total -= 1

    # -- keys, time, telling ----------------------------------------------------------------------

    def _alarm(self, record: Slot | HostState, when: float) -> None:
        self._agenda.enter(record, when)
        self.earliest = min(self.earliest, when)

    def _young(self) -> list[Waiter]:
        """Return the requests whose deadlines are not in the agenda yet: they came since the last tick.

        Most requests are served and claimed long before the next tick and never enter it.
        """
        young = []
        for number in reversed(self.requests):
            if number <= self._seen:
                break
            young.append(self.requests[number])
        return young

    def next_deadline(self) -> float:
        """Return the exact time of the next thing due, or `NEVER`."""
        young = min((waiter.deadline for waiter in self._young()), default=NEVER)
        # Idle ones expire in this order, but for those in the agenda.
        idle = next(iter(self._lru)).expires if self._lru else NEVER
        return min(young, idle, self._agenda.next())

    def _rest(self, host: HostState) -> None:
        """Keep the totals of a key that is out of use, for the last `DORMANT_KEYS` of them."""
        if host.count or host.queue is not None:
            return
        self._dormant[host] = None
        if len(self._dormant) > DORMANT_KEYS:
            oldest, _ = self._dormant.popitem(last=False)
            del self.hosts[oldest.key]
            self.past.add(oldest.counters)

    def _tell(self, event: str, *details: object) -> None:
        self.effects.append((Do.TELL, (event, details)))
