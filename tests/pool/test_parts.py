"""The queues by themselves, each beside the simplest thing that does the same."""

from __future__ import annotations

import gc
import random
import weakref

import pytest

from keepalive.base.timer_queue import TimerQueue
from keepalive.base.types import NEVER
from keepalive.pool.records import KeyState, Waiter
from keepalive.pool.room import RoomQueue
from keepalive.pool.states import Limits, plain_limits
from keepalive.pool.waitqueue import WaitQueue

from .kit import A, key


def state(name: str) -> KeyState:
    return KeyState(key(name), plain_limits(A, Limits()))


STATE = state("host")


def waiter(number: int, *, fresh: bool = False) -> Waiter:
    return Waiter(number, STATE, 0.0, NEVER, fresh)


@pytest.mark.parametrize("seed", range(4))
def test_queue_beside_a_sorted_list(seed: int) -> None:
    rng = random.Random(seed)
    queue, naive = WaitQueue[Waiter](), list[Waiter]()
    served: list[Waiter] = []
    attempts = 0
    for number in range(1, 2500):
        draw = rng.random()
        if draw < 0.5:
            new = waiter(number, fresh=rng.random() < 0.3)
            queue.append(new)
            naive.append(new)
        elif draw < 0.65 and naive:
            gone = rng.choice(naive)
            queue.remove(gone)
            naive.remove(gone)
        elif draw < 0.8 and naive:
            # Served: the oldest of all, or the oldest plain one. These may come back.
            plain = queue.oldest_plain() if rng.random() < 0.5 else None
            gone = plain or naive[0]
            queue.remove(gone)
            naive.remove(gone)
            served.append(gone)
        elif served:
            back = served.pop(rng.randrange(len(served)))
            naive.append(back)
            naive.sort(key=lambda waiter: waiter.id)
            queue.put_back(back)
        attempts = max(0, attempts + rng.choice((-1, 0, 1)))
        queue.balance(attempts)
        covered = min(attempts, len(naive))
        assert queue.snapshot() == naive
        assert (queue.waiting, queue.covered) == (len(naive), covered)
        assert [waiter.covered for waiter in naive] == [place < covered for place in range(len(naive))]
        assert queue.oldest() is (naive[0] if naive else None)
        assert queue.oldest_uncovered() is (naive[covered] if covered < len(naive) else None)
        assert queue.oldest_plain() is next((waiter for waiter in naive if not waiter.fresh), None)


@pytest.mark.parametrize("seed", range(4))
def test_room_queue_beside_a_dict(seed: int) -> None:
    rng = random.Random(seed)
    line = RoomQueue()
    hosts = [state(f"host{n}") for n in range(8)]
    naive: dict[KeyState, int] = {}
    for _ in range(20_000):
        host = rng.choice(hosts)
        number = rng.choice((0, rng.randrange(1, 10_000) * 8 + hosts.index(host)))
        if number != host.position:
            line.place(host, number)
        naive[host] = number
        claims = {number: host for host, number in naive.items() if number}
        assert line.first() is (claims[min(claims)] if claims else None)
        assert line.waiting == len(claims)
        assert len(claims) <= len(line) <= 64 + 2 * len(claims)


def test_room_queue_is_cleaned_of_keys_that_left() -> None:
    """A claim in front that nobody serves, and thousands behind it that are withdrawn."""
    line, front, other = RoomQueue(), state("front"), state("other")
    line.place(front, 1)
    for number in range(2, 10_000):
        line.place(other, number)
        assert len(line) <= 68
        line.place(other, 0)
    assert line.first() is front
    line.place(front, 0)
    assert line.first() is None


def test_room_queue_takes_the_same_position_again() -> None:
    line, host, other = RoomQueue(), state("host"), state("other")
    line.place(other, 1)
    for _ in range(1000):
        line.place(host, 2)
        line.place(host, 0)
        assert len(line) <= 68
    line.place(host, 2)
    line.place(other, 0)
    assert line.first() is host
    line.place(host, 0)
    assert line.first() is None


@pytest.mark.parametrize("seed", range(4))
def test_timer_queue_beside_a_dict(seed: int) -> None:
    rng = random.Random(seed)
    agenda: TimerQueue[Waiter] = TimerQueue()
    records = [waiter(n) for n in range(300)]
    naive: dict[Waiter, float] = {}
    now = 0.0
    for _ in range(10_000):
        record, draw = rng.choice(records), rng.random()
        if draw < 0.5:
            when = now + rng.choice((0.0, 1.0, 2.0, 9.0 * rng.random(), NEVER))
            agenda.enter(record, when)
            naive.pop(record, None)
            if when != NEVER:
                naive[record] = when
        elif draw < 0.995:
            agenda.withdraw(record)
            naive.pop(record, None)
        else:
            now += rng.choice((0.0, 0.5, 3.0))
            popped = list(agenda.pop_due(now))
            assert all(record.timer is None for record in popped)
            due = [(naive[record], record.id) for record in popped]
            expected = [(when, record.id) for record, when in naive.items() if when <= now]
            assert sorted(due) == sorted(expected)
            assert [when for when, _ in due] == sorted(when for when, _ in due)
            naive = {record: when for record, when in naive.items() if when > now}
        assert agenda.next() == min(naive.values(), default=NEVER)
        assert len(agenda) == len(naive) + agenda._withdrawn
        assert len(naive) <= len(agenda) <= 65 + 2 * len(naive)


def test_timer_queue_keeps_nothing_alive() -> None:
    """heritage pools 3.19 (go#33849): what is withdrawn is let go at once, not when its time comes."""
    agenda: TimerQueue[Thing] = TimerQueue()
    thing = Thing()
    agenda.enter(thing, 1.0)
    agenda.withdraw(thing)
    assert len(agenda) == 1
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None


class Thing:
    def __init__(self) -> None:
        self.timer: list[object] | None = None


def test_timer_queue_is_cleaned_when_only_withdrawn_entries_are_left() -> None:
    agenda: TimerQueue[Waiter] = TimerQueue()
    for number in range(1000):
        agenda.enter(waiter(number), 1.0)
        late = waiter(number)
        agenda.enter(late, 2.0)
        agenda.withdraw(late)
    assert len(agenda) > 1900
    assert len(list(agenda.pop_due(1.0))) == 1000
    assert len(agenda) == 0


def test_timer_queue_in_order_and_entered_meanwhile() -> None:
    agenda: TimerQueue[Waiter] = TimerQueue()
    first, second, third = waiter(1), waiter(2), waiter(3)
    agenda.enter(second, 2.0)
    agenda.enter(first, 1.0)
    seen = []
    for record in agenda.pop_due(3.0):
        seen.append(record)
        if record is first:
            agenda.enter(third, 1.5)
            agenda.withdraw(second)
    assert seen == [first, third]
