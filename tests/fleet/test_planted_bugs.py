"""The simulations are worth what they catch: each planted bug must be found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .mutants import mutants, planted
from .simulation import CONFIGS, simulate

if TYPE_CHECKING:
    from tests.support.planting import Bug

SEEDS = range(1, 9)


@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    makers = mutants(bug)
    for seed in SEEDS:
        for name in CONFIGS:
            try:
                simulate(name, seed, **makers)
            except Exception:
                return
    pytest.fail("not caught")


def test_copies_without_a_bug_pass() -> None:
    """What catches the bugs is the bugs, not the way they are planted."""
    simulate("bad", 1, **mutants(None))
