"""What lives between a pool's entry and its end, shared by its sockets: who reads when, and what came of it.

Everything here is plain and runs in callbacks of the event loop. Callbacks of users are called when nothing
of the pool is half done; completions always in a turn of their own, in order.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from keepalive.base.text import printable
from keepalive.resolve.dns import DNSResolver
from keepalive.resolve.service import Names
from keepalive.transport.reactor import Reactor

from .core.flows import Flows
from .core.head import bad_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Parking, Runtime

    from .config import SipConfig
    from .core.flow import HostPort
    from .core.head import Head
    from .core.outgoing import Call
    from .messages import Packet, Parser
    from .source import Address, Source

logger = logging.getLogger("keepalive.sip")

BUDGET: Final = 500  # messages and connections handled in a row; then other tasks run


class Reader(Protocol):
    """A socket's owner, who reads from it."""

    def read(self) -> int:
        """Read what there is, for a while; return how many messages, or connections, that were."""


class Inbox:
    """Hands messages over; keeps them while nobody takes them, and when full lets nobody read more."""

    def __init__(self, most: int, read_later: Callable[[Reader], None]) -> None:
        self._most = most
        self._read_later = read_later
        self._waiters: deque[Parking] = deque()
        self.receiver: Callable[[Packet, Source], object] | None = None
        self.messages: deque[tuple[Packet, Source]] = deque()  # they wait
        self.full = False  # nothing is to be read
        self.stalled: dict[Reader, None] = {}  # they have something to read, for when there is room again
        self.closed = False

    def put(self, packet: Packet, source: Source) -> None:
        """Take a message in."""
        if self.receiver is not None and not self.messages:
            self._hand_over(packet, source)
            return
        self.messages.append((packet, source))
        self.full = len(self.messages) >= self._most
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _hand_over(self, packet: Packet, source: Source) -> None:
        assert self.receiver is not None, "asked for by the caller"
        try:
            self.receiver(packet, source)
        except Exception:
            logger.exception("receiver %r raised", self.receiver)

    def _resume_reading(self) -> None:
        if self.full and len(self.messages) <= self._most // 2:
            self.full = False
            stalled, self.stalled = self.stalled, {}
            for reader in stalled:
                self._read_later(reader)

    def flush(self) -> None:
        """Hand over what came while there was no receiver."""
        while self.messages and self.receiver is not None and not self.closed:
            self._hand_over(*self.messages.popleft())
        self._resume_reading()

    def take(self) -> tuple[Packet, Source]:
        """Take the oldest message out."""
        found = self.messages.popleft()
        self._resume_reading()
        return found

    async def wait(self, parked: Parking) -> None:
        """Wait until a message may be there, or none will come any more. Other waiters lose nothing."""
        self._waiters.append(parked)
        try:
            await parked
        except BaseException:
            if parked in self._waiters:
                self._waiters.remove(parked)
            elif self.messages:
                self._wake_one()  # it is the next one's
            raise

    def close(self) -> None:
        """Let all who wait know that nothing comes any more."""
        self.closed = True
        while self._waiters:
            self._wake_one()


