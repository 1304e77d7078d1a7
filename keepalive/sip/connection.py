"""One stream connection of a pool: bytes in to messages, messages out to bytes. No task waits in here.

The poller calls `read` when there is something to read, and, since the flow itself stands at the link's
place for a waiting writer, `set_result` when there is room to send.
"""

from __future__ import annotations

import errno
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from anyio import BrokenResourceError

from keepalive.base.failure import text_of
from keepalive.transport.tls import TLSLink

from .core.flow import CONNECTING, DRAINING, HANDSHAKE, OPEN, Flow, FlowState
from .core.framer import Framer
from .core.head import parse_via
from .core.outgoing import Outgoing
from .source import Address, Source, local_address

if TYPE_CHECKING:
    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Cancellable

    from .core.flow import HostPort
    from .core.head import Flaw, Head
    from .engine import Engine

READ_SIZE: Final = 65536  # bytes read at a time
READS_PER_TURN: Final = 2  # reads of one connection before others have their turn
MAX_PONGS_DUE: Final = 8  # pings whose answers are looked out for: not every peer gives any


KEEPALIVE_CHARS: Final = b"\r\n\0"
"""What signs of life are made of (RFC 5626 4.4.1; some phones send a NUL too)."""
MAX_KEEPALIVE: Final = 64  # bytes of a read that may be nothing but signs of life
MAX_UNREAD: Final = 65536  # bytes that may wait for a peer on a connection when it is told of a flaw


