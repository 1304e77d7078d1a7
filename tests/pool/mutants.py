"""The pool with a bug planted into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import planting

if TYPE_CHECKING:
    from keepalive.pool.pool import Pool
    from tests.support.planting import Bug

GARDEN = planting.Garden(
    (
        "keepalive.base.timer_queue",
        *(
            f"keepalive.pool.{module}"
            for module in (
                "waitqueue",
                "room",
                "timers",
                "requests",
                "keys",
                "capacity",
                "idle",
                "spares",
                "backoff",
                "parts",
                "connections",
                "shares",
                "assignment",
                "sharing",
                "hooks",
                "due",
                "leases",
                "pool",
            )
        ),
    )
)


def planted(name: str = "planted.txt") -> list[Bug]:
    """Read the bugs from a file beside this one."""
    return planting.planted(Path(__file__).with_name(name))


def mutant(bug: Bug | None) -> type[Pool]:
    """Compile the pool once more, with a bug."""
    pool: type[Pool] = GARDEN.mutant(bug, "Pool")
    return pool
