"""What the parts of a manager need of whoever carries out the pool's effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from keepalive.pool.pool import Pool
    from keepalive.transport.reactor import Reactor


class PoolDriver(Protocol):
    """Whoever carries out the pool's effects."""

    pool: Pool
    reactor: Reactor

    def act(self) -> None:
        """Carry out what the pool wants."""
