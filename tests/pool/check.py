"""The pool's invariants, counted again from its records.

The numbers are those of the preface of `keepalive.pool.pool`. Nothing is taken from a counter that can
be had by looking at what it counts. What is lent, and what is being aborted, stands in no book of the
pool: whoever knows these connections passes them, and then every count must come out equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER
from keepalive.pool.books import DORMANT_KEYS
from keepalive.pool.states import CLOSING, IDLE, LENT, OPENING, QUEUED, RESERVED, SERVED

if TYPE_CHECKING:
    from collections.abc import Collection

    from keepalive.pool.pool import Pool
    from keepalive.pool.records import HostState, Slot, Waiter


class Found:
    """What belongs to one key, as found in the records."""

    __slots__ = ("away", "closing", "queued", "reserved", "shelved")

    def __init__(self) -> None:
        self.queued: list[Waiter] = []
        self.reserved = 0
        self.shelved: list[Slot] = []  # in the order in which they would be evicted
        self.away = 0  # lent or closing
        self.closing = 0


def check_pool(pool: Pool, elsewhere: Collection[Slot] | None = None, *, lowered: bool = False) -> None:
    """Raise `AssertionError` if the books are not what the preface promises.

    :param elsewhere: all connections that are lent, or aborted but not yet gone, if known.
    :param lowered: that limits were lowered, so that more may be open for a while.
    """
    found = {host: Found() for host in pool.hosts.values() if host.count or host.queue is not None}
    _find_requests(pool, found)
    _find_slots(pool, found, elsewhere)
    claims: set[int] = set()
    bare = total = closing = 0
    for host in pool.hosts.values():
        if host not in found:
            _check_asleep(pool, host)
            continue
        own = found[host]
        assert host not in pool._dormant, "a key sleeps in use"
        _check_counts(pool, host, own, elsewhere is not None, lowered)
        _check_queue(pool, host, own)
        total += host.count
        closing += host.closing
        bare += _check_claim(pool, host, own, claims)
    assert pool.total == total, "1: total"
    assert pool._closing == closing, "1: closing in all"
    assert lowered or total <= pool.limits.max_open, "1: more than max_open"
    assert pool.bare == bare, "requests without an attempt"
    _check_borrowed(pool)
    _check_line(pool, claims)
    _check_time(pool, found)
    _check_totals(pool)


def _find_requests(pool: Pool, found: dict[HostState, Found]) -> None:
    before = 0
    for number, waiter in pool.requests.items():
        assert before < number == waiter.id <= pool.last_id, "a request is out of order"
        before = number
        slot, own = waiter.slot, found[waiter.host]
        if waiter.state is QUEUED:
            assert slot is None, "a request is queued and has a connection"
            own.queued.append(waiter)
            continue
        assert waiter.state is SERVED, "a request has ended but is kept"
        assert slot is not None, "a request is served with nothing"
        assert slot.state is RESERVED, "2: served with a connection that is not reserved"
        assert slot.waiter is waiter, "2: a connection reserved for two"
        assert slot.host is waiter.host, "a connection of another key"
        assert not (waiter.fresh and slot.uses), "a used connection for a fresh request"
        assert slot.uses < pool.limits.max_uses, "a connection that is used up"
        own.reserved += 1


def _find_slots(pool: Pool, found: dict[HostState, Found], elsewhere: Collection[Slot] | None) -> None:
    assert len(pool._lru) <= pool.limits.max_idle, "12: more idle ones than max_idle"
    for slot in pool._lru:
        assert slot.state is IDLE, "2: not idle, among the idle ones"
        assert slot.waiter is None, "an idle connection has a request"
        found[slot.host].shelved.append(slot)
    for slot in elsewhere or ():
        assert slot.state is LENT or slot.state is CLOSING, "2: neither lent nor closing"
        assert slot.waiter is None, "a lent connection has a request"
        own = found[slot.host]
        own.away += 1
        own.closing += slot.state is CLOSING


def _check_asleep(pool: Pool, host: HostState) -> None:
    assert host in pool._dormant, "a key out of use does not sleep"
    something = [host.count, host.closing, host.claim, host.opening, host.idle, host.unused]
    assert not any(something), "a sleeping key has something"
    assert host not in pool._spares, "8: a spare of a sleeping key"
    assert host.entry is None, "8: a sleeping key is due"


def _check_counts(pool: Pool, host: HostState, own: Found, exact: bool, lowered: bool) -> None:
    for slot in host.opening:
        assert slot.state is OPENING, "2: not an attempt, among the attempts"
        assert slot.host is host, "2: an attempt of another key"
        assert slot.waiter is None, "an attempt belongs to no request"
    assert list(host.idle) == [slot for slot in own.shelved if slot.uses], "2: idle"
    assert list(host.unused) == [slot for slot in own.shelved if not slot.uses], "2: unused"
    count = len(host.opening) + own.reserved + len(own.shelved) + own.away + host.extra
    if exact:
        assert count == host.count, f"1: {host.key} counts {host.count}, has {count}"
        assert own.closing == host.closing, "1: closing"
    else:
        assert count <= host.count, f"1: {host.key} counts {host.count}, has {count}"
        assert host.closing >= 0, "1: closing"
    assert lowered or host.count <= pool.limits.max_per_host, "1: more than max_per_host"
    if pool.closed:
        assert not host.opening, "an attempt outlives the end"
        assert not own.shelved, "an idle connection outlives the end"
        assert not own.queued, "a request outlives the end"


def _check_borrowed(pool: Pool) -> None:
    """Check that exactly the attempts that have borrowed places are known to have them."""
    for host in pool.hosts.values():
        borrowers = [slot for slot in host.opening if slot.extra]
        assert all(slot in pool._borrowers for slot in borrowers), "11: a place is called back and not repaid"
        assert host.extra == sum(slot.extra for slot in borrowers), "1: borrowed places"
    for slot in pool._borrowers:
        assert slot.state is OPENING, "11: borrowed by what is not an attempt"
        assert slot.extra > 0, "11: nothing is borrowed"
        assert slot in slot.host.opening, "11: borrowed by nobody"


def _check_queue(pool: Pool, host: HostState, own: Found) -> None:
    queue, queued, attempts = host.queue, own.queued, len(host.opening)
    if queue is None:
        assert not queued, "queued, but in no queue"
    else:
        assert queue.snapshot() == queued, "6: the queue is not the queued requests by age"
        assert queue.waiting == len(queued) > 0, "an empty or miscounted queue"
        assert queue.covered == min(attempts, len(queued)), "attempts stand for requests"
        for place, waiter in enumerate(queued):
            assert waiter.covered == (place < attempts), "6: covered from the oldest on"
        assert not host.unused, "3: waits beside an unused connection"
        assert not host.idle or all(waiter.fresh for waiter in queued), "3: waits beside an idle connection"
    assert attempts <= len(queued) + (host.warming or 1), "8: more spare attempts than one, or a warm-up's"
    assert host.warming <= attempts, "8: more of a warm-up than there is"
    if host.pause is not None:
        assert host.pause.entry is not None, "10: a pause without an end"
        assert not queued or host.count > host.closing, "10: waits for a pause alone"
    spare = attempts > len(queued)
    assert (host in pool._spares) == spare, "8: spare attempts are known"
    assert (host.entry is not None) == spare, "8: a spare attempt has a deadline; nothing else of a key has"


def _check_claim(pool: Pool, host: HostState, own: Found, claims: set[int]) -> int:
    """Check that who could use room claims it; return how many requests have no attempt."""
    bare = own.queued[len(host.opening) :]
    may = (host.count < pool.limits.max_per_host or host.idle or host.extra) and host.pause is None
    if host.failures >= pool.limits.pause_after and host.opening:
        may = False
    number = bare[0].id if bare and may else 0
    assert host.claim == number, f"4: {host.key} claims {host.claim}, not {number}"
    if number:
        claims.add(number)
    return len(bare)


def _check_line(pool: Pool, claims: set[int]) -> None:
    """Check who stands in line, and that room that could be had is not left unused (4)."""
    assert pool._line.claims == len(claims), "claims"
    assert len(pool._line) <= 64 + 2 * len(claims), "withdrawn claims are kept"
    if claims:
        assert claims <= {number for number, _ in pool._line._heap}, "4: a claim does not stand in line"
        assert pool.total >= pool.limits.max_open, "4: room is left for a request without an attempt"
        assert not pool._lru, "4: an idle connection is in the way of a request"
        assert not pool._borrowers, "11: a borrowed place is in the way of a request"
        enough = pool._closing >= len(claims)
        assert enough or not pool._spares, "8: a spare attempt is in the way of a request"


def _check_time(pool: Pool, found: dict[HostState, Found]) -> None:
    """Check that all deadlines are known, and exactly the next one is told."""
    times = []
    dated = 0
    for number, waiter in pool.requests.items():
        times.append(waiter.deadline)
        dated += waiter.entry is not None
        due = NEVER if waiter.entry is None else waiter.entry[0]
        assert due == (waiter.deadline if number <= pool._seen else NEVER), "a deadline is lost"
    for slot in pool._lru:
        times.append(slot.expires)
        dated += slot.entry is not None
        if slot.entry is not None:
            assert slot.entry[0] == slot.expires, "an idle connection is due at another time"
        assert slot.expires <= slot.dies, "idle beyond its lifetime"
    for host in found:
        for entry in (host.entry, *[slot.entry for slot in host.opening]):
            if entry is not None:
                times.append(entry[0])
                dated += 1
    for host in pool.hosts.values():
        if host.pause is not None and host.pause.entry is not None:
            times.append(host.pause.entry[0])
            dated += 1
    soonest = min(times, default=NEVER)
    assert pool.earliest <= soonest, "the shell would sleep too long"
    assert pool.next_deadline() == soonest, "the next deadline is not exact"
    assert dated <= len(pool._agenda) <= 64 + 2 * dated, "the agenda keeps what was withdrawn"


def _check_totals(pool: Pool) -> None:
    """Check that each request that came is pending or has exactly one outcome (5)."""
    assert len(pool._dormant) <= DORMANT_KEYS, "forgotten keys are kept"
    came = ended = 0
    for counters in (pool.past, *[host.counters for host in pool.hosts.values()]):
        came += counters.requests
        ended += counters.immediate + counters.deferred + counters.new
        ended += counters.timeouts + counters.cancelled + sum(counters.failed.values())
    assert came == pool.last_id, "a request was not counted"
    assert came == ended + len(pool.requests), "5: a request has no outcome, or two"
