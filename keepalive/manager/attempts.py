"""The attempts of one manager: what joins the pool's slots to the opener."""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING

from keepalive.base.types import NEVER
from keepalive.connect.tcp import TCPConnector, UnixConnector
from keepalive.connect.tls import TLSConnector
from keepalive.pool.states import CLOSING, OPENING, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive.base.failure import DialFailure
    from keepalive.base.types import Key
    from keepalive.connect.connector import Connector
    from keepalive.connect.opener import Opener
    from keepalive.pool.records import Slot
    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Cancellable

    from .lifecycles import Lifecycles
    from .pool_driver import PoolDriver
    from .preconnect import Preconnects

LIFETIME_JITTER = 0.05
"""A connection's lifetime is up to this part shorter, so that a herd opened at once ends staggered."""


class Attempts:
    """All attempts of one manager.

    :ivar running: those that have not ended, aborted ones included
    """

    def __init__(
        self,
        driver: PoolDriver,
        opener: Opener,
        connectors: Mapping[str, Connector],
        preconnects: Preconnects,
        lifecycles: Lifecycles,
    ) -> None:
        self.running: dict[Slot, SlotAttempt] = {}
        self.driver = driver
        self.preconnects = preconnects
        self.lifecycles = lifecycles
        self._opener = opener
        self._plain = TCPConnector()
        self._connectors: dict[str, Connector] = {
            "https": TLSConnector(),
            "unix": UnixConnector(),
            **connectors,
        }
        lifecycles.connectors(self._connectors, self._plain)

    def open(self, slot: Slot) -> None:
        """Start the attempt of a slot."""
        if slot.state is not OPENING:
            return  # given up meanwhile, by an observer's call; `abort` is next
        attempt = self.running[slot] = SlotAttempt(self, slot)
        attempt.task = self._opener.open(attempt, self._connectors.get(slot.per_key.key.scheme, self._plain))

    def abort(self, slot: Slot) -> None:
        """Give an attempt up."""
        attempt = self.running.get(slot)
        if attempt is not None and attempt.task is not None:
            attempt.task.cancel()
        elif slot.state is CLOSING:  # it could not even be started
            self.driver.pool.aborted(slot, self.driver.reactor.clock())

    def recall(self, slot: Slot) -> None:
        """Have an attempt give its extra slots back; that is done when this returns."""
        recall = self.running[slot].recall
        assert recall is not None, "an attempt with extra slots has said how they come back"
        recall()


class SlotAttempt:
    """One slot's attempt, as the opener sees it; see `Attempt`."""

    __slots__ = ("_attempts", "_driver", "_slot", "recall", "task")

    def __init__(self, attempts: Attempts, slot: Slot) -> None:
        self._attempts = attempts
        self._driver = attempts.driver
        self._slot = slot
        self.task: Cancellable | None = None
        self.recall: Callable[[], None] | None = None

    @property
    def key(self) -> Key:
        """What to connect to."""
        return self._slot.per_key.key

    @property
    def phase(self) -> str:
        """What it is doing."""
        return self._slot.phase

    def enter_phase(self, phase: str) -> None:
        """Note what it is doing from now on."""
        slot = self._slot
        if slot.phase != phase or not slot.phase_since:
            self._driver.pool.enter_phase(slot, phase, self._driver.reactor.clock())

    def set_deadline(self, when: float, timeout: str) -> None:
        """Have it given up when it takes too long."""
        self._driver.pool.limit(self._slot, when, Failure(timeout))
        self._driver.act()

    @property
    def wanted(self) -> bool:
        """Whether the pool has not given it up."""
        return self._slot.state is OPENING

    def take_extra(self, recall: Callable[[], None]) -> bool:
        """Take a place for one more socket."""
        if not self._driver.pool.take_extra(self._slot):
            return False
        self.recall = recall
        return True

    def give_back_extra(self) -> None:
        """Give such a place back."""
        driver = self._driver
        if not driver.reactor.forked:
            driver.pool.give_back_extra(self._slot, driver.reactor.clock())
            driver.act()

    def opened(self, link: Link) -> None:
        """Hand the connection to the pool."""
        slot, driver, attempts = self._slot, self._driver, self._attempts
        del attempts.running[slot]
        link.slot = slot
        lifetime = slot.per_key.limits.max_lifetime
        if lifetime != NEVER:
            lifetime *= 1 - LIFETIME_JITTER * random.random()
        capacity = attempts.lifecycles.opened(slot, link)
        driver.pool.opened(slot, link, driver.reactor.clock(), lifetime, capacity)
        attempts.preconnects.opened(slot)
        driver.act()

    def failed(self, failure: DialFailure) -> None:
        """Tell the pool of a failure."""
        if not self.wanted:
            self.ended()
            return
        slot, driver = self._slot, self._driver
        self._attempts.running.pop(slot, None)
        driver.pool.open_failed(slot, failure, driver.reactor.clock())
        self._attempts.preconnects.failed(slot, failure, driver.pool)
        driver.act()

    def ended(self) -> None:
        """Tell the pool that nothing is left of it."""
        slot, driver = self._slot, self._driver
        self._attempts.running.pop(slot, None)
        if driver.reactor.forked:
            return
        self._attempts.preconnects.failed(slot, None, driver.pool)
        now = driver.reactor.clock()
        if slot.state is CLOSING:
            driver.pool.aborted(slot, now)
        elif slot.state is OPENING:
            # The task was ended from outside, by the end of its event loop for example.
            driver.pool.open_failed(slot, OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)), now)
        driver.act()
