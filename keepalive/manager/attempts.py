"""The attempts of one manager: from the pool's wish for a connection to its success or failure.

An attempt is a task that runs a connector, but for the commonest kind: plain TCP to a literal address has
one socket, and the poller itself tells its end. That saves a task, and two turns of the loop.
"""

from __future__ import annotations

import errno
import logging
import os
import random
from typing import TYPE_CHECKING

from anyio import BrokenResourceError, EndOfStream

from keepalive.base.addresses import is_literal
from keepalive.base.failure import DialFailure
from keepalive.base.types import NEVER, Phase
from keepalive.connect.deadlines import Budget
from keepalive.connect.dial import Dial
from keepalive.connect.tcp import TCPConnector, UnixConnector
from keepalive.connect.tls import TLSConnector
from keepalive.pool.states import CLOSING, OPENING
from keepalive.transport.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.abc import Connector
    from keepalive.connect.sockets import Connecting, Net
    from keepalive.pool.records import Slot
    from keepalive.pool.states import Failure
    from keepalive.resolve.service import Names
    from keepalive.transport.runtime import Cancellable, Runtime

    from .driver import Engine

logger = logging.getLogger("keepalive")

LIFETIME_JITTER = 0.05
"""A connection's lifetime is up to this part shorter, so that a herd opened at once ends staggered."""


class Attempts:
    """All attempts of one manager.

    :ivar running: those that have not ended, aborted ones included
    """

    def __init__(
        self,
        engine: Engine,
        runtime: Runtime,
        net: Net,
        names: Names,
        connectors: dict[str, Connector],
        max_lifetime: float,
    ) -> None:
        self.running: dict[Slot, Cancellable] = {}
        self.net = net
        self.engine = engine
        self._runtime = runtime
        self._names = names
        self._connectors: dict[str, Connector] = {
            "https": TLSConnector(),
            "unix": UnixConnector(),
            **connectors,
        }
        self._plain = TCPConnector()
        self._max_lifetime = max_lifetime
        self._recalls: dict[Slot, Callable[[], None]] = {}

    # -- what the pool wants ------------------------------------------------------------------------

    def open(self, slot: Slot) -> None:
        """Start the attempt of a slot."""
        if slot.state is not OPENING:
            return  # given up meanwhile, by an observer's call; `abort` is next
        key = slot.per_key.key
        connector = self._connectors.get(key.scheme, self._plain)
        if type(connector) is TCPConnector and self._begin(slot, connector):
            return
        limits = self.engine.pool.limits
        limited = not limits.connect_timeout == limits.resolve_timeout == limits.tls_timeout == NEVER
        budget = Budget(limits) if limited else None
        loans, sessions = _Loans(self, slot), self.engine.sessions
        dial = Dial(slot, self.net, loans, self._names, self._limit, budget, sessions)

        async def attempt() -> None:
            try:
                link = await connector.connect(dial)
                self._connected(slot, dial, link)
            except Exception as exc:
                self._failed(slot, dial, exc)
            finally:
                dial.close()

        name = f"keepalive attempt {slot.id} for {key}"
        try:
            self.running[slot] = self._runtime.spawn(attempt, lambda: self._ended(slot), name)
        except Exception as exc:  # the loop is at its end, or has a task factory of its own that fails
            self._failed(slot, dial, exc)

    def abort(self, slot: Slot) -> None:
        """Give an attempt up."""
        attempt = self.running.get(slot)
        if attempt is not None:
            attempt.cancel()
        elif slot.state is CLOSING:  # it could not even be started
            self.engine.pool.aborted(slot, self.engine.clock())

    def recall(self, slot: Slot) -> None:
        """Call back the places that an attempt has borrowed; they are there when this returns."""
        self._recalls[slot]()

    def _limit(self, slot: Slot, when: float, patience: Failure) -> None:
        self.engine.pool.limit(slot, when, patience)
        self.engine.act()

    # -- further places -----------------------------------------------------------------------------

    def borrow(self, slot: Slot, recall: Callable[[], None]) -> bool:
        """Take a place for one more socket of an attempt; see `Places`."""
        if not self.engine.pool.take_extra(slot):
            return False
        self._recalls[slot] = recall
        return True

    def repay(self, slot: Slot) -> None:
        """Give such a place back."""
        engine = self.engine
        if engine.forked:
            return
        if slot.extra == 1:
            del self._recalls[slot]
        engine.pool.give_back_extra(slot, engine.clock())
        engine.act()

    # -- without a task -----------------------------------------------------------------------------

    def _begin(self, slot: Slot, connector: TCPConnector) -> bool:
        """Begin to connect to a literal address; False if it is none, or if that failed at once."""
        key = slot.per_key.key
        if self.net.bind_addresses is not None or "%" in key.addr or not is_literal(key.addr):
            return False
        try:
            connecting = self.net.begin(key.addr, key.port, connector.options)
        except Exception:
            return False  # a task will fail in the same way: not before the caller has had his turn
        slot.phase = Phase.CONNECT
        slot.opened_at = self.engine.clock()
        self.running[slot] = _Direct(self, slot, connecting)
        connect_timeout = self.engine.pool.limits.connect_timeout
        if connect_timeout != NEVER:
            self.engine.pool.limit(slot, self.engine.clock() + connect_timeout)
        return True

    def arrived(self, slot: Slot, link: Link) -> None:
        """Take in what a direct attempt has connected."""
        del self.running[slot]
        self._opened(slot, link)
        self.engine.task_ended()

    def missed(self, slot: Slot, error: OSError) -> None:
        """Note that a direct attempt failed."""
        del self.running[slot]
        key, now = slot.per_key.key, self.engine.clock()
        self.net.failures.note(key.addr, key.port, now)
        failure = DialFailure(Phase.CONNECT, error.errno, error.strerror or str(error))
        failure.__cause__ = error
        self.engine.pool.open_failed(slot, failure, now)
        self.engine.note_warmed(slot, failure)
        self.engine.act()
        self.engine.task_ended()

    # -- how it ends --------------------------------------------------------------------------------

    def _connected(self, slot: Slot, dial: Dial, link: object) -> None:
        if not isinstance(link, Link):
            msg = f"the connector returned {link!r}, which is not a Link"
            raise TypeError(msg)
        if slot.state is not OPENING:
            return  # given up in the last moment; the dial closes the link
        dial.keep(link)
        self._opened(slot, link)

    def _opened(self, slot: Slot, link: Link) -> None:
        engine = self.engine
        link.slot = slot
        lifetime = self._max_lifetime
        if lifetime != NEVER:
            lifetime *= 1 - LIFETIME_JITTER * random.random()
        engine.pool.opened(slot, link, engine.clock(), lifetime)
        engine.note_warmed(slot, opened=True)
        engine.act()

    def _failed(self, slot: Slot, dial: Dial, exc: Exception) -> None:
        failure = dial.failure(exc)
        if not isinstance(exc, (OSError, DialFailure, BrokenResourceError, EndOfStream)):
            logger.error("the connector for %s raised", slot.per_key.key, exc_info=exc)
        dial.close()
        if slot.state is OPENING:
            self.engine.pool.open_failed(slot, failure, self.engine.clock())
            self.engine.note_warmed(slot, failure)
            self.engine.act()

    def _ended(self, slot: Slot) -> None:
        self.running.pop(slot, None)
        engine = self.engine
        if engine.forked:
            return
        engine.note_warmed(slot)
        engine.task_ended()
        self.gone(slot)

    def gone(self, slot: Slot) -> None:
        """Tell the pool that nothing is left of an attempt that has neither succeeded nor failed."""
        engine = self.engine
        if slot.state is CLOSING:
            engine.pool.aborted(slot, engine.clock())
            engine.act()
        elif slot.state is OPENING:
            # The task was ended from outside, by the end of its event loop for example.
            error = OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            engine.pool.open_failed(slot, error, engine.clock())
            engine.act()


