"""The driver of one client: carries out what its core decides, and tells the core what happens."""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from keepalive.base.addresses import is_literal
from keepalive.base.types import NEVER, Key, Phase
from keepalive.connect.descriptors import ran_out
from keepalive.connect.opener import Opener
from keepalive.connect.options import SocketOptions
from keepalive.connect.sockets import Net
from keepalive.connect.tcp import TCPConnector
from keepalive.resolve.service import Names
from keepalive.transport.reactor import Reactor
from keepalive.transport.sessions import Sessions

from .core.dispatch import Dispatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive.base.failure import DialFailure
    from keepalive.connect.connector import Connector
    from keepalive.resolve.resolver import Resolver
    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Cancellable, Runtime

    from .core.states import Callbacks, Limits, Record

logger = logging.getLogger("keepalive")

TCP = "tcp"
"""The scheme that needs no connector, nor a task for each attempt."""
# Small pieces are sent at once only when a peer turns out to send more than one: see `Output`. And most
# connections of a crawl are over before keep-alive could ask for the first time.
PLAIN = TCPConnector(SocketOptions(keepalive=None, no_delay=False))
ROUNDS = 16
"""So often the kernel is asked for events in one turn of the loop, as long as there are some."""

literal = lru_cache(4096)(is_literal)


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
        self._opener = Opener(reactor, net, self._names, self._sessions, at_once=True)
        self._connectors = connectors
        self.attempts: dict[Record, PeerAttempt] = {}  # under way
        self._warned = False  # of a shortage of descriptors
        self._timer = reactor.timer(self._ring)

    def check_here(self) -> None:
        """Refuse calls from another event loop or thread."""
        self.reactor.check_here("a MultiClient and its peers")

    # -- effects ------------------------------------------------------------------------------------

    def open(self, record: Record) -> bool:
        """Start an attempt; see `Effects`."""
        attempt = self.attempts[record] = PeerAttempt(self, record)
        try:
            attempt.task = self._start(attempt, record)
        except Exception as exc:  # the loop is at its end, for example
            logger.exception("opening %r", record.peer)
            del self.attempts[record]
            self.core.fail_later(record, Phase.CONNECT, 0, str(exc))
        attempt.starting = False
        return not attempt.no_room

    def _start(self, attempt: PeerAttempt, record: Record) -> Cancellable | None:
        opener, bound = self._opener, record.bind_addresses
        net = opener.net if bound is None else opener.net.bound_to(bound)
        connector = self._connectors.get(record.scheme)
        if connector is not None:
            return opener.open(attempt, connector, net)
        if literal(record.addr) and "%" not in record.addr:
            record.address = record.addr
            return opener.open_address(attempt, PLAIN, net, record.addr, record.port)
        return opener.open_by_name(attempt, PLAIN, net)

    def close(self, record: Record) -> bool:
        """End an attempt or a connection; see `Effects`."""
        link: Any = record.link
        if link is None:
            attempt = self.attempts.pop(record, None)
            return attempt is None or attempt.cancel()
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

    def warn_of_shortage(self) -> None:
        """Log once that descriptors have run out."""
        if not self._warned:
            self._warned = True
            text = "no free descriptor with %d places taken; further peers wait (see ulimit -n)"
            logger.warning(text, self.core.places.taken)

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


@dataclass(eq=False, repr=False, slots=True)
class PeerAttempt:
    """One peer's attempt, as the opener sees it; see `Attempt`."""

    _driver: Driver
    _record: Record
    phase: str = Phase.CONNECT
    wanted: bool = True
    starting: bool = True  # within `Driver.open`, where the core must not be called back
    no_room: bool = False
    task: Cancellable | None = None
    _over: bool = False
    _place_kept: bool = False  # until its end is told

    @property
    def key(self) -> Key:
        """What to connect to."""
        record = self._record
        near = record.scheme, record.addr, record.port
        return Key(*near, *(record.behind or near))

    def enter_phase(self, phase: str) -> None:
        """Note what it is doing from now on."""
        self.phase = phase

    def set_deadline(self, when: float, timeout: str) -> None:
        """Do nothing: the core has the time of the whole attempt."""

    def take_extra(self, recall: Callable[[], None]) -> bool:
        """Take a place for one more socket. They are not called back: a race is soon over."""
        return self._driver.core.borrow()

    def give_back_extra(self) -> None:
        """Give such a place back."""
        self._freed()

    def _freed(self) -> None:
        if not self._driver.reactor.forked:
            self._driver.core.freed(self._driver.clock())

    def cancel(self) -> bool:
        """Give it up; False if something of it is left."""
        self.wanted = False
        if self.task is not None:
            self.task.cancel()
        if self._over:
            return True
        self._place_kept = True
        return False

    def opened(self, link: Link) -> None:
        """Hand the connection to the core."""
        record, core, now = self._record, self._driver.core, self._driver.clock()
        del self._driver.attempts[record]
        link.slot = record
        if record.address is None and link.sock.family != socket.AF_UNIX:
            with suppress(OSError):  # it is broken already
                record.address = link.sock.getpeername()[0]
        core.connected(record, link, now)
        if link.layered or link.readable:
            core.readable(record, now)  # what came with the handshake raises no event any more

    def failed(self, failure: DialFailure) -> None:
        """Tell the core of a failure."""
        if not self.wanted:
            self.ended()
            return
        record, core, now = self._record, self._driver.core, self._driver.clock()
        del self._driver.attempts[record]
        record.address = None
        told = record, failure.phase, failure.number or 0, failure.text
        if ran_out(failure):
            self._driver.warn_of_shortage()
            if self.starting:
                self.no_room = True
            else:
                core.no_room(record, now)
        elif self.starting:
            core.fail_later(*told)
        else:
            core.failed(*told, now)

    def ended(self) -> None:
        """Tell the core that nothing is left of it."""
        if self.wanted:  # its task was ended from outside, by the end of its event loop for example
            record, driver = self._record, self._driver
            if driver.attempts.pop(record, None) is not None and not driver.reactor.forked:
                text = os.strerror(errno.ECANCELED)
                driver.core.failed(record, self.phase, errno.ECANCELED, text, driver.clock())
        elif self._place_kept:
            self._freed()
        self._over = True


@dataclass(eq=False, repr=False, slots=True)
class WriteWatch:
    """Stands in `Link.writer`, where the poller looks for a parked task, and calls the core instead."""

    _driver: Driver
    _record: Record
    _link: Link

    def done(self) -> bool:
        """Say whether nobody waits any more."""
        return self._link.closed

    def set_result(self, _: None) -> None:
        """Say that there is room."""
        self._link.writer = None
        self._driver.core.writable(self._record, self._driver.clock())


def most_connections() -> float:
    """Return how many connections the soft limit of descriptors allows, with some left for the program.

    An eighth is left, 32 at least. Without such a limit there is none.
    """
    try:
        import resource
    except ImportError:  # not a POSIX system
        return NEVER
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return NEVER
    return max(1, soft - max(soft // 8, 32))
