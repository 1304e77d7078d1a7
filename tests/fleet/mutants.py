"""Members and stores with a bug planted into them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import planting

if TYPE_CHECKING:
    from tests.support.planting import Bug

CORE = "keepalive.fleet.core"
GARDENS = {
    "make_member": (planting.Garden((f"{CORE}.member",)), "Member"),
    "make_store": (planting.Garden((f"{CORE}.shares", f"{CORE}.store")), "Store"),
}


def planted() -> list[Bug]:
    return planting.planted(Path(__file__).with_name("planted.txt"))


def mutants(bug: Bug | None) -> dict[str, Any]:
    """Compile members and stores once more, with a bug."""
    return {name: garden.mutant(bug, what) for name, (garden, what) in GARDENS.items()}
