"""The core in random worlds, and with bugs planted into it."""

from __future__ import annotations

import os

import pytest

from .walk import CONFIGS, walk

SEED = int(os.environ.get("KEEPALIVE_SEED", "1"))
STEPS = 20_000


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_walk_without_a_broken_promise(name: str, seed: int) -> None:
    world = walk(name, seed, STEPS)
    told = {what for record in world.records.values() for what in record.told}
    assert len(told) == 8, "a walk that does not meet everything proves little"
    assert world.errors