class Connection(Flow):
    """A connection with its link."""

    __slots__ = ("_source", "attempt", "engine", "framer", "link", "peer_address", "pongs")

    def __init__(
        self,
        engine: Engine,
        proto: str,
        peer: HostPort,
        name: str | None = None,
        state: FlowState = CONNECTING,
    ) -> None:
        super().__init__(proto, peer, engine.clock(), name, state)
        self.engine = engine
        self.link: Link | None = None
        self.framer: Framer | None = None
        self.attempt: Cancellable | None = None
        self.pongs = 0  # answers of the peer to pings of ours
        self.peer_address: HostPort = peer  # what the link leads to, once it stands
        self._source: Source | None = None

    # -- what others ask ------------------------------------------------------------------------------

    @property
    def hung(self) -> bool:
        """Whether the kernel knows that its peer has gone."""
        return self.link is not None and self.link.hung

    @property
    def unread(self) -> bool:
        """Whether there is something to read that it is not its turn or no room for."""
        return self in self.engine.ready or self in self.engine.inbox.stalled

    @property
    def source(self) -> Source:
        """What is delivered with its messages."""
        if self._source is None:
            addr, port = self.peer_address
            self._source = Source(self.name or addr, addr, port, self.proto, self, self._local_address())
        return self._source

    def _local_address(self) -> Address:
        """Return the address of ours that the peer knows, with the port at which we can be called."""
        place = self.engine.local_address
        if self.link is None or self.link.closed:
            return place
        try:
            return Address(local_address(self.link.sock).addr, place.port)
        except OSError:  # some systems do not tell it any more once the peer has gone
            return place

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's verified certificate."""
        if isinstance(self.link, TLSLink) and self.state is not HANDSHAKE:
            return self.link.engine.getpeercert() or None
        return None

    def start(self, link: Link) -> None:
        """Let messages go both ways."""
        self.link = link
        config = self.engine.config
        self.framer = Framer(config.max_header, config.max_body)
        consent = not self.inbound and isinstance(link, TLSLink) and link.engine.version() == "TLSv1.3"
        self.engine.flows.opened(self, self.engine.clock(), confirm=consent)
        self.set_result()
        if self.state is OPEN and (link.readable or link.layered):
            self.engine.read_soon(self)

    def read_again(self) -> None:
        """Read, or throw away, what the kernel has; see `Flow`."""
        if self.link is not None:
            self.link.readable = True
            self.engine.read_now(self)

    def stop(self) -> None:
        """Stop its attempt, its sending and its reading; see `Flow`."""
        self.engine.ready.pop(self, None)
        self.engine.inbox.stalled.pop(self, None)
        if self.attempt is not None:
            self.attempt.cancel()
        if self.link is not None:
            self.link.writer = None

    def report_lost(self, reason: str, *, transactions: bool, stood: bool) -> None:
        """Tell the user of its end; see `Flow`."""
        if transactions or (self.engine.lost_idle and stood):
            self.engine.call_lost(self.source, reason)

    def close(self) -> None:
        """Close its socket; see `Flow`."""
        if self.link is not None:
            self.link.slot = None
            self.link.close()

    def end(self, reason: str, number: int | None, text: str, *, drain: bool = False) -> None:
        """End it; see `Flows.end`."""
        self.engine.flows.end(self, reason, number, text, self.engine.clock(), drain=drain)

    # -- reading --------------------------------------------------------------------------------------

    def read(self) -> int:
        """Read what there is, for a while; return how many messages that were."""
        if self.state is not OPEN:
            self._read_not_open()
            return 1
        engine, link, framer = self.engine, self.link, self.framer
        assert link is not None, "an open flow has a link"
        assert framer is not None, "an open flow has a framer"
        count = 1
        for _ in range(READS_PER_TURN):
            if engine.inbox.full:
                engine.inbox.stalled[self] = None
                return count
            try:
                data = link.try_receive(READ_SIZE)
            except BrokenResourceError as exc:
                self.end("tls" if isinstance(exc.__cause__, ssl.SSLError) else "reset", *errno_and_text(exc))
                return count
            if not data:
                if data is not None:
                    self.end("peer", None, "the peer has closed the connection")
                elif self.unconfirmed is not None:
                    self._check_session_ticket()
                break
            self._note_received(data)
            heads = framer.feed(data)
            for head in heads:
                if self.ended:  # its user has closed it
                    return count
                self._receive(head)
            count += len(heads)
            if framer.pings or framer.pongs or framer.flaw is not None:
                self._handle_keepalives(framer)
            if self.ended:
                return count
            if not link.readable and not link.layered:
                break
        else:
            engine.read_later(self)
        self._after_reading(framer, count > 1)
        return count

    def _note_received(self, data: bytes) -> None:
        """Note that the peer lives."""
        sign = len(data) <= MAX_KEEPALIVE and not data.strip(KEEPALIVE_CHARS)
        self.engine.flows.received(self, self.engine.clock(), sign=sign)

    def _after_reading(self, framer: Framer, complete: bool) -> None:
        if framer.started or self.deadline is not None:
            self.engine.flows.message_progress(self, started=framer.started, complete=complete)
        if self.send_failure is not None and self not in self.engine.ready:
            self.end("reset", *self.send_failure)

    def _read_not_open(self) -> None:
        if self.state is HANDSHAKE:
            self._continue_handshake()
        elif self.state is DRAINING and self.link is not None:
            try:
                for _ in range(READS_PER_TURN):
                    data = self.link.try_receive(READ_SIZE)
                    if not data:
                        break
                else:
                    self.engine.read_later(self)
                    return
            except BrokenResourceError:
                data = b""
            if data is not None:
                self.engine.flows.close(self)

    def _continue_handshake(self) -> None:
        link = self.link
        assert isinstance(link, TLSLink), "only TLS has a handshake"
        try:
            done = link.try_handshake()
        except (ssl.SSLError, BrokenResourceError) as exc:
            self.end("tls", *errno_and_text(exc))
            return
        link.writer = None if done or not link.unsent else self
        if done:
            self.start(link)

    def _check_session_ticket(self) -> None:
        """Take a session ticket for the sign that the server is content: it sends them after its checks."""
        session = self.link.engine.session if isinstance(self.link, TLSLink) else None
        if session is not None and session.has_ticket:
            self.engine.flows.confirmed(self)

    def _handle_keepalives(self, framer: Framer) -> None:
        """Answer signs of life (a peer that does not read gets one answer for many); end at a flaw."""
        counts, pings = self.engine.counts, framer.pings
        counts["pings"] += pings
        counts["pongs"] += framer.pongs
        self.pongs += framer.pongs
        framer.pings = framer.pongs = 0
        if pings and self.state is OPEN and not self.queue:
            self.send(Outgoing(b"\r\n" * min(pings, 8)))
        if framer.flaw is not None and self.state is OPEN:
            self._reject(framer.flaw)

    # -- what is received -----------------------------------------------------------------------------

    def _receive(self, head: Head) -> None:
        engine = self.engine
        if head.flaw:
            answer = engine.refuse(head.flaw, head.header, head.raw, self.source)
            if answer is not None and self.state is OPEN and self.queued < MAX_UNREAD:
                self.send(Outgoing(answer))
            return
        if not head.code:
            engine.flows.request_received(self, head.key, awaits=head.method != b"ACK")
            if self.inbound and self.proto == "tls" and b"alias" in head.via:
                self._alias(head)
        elif head.code >= 200:
            engine.flows.response_received(self, head.key)
        engine.deliver(head, self.source)

    def _alias(self, head: Head) -> None:
        via = parse_via(head.via)
        if via is not None and via.alias and self.certificate is not None:
            self.engine.flows.routes.alias(self, (self.peer_address[0], via.port or 5061))

    def _reject(self, flaw: Flaw) -> None:
        """End, for messages cannot be told apart any more; say why, if to a request."""
        answer = self.engine.refuse(flaw.reason, flaw.header, flaw.header, self.source)
        drain = answer is not None and self.link is not None and not self.queue
        if answer is not None and self.link is not None and drain:
            with suppress(BrokenResourceError):
                self.link.try_send(answer)
                self.link.send_eof()
        self.end("framing", errno.EPROTO, f"what the peer sent cannot be read: {flaw.reason}", drain=drain)

    # -- sending --------------------------------------------------------------------------------------

    def send(self, out: Outgoing) -> None:
        """Send a message, as far as the kernel has room; the rest waits in the queue."""
        waiting = self.queue
        if self.engine.flows.enqueue(self, out, self.engine.clock()) and not waiting:
            self.set_result()

    def _send_failed(self, exc: BrokenResourceError) -> None:
        """Note that nothing can be sent any more; the end comes when what the peer said last has been read.

        It may be answers to requests, or in a TLS alert the reason.
        """
        link = self.link
        assert link is not None, "an open flow has a link"
        self.send_failure = errno_and_text(exc)
        link.writer = None
        link.readable = True  # whether the poller has told it or not
        self.engine.read_later(self)

    def done(self) -> bool:
        """Say that this waiting writer can always be woken; see `Parking`."""
        return False

    def set_result(self, _: None = None, /) -> None:
        """Send on: the kernel has room. See `Parking`."""
        link, queue = self.link, self.queue
        if self.state is HANDSHAKE:
            self._continue_handshake()
        if self.state is not OPEN or link is None or self.send_failure is not None:
            return
        try:
            while queue:
                out = queue[0]
                if out.sent < len(out.data):
                    sent = link.try_send(memoryview(out.data)[out.sent :])
                    out.sent += sent
                    if not sent:
                        break
                    self.last_used = self.engine.clock()
                    continue
                if link.layered and link.unsent:
                    link.try_send(b"")
                    if link.unsent:
                        break
                if out.callback is None:
                    out.sent_to = self.source
                if out.pings and self.framer is not None:
                    self.framer.pongs_due = min(self.framer.pongs_due + out.pings, MAX_PONGS_DUE)
                self.engine.flows.sent(self, out)
        except BrokenResourceError as exc:
            self._send_failed(exc)
            return
        link.writer = self if queue else None


def errno_and_text(exc: Exception) -> tuple[int | None, str]:
    """Return errno and text of what broke a connection."""
    cause: BaseException = exc
    if isinstance(exc, BrokenResourceError) and exc.__cause__ is not None:
        cause = exc.__cause__
    number = cause.errno if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) else None
    return number, text_of(cause) if isinstance(cause, Exception) else str(cause)
