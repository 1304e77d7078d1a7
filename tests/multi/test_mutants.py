"""The walk is worth what it catches: each planted bug must be found, and soon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.planting import trials

from .mutants import mutant, planted
from .walk import CONFIGS, walk
from .world import BrokenPromise

if TYPE_CHECKING:
    from tests.support.planting import Bug

SEEDS = range(1, 17)
STEPS = 2000


@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    core = mutant(bug)
    for name, seed in trials(bug, CONFIGS, SEEDS):
        try:
            walk(name, seed, STEPS, core)
        except (Exception, BrokenPromise):
            return
    pytest.fail("not caught")


def test_copy_without_a_bug_passes() -> None:
    """What catches the bugs is the bugs, not the way they are planted."""
    core = mutant(None)
    for name in CONFIGS:
        walk(name, 1, STEPS, core)
