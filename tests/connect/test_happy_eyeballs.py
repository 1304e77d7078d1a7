"""The order and the times of a race, without sockets: in scenes, and in a seeded random walk."""

from __future__ import annotations

import random
from math import inf
from zlib import crc32

import pytest

from keepalive.connect.happy_eyeballs import RESOLUTION_DELAY, Do, Move, Race
from keepalive.connect.history import Failures

SIX, SIX2, SIX3 = "2001:db8::1", "2001:db8::2", "2001:db8::3"
FOUR, FOUR2, FOUR3 = "192.0.2.1", "192.0.2.2", "192.0.2.3"


def start(race: Race, now: float) -> str:
    """Expect a start, in whatever place, and let it be done."""
    move = race.decide(now)
    assert move.do in (Do.START, Do.BESIDE), move
    if move.do is Do.BESIDE:
        race.beside(now)
    return move.address


def order(*addresses: str, bad: tuple[str, ...] = ()) -> list[str]:
    """Return in which order these are tried when each fails at once."""
    race = Race(suspect=lambda address: address in bad)
    race.add(addresses, 0)
    found = []
    while (move := race.decide(0)).do is Do.START:
        found.append(move.address)
        race.failed(move.address)
    assert move.do is Do.LOST
    return found


@pytest.mark.parametrize(
    ("given", "tried"),
    [
        ([FOUR], [FOUR]),
        ([FOUR, FOUR2], [FOUR, FOUR2]),
        ([SIX, SIX2, SIX3, FOUR, FOUR2], [SIX, FOUR, SIX2, FOUR2, SIX3]),
        ([FOUR, SIX, SIX2], [FOUR, SIX, SIX2]),
        ([FOUR, FOUR, SIX, FOUR], [FOUR, SIX]),
    ],
)
def test_the_families_take_turns(given: list[str], tried: list[str]) -> None:
    assert order(*given) == tried


def test_who_failed_lately_is_tried_last() -> None:
    assert order(SIX, FOUR, SIX2, FOUR2, bad=(SIX,)) == [SIX2, FOUR, FOUR2, SIX]
    assert order(SIX, FOUR, bad=(SIX, FOUR)) == [SIX, FOUR]


def test_company_after_the_stagger_and_the_next_at_once_after_a_failure() -> None:
    race = Race()
    race.add((SIX, FOUR, SIX2, FOUR2), 10)
    assert start(race, 10) == SIX
    assert race.decide(10) == race.decide(10.2) == Move(Do.WAIT, until=10.25)
    assert start(race, 10.25) == FOUR
    assert race.decide(10.3) == Move(Do.WAIT, until=10.5)
    race.failed(SIX)
    assert race.decide(10.3).do is Do.BESIDE
    assert start(race, 10.3) == SIX2
    assert race.decide(10.3) == Move(Do.WAIT, until=10.55)
    race.failed(FOUR)
    race.failed(SIX2)
    assert start(race, 10.4) == FOUR2
    assert race.decide(99) == Move(Do.WAIT)  # the last one has all the time there is
    race.failed(FOUR2)
    assert race.decide(99) == Move(Do.LOST)


def test_the_late_family_has_a_moment() -> None:
    race = Race()
    race.add((FOUR,), 0, more=True, early=True)
    assert race.decide(0) == Move(Do.WAIT, until=RESOLUTION_DELAY)
    race.add((SIX,), 0.03)
    assert start(race, 0.03) == SIX  # the preferred one, though it was late
    assert start(race, 0.28) == FOUR


def test_the_late_family_is_too_late() -> None:
    race = Race()
    race.add((FOUR, FOUR2), 0, more=True, early=True)
    assert start(race, RESOLUTION_DELAY) == FOUR
    race.add((SIX, SIX2), 0.1)
    assert start(race, 0.3) == SIX  # it takes its turn
    race.failed(FOUR)
    race.failed(SIX)
    assert [start(race, 0.3), race.decide(0.3).until] == [FOUR2, 0.55]


def test_nothing_is_lost_while_more_may_come() -> None:
    race = Race()
    race.add((SIX,), 0, more=True)
    assert start(race, 0) == SIX  # the preferred family waits for nobody
    race.failed(SIX)
    assert race.decide(1) == Move(Do.WAIT)
    race.add((), 1)
    assert race.decide(1) == Move(Do.LOST)


def test_without_a_place_one_after_the_other() -> None:
    race = Race()
    race.add((FOUR, SIX, FOUR2), 0)
    assert start(race, 0) == FOUR
    now = 0.25
    while (move := race.decide(now)).do is Do.BESIDE:
        race.refused(now)
        now = race.decide(now).until
    assert (now, move) == (2.0, Move(Do.STOP, FOUR))  # the next gets its place
    assert start(race, 2.0) == SIX
    assert race.decide(2.25).do is Do.BESIDE  # a place is asked for anew
    race.refused(2.25)
    assert race.decide(4.0) == Move(Do.STOP, SIX)
    assert start(race, 4.0) == FOUR2
    assert race.decide(1000) == Move(Do.WAIT)


