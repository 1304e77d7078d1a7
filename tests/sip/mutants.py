"""The flows with a bug planted into them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import planting

if TYPE_CHECKING:
    from keepalive.sip.core.flows import Flows
    from tests.support.planting import Bug

GARDEN = planting.Garden(
    tuple(f"keepalive.sip.core.{module}" for module in ("routes", "expiry", "outgoing", "flows"))
)


def planted() -> list[Bug]:
    """Read the bugs from the file beside this one."""
    return planting.planted(Path(__file__).with_name("planted.txt"))


def mutant(bug: Bug | None) -> type[Flows[Any]]:
    """Compile the flows once more, with a bug."""
    flows: type[Flows[Any]] = GARDEN.mutant(bug, "Flows")
    return flows
