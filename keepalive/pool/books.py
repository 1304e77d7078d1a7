"""The pool's books: what stands where, and the moves that keep every count equal to what it counts.

No rule about who gets what is in here; those are in `_pool`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from keepalive.base.timer_queue import Agenda
from keepalive.base.types import NEVER, CloseReason

from .line import Line
from .records import Counters, HostState, Pause, Slot, Waiter
from .states import (
    ABORT,
    CLOSE,
    CLOSING,
    FAILED,
    GONE,
    IDLE,
    LOOK,
    OPEN,
    OPENING,
    RECALL,
    RESERVED,
    SERVED,
    TELL,
    WAKE,
    Failure,
    IllegalMove,
)
from .waitqueue import WaitQueue

if TYPE_CHECKING:
    from keepalive.base.types import Key, Reuse

    from .states import Do, Limits, SlotState, WaiterState

DORMANT_KEYS = 1024
"""Keys without connections or requests whose totals are still kept apart."""


class Books:
    """All records of one pool."""

    def __init__(self, limits: Limits, *, observed: bool = False, seed: float = 0.0) -> None:
        self.limits = limits
        self._seed = seed  # 0 to 1; what differs between two pools that see the same
        self.effects: deque[tuple[Do, Any]] = deque()
        self.earliest = NEVER  # a lower bound of the next moment `tick` is wanted
        self.total = 0  # slots of any state but GONE
        self.bare = 0  # queued requests that no attempt stands for
        self.last_id = 0
        self.closed = False
        self.hosts: dict[Key, HostState] = {}
        # The same without proxies by their first three parts: half the work to find most of them.
        self.near: dict[tuple[str, str, int], HostState] = {}
        self.requests: dict[int, Waiter] = {}  # not yet ended, oldest first
        self.past = Counters()  # of keys that have been forgotten
        self._observed = observed
        self._shrunk = False  # there are more connections than lowered limits allow
        self._over: set[HostState] = set()  # keys that are beyond a lowered limit
        self._slots = 0
        self._closing = 0
        self._recalled = 0  # of these, borrowed places that were called back in this very step
        self._seen = 0  # requests up to this number have their deadlines in the agenda
        self._lru: OrderedDict[Slot, None] = OrderedDict()  # all idle ones, the coldest first
        self._latest = 0.0  # no idle one outside the agenda expires before those ahead of it
        self._agenda: Agenda[Waiter | Slot | HostState | Pause] = Agenda()
        self._line = Line()
        self._spares: OrderedDict[HostState, None] = OrderedDict()  # keys with an attempt too many
        self._borrowers: OrderedDict[Slot, None] = OrderedDict()  # attempts with places not called back
        self._dormant: OrderedDict[HostState, None] = OrderedDict()

    # -- requests ---------------------------------------------------------------------------------

    def _queue_of(self, host: HostState) -> WaitQueue:
        """Return the queue that a request of this key is to enter."""
        self._dormant.pop(host, None)
        if host.queue is None:
            host.queue = WaitQueue()
        return host.queue

    def _reserve(self, waiter: Waiter, slot: Slot, reuse: Reuse) -> None:
        """Give a connection to a request; a never used one counts as new."""
        slot.state = RESERVED
        slot.waiter = waiter
        waiter.state = SERVED
        waiter.slot = slot
        waiter.reuse = reuse if slot.uses else None

    def _unreserve(self, waiter: Waiter) -> Slot | None:
        """Take back what a request was given, if it was."""
        slot = waiter.slot
        if slot is not None:
            slot.waiter = waiter.slot = None
        return slot

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
        if waiter.entry is not None:
            self._agenda.withdraw(waiter)

    def _fail(self, waiter: Waiter, failure: Failure, phase: str = "queue") -> None:
        waiter.failure = failure
        waiter.phase = phase
        self._end(waiter, FAILED)
        counters = waiter.host.counters
        if failure is Failure.ATTEMPT or failure is Failure.PAUSED or failure is Failure.SHUTDOWN:
            where = "shutdown" if failure is Failure.SHUTDOWN else phase
            counters.failed[where] = counters.failed.get(where, 0) + 1
        else:
            counters.timeouts += 1
        self.effects.append((WAKE, waiter))
        if self._observed:
            self._tell("failed", waiter.host.key, waiter.id, failure.value, phase)

    # -- connections ------------------------------------------------------------------------------

    def _expect(self, slot: Slot, state: SlotState) -> None:
        """Refuse an input for a connection that is in another state."""
        if slot.state is not state:
            msg = f"connection {slot.id} is {slot.state.value}, not {state.value}"
            raise IllegalMove(msg)

    def _date(self, slot: Slot, now: float, keep_for: float) -> None:
        """Note until when a connection that nobody uses from now on may be kept."""
        slot.idle_since = now
        if keep_for > self.limits.keep_alive:
            keep_for = self.limits.keep_alive
        slot.expires = now + keep_for
        if slot.expires > slot.dies:
            slot.expires = slot.dies

    def _shelve(self, slot: Slot) -> None:
        """Put a connection among the idle ones, until its `expires`."""
        slot.state = IDLE
        host = slot.host
        if slot.uses:
            host.idle[slot] = None
        else:
            host.unused[slot] = None
            self.effects.append((LOOK, slot))
        slot.shelved = True
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
        if slot.entry is not None:
            self._agenda.withdraw(slot)

    def _take_idle(self, host: HostState, fresh: bool, now: float) -> Slot | None:
        """Take the warmest idle connection that this kind of request may have."""
        while shelf := host.unused if fresh or not host.idle else host.idle:
            # Unlike a look at the last one, this never passes the holes that it leaves in the dict.
            slot, _ = shelf.popitem()
            del self._lru[slot]
            if slot.entry is not None:
                self._agenda.withdraw(slot)
            slot.state = RESERVED
            if slot.expires > now:
                return slot
            self._expire(slot, now)
        return None

    def _expire(self, slot: Slot, now: float) -> None:
        if slot.dies > now:
            self._close(slot, CloseReason.EXPIRED)
        else:
            self._close(slot, CloseReason.RETIRED if slot.dies == -NEVER else CloseReason.LIFETIME)

    def _close(self, slot: Slot, reason: CloseReason) -> None:
        """End a connection that is open, wherever it stands."""
        if slot.state is IDLE:
            self._unshelve(slot)
        self._gone(slot)
        closed = slot.host.counters.closed
        closed[reason] = closed.get(reason, 0) + 1
        self.effects.append((CLOSE, slot))
        if self._observed:
            self._tell("closed", slot.host.key, slot.id, reason)

    def _abort(self, slot: Slot) -> None:
        """Give an attempt up; it counts until the shell reports that nothing is left of it."""
        host = slot.host
        self._recall(slot)
        del host.opening[slot]
        self._agenda.withdraw(slot)
        slot.state = CLOSING
        host.closing += 1
        self._closing += 1
        self.effects.append((ABORT, slot))
        if self._observed:
            self._tell("attempt_aborted", host.key, slot.id)

    def _new_slot(self, host: HostState) -> Slot:
        self._slots += 1
        slot = Slot(self._slots, host)
        host.opening[slot] = None
        host.count += 1
        self.total += 1
        self.effects.append((OPEN, slot))
        if self._observed:
            self._tell("opening", host.key, slot.id)
        return slot

    def borrow(self, slot: Slot) -> bool:
        """Take one more place for an attempt that tries two addresses at once; False if there is none.

        It is called back as soon as a request could use it, before anything is closed for that request;
        nothing is closed to make room for it.
        """
        host, limits = slot.host, self.limits
        if slot.state is not OPENING or host.count >= limits.max_per_host or self.total >= limits.max_open:
            return False
        slot.extra += 1
        host.extra += 1
        host.count += 1
        self.total += 1
        self._borrowers[slot] = None
        return True

    def _recall(self, slot: Slot) -> None:
        """Call the places back that an attempt has borrowed; until they are repaid they count as closing."""
        if slot in self._borrowers:
            del self._borrowers[slot]
            slot.host.extra -= slot.extra
            slot.host.closing += slot.extra
            self._closing += slot.extra
            self._recalled += slot.extra
            self.effects.append((RECALL, slot))

    def _recall_one(self, host: HostState | None) -> bool:
        """Call back what one attempt has borrowed, of this key if one is given. False: not there yet.

        One at a time: it is repaid before this step ends, and then the rules see who needs another.
        """
        if not self._recalled:
            self._recall(next(slot for slot in (host.opening if host else self._borrowers) if slot.extra))
        return False

    def _repaid(self, slot: Slot) -> None:
        host = slot.host
        slot.extra -= 1
        host.count -= 1
        self.total -= 1
        if slot in self._borrowers:
            host.extra -= 1
            if not slot.extra:
                del self._borrowers[slot]
        else:
            host.closing -= 1
            self._closing -= 1
            self._recalled -= 1
        if self._shrunk:
            self._measure(host)

    def _over_limit(self, host: HostState) -> bool:
        return self.total > self.limits.max_open or host.count > self.limits.max_per_host

    def _drop_spare(self, host: HostState) -> None:
        """Note that the key has no attempt too many any more."""
        self._spares.pop(host, None)
        self._agenda.withdraw(host)

    def _cover(self, host: HostState, queue: WaitQueue, now: float) -> None:
        """Let each attempt stand for one request, the oldest first."""
        before = queue.covered
        for waiter in queue.balance(len(host.opening)):
            if waiter.phases is not None:
                self._begin_phase(waiter, now)
        self.bare += before - queue.covered

    def _gone(self, slot: Slot) -> None:
        slot.state = GONE
        slot.host.count -= 1
        self.total -= 1
        if self._shrunk:
            self._measure(slot.host)

    def _measure(self, host: HostState) -> None:
        """See whether there are still more connections than lowered limits allow; this key has one less."""
        if host.count <= self.limits.max_per_host:
            self._over.discard(host)
        self._shrunk = bool(self._over) or self.total > self.limits.max_open

    # -- keys, time, telling ----------------------------------------------------------------------

    def _alarm(self, record: Slot | HostState | Pause, when: float) -> None:
        self._agenda.enter(record, when)
        self.earliest = min(self.earliest, when)

    def _begin_phase(self, waiter: Waiter, now: float) -> None:
        """Start the clock of a request's phase: queued, or with an attempt that stands for it."""
        assert waiter.phases is not None, "who has no phases has one deadline"
        ends, queued, opening = waiter.phases
        waiter.deadline = when = min(ends, now + (opening if waiter.covered else queued))
        if waiter.id <= self._seen:
            self._agenda.enter(waiter, when)
        if when < self.earliest:
            self.earliest = when

    def _enter_young(self) -> None:
        """Enter the deadlines of the requests that came since the last tick."""
        for waiter in self._young():
            self._agenda.enter(waiter, waiter.deadline)
        self._seen = self.last_id
        # Either way the holes behind the newest request, which the next walk would pass again, are gone.
        if self.requests:
            self.requests.setdefault(*self.requests.popitem())
        else:
            self.requests.clear()

    def _young(self) -> list[Waiter]:
        """Return the requests whose deadlines are not in the agenda yet.

        Most requests are served and claimed long before the next tick and never enter it.
        """
        young: list[Waiter] = []
        if self._seen == self.last_id:
            return young
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

    def host_of(self, key: Key) -> HostState:
        """Return the record of a key, a new one if it has none."""
        host = self.hosts.get(key)
        if host is None:
            host = self.hosts[key] = HostState(key)
            if key[:3] == key[3:]:
                self.near[key[:3]] = host
        return host

    def _rest(self, host: HostState) -> None:
        """Keep the totals of a key that is out of use, for the last `DORMANT_KEYS` of them."""
        if host.count or host.queue is not None or self.hosts.get(host.key) is not host:
            return  # in use, or forgotten already
        self._dormant[host] = None
        if len(self._dormant) > DORMANT_KEYS:
            oldest, _ = self._dormant.popitem(last=False)
            del self.hosts[oldest.key]
            if oldest.key[:3] == oldest.key[3:]:
                del self.near[oldest.key[:3]]
            self.past.add(oldest.counters)

    def _tell(self, event: str, *details: object) -> None:
        self.effects.append((TELL, (event, details)))