class _Loans:
    """The further places of one attempt; see `Places`."""

    __slots__ = ("_attempts", "_slot")

    def __init__(self, attempts: Attempts, slot: Slot) -> None:
        self._attempts = attempts
        self._slot = slot

    def borrow(self, recall: Callable[[], None]) -> bool:
        return self._attempts.borrow(self._slot, recall)

    def repay(self) -> None:
        self._attempts.repay(self._slot)


class _Direct:
    """An attempt without a task: it stands in the place of its link's writer, and the poller wakes it."""

    __slots__ = ("_attempts", "_connecting", "_slot")

    def __init__(self, attempts: Attempts, slot: Slot, connecting: Connecting) -> None:
        self._attempts = attempts
        self._slot = slot
        self._connecting = connecting
        attempts.engine.ready += connecting.ready
        connecting.link.writer = self

    def done(self) -> bool:
        return False

    def set_result(self, _: None) -> None:
        """Look how it is going. Called by the poller, and by the end of the link."""
        link = self._connecting.link
        if link.closed or self._slot.state is not OPENING:
            return  # `cancel` is next, if it has not been
        link.writer = None
        self._attempts.engine.ready -= self._connecting.ready
        number = self._connecting.look()
        if number == 0:
            self._attempts.arrived(self._slot, link)
        elif number is None:
            link.writer = self
        else:
            link.close()
            self._attempts.missed(self._slot, OSError(number, os.strerror(number)))

    def cancel(self) -> None:
        """End it; nothing is left of it when this returns."""
        link = self._connecting.link
        if not link.closed:
            self._attempts.engine.ready -= self._connecting.ready
            link.close()
            self._attempts._ended(self._slot)
