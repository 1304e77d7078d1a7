"""Walks over shared connections and hooks, and what they are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.planting import planted

from .life_walk import CONFIGS, walk
from .mutants import mutant

if TYPE_CHECKING:
    from tests.support.planting import Bug

BUGS = planted(Path(__file__).with_name("life_planted.txt"))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", CONFIGS)
def test_walk_without_a_broken_promise(name: str, seed: int) -> None:
    walk(name, seed, 4000)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    pool = mutant(bug)
    for seed in range(4):
        for name in CONFIGS:
            try:
                walk(name, seed, 2000, pool)
            except Exception:  # whatever it breaks: an invariant, the table, a book
                return
    pytest.fail("nobody noticed")
