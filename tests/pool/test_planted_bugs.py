"""The walks are worth what they catch: each planted bug must be found, and soon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.planting import trials

from .mutants import mutant, planted
from .walk import CONFIGS, walk

if TYPE_CHECKING:
    from tests.support.planting import Bug

SEEDS = range(1, 9)
"""For one short walk of each kind, until the bug is found; nearly all are found by the first seed."""
INPUTS = 1000


@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    make = mutant(bug)
    for name, seed in trials(bug, CONFIGS, SEEDS):
        try:
            walk(name, seed, INPUTS, make=make)
        except Exception:
            return
    pytest.fail("not caught")


def test_copy_without_a_bug_passes() -> None:
    """What catches the bugs is the bugs, not the way they are planted."""
    make = mutant(None)
    for name in CONFIGS:
        walk(name, 1, INPUTS, make=make)
