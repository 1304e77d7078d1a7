"""A manager's part in a fleet, whose limits hold over many managers, processes and machines."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import anyio

from keepalive.errors import FleetError
from keepalive.pool.leases import LeasedLimits

from .pool_driver import PoolDriver

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.base.types import Key
    from keepalive.pool.records import KeyState
    from keepalive.pool.states import LimitsOf

logger = logging.getLogger("keepalive")

FAREWELL = 1.0
"""Seconds that the end waits for the last attempts before the places of a fleet are given back."""


class Places(Protocol):
    """A manager as its fleet sees it. All of this is plain and takes effect at once."""

    def usage(self, key: Key) -> tuple[int, int, int]:
        """Return the connections of a key, attempts included; the idle ones of these; and who waits."""

    def set_places(self, key: Key, places: float) -> None:
        """Allow so many connections of a key. Idle ones beyond that close now, others when given back."""

    def cut(self, key: Key, most: int) -> None:
        """Close connections of a key until no more than so many are left, also those in use."""


class FleetDriver(PoolDriver, Protocol):
    """Whoever carries out the pool's effects, and can be ended."""

    def shutdown(self) -> None:
        """Fail what waits, abort what opens, close what is idle."""

    async def drain(self, grace: float) -> None:
        """Wait until nothing is open any more, for `grace` seconds at most."""

    async def close(self) -> None:
        """End everything."""


class Fleet(ABC):
    """What keeps limits for many managers: given to `ConnectionManager(fleet=...)`, one for each manager."""

    @abstractmethod
    async def run(self, places: Places, joined: Callable[[], None]) -> None:
        """Take part until `stop`; in a task of its own.

        :param joined: to be called when the manager may begin
        :raises FleetError: it could not begin
        """

    @abstractmethod
    def stop(self) -> None:
        """Give everything back, and let `run` return soon: all connections are closed."""

    @abstractmethod
    def wanted(self, key: Key) -> None:
        """Take note that a request waits for one more connection of a key than is allowed. A plain method."""

    @abstractmethod
    def freed(self, key: Key) -> None:
        """Take note that a key has come down to what it is allowed. A plain method."""

    @abstractmethod
    def waits_for(self, key: Key) -> str:
        """Say what a request that waits for a place of this key waits for; for an error's text."""


class Seat:
    """A manager's place in its fleet: `Places`."""

    def __init__(self, fleet: Fleet, limits_of: LimitsOf) -> None:
        self.fleet = fleet
        self.limits_of = LeasedLimits(limits_of)
        self.beyond: dict[KeyState, None] = {}  # those that have more connections than allowed
        self._driver: FleetDriver | None = None
        self._joined = anyio.Event()
        self._ended = anyio.Event()
        self._failure: Exception | None = None

    async def begin(self, driver: FleetDriver) -> None:
        """Join the fleet; where that fails, or is cancelled, the manager ends.

        :raises FleetError: that is not possible
        """
        self._driver = driver
        driver.reactor.spawn(self._run, self._ended.set, "keepalive fleet")
        try:
            await self._joined.wait()
            if self._failure is not None:
                raise self._failure
        except BaseException:
            driver.shutdown()
            await driver.close()
            raise

    async def _run(self) -> None:
        try:
            await self.fleet.run(self, self._joined.set)
        except Exception as error:
            if self._joined.is_set():
                logger.exception("the fleet has failed: no new connections")
            self._failure = error if isinstance(error, FleetError) else FleetError(str(error))
            self._failure.__cause__ = error.__cause__ or error
            for key in list(self.limits_of.places):
                self.set_places(key, 0)
        finally:
            self._joined.set()

    async def end(self) -> None:
        """Give everything back when all connections are closed, the last attempts too."""
        if self._driver is not None:
            await self._driver.drain(FAREWELL)
        self.fleet.stop()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    # -- what the fleet wants -------------------------------------------------------------------------

    def usage(self, key: Key) -> tuple[int, int, int]:
        """See `Places`."""
        driver = self._driver
        per_key = None if driver is None else driver.pool.keys.states.get(key)
        if per_key is None:
            return 0, 0, 0
        idle = len(per_key.idle) + len(per_key.unused) + len(per_key.unlendable)
        return per_key.count, idle, max(0, per_key.waiting - per_key.coming)

    def set_places(self, key: Key, places: float) -> None:
        """See `Places`."""
        if places:
            self.limits_of.places[key] = places
        else:
            self.limits_of.places.pop(key, None)
        driver = self._driver
        per_key = None if driver is None else driver.pool.keys.states.get(key)
        if driver is not None and per_key is not None:
            self.limits_of.apply(key, per_key.limits)
            driver.pool.leases.changed(per_key, driver.reactor.clock())
            driver.act()
            if per_key.count > per_key.limits.max_per_host:
                self.beyond[per_key] = None
            else:
                self.beyond.pop(per_key, None)

    def cut(self, key: Key, most: int) -> None:
        """See `Places`."""
        driver = self._driver
        per_key = None if driver is None else driver.pool.keys.states.get(key)
        if driver is not None and per_key is not None:
            now = driver.reactor.clock()
            links = list(driver.reactor.poller.links.values())
            slots = [link.slot for link in links if link.slot is not None and link.slot.per_key is per_key]
            driver.pool.leases.cut(per_key, most, slots, now)
            driver.act()

    # -- what the driver sees -------------------------------------------------------------------------

    def look(self) -> None:
        """Tell the fleet of keys that have come down to what they are allowed."""
        for per_key in [one for one in self.beyond if one.count <= one.limits.max_per_host]:
            del self.beyond[per_key]
            self.fleet.freed(per_key.key)
