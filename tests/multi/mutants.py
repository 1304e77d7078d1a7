"""The core with a bug planted into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import planting

if TYPE_CHECKING:
    from keepalive.multi.core.dispatch import Dispatch
    from tests.support.planting import Bug

MODULES = ("timers", "places", "lifecycle", "traffic", "dispatch")
GARDEN = planting.Garden(tuple(f"keepalive.multi.core.{module}" for module in MODULES))


def planted() -> list[Bug]:
    """Read the bugs from the file beside this one."""
    return planting.planted(Path(__file__).with_name("planted.txt"))


def mutant(bug: Bug | None) -> type[Dispatch]:
    """Compile the core once more, with a bug."""
    assert bug is None or bug.module in MODULES
    core: type[Dispatch] = GARDEN.mutant(bug, "Dispatch")
    return core