class Engine:
    """The working parts of one pool.

    :param local_address: what the pool's socket is bound to
    :param allowed_peer: the peer that this pool is restricted to
    """

    def __init__(
        self,
        runtime: Runtime,
        config: SipConfig,
        parser: Parser | None,
        local_address: Address,
        allowed_peer: HostPort | None,
    ) -> None:
        self.reactor = Reactor(runtime, self._readable, self._abandoned)
        self.clock = self.reactor.clock
        self.config = config
        self.allowed_peer = allowed_peer
        self.local_address = local_address
        self.names = Names(config.resolver or DNSResolver(), self.reactor)
        self.inbox = Inbox(config.max_inbox, self.read_later)
        self.flows: Flows[Any] = Flows(config, self._wake_at, self._call_soon)
        self.completions = self.flows.completions
        self.close_socket: Callable[[], object] | None = None  # the pool's; set by its owner
        self.flawed: Callable[[bytes, Source, str], object] | None = None  # the user's, as is the next one
        self.lost: Callable[[Source, str], object] | None = None
        self.lost_idle = False  # whether it is told of all ends
        self.counts: Counter[str] = Counter()
        self.flaws: Counter[str] = Counter()
        self.ready: dict[Reader, None] = {}  # they have more to read than their turn allowed
        self.closed = False
        self._parser = parser
        self._budget = BUDGET
        self._resuming = self._polling = False
        self._timer = self.reactor.timer(self._timer_rang)

    def allows(self, address: str, port: int | None = None) -> bool:
        """Say whether a peer is the one that this pool is restricted to, or there is no such restriction."""
        peer = self.allowed_peer
        return peer is None or (address == peer[0] and (port is None or peer[1] in (0, port)))

    # -- who reads when -------------------------------------------------------------------------------

    def _readable(self, root: Link) -> None:
        if root.slot is not None:  # else it is an attempt's
            self.read_soon(root.slot)

    def read_soon(self, reader: Reader) -> None:
        """Let one read of whom the poller tells."""
        if self._budget > 0 and not self._polling:
            self.read_now(reader)
        else:
            self.read_later(reader)

    def poll(self) -> None:
        """Learn which connections the kernel knows to be dead. Nothing is read and nobody called back."""
        self._polling = True
        try:
            self.reactor.poller.harvest()
        finally:
            self._polling = False

    def read_now(self, reader: Reader) -> None:
        """Let one read, whoever else waits. An error of the pool itself ends a connection, not the pool."""
        try:
            self._budget -= reader.read()
        except Exception:
            logger.exception("reading from %r", reader)
            if reader in self.flows.all:
                self.flows.end(reader, "error", None, "an error of the pool itself", self.clock())
        if self._budget <= 0:
            self._resume_soon()

    def read_later(self, reader: Reader) -> None:
        """Let others have their turn before this one reads on."""
        self.ready[reader] = None
        self._resume_soon()

    def _resume_soon(self) -> None:
        if not self._resuming:
            self._resuming = True
            self.reactor.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        self._budget = BUDGET
        ready, self.ready = self.ready, {}
        for reader in ready:
            if self._budget > 0:
                self.read_now(reader)
            else:
                self.read_later(reader)

    # -- what is received -----------------------------------------------------------------------------

    def deliver(self, head: Head, source: Source) -> None:
        """Hand a message over, or keep it until somebody takes it."""
        self.counts["received"] += 1
        packet: Packet = head.raw
        if self._parser is not None:
            try:
                packet = self._parser(head)
            except Exception as exc:  # whatever the library makes of a stranger's bytes, they are not lost
                self.flaws["unparsed"] += 1
                logger.info("message from %s is handed over as bytes: %s", source, printable(str(exc)))
        self.inbox.put(packet, source)

    def refuse(self, reason: str, header: bytes, raw: bytes, source: Source) -> bytes | None:
        """Drop a message with a flaw and tell of it; return what to answer, if it is a request."""
        self.flaws[reason] += 1
        logger.warning("message from %s over %s refused: %s", source, source.proto, reason)
        if self.flawed is not None:
            flawed = self.flawed
            self.completions.call_soon(lambda _: flawed(raw, source, reason), None)
        return bad_request(header, reason)

    # -- calling back, and time -----------------------------------------------------------------------

    def call_lost(self, source: Source, reason: str) -> None:
        """Tell the user of an end."""
        lost = self.lost
        if lost is not None:
            self.completions.call_soon(lambda _: lost(source, reason), None)

    def _call_soon(self) -> None:
        self.reactor.call_soon_threadsafe(lambda: _call(self.completions.due()))

    def _wake_at(self, when: float) -> None:
        if not self.closed:
            self._timer.move(max(0.0, when - self.clock()))

    def _timer_rang(self) -> None:
        if not self.closed:
            self.flows.tick(self.clock())

    # -- the end --------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End everything and wait for the tasks that were told to end."""
        if self.reactor.closed:
            return
        if not self.closed:
            self.closed = True
            self.ready.clear()
            self.flows.shutdown(self.clock())
            if self.close_socket is not None:
                self.close_socket()
            self.inbox.close()
        self.names.close()
        try:
            await self.reactor.wait_for_tasks()
        finally:
            _call(self.completions.rest())
            self._timer.cancel()
            await self.reactor.aclose()

    def _abandoned(self) -> None:
        """End this copy after a fork; its descriptors are closed already."""
        self.closed = True


def _call(calls: Iterable[Call]) -> None:
    for callback, error in calls:
        try:
            callback(error)
        except Exception:
            logger.exception("callback %r raised", callback)
