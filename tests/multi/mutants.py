"""The desk with a bug planted into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import planting

if TYPE_CHECKING:
    from keepalive.multi.desk import Desk
    from tests.support.planting import Bug

GARDEN = planting.Garden(
    tuple(f"keepalive.multi.{module}" for module in ("timers", "later", "line", "lives", "traffic", "desk"))
)


def planted() -> list[Bug]:
    """Read the bugs from the file beside this one."""
    return planting.planted(Path(__file__).with_name("planted.txt"))


def mutant(bug: Bug | None) -> type[Desk]:
    """Compile the desk once more, with a bug."""
    desk: type[Desk] = GARDEN.mutant(bug, "Desk")
    return desk
