"""Fleets in good and bad times never have more connections than their limits, and soon recover."""

from __future__ import annotations

import pytest

from .simulation import CONFIGS, big, simulate


@pytest.mark.parametrize("name", CONFIGS)
def test_the_limits_hold_whatever_happens(name: str) -> None:
    for seed in range(101, 104):
        simulate(name, seed)


def test_a_large_fleet_keeps_its_limits() -> None:
    world = big(1000, 40.0, 1)
    assert max(world.most.values()) > 500, "hardly anything happened"


def test_equal_seeds_give_equal_episodes() -> None:
    one, other = simulate("bad", 7, settle=False), simulate("bad", 7, settle=False)
    assert (one.steps, one.calls, one.most) == (other.steps, other.calls, other.most)


def test_calls_are_few() -> None:
    """At most 0.2 per second and member, and one for each block."""
    world = simulate("well", 1, settle=False)
    served = sum(machine.served for machine in world.machines)
    assert world.calls < 0.2 * 300 * 8 + 0.5 * served
