"""Places that an attempt borrows for a second socket: the limits hold, and nobody waits because of them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from keepalive.base.types import NEVER, CloseReason, Key
from keepalive.pool.invariants import check_pool
from keepalive.pool.pool import Pool
from keepalive.pool.states import CLOSING, LENT, OPENING, SERVED, Effect, Limits

if TYPE_CHECKING:
    from keepalive.pool.records import Slot

A, B, C = (Key("tcp", name, 1, "tcp", name, 1) for name in "ABC")


class Shell:
    """Carries out what a pool wants as the real shell does: places come back at once, attempts end later."""

    def __init__(self, **limits: float) -> None:
        self.pool = Pool(Limits(**limits))
        self.now = 0.0
        self.opened: list[Slot] = []
        self.recalls = 0

    def carry_out(self) -> None:
        while self.pool.effects:
            do, what = self.pool.effects.popleft()
            if do is Effect.OPEN:
                self.opened.append(what)
            elif do is Effect.RECALL:
                self.recalls += 1
                while what.extra:
                    self.pool.give_back_extra(what, self.now)
        check_pool(self.pool)
        assert not any(slot.extra for slot in self.opened if slot.state is not OPENING)

    def ask(self, key: Key) -> object:
        waiter = self.pool.submit(key, self.now, NEVER)
        self.carry_out()
        return waiter

    def of(self, key: Key) -> Slot:
        return next(slot for slot in reversed(self.opened) if slot.per_key.key == key)


def test_borrowed_within_both_limits() -> None:
    shell = Shell(max_per_host=3, max_open=4)
    shell.ask(A)
    slot = shell.of(A)
    assert [shell.pool.take_extra(slot) for _ in range(3)] == [True, True, False]
    shell.ask(B)
    assert not shell.pool.take_extra(shell.of(B))  # nothing is called back for that
    shell.pool.give_back_extra(slot, 0)
    assert shell.pool.take_extra(shell.of(B))
    shell.carry_out()
    assert shell.recalls == 0
    assert shell.pool.capacity.total == 4


@pytest.mark.parametrize("key", [A, B])
def test_called_back_for_a_request(key: Key) -> None:
    shell = Shell(max_per_host=2, max_open=2)
    shell.ask(A)
    first = shell.of(A)
    assert shell.pool.take_extra(first)
    shell.ask(key)
    assert (shell.recalls, first.extra, len(shell.opened)) == (1, 0, 2)
    assert not shell.pool.take_extra(first)


def test_called_back_by_lower_limits_and_by_the_end() -> None:
    for end in (False, True):
        shell = Shell(max_per_host=4, max_open=4)
        shell.ask(A)
        assert shell.pool.take_extra(shell.of(A))
        if end:
            shell.pool.shutdown(0)
        else:
            shell.pool.set_limits(Limits(max_per_host=1), 0)
        shell.carry_out()
        assert (shell.recalls, shell.pool.capacity.total) == (1, 1)


@pytest.mark.parametrize("seed", range(60))
def test_walk(seed: int) -> None:
    rng = random.Random(seed)
    shell = Shell(max_per_host=rng.randint(1, 3), max_open=rng.randint(1, 5), keep_alive=2.0)
    pool = shell.pool
    waiters = []
    for _ in range(400):
        shell.now += rng.choice([0.0, 0.3])
        slots = [slot for slot in shell.opened if slot.state in (OPENING, CLOSING, LENT)]
        by_state = {state: [s for s in slots if s.state is state] for state in (OPENING, CLOSING, LENT)}
        what = rng.randrange(9)
        if what <= 1:
            waiters.append(pool.submit(rng.choice([A, B, C]), shell.now, shell.now + rng.choice([1, NEVER])))
        elif what == 2 and by_state[OPENING]:
            slot = rng.choice(by_state[OPENING])
            room = (
                pool.capacity.total < pool.limits.max_open and slot.per_key.count < pool.limits.max_per_host
            )
            assert pool.take_extra(slot) is room
        elif what == 3 and (borrowers := [slot for slot in by_state[OPENING] if slot.extra]):
            pool.give_back_extra(rng.choice(borrowers), shell.now)
        elif what == 4 and by_state[OPENING]:
            slot = rng.choice(by_state[OPENING])
            while slot.extra:
                pool.give_back_extra(slot, shell.now)
            if rng.random() < 0.5:
                pool.opened(slot, object(), shell.now)
            else:
                pool.open_failed(slot, OSError(), shell.now)
        elif what == 5 and by_state[CLOSING]:
            pool.aborted(rng.choice(by_state[CLOSING]), shell.now)
        elif what == 6 and by_state[LENT]:
            slot = rng.choice(by_state[LENT])
            if rng.random() < 0.5:
                pool.release(slot, shell.now)
            else:
                pool.discard(slot, shell.now, CloseReason.DISCARDED)
        elif what == 7 and waiters:
            pool.cancel(rng.choice(waiters), shell.now)
        else:
            pool.tick(shell.now)
        for waiter in waiters:
            if waiter.state is SERVED and rng.random() < 0.5:
                pool.claim(waiter, shell.now)
        shell.carry_out()
