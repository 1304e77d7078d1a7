"""The attempts of one client: what joins its core to the opener."""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from keepalive.base.addresses import is_literal
from keepalive.base.types import Key, Phase
from keepalive.connect.descriptors import ran_out
from keepalive.connect.options import SocketOptions
from keepalive.connect.tcp import TCPConnector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive.base.failure import DialFailure
    from keepalive.connect.connector import Connector
    from keepalive.connect.opener import Opener
    from keepalive.transport.link import Link
    from keepalive.transport.reactor import Reactor
    from keepalive.transport.runtime import Cancellable

    from .core.dispatch import Dispatch
    from .core.record import Record

logger = logging.getLogger("keepalive")

TCP = "tcp"
"""The scheme that needs no connector, nor a task for each attempt."""
# Small pieces are sent at once only when a peer turns out to send more than one: see `Output`. And most
# connections of a crawl are over before keep-alive could ask for the first time.
PLAIN = TCPConnector(SocketOptions(keepalive=None, no_delay=False))

literal = lru_cache(4096)(is_literal)


class Attempts:
    """All attempts of one client."""

    def __init__(
        self, core: Dispatch, reactor: Reactor, opener: Opener, connectors: Mapping[str, Connector]
    ) -> None:
        self.core = core
        self.reactor = reactor
        self.running: dict[Record, PeerAttempt] = {}
        self._opener = opener
        self._connectors = connectors
        self._warned = False  # of a shortage of descriptors

    def open(self, record: Record) -> bool:
        """Start an attempt; see `Effects.open`."""
        attempt = self.running[record] = PeerAttempt(self, record)
        try:
            self._start(attempt, record)
        except Exception as exc:  # the loop is at its end, for example
            logger.exception("opening %r", record.peer)
            del self.running[record]
            self.core.fail_later(record, Phase.CONNECT, 0, str(exc))
        attempt.starting = False
        return not attempt.no_room

    def _start(self, attempt: PeerAttempt, record: Record) -> None:
        opener, bound = self._opener, record.bind_addresses
        net = opener.net if bound is None else opener.net.bound_to(bound)
        connector = self._connectors.get(record.scheme)
        if connector is not None:
            attempt.task = opener.open(attempt, connector, net)
        elif literal(record.addr) and "%" not in record.addr:
            record.address = record.addr
            attempt.task = opener.open_address(attempt, PLAIN, net, record.addr, record.port)
        else:
            attempt.task = opener.open_by_name(attempt, PLAIN, net)

    def abort(self, record: Record) -> bool:
        """Give an attempt up; False if something of it is left until its end is told."""
        attempt = self.running.pop(record, None)
        return attempt is None or attempt.cancel()

    def warn_of_shortage(self) -> None:
        """Say once that descriptors have run out."""
        if not self._warned:
            self._warned = True
            text = "no free descriptor with %d places taken; further peers wait (see ulimit -n)"
            logger.warning(text, self.core.places.taken)


class PeerAttempt:
    """One peer's attempt, as the opener sees it; see `Attempt`."""

    __slots__ = (
        "_attempts",
        "_over",
        "_place_kept",
        "_record",
        "no_room",
        "phase",
        "starting",
        "task",
        "wanted",
    )

    def __init__(self, attempts: Attempts, record: Record) -> None:
        self._attempts = attempts
        self._record = record
        self._over = False
        self._place_kept = False  # until its end is told
        self.phase: str = Phase.CONNECT
        self.wanted = True
        self.starting = True  # within `Attempts.open`, where the core must not be called back
        self.no_room = False
        self.task: Cancellable | None = None

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
        return self._attempts.core.borrow()

    def give_back_extra(self) -> None:
        """Give such a place back."""
        self._freed()

    def _freed(self) -> None:
        reactor = self._attempts.reactor
        if not reactor.forked:
            self._attempts.core.freed(reactor.clock())

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
        record, core, now = self._record, self._attempts.core, self._attempts.reactor.clock()
        del self._attempts.running[record]
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
        record, core = self._record, self._attempts.core
        del self._attempts.running[record]
        record.address = None
        now = self._attempts.reactor.clock()
        told = record, failure.phase, failure.number or 0, failure.text
        if ran_out(failure):
            self._attempts.warn_of_shortage()
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
            record, reactor = self._record, self._attempts.reactor
            if self._attempts.running.pop(record, None) is not None and not reactor.forked:
                text = os.strerror(errno.ECANCELED)
                self._attempts.core.failed(record, self.phase, errno.ECANCELED, text, reactor.clock())
        elif self._place_kept:
            self._freed()
        self._over = True
