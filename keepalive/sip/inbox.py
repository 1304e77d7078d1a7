"""What was received, on its way to whoever wants it: a callback, or an iterator."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.transport.runtime import Parking

    from .messages import Packet
    from .source import Source

    Receiver = Callable[[Packet, Source], object]

logger = logging.getLogger("keepalive.sip")


class Reader(Protocol):
    """A socket's owner, who reads from it."""

    def read(self) -> int:
        """Read what there is, for a while; return how many messages, or connections, that were."""


class Inbox:
    """Hands messages over; keeps them while nobody takes them, and when full lets nobody read more.

    :ivar receiver: the callback, if there is one
    :ivar kept: messages that wait
    :ivar full: nothing is to be read
    :ivar stalled: who has something to read, for when there is room again
    """

    def __init__(self, most: int, read_later: Callable[[Reader], None]) -> None:
        self._most = most
        self._read_later = read_later
        self._takers: deque[Parking] = deque()
        self.receiver: Receiver | None = None
        self.kept: deque[tuple[Packet, Source]] = deque()
        self.full = False
        self.stalled: dict[Reader, None] = {}
        self.closed = False

    def put(self, packet: Packet, source: Source) -> None:
        """Take a message in."""
        if self.receiver is not None and not self.kept:
            self._hand_over(packet, source)
            return
        self.kept.append((packet, source))
        self.full = len(self.kept) >= self._most
        self._wake_one()

    def _wake_one(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return

    def _hand_over(self, packet: Packet, source: Source) -> None:
        assert self.receiver is not None, "asked for by the caller"
        try:
            self.receiver(packet, source)
        except Exception:
            logger.exception("receiver %r raised", self.receiver)

    def _drained(self) -> None:
        if self.full and len(self.kept) <= self._most // 2:
            self.full = False
            stalled, self.stalled = self.stalled, {}
            for reader in stalled:
                self._read_later(reader)

    def empty(self) -> None:
        """Hand over what came while there was no receiver."""
        while self.kept and self.receiver is not None and not self.closed:
            self._hand_over(*self.kept.popleft())
        self._drained()

    def take(self) -> tuple[Packet, Source]:
        """Take the oldest message out."""
        found = self.kept.popleft()
        self._drained()
        return found

    async def wait(self, parked: Parking) -> None:
        """Wait until a message may be there, or none will come any more. Other takers lose nothing."""
        self._takers.append(parked)
        try:
            await parked
        except BaseException:
            if parked in self._takers:
                self._takers.remove(parked)
            elif self.kept:
                self._wake_one()  # it is the next one's
            raise

    def close(self) -> None:
        """Let all who wait know that nothing comes any more."""
        self.closed = True
        while self._takers:
            self._wake_one()
