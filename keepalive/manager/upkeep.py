"""Keeps connections ready where `KeySettings.min_idle` asks for some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base import arguments

if TYPE_CHECKING:
    from .key_settings import LimitsByKey
    from .pool_driver import PoolDriver

INTERVAL = 0.25
"""Seconds between two looks; so an origin that refuses is not asked all the time."""
AHEAD = 5.0
"""Seconds before the end of its lifetime that a connection's successor is opened."""


class Upkeep:
    """Looks now and then whether enough connections are ready, and opens what is missing."""

    def __init__(self, driver: PoolDriver, limits_of: LimitsByKey) -> None:
        self._driver = driver
        self._limits_of = limits_of
        self._timer = driver.reactor.timer(self.look)

    def look(self) -> None:
        """Open what is missing."""
        pool, now = self._driver.pool, self._driver.reactor.clock()
        if pool.closed or not self._limits_of.keeps_ready:
            return
        for place in self._limits_of.kept_ready:
            pool.keys.of(arguments.key(*place, None, None, None))
        for per_key in list(pool.keys.states.values()):
            wanted = per_key.limits.min_idle
            if wanted:
                ageing = min(AHEAD, per_key.limits.max_lifetime / 4)
                idle = (*per_key.idle, *per_key.unused)
                old = sum(slot.retires_at - now < ageing for slot in idle)
                pool.preconnect(per_key, int(wanted) + old, now)
        self._driver.act()
        self._timer.move(INTERVAL)

    def cancel(self) -> None:
        """Look no more."""
        self._timer.cancel()
