"""The desk and its borrowers, walked at random beside a model of all descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keepalive.agent.core.desk import VERSIONS, Desk, common_version
from keepalive.agent.core.frames import Frames, TooLong, framed
from keepalive.agent.core.kept import LONGEST, Kept
from keepalive.agent.core.records import Client, Effect

from .mutants import mutant, planted
from .walk import CONFIGS, walk
from .world import BrokenPromise, Place, Ticket, World, key_of

if TYPE_CHECKING:
    from tests.support.planting import Bug

SEEDS = range(1, 17)
STEPS = 2000


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(1, 4))
def test_walk_keeps_all_promises(name: str, seed: int) -> None:
    walk(name, seed, 4000)


@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    desk, kept = mutant(bug)
    for seed in SEEDS:
        for name in CONFIGS:
            try:
                walk(name, seed, STEPS, desk, kept)
            except (Exception, BrokenPromise):
                return
    pytest.fail("not caught")


def test_copy_without_a_bug_passes() -> None:
    desk, kept = mutant(None)
    for name in CONFIGS:
        walk(name, 1, STEPS, desk, kept)


# -- what an honest borrower does not do ----------------------------------------------------------------


def drops(world: World) -> list[str]:
    return [what[1] for effect, what in world.desk.effects if effect is Effect.DROP]


def test_request_before_the_greeting_ends_the_client() -> None:
    world = World()
    assert world.desk.ask(Client(None, 0.0), 1, key_of(1), None) is None
    assert drops(world) == ["a request before the greeting"]


def test_number_may_not_be_used_twice() -> None:
    world = World()
    world.join(0.0, None)
    client = world.borrowers[0].client
    world.desk.ask(client, 5, key_of(1), None)
    world.desk.ask(client, 5, key_of(1), None)
    assert drops(world) == ["the number 5 was used before"]


def test_return_of_what_was_never_lent_ends_the_client() -> None:
    world = World()
    world.join(0.0, None)
    world.desk.give_back(world.borrowers[0].client, 7, fit=True)
    assert drops(world) == ["7 was not lent to it"]


def test_return_of_what_is_only_asked_for_ends_the_client() -> None:
    world = World()
    world.join(0.0, None)
    client = world.borrowers[0].client
    world.desk.ask(client, 1, key_of(1), None)
    world.desk.give_back(client, 1, fit=True)
    assert drops(world) == ["1 was not lent to it"]


def test_nothing_is_lent_while_draining() -> None:
    desk, world = Desk(), World()
    world.desk = desk
    world.join(0.0, None)
    desk.draining = True
    desk.ask(world.borrowers[0].client, 1, key_of(1), None)
    (effect, what) = desk.effects.popleft()
    assert effect is Effect.REFUSE
    assert what[2] == "closed"


def test_newest_common_version_is_spoken() -> None:
    assert common_version([99, *VERSIONS, 0]) == VERSIONS[0]
    assert common_version([99]) is None
    assert common_version([]) is None


# -- what is kept -----------------------------------------------------------------------------------------


def ticket(place: Place, now: float = 0.0) -> Ticket:
    from .world import Conn

    return Ticket(1, Conn(key_of(1)), place, True, now)


def test_last_released_is_taken_first() -> None:
    kept, place = Kept[Ticket](0.1), Place()
    first, second = ticket(place), ticket(place)
    assert kept.keep(first, 1, 0)
    assert kept.keep(second, 1, 0)
    assert kept.take(place) is second
    assert kept.take(place) is first
    assert not len(kept)


def test_nothing_is_kept_while_ones_own_request_waits_at_the_agent() -> None:
    kept, place = Kept[Ticket](0.1), Place()
    place.waiting = 1
    assert not kept.keep(ticket(place), 1, 0)


def test_loan_goes_back_after_a_while_however_warm() -> None:
    kept, place = Kept[Ticket](0.1), Place()
    assert kept.keep(ticket(place, 0.0), 1, LONGEST)
    assert not kept.keep(ticket(place, 0.0), 1, LONGEST + 0.1)


def test_keep_for_shortens_the_time() -> None:
    kept, place = Kept[Ticket](0.5), Place()
    assert kept.keep(ticket(place), 0.1, 0)
    assert kept.earliest == 0.1
    assert len(kept.expired(0.1)) == 1
    assert not kept.keep(ticket(place), 0, 0)


# -- frames -----------------------------------------------------------------------------------------------


def test_messages_are_found_however_they_are_cut() -> None:
    stream = b"".join(map(framed, (b"a", b"bc" * 300, b"d")))
    for size in (1, 2, 3, 7, 1000):
        frames, found = Frames(1000), []
        for at in range(0, len(stream), size):
            found += frames.feed(stream[at : at + size])
        assert found == [b"a", b"bc" * 300, b"d"]
        assert frames.rest == b""


@pytest.mark.parametrize("head", [b"\0\0\0\0", b"\0\0\x03\xe9", b"\xff\xff\xff\xff", b"GET "])
def test_message_of_a_length_that_may_not_be_is_refused_by_its_head(head: bytes) -> None:
    with pytest.raises(TooLong):
        Frames(1000).feed(head)
