"""The core with a bug planted into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import planting

if TYPE_CHECKING:
    from keepalive.agent.core.desk import Desk
    from keepalive.agent.core.kept import Kept
    from tests.support.planting import Bug

DESK = planting.Garden(("keepalive.agent.core.desk",))
KEPT = planting.Garden(("keepalive.agent.core.kept",))


def planted() -> list[Bug]:
    """Read the bugs from the file beside this one."""
    return planting.planted(Path(__file__).with_name("planted.txt"))


def mutant(bug: Bug | None) -> tuple[type[Desk], type[Kept[Any]]]:
    """Compile both sides once more, one of them with a bug."""
    assert bug is None or bug.module in ("desk", "kept")
    return DESK.mutant(bug, "Desk"), KEPT.mutant(bug, "Kept")
