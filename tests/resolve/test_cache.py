"""What is remembered of names, decided purely: a walk against a model that only knows the rules."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from keepalive.resolve import cache as _cache
from keepalive.resolve.cache import LONGEST, LONGEST_NEGATIVE, PUT_OFF, Cache

NAMES = "abcdefg"
SIZE = 4


@dataclass
class Told:
    """One answer as the model sees it: all that was ever said about it."""

    addresses: tuple[str, ...]
    at: float
    ttl: float
    stale: float
    failures: list[float]

    def good(self, now: float) -> bool:
        """Say whether it may be used without asking."""
        if now < self.at + self.ttl:
            return True
        return self.kept(now) and any(now < failure + PUT_OFF for failure in self.failures)

    def kept(self, now: float) -> bool:
        return bool(self.addresses) and now < self.at + self.ttl + self.stale


@pytest.mark.parametrize("seed", range(30))
def test_walk(seed: int) -> None:
    rng = random.Random(seed)
    cache, model, used = Cache(SIZE), dict[str, Told](), list[str]()
    now = 1000.0
    for step in range(1000):
        now += rng.choice((0.0, 0.0, 1.0, 5.0, 31.0))
        name = rng.choice(NAMES)
        told = model.get(name)
        match rng.randrange(5):
            case 0:
                ttl, stale = rng.choice((0.0, 1.0, 10.0, 60.0)), rng.choice((0.0, 0.0, 50.0))
                addresses = (f"192.0.2.{step % 250}",)
                cache.found(name, addresses, ttl, stale, now)
                model[name] = Told(addresses, now, ttl, stale, [])
                used = [other for other in used if other != name] + [name] * (ttl + stale > 0)
            case 1:
                ttl = rng.choice((0.0, 5.0))
                cache.missing(name, OSError(str(step)), ttl, now)
                model[name] = Told((), now, ttl, 0.0, [])
                used = [other for other in used if other != name] + [name] * (ttl > 0)
            case 2:
                cache.refresh_failed(name, now)
                if told is not None and name in used and told.kept(now):
                    told.failures.append(now)
            case _:
                stale_entry = cache.stale(name, now)
                entry = cache.fresh(name, now)
                remembered = told is not None and name in used
                assert (entry is not None) is (remembered and told is not None and told.good(now)), step
                assert (stale_entry is not None) is (remembered and told is not None and told.kept(now)), step
                if entry is not None and told is not None:
                    assert entry.addresses == told.addresses
                    assert (entry.error is None) is bool(entry.addresses)
                    used = [other for other in used if other != name] + [name]
                elif told is not None and not told.kept(now) and name in used:
                    used.remove(name)  # of no use any more
        used = used[-SIZE:]
        assert len(cache) == len(used) <= SIZE


def test_bounds() -> None:
    cache = Cache()
    cache.found("a", ("192.0.2.1",), float("inf"), float("inf"), 0.0)
    assert cache.fresh("a", LONGEST - 1) is not None
    assert cache.fresh("a", LONGEST) is None
    assert cache.stale("a", LONGEST) is not None
    assert cache.stale("a", 2 * LONGEST) is None
    cache.missing("b", OSError(), float("inf"), 0.0)
    assert cache.fresh("b", LONGEST_NEGATIVE - 1) is not None
    assert cache.fresh("b", LONGEST_NEGATIVE) is None
    for odd in (float("nan"), -1.0):
        cache.found("c", ("192.0.2.1",), odd, 0.0, 5.0)
        assert cache.fresh("c", 5.0) is None


def test_that_there_is_nothing_ends_an_outdated_answer() -> None:
    """RFC 8767 4: stale data is for when nobody answers, not for when the answer is unwelcome."""
    cache = Cache()
    cache.found("a", ("192.0.2.1",), 10.0, 1000.0, 0.0)
    cache.missing("a", OSError("gone"), 0.0, 20.0)
    assert cache.stale("a", 20.0) is None


def test_a_hundred_thousand_names_take_the_room_of_a_thousand() -> None:
    """heritage pools 2.8: aiohttp PR#12106: bounded."""
    cache = Cache()
    for n in range(100_000):
        cache.found(f"{n}.test", ("192.0.2.1",), 60.0, 0.0, 0.0)
        assert cache.fresh("0.test", 0.0) is not None  # asked for again and again, so it stays
    assert len(cache) == _cache.SIZE
