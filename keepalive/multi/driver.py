"""The driver of one client: carries out what its core decides, and tells the core what happens."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

from keepalive.connect.opener import Opener
from keepalive.connect.sockets import Net
from keepalive.resolve.service import Names
from keepalive.transport.reactor import Reactor
from keepalive.transport.sessions import Sessions

from .attempts import Attempts
from .core.dispatch import Dispatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keepalive.connect.connector import Connector
    from keepalive.resolve.resolver import Resolver
    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Runtime

    from .core.effects import Callbacks
    from .core.record import Record
    from .core.states import Limits

logger = logging.getLogger("keepalive")

ROUNDS = 16
"""So often the kernel is asked for events in one turn of the loop, as long as there are some."""


class Driver:
    """All that lives between a client's entry and its end; the core sees it as its `Effects`."""

    def __init__(
        self,
        runtime: Runtime,
        resolver: Resolver,
        connectors: Mapping[str, Connector],
        callbacks: Callbacks,
        limits: Limits,
    ) -> None:
        self.core = Dispatch(callbacks, limits, self)
        self.reactor = reactor = Reactor(runtime, self._unread, self.core.abandon, rounds=ROUNDS)
        self.clock = reactor.clock
        self.park = reactor.park
        self._sessions = Sessions()
        self._names = Names(resolver, reactor)
        net = Net(reactor.poller, reactor.clock, None)
        opener = Opener(reactor, net, self._names, self._sessions, at_once=True)
        self._attempts = Attempts(self.core, reactor, opener, connectors)
        self._timer = reactor.timer(self._ring)

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread."""
        self.reactor.check_here("a MultiClient and its peers")

    # -- effects ------------------------------------------------------------------------------------

    def open(self, record: Record) -> bool:
        """Start an attempt; see `Effects`."""
        return self._attempts.open(record)

    def close(self, record: Record) -> bool:
        """End an attempt or a connection; see `Effects`."""
        link: Any = record.link
        if link is None:
            return self._attempts.abort(record)
        try:
            link.close()
        except Exception:
            logger.exception("closing %r", record.peer)
        return True

    def watch_writable(self, record: Record) -> None:
        """Watch for room to send; see `Effects`."""
        link: Any = record.link
        if link.writer is None:
            link.writer = WriteWatch(self, record, link)

    def set_no_delay(self, record: Record) -> None:
        """Send small pieces at once; see `Effects`."""
        link: Any = record.link
        sock = link.sock
        if sock.family != socket.AF_UNIX:
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                pass  # it is broken, as the next attempt to send or receive will tell

    def call_soon(self) -> None:
        """Have `Dispatch.run_deferred` called; see `Effects`."""
        if not self.reactor.forked:
            self.reactor.call_soon_threadsafe(self._run_deferred)

    def wake_at(self, when: float) -> None:
        """Set the timer; see `Effects`."""
        self._timer.move(max(0.0, when - self.clock()))

    def log_error(self, name: str, record: Record, exc: BaseException) -> None:
        """Log what a callback, or a filter, raised."""
        logger.error("%s of %r raised", name, record.peer, exc_info=exc)

    # -- what the loop tells ------------------------------------------------------------------------

    def _run_deferred(self) -> None:
        if not self.reactor.forked:
            self.core.run_deferred(self.clock())

    def _ring(self) -> None:
        self.reactor.poller.harvest()  # what has come in time counts, however late this timer is
        self.core.tick(self.clock())

    def _unread(self, link: Link) -> None:
        record = link.slot
        if record is not None:
            self.core.readable(record, self.clock())

    # -- the end ------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End everything, and wait for the tasks that were told to end."""
        try:
            self.core.die(self.clock())
            self.core.run_deferred(self.clock())
            self._names.close()
            await self.reactor.wait_for_tasks()
        finally:
            self._timer.cancel()
            self._sessions.forget()
            await self.reactor.aclose()


class WriteWatch:
    """Stands in `Link.writer`, where the poller looks for a parked task, and calls the core instead."""

    __slots__ = ("_driver", "_link", "_record")

    def __init__(self, driver: Driver, record: Record, link: Link) -> None:
        self._driver = driver
        self._record = record
        self._link = link

    def done(self) -> bool:
        """Say whether nobody waits any more."""
        return self._link.closed

    def set_result(self, _: None) -> None:
        """Say that there is room."""
        self._link.writer = None
        self._driver.core.writable(self._record, self._driver.clock())
