"""What a fleet allows is kept to at once, and asked for where it is short."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.planting import Garden

from .leased import walk
from .mutants import mutant, planted

if TYPE_CHECKING:
    from tests.support.planting import Bug

LIMITS = Garden(("keepalive.pool.leases",))


@pytest.mark.parametrize("seed", range(8))
def test_what_a_fleet_allows_is_kept_to(seed: int) -> None:
    walk(seed, 1500)


@pytest.mark.parametrize("bug", planted("planted_leases.txt"), ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    makers = mutant(bug), LIMITS.mutant(bug, "LeasedLimits")
    for seed in range(8):
        try:
            walk(seed, 1500, *makers)
        except Exception:
            return
    pytest.fail("not caught")


def test_copy_without_a_bug_passes() -> None:
    walk(1, 1500, mutant(None))
