"""Who reads when: each has its turn, and after many messages in a row other tasks have theirs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.transport.reactor import Reactor

logger = logging.getLogger("keepalive.sip")

BUDGET: Final = 500
"""Messages and connections handled in a row; then other tasks run."""


class Reader(Protocol):
    """A socket's owner, who reads from it."""

    def read(self) -> int:
        """Read what there is, for a while; return how many messages, or connections, that were."""


class Dispatcher:
    """Lets readers read.

    :param failed: called with one whose reading raised: an error of the pool itself ends a connection, not
        the pool
    :ivar ready: those that have more to read than their turn allowed
    """

    def __init__(self, reactor: Reactor, failed: Callable[[Reader], None]) -> None:
        self._reactor = reactor
        self._failed = failed
        self._budget = BUDGET
        self._resuming = self._looking = False
        self.ready: dict[Reader, None] = {}

    def readable(self, reader: Reader) -> None:
        """Let one read of whom the poller tells."""
        if self._budget > 0 and not self._looking:
            self.read_now(reader)
        else:
            self.postpone(reader)

    def look(self) -> None:
        """Learn which connections the kernel knows to be dead. Nothing is read and nobody called back."""
        self._looking = True
        try:
            self._reactor.poller.harvest()
        finally:
            self._looking = False

    def read_now(self, reader: Reader) -> None:
        """Let one read, whoever else waits."""
        try:
            self._budget -= reader.read()
        except Exception:
            logger.exception("reading from %r", reader)
            self._failed(reader)
        if self._budget <= 0:
            self._resume_soon()

    def postpone(self, reader: Reader) -> None:
        """Let others have their turn before this one reads on."""
        self.ready[reader] = None
        self._resume_soon()

    def _resume_soon(self) -> None:
        if not self._resuming:
            self._resuming = True
            self._reactor.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        self._budget = BUDGET
        ready, self.ready = self.ready, {}
        for reader in ready:
            if self._budget > 0:
                self.read_now(reader)
            else:
                self.postpone(reader)
