"""The pool's invariants, counted again from its records.

The numbers are those of the preface of `keepalive.pool.pool`. Nothing is taken from a counter that can
be had by looking at what it counts. What is lent, and what is being aborted, stands in no book of the
pool: whoever knows these connections passes them, and then every count must come out equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER

from .keys import MOST_RESTING
from .states import (
    CHECKING,
    CLOSING,
    IDLE,
    LENT,
    OPENING,
    QUEUED,
    RESERVED,
    RESETTING,
    SERVED,
    SHARED,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from .pool import Pool
    from .records import KeyState, Slot, Waiter


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
    found = {
        per_key: Found()
        for per_key in pool.keys.states.values()
        if per_key.count or per_key.queue is not None
    }
    _find_requests(pool, found)
    _find_slots(pool, found, elsewhere)
    claims: set[int] = set()
    bare = total = closing = 0
    for per_key in pool.keys.states.values():
        if per_key not in found:
            _check_asleep(pool, per_key)
            continue
        own = found[per_key]
        assert per_key not in pool.keys.resting, "a key sleeps in use"
        _check_counts(pool, per_key, own, elsewhere is not None, lowered)
        _check_queue(pool, per_key, own)
        total += per_key.count
        closing += per_key.closing
        bare += _check_claim(pool, per_key, own, claims)
    assert pool.capacity.total == total, "1: total"
    assert pool.capacity.closing == closing, "1: closing in all"
    assert lowered or total <= pool.limits.max_open, "1: more than max_open"
    assert pool.requests.uncovered == bare, "requests without an attempt"
    _check_borrowed(pool)
    _check_line(pool, claims)
    _check_time(pool, found, elsewhere or ())
    _check_totals(pool)


def _find_requests(pool: Pool, found: dict[KeyState, Found]) -> None:
    before = 0
    for number, waiter in pool.requests.open.items():
        assert before < number == waiter.id <= pool.requests.last_id, "a request is out of order"
        before = number
        slot, own = waiter.slot, found[waiter.per_key]
        if waiter.state is QUEUED:
            assert slot is None, "a request is queued and has a connection"
            own.queued.append(waiter)
            continue
        assert waiter.state is SERVED, "a request has ended but is kept"
        assert slot is not None, "a request is served with nothing"
        assert slot.per_key is waiter.per_key, "a connection of another key"
        if slot.shares is not None:
            assert slot.state is SHARED, "2: a share of a connection that is not shared"
            assert waiter in slot.shares.unfetched, "14: a share that nobody is to fetch"
            continue
        assert slot.state is RESERVED, "2: served with a connection that is not reserved"
        assert slot.waiter is waiter, "2: a connection reserved for two"
        assert not (waiter.fresh and slot.uses), "a used connection for a fresh request"
        assert slot.uses < slot.per_key.limits.max_uses, "a connection that is used up"
        own.reserved += 1


def _find_slots(pool: Pool, found: dict[KeyState, Found], elsewhere: Collection[Slot] | None) -> None:
    assert len(pool.idle.line) <= pool.limits.max_idle, "12: more idle ones than max_idle"
    for slot in pool.idle.line:
        assert slot.state is IDLE, "2: not idle, among the idle ones"
        assert slot.waiter is None, "an idle connection has a request"
        found[slot.per_key].shelved.append(slot)
    for slot in elsewhere or ():
        assert slot.state in (LENT, SHARED, CLOSING), "2: neither lent nor closing"
        assert slot.waiter is None, "a lent connection has a request"
        _check_shares(slot)
        own = found[slot.per_key]
        own.away += 1
        own.closing += slot.state is CLOSING


def _check_shares(slot: Slot) -> None:
    shares = slot.shares
    assert (shares is not None) == (slot.state is SHARED) or slot.state is CLOSING, "shared, or not"
    if shares is not None and slot.state is SHARED:
        assert shares.lent >= max(1, len(shares.unfetched)), "14: fewer shares lent than there are borrowers"
        offered = slot in slot.per_key.shared
        assert not offered or shares.lent < shares.capacity, "14: offered without a free share"
        lends = slot.retires_at == NEVER and slot.uses + len(shares.unfetched) < slot.per_key.limits.max_uses
        plain = slot.per_key.queue is not None and slot.per_key.queue.oldest_plain() is not None
        beyond = slot.per_key.count > slot.per_key.limits.max_per_host
        assert beyond or not (offered and lends and plain), "14: waits beside a free share"


def _check_asleep(pool: Pool, per_key: KeyState) -> None:
    assert per_key in pool.keys.resting, "a key out of use does not sleep"
    something = [
        per_key.count,
        per_key.closing,
        per_key.position,
        per_key.opening,
        per_key.preparing,
        per_key.idle,
        per_key.unused,
        per_key.unlendable,
        per_key.shared,
    ]
    assert not any(something), "a sleeping key has something"
    assert per_key not in pool.spares.keys, "8: a spare of a sleeping key"
    assert per_key.timer is None, "8: a sleeping key is due"


def _check_counts(pool: Pool, per_key: KeyState, own: Found, exact: bool, lowered: bool) -> None:
    for slot in per_key.opening:
        assert slot.state is OPENING, "2: not an attempt, among the attempts"
        assert slot.per_key is per_key, "2: an attempt of another key"
        assert slot.waiter is None, "an attempt belongs to no request"
    for slot in per_key.preparing:
        assert slot.state in (CHECKING, RESETTING), "2: no hook is at work, among the prepared"
        assert slot.timer is not None, "13: a hook that may take for ever"
    closed = [slot for slot in own.shelved if slot.shares is not None and not slot.shares.capacity]
    shelved = [slot for slot in own.shelved if slot not in closed]
    assert set(per_key.unlendable) == set(closed), "2: idle, and lent to nobody"
    if per_key.limits.shared:
        assert {*per_key.idle, *per_key.unused} == set(shelved), "2: idle"
    else:
        assert list(per_key.idle) == [slot for slot in shelved if slot.uses], "2: idle"
        assert list(per_key.unused) == [slot for slot in shelved if not slot.uses], "2: unused"
    count = len(per_key.opening) + len(per_key.preparing) + own.reserved + len(own.shelved) + own.away
    count += per_key.extra
    if exact:
        assert count == per_key.count, f"1: {per_key.key} counts {per_key.count}, has {count}"
        assert own.closing == per_key.closing, "1: closing"
    else:
        assert count <= per_key.count, f"1: {per_key.key} counts {per_key.count}, has {count}"
        assert per_key.closing >= 0, "1: closing"
    assert lowered or per_key.count <= per_key.limits.max_per_host, "1: more than max_per_host"
    if pool.closed:
        assert not per_key.opening, "an attempt outlives the end"
        assert not own.shelved, "an idle connection outlives the end"
        assert not own.queued, "a request outlives the end"


def _check_borrowed(pool: Pool) -> None:
    """Check that exactly the attempts that have borrowed places are known to have them."""
    for per_key in pool.keys.states.values():
        borrowers = [slot for slot in per_key.opening if slot.extra]
        assert all(slot in pool.extra_slots.holders for slot in borrowers), (
            "11: a place is called back and not repaid"
        )
        assert per_key.extra == sum(slot.extra for slot in borrowers), "1: borrowed places"
    for slot in pool.extra_slots.holders:
        assert slot.state is OPENING, "11: borrowed by what is not an attempt"
        assert slot.extra > 0, "11: nothing is borrowed"
        assert slot in slot.per_key.opening, "11: borrowed by nobody"


def _check_queue(pool: Pool, per_key: KeyState, own: Found) -> None:
    queue, queued, attempts, coming = per_key.queue, own.queued, len(per_key.opening), per_key.coming
    if queue is None:
        assert not queued, "queued, but in no queue"
    else:
        assert queue.snapshot() == queued, "6: the queue is not the queued requests by age"
        assert queue.waiting == len(queued) > 0, "an empty or miscounted queue"
        assert queue.covered == min(coming, len(queued)), "attempts stand for requests"
        for place, waiter in enumerate(queued):
            assert waiter.covered == (place < coming), "6: covered from the oldest on"
        if per_key.limits.check_after == NEVER:
            assert not per_key.unused, "3: waits beside an unused connection"
        bare = queued if per_key.limits.check_after == NEVER else queued[coming:]
        assert not per_key.idle or all(waiter.fresh for waiter in bare), "3: waits beside an idle connection"
    assert per_key.surplus <= (per_key.preconnecting or 1), (
        "8: more spare attempts than one, or a preconnect's"
    )
    assert per_key.preconnecting <= attempts, "8: more of a warm-up than there is"
    if per_key.pause is not None:
        assert per_key.pause.timer is not None, "10: a pause without an end"
        assert not queued or per_key.count > per_key.closing, "10: waits for a pause alone"
    spare = per_key.surplus > 0
    assert (per_key in pool.spares.keys) == spare, "8: spare attempts are known"
    assert (per_key.timer is not None) == spare, (
        "8: a spare attempt has a deadline; nothing else of a key has"
    )


def _check_claim(pool: Pool, per_key: KeyState, own: Found, claims: set[int]) -> int:
    """Check that who could use room claims it; return how many requests have no attempt."""
    bare = own.queued[per_key.coming :]
    may = (
        per_key.count < per_key.limits.max_per_host or per_key.idle or per_key.extra
    ) and per_key.pause is None
    if per_key.failures >= pool.limits.pause_after and per_key.opening:
        may = False
    number = bare[0].id if bare and may else 0
    assert per_key.position == number, f"4: {per_key.key} claims {per_key.position}, not {number}"
    if number:
        claims.add(number)
    return len(bare)


def _check_line(pool: Pool, claims: set[int]) -> None:
    """Check who stands in line, and that room that could be had is not left unused (4)."""
    assert pool.room.waiting == len(claims), "claims"
    assert len(pool.room) <= 64 + 2 * len(claims), "withdrawn claims are kept"
    if claims:
        assert claims <= set(pool.room.positions()), "4: a claim does not stand in line"
        assert pool.capacity.total >= pool.limits.max_open, "4: room is left for a request without an attempt"
        assert not pool.idle.line, "4: an idle connection is in the way of a request"
        assert not pool.extra_slots.holders, "11: a borrowed place is in the way of a request"
        enough = pool.capacity.closing >= len(claims)
        assert enough or not pool.spares.keys, "8: a spare attempt is in the way of a request"


def _check_time(pool: Pool, found: dict[KeyState, Found], elsewhere: Collection[Slot]) -> None:
    """Check that all deadlines are known, and exactly the next one is told."""
    times = []
    dated = 0
    for number, waiter in pool.requests.open.items():
        times.append(waiter.deadline)
        dated += waiter.timer is not None
        due = NEVER if waiter.timer is None else waiter.timer[0]
        assert due == (waiter.deadline if number <= pool.requests.timed else NEVER), "a deadline is lost"
    for slot in pool.idle.line:
        times.append(slot.expires)
        dated += slot.timer is not None
        if slot.timer is not None:
            assert slot.timer[0] == slot.expires, "an idle connection is due at another time"
        assert slot.expires <= slot.retires_at, "idle beyond its lifetime"
    for per_key in found:
        for entry in (per_key.timer, *[slot.timer for slot in (*per_key.opening, *per_key.preparing)]):
            if entry is not None:
                times.append(entry[0])
                dated += 1
    for slot in elsewhere:
        if slot.timer is not None:
            assert slot.state is CLOSING, "only a goodbye has a deadline elsewhere"
            times.append(slot.timer[0])
            dated += 1
    for per_key in pool.keys.states.values():
        if per_key.pause is not None and per_key.pause.timer is not None:
            times.append(per_key.pause.timer[0])
            dated += 1
    soonest = min(times, default=NEVER)
    assert pool.timers.earliest <= soonest, "the shell would sleep too long"
    assert pool.next_deadline() == soonest, "the next deadline is not exact"
    assert dated <= len(pool.timers.queue) <= 64 + 2 * dated, "the agenda keeps what was withdrawn"


def _check_totals(pool: Pool) -> None:
    """Check that each request that came is pending or has exactly one outcome (5)."""
    assert len(pool.keys.resting) <= MOST_RESTING, "forgotten keys are kept"
    came = ended = 0
    for counters in (pool.keys.past, *[per_key.counters for per_key in pool.keys.states.values()]):
        came += counters.requests
        ended += counters.immediate + counters.deferred + counters.new
        ended += counters.timeouts + counters.cancelled + sum(counters.failed.values())
    assert came == pool.requests.last_id, "a request was not counted"
    assert came == ended + len(pool.requests.open), "5: a request has no outcome, or two"