def test_no_stagger_means_one_by_one() -> None:
    race = Race(stagger=inf, patience=3)
    race.add((FOUR, SIX), 0)
    assert start(race, 0) == FOUR
    assert race.decide(1) == Move(Do.WAIT, until=3)
    assert race.decide(3) == Move(Do.STOP, FOUR)
    assert start(race, 3) == SIX


def test_places_called_back() -> None:
    race = Race()
    race.add((FOUR, SIX, FOUR2), 0)
    assert [start(race, now) for now in (0, 0.25)] == [FOUR, SIX]
    assert race.recalled() == [FOUR]  # it had its time
    assert list(race.running) == [SIX]
    race.failed(SIX)
    assert start(race, 0.3) == FOUR2
    race.failed(FOUR2)
    assert start(race, 0.3) == FOUR  # once more


def test_who_was_overtaken() -> None:
    race = Race()
    race.add((FOUR, SIX, FOUR2), 0)
    assert [start(race, now) for now in (0, 0.25, 0.5)] == [FOUR, SIX, FOUR2]
    assert race.overtaken(SIX, 0.6) == [FOUR]  # FOUR2 had no time to show what it can


@pytest.mark.parametrize("seed", range(300))
def test_walk(seed: int) -> None:
    """Whatever happens: others only when asked for, each address has its chance, and it ends."""
    rng = random.Random(seed)
    race = Race(
        suspect=lambda address: crc32(f"{address} {seed}".encode()) % 3 == 0, patience=rng.choice([0.1, 2.0])
    )
    waiting = [SIX, SIX2, SIX3, FOUR, FOUR2, FOUR3]
    rng.shuffle(waiting)
    given: set[str] = set()
    going: dict[str, float] = {}
    tried: dict[str, int] = {}
    recalled: set[str] = set()
    now, last, left_since = 0.0, -inf, False

    def add() -> None:
        count = rng.randint(0, len(waiting))
        batch = [waiting.pop() for _ in range(count)]
        given.update(batch)
        race.add(batch, now, more=bool(waiting), early=rng.random() < 0.5)

    add()
    for _ in range(400):
        do, address, until = race.decide(now)
        if do is Do.LOST:
            break
        if do is Do.START:
            assert not going
        elif do is Do.BESIDE:
            assert going
            assert now >= last + 0.25 - 1e-9 or left_since
            if rng.random() < 0.5:
                race.refused(now)
                left_since = False
                continue
            race.beside(now)
        if do in (Do.START, Do.BESIDE):
            assert address in given
            assert address not in going
            assert address not in tried or address in recalled
            tried[address] = tried.get(address, 0) + 1
            going[address] = last = now
            left_since = False
        elif do is Do.STOP:
            assert now >= going.pop(address) + 0.25
            left_since = True
        elif do is Do.WAIT:
            event = rng.randrange(4)
            if event == 0 and going:
                failed = rng.choice(list(going))
                del going[failed]
                race.failed(failed)
                left_since = True
            elif event == 1 and len(going) > 1:
                spent = race.recalled()
                assert set(going) - set(spent) == {list(going)[-1]}
                recalled.update(spent)
                for one in spent:
                    del going[one]
            elif event == 2 and waiting:
                now += rng.random() * 0.1
                add()
            elif until < inf:
                assert until > now - 1e-9
                now = max(now, until)
            elif going:
                failed = rng.choice(list(going))
                del going[failed]
                race.failed(failed)
                left_since = True
            elif waiting:
                add()
        assert list(race.running) == list(going)
    else:
        pytest.fail("it does not end")
    assert not waiting
    assert set(tried) == given


# -- the memory --------------------------------------------------------------------------------------


def test_failures_are_forgotten_in_time() -> None:
    failures = Failures(forget_after=60)
    failures.note(FOUR, 80, 0)
    assert failures.suspect(FOUR, 80, 59.9)
    assert not failures.suspect(FOUR, 81, 1)
    failures.note(FOUR, 80, 50)
    assert failures.suspect(FOUR, 80, 109)
    assert not failures.suspect(FOUR, 80, 110)
    assert len(failures) == 0
    failures.note(SIX, 80, 0)
    failures.clear(SIX, 80)
    assert not failures.suspect(SIX, 80, 1)


def test_52_failures_are_bounded() -> None:
    """heritage pools 3.52: okhttp#7553, #4689: remembered for ever, and without bounds."""
    failures = Failures(most=100)
    for number in range(10_000):
        failures.note(FOUR, number, 0)
    assert len(failures) == 100
    assert failures.suspect(FOUR, 9_999, 1)
    assert not failures.suspect(FOUR, 0, 1)
