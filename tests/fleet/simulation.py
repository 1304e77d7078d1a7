"""Seeded simulations of whole fleets.

Many of them: ``python -m tests.fleet.simulation STEPS [CONFIG]``; one again: ``... CONFIG SEED``.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keepalive.fleet.core.words import Terms

from .world import Config, World

if TYPE_CHECKING:
    from collections.abc import Callable

BAD: dict[str, Any] = {
    "crashes": 0.02,
    "leaves": 0.01,
    "pauses": 0.02,
    "cuts": 0.02,
    "jumps": 0.005,
    "outages": 0.01,
    "lost": 0.02,
    "doubled": 0.02,
    "slow": 0.01,
    "requests": 3.0,
}
"""A bad day: each of these happens every minute or so."""
SHARE = ("share",)
CONFIGS = {
    "well": Config(requests=5.0),
    "crashing": Config(crashes=0.05, pauses=0.05, leaves=0.02, requests=3.0),
    "cut": Config(cuts=0.05, requests=3.0),
    "cut_sharing": Config(cuts=0.05, outages=0.02, requests=3.0, fallback=SHARE),
    "jumping": Config(jumps=0.02, requests=3.0, drift=0.04),
    "noisy": Config(lost=0.1, doubled=0.2, slow=0.05, requests=3.0),
    "emptied": Config(restarts=0.01, requests=3.0),
    "failing_over": Config(failovers=0.01, requests=3.0),
    "new_limits": Config(new_limits=0.05, cuts=0.01, lost=0.01, requests=3.0),
    "bad": Config(**BAD, restarts=0.005, failovers=0.005, new_limits=0.01),
    "bad_in_all": Config(
        **BAD, restarts=0.005, failovers=0.005, terms=Terms(max_open=14), weights=(1, 3), keys=5
    ),
    "bad_sharing": Config(**BAD, fallback=("share", "none"), terms=Terms(max_open=14)),
    "sharing_emptied": Config(restarts=0.005, outages=0.01, requests=3.0, fallback=SHARE),
    "sharing_shortly": Config(
        cuts=0.05, outages=0.02, requests=3.0, fallback=SHARE, terms=Terms(fallback_for=5.0)
    ),
    "few_in_all": Config(requests=3.0, crashes=0.01, terms=Terms(max_open=8), limit=8),
    "often_over": Config(failovers=0.1, short_outages=True, requests=5.0, holds=1.0, away=0.5),
    "kept": Config(restarts=0.03, short_outages=True, requests=3.0, uncut=True),
    "deaf": Config(requests=2.0, deaf=True),
    "sharing_over": Config(**BAD, failovers=0.005, fallback=SHARE),
    "crowd": Config(**{**BAD, "requests": 2.0}, members=20, keys=2, limit=4),
}


def simulate(name: str, seed: int, *, settle: bool = True, **makers: Callable[..., Any]) -> World:
    """Run one episode: a bad time, then a good one in which all must come in order."""
    config = CONFIGS[name]
    world = World(config, seed, **makers)
    try:
        world.run(config.seconds)
        if settle:
            world.settle()
    except Exception as error:
        error.add_note(f"at {world.now:.3f} s; again: python -m tests.fleet.simulation {name} {seed}")
        raise
    return world


def big(members: int, seconds: float, seed: int) -> World:
    """Run one fleet of many members."""
    config = replace(CONFIGS["bad"], members=members, keys=20, limit=members, requests=0.2, failovers=0.0)
    world = World(replace(config, crashes=members / 500), seed)
    world.run(seconds)
    return world


def main(arguments: list[str]) -> None:
    if arguments[0] in CONFIGS:
        print(simulate(arguments[0], int(arguments[1])).steps, "steps")  # noqa: T201 - a command's output
        return
    steps, begin, seed = 0, time.monotonic(), 0
    names = arguments[1:] or [*CONFIGS]
    while steps < int(arguments[0]):
        seed += 1
        for name in names:
            steps += simulate(name, seed).steps
    seconds = time.monotonic() - begin
    print(f"{steps} steps in {seconds:.0f} s, {steps / seconds:.0f} per second")  # noqa: T201 - the same


if __name__ == "__main__":
    main(sys.argv[1:])
