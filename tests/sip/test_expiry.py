"""The formula, to the instant, and who is spared."""

from __future__ import annotations

import random

import pytest

from keepalive.sip.core.expiry import Expiry
from keepalive.sip.core.flow import Flow


class One(Flow):
    pending = False

    def __init__(self, heard: float = 0.0) -> None:
        super().__init__("tcp", ("192.0.2.1", 5060), heard)


@pytest.mark.parametrize(
    ("count", "limit"), [(1, 120.0), (2, 67.5), (3, 50.0), (5, 36.0), (7, 30.0), (105, 16.0)]
)
def test_formula(count: int, limit: float) -> None:
    # heritage sip 1.43.
    expiry: Expiry[One] = Expiry(15.0, 120.0, 300.0)
    ones = [One() for _ in range(count)]
    for one in ones:
        expiry.add(one)
    assert expiry.limit == limit
    assert expiry.next() == limit
    assert list(expiry.due(limit - 1e-9)) == []
    # One that was active half a limit later than the others goes half a limit later.
    ones[0].last_received = limit / 2
    gone = take(expiry, limit)
    assert gone == [one for one in ones if one is not ones[0]]
    assert expiry.next() <= limit / 2 + 120.0


def take(expiry: Expiry[One], now: float) -> list[One]:
    gone = []
    for one in expiry.due(now):
        expiry.remove(one)
        gone.append(one)
    return gone


def test_all_that_are_over_the_limit_go_in_one_pass() -> None:
    # heritage sip 1.45, 1.46.
    expiry: Expiry[One] = Expiry(2.0, 10.0, 300.0)
    ones = [One(), One(), One(3.0)]
    for one in ones:
        expiry.add(one)
    assert take(expiry, 5.0) == ones[:2]  # limit 4.67 for three; it is not raised in the midst
    assert expiry.next() == 13.0  # alone, the third may be quiet for 10 s


def test_pending_ones_are_spared_up_to_a_limit() -> None:
    # heritage sip 1.49.
    expiry: Expiry[One] = Expiry(2.0, 10.0, 60.0)
    one = One()
    one.pending = True
    expiry.add(one)
    assert take(expiry, 10.0) == []
    assert expiry.next() == 60.0
    one.last_received = 50.0
    assert take(expiry, 60.0) == []
    one.pending = False
    expiry.end_exemption(one)
    assert expiry.next() == 60.0
    assert take(expiry, 60.0) == [one]
    other = One(100.0)
    other.pending = True
    expiry.add(other)
    assert take(expiry, 110.0) == []
    assert take(expiry, 159.9) == []
    assert take(expiry, 160.0) == [other]
    assert expiry.count == 0


def test_the_formula_does_not_concern_those_that_ping_or_are_registered() -> None:
    expiry: Expiry[One] = Expiry(15.0, 120.0, 300.0, 150.0)
    pinging, registered, for_ever, stranger = ones = [One() for _ in range(4)]
    for one in ones:
        expiry.add(one)
    pinging.keeps_alive = True
    registered.registered_until = 3600.0
    for_ever.registered_until = float("inf")
    assert take(expiry, 41.24) == []
    assert take(expiry, 41.25) == [stranger]
    pinging.last_received = 119.0
    assert take(expiry, 268.9) == []
    assert take(expiry, 269.0) == [pinging]
    registered.last_received = 3590.0
    assert take(expiry, 3600.0) == []
    assert expiry.next() == 3590.0 + 15.0 + 105.0 / 2
    assert take(expiry, expiry.next()) == [registered]
    for_ever.registered_until = 0.0
    expiry.end_exemption(for_ever)
    assert take(expiry, 4000.0) == [for_ever]


@pytest.mark.parametrize("seed", range(20))
def test_walk(seed: int) -> None:
    """Random lives against a model that looks at everybody at each instant."""
    rng = random.Random(seed)
    expiry: Expiry[One] = Expiry(5.0, 50.0, 80.0, 60.0)
    alive: list[One] = []
    for now in range(2000):
        for _ in range(rng.randrange(3)):
            one = One(float(now))
            expiry.add(one)
            alive.append(one)
        for one in alive:
            if rng.random() < 0.02:
                one.last_received = float(now)
            if rng.random() < 0.02:
                one.pending = not one.pending
                if one.exempt and not one.pending:
                    expiry.end_exemption(one)
            if rng.random() < 0.002:
                one.keeps_alive = True
            if rng.random() < 0.005:
                until = now + rng.choice((0, 30, 200))
                sooner, one.registered_until = until < one.registered_until, until
                if one.exempt and sooner:
                    expiry.end_exemption(one)
        limit = 5.0 + 45.0 / max(1, len(alive))
        over = {
            one
            for one in alive
            if now >= one.registered_until
            and now - one.last_received >= max(limit, 80.0 * one.pending, 60.0 * one.keeps_alive)
        }
        gone = take(expiry, float(now))
        assert set(gone) == over, f"seed {seed}, now {now}"
        alive = [one for one in alive if one not in over]
        assert expiry.count == len(alive)
        assert expiry.next() > now
