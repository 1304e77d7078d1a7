"""The flows in random worlds, and what these are worth: each planted bug must be found, and soon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.planting import trials

from .mutants import mutant, planted
from .walk import CONFIGS, walk
from .world import BrokenPromise

if TYPE_CHECKING:
    from tests.support.planting import Bug

SEED = int(os.environ.get("KEEPALIVE_SEED", "1"))
STEPS = 20_000
SEEDS = range(1, 9)
"""For one short walk of each kind, until a bug is found; nearly all are found by the first seed."""
SHORT = 3000


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_walk_without_a_broken_promise(name: str, seed: int) -> None:
    world = walk(name, seed, STEPS)
    met = {"timeout", "deadline", "expired", "closed", "framing", "shutdown"}
    assert met <= set(world.ends), "a walk that does not meet everything proves little"
    assert {"queue", "other way"} <= set(world.failed)
    assert ("silent" in world.ends) == (CONFIGS[name].response_timeout is not None)


@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    flows = mutant(bug)
    for name, seed in trials(bug, CONFIGS, SEEDS):
        try:
            walk(name, seed, SHORT, flows)
        except (Exception, BrokenPromise):
            return
    pytest.fail("not caught")


def test_copy_without_a_bug_passes() -> None:
    """What catches the bugs is the bugs, not the way they are planted."""
    flows = mutant(None)
    for name in CONFIGS:
        walk(name, 1, SHORT, flows)
