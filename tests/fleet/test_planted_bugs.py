"""The simulations are worth what they catch: each planted bug must be found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .mutants import mutants, planted
from .simulation import CONFIGS, simulate

if TYPE_CHECKING:
    from tests.support.planting import Bug

SEEDS = range(1, 4)
FIRST = (
    ("well", 1),
    ("cut", 1),
    ("noisy", 1),
    ("few_in_all", 1),
    ("deaf", 1),
    ("kept", 2),
    ("deaf", 2),
    ("cut_sharing", 4),
    ("bad_in_all", 3),
    ("few_in_all", 6),
    ("bad_in_all", 5),
    ("bad_in_all", 10),
)
"""The episodes that find most bugs, and those that few others find, come first: that saves time only."""


@pytest.mark.timeout(600)  # a bug that is hard to find takes some hundred episodes
@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    makers = mutants(bug)
    for name, seed in (*FIRST, *((name, seed) for seed in SEEDS for name in CONFIGS)):
        try:
            simulate(name, seed, **makers)
        except Exception:
            return
    pytest.fail("not caught")


def test_copies_without_a_bug_pass() -> None:
    """What catches the bugs is the bugs, not the way they are planted."""
    for name, seed in FIRST[:3]:
        simulate(name, seed, **mutants(None))
