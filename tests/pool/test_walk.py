"""A million random inputs, judged by a world outside the pool."""

from __future__ import annotations

import os

import pytest

from .walk import CONFIGS, walk

SEED = int(os.environ.get("KEEPALIVE_SEED", "1"))
INPUTS = 1_000_000
RECOUNT_AFTER = 7
"""What is wrong in the books stays wrong for more than a step; the same walk from the command line, which
counts after each step, tells in which one it came about."""


@pytest.mark.parametrize("name", CONFIGS)
def test_walk_without_a_broken_promise(name: str) -> None:
    """heritage pools 3.1, 3.4, 3.10, 3.20, 3.25, 3.27, 3.29 under random cancels and timeouts."""
    walk(name, SEED, -(-INPUTS // len(CONFIGS)), again=True, recount_after=RECOUNT_AFTER)
