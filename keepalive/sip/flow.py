"""One stream connection of a pool: bytes in to messages, messages out to bytes. No task waits in here.

The poller calls `read` when there is something to read, and, since the flow itself stands at the link's
place for a waiting writer, `set_result` when there is room to send.
"""

from __future__ import annotations

import ssl
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from anyio import BrokenResourceError

from keepalive.base.failure import text_of
from keepalive.transport.tls import TLSLink

from .core.identity import matches
from .outgoing import Outgoing
from .source import Address, Source, local_of

if TYPE_CHECKING:
    from keepalive.base.timer_queue import Entry
    from keepalive.transport.link import Link
    from keepalive.transport.runtime import Cancellable

    from .alarms import Deadline
    from .core.framer import Framer
    from .core.routes import Place
    from .engine import Engine

READ: Final = 65536
"""Bytes read at a time."""
ROUNDS: Final = 2
"""Reads of one connection before others have their turn."""
MAX_AWAITED: Final = 1024
"""Requests sent on one connection whose final response is looked out for; older ones no longer spare it."""
MAX_DUE: Final = 8
"""Pings whose answers are looked out for: not every peer gives any."""


SIGNS: Final = b"\r\n\0"
"""What signs of life are made of (RFC 5626 4.4.1; some phones send a NUL too)."""
MAX_SIGN: Final = 64
"""Bytes of a read that may be nothing but signs of life."""


class FlowState(Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"
    """An attempt of ours is under way."""
    HANDSHAKE = "handshake"
    """Accepted; TLS is not done."""
    OPEN = "open"
    """Messages go both ways."""
    DRAINING = "draining"
    """It has been told why it ends; what it still sends is thrown away until it has read that."""
    CLOSED = "closed"
    """The end."""


CONNECTING: Final = FlowState.CONNECTING
HANDSHAKE: Final = FlowState.HANDSHAKE
OPEN: Final = FlowState.OPEN
DRAINING: Final = FlowState.DRAINING
CLOSED: Final = FlowState.CLOSED


class Flow:
    """One connection; see `Routable` and `Mortal` for the fields that the pure parts use.

    :ivar name: what the peer was verified to be when we called it with TLS, else None
    :ivar taken: messages that are all with the kernel, but whose outcome waits for a sign that a TLS 1.3
        server has accepted our certificate, or the lack of one; None when there is nothing to wait for
    :ivar last: when it was last used
    :ivar heard: when something last came from the peer, or one of its requests was answered
    :ivar asked: since when the peer owes an answer and has said nothing at all, else None
    :ivar pings: the peer keeps the connection alive
    :ivar kept_until: when the peer's registration on it ends, by the pool's user
    :ivar broken: why nothing can be sent any more, while what the peer said before that is still to be read
    """

    __slots__ = (
        "_source",
        "aliases",
        "asked",
        "attempt",
        "awaited",
        "broken",
        "deadline",
        "engine",
        "framer",
        "heard",
        "inbound",
        "kept_until",
        "last",
        "link",
        "name",
        "patience",
        "peer",
        "pings",
        "pongs",
        "proto",
        "queue",
        "queued",
        "spared",
        "state",
        "taken",
        "tids",
        "timer",
        "unanswered",
        "where",
    )

    def __init__(self, engine: Engine, proto: str, peer: Place, *, name: str | None, inbound: bool) -> None:
        self.engine = engine
        self.proto = proto
        self.peer = peer
        self.name = name
        self.inbound = inbound
        self.state = CONNECTING
        self.link: Link | None = None
        self.last = self.heard = engine.clock()
        self.asked: float | None = None
        self.patience: Deadline | None = None
        self.pings = self.spared = False
        self.kept_until = 0.0
        self.timer: Entry | None = None
        self.aliases: tuple[Place, ...] = ()
        self.tids: list[bytes] | None = None
        self.unanswered: set[bytes] | None = None
        self.awaited: dict[bytes, None] | None = None
        self.queue: deque[Outgoing] | None = None
        self.queued = self.pongs = 0
        self.taken: list[Outgoing] | None = None
        self.broken: tuple[int | None, str] | None = None
        self.framer: Framer | None = None
        self.deadline: Deadline | None = None
        self.attempt: Cancellable | None = None
        self.where: Place = peer
        self._source: Source | None = None

    # -- what others ask ------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether messages may be given to it; not if the kernel knows that its peer has gone."""
        if self.state is OPEN:
            return self.broken is None and not (self.link and self.link.hung)
        return self.state is CONNECTING

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state is CLOSED or self.state is DRAINING

    @property
    def pending(self) -> bool:
        """Whether bytes or transactions wait on it, or it is not open yet, or has bytes that nobody takes."""
        if self.queue or self.unanswered or self.awaited or self.taken or self.state is not OPEN:
            return True
        return self.engine.holds_back(self)

    @property
    def source(self) -> Source:
        """What is delivered with its messages."""
        if self._source is None:
            addr, port = self.where
            self._source = Source(self.name or addr, addr, port, self.proto, self, self._local())
        return self._source

    def _local(self) -> Address:
        """Return the address of ours that the peer knows, with the port at which we can be called."""
        master, link = self.engine.master, self.link
        assert master is not None, "made before any connection"
        if link is None or link.closed:
            return master.place
        root = link.inner if isinstance(link, TLSLink) else link
        try:
            return Address(local_of(root.sock).addr, master.place.port)
        except OSError:  # some systems do not tell it any more once the peer has gone
            return master.place

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's verified certificate."""
        if isinstance(self.link, TLSLink) and self.state is not HANDSHAKE:
            return self.link.engine.getpeercert() or None
        return None

    def leads_to(self, name: str | None) -> bool:
        """Say whether a request for this name may go out here; a caller's identity is its certificate."""
        if not self.usable:
            return False
        if self.proto != "tls" or name is None or name == self.name:
            return True
        return self.inbound and matches(self.certificate, name)

    # -- reading --------------------------------------------------------------------------------------

    def read(self) -> int:
        """Read what there is, for a while; return how many messages that were."""
        if self.state is not OPEN:
            self._read_otherwise()
            return 1
        engine, link, framer = self.engine, self.link, self.framer
        assert link is not None, "an open flow has a link"
        assert framer is not None, "an open flow has a framer"
        count = 1
        for _ in range(ROUNDS):
            if engine.inbox.full:
                engine.inbox.stall(self)
                return count
            try:
                data = link.try_receive(READ)
            except BrokenResourceError as exc:
                engine.end(self, "tls" if isinstance(exc.__cause__, ssl.SSLError) else "reset", *why(exc))
                return count
            if not data:
                if data is not None:
                    engine.end(self, "peer", None, "the peer has closed the connection")
                elif self.taken is not None:
                    self._look_for_ticket()
                break
            self._hear(data)
            heads = framer.feed(data)
            for head in heads:
                if self.ended:  # its user has closed it
                    return count
                engine.received(self, head)
            count += len(heads)
            if framer.pings or framer.pongs or framer.flaw is not None:
                self._mind(framer)
            if self.ended:
                return count
            if not link.readable and not link.layered:
                break
        else:
            engine.postpone(self)
        self._after_reading(framer, count > 1)
        return count

    def _hear(self, data: bytes) -> None:
        """Note that the peer lives."""
        self.last = self.heard = self.engine.clock()
        self.asked = None
        if len(data) <= MAX_SIGN and not data.strip(SIGNS):
            self.pings = True
        if self.taken is not None:
            self.confirmed()

    def _after_reading(self, framer: Framer, complete: bool) -> None:
        engine = self.engine
        if framer.started or self.deadline is not None:
            engine.limits.message(self, framer.started, complete)
        if self.broken is not None and self not in engine.ready:
            engine.end(self, "reset", *self.broken)

    def _read_otherwise(self) -> None:
        if self.state is HANDSHAKE:
            self._shake_hands()
        elif self.state is DRAINING and self.link is not None:
            try:
                for _ in range(ROUNDS):
                    data = self.link.try_receive(READ)
                    if not data:
                        break
                else:
                    self.engine.postpone(self)
                    return
            except BrokenResourceError:
                data = b""
            if data is not None:
                self.engine.close_link(self)

    def _shake_hands(self) -> None:
        link = self.link
        assert isinstance(link, TLSLink), "only TLS has a handshake"
        try:
            done = link.try_handshake()
        except (ssl.SSLError, BrokenResourceError) as exc:
            self.engine.end(self, "tls", *why(exc))
            return
        link.writer = None if done or not link.unsent else self
        if done:
            self.engine.opened(self)

    def _look_for_ticket(self) -> None:
        """Take a session ticket for the sign that the server is content: it sends them after its checks."""
        session = self.link.engine.session if isinstance(self.link, TLSLink) else None
        if session is not None and session.has_ticket:
            self.confirmed()

    def not_refused(self) -> None:
        """Take it for consent that the server has had its time and said nothing, not even just now."""
        self.deadline = None
        link, inbox, waiting = self.link, self.engine.inbox, self.taken
        if waiting is None or link is None or self.state is not OPEN:
            return
        link.readable = True  # the kernel may have what the poller has not told yet
        if not inbox.full:
            self.engine.read_now(self)
        if self.taken is waiting:  # it has neither consented nor refused, nor ended
            if inbox.full:
                self.engine.limits.refusal(self)
            else:
                self.confirmed()

    def confirmed(self) -> None:
        """Tell those who wait for the server's consent that their messages have gone out."""
        taken, self.taken = self.taken, None
        self.engine.limits.drop(self)
        for out in taken or ():
            self.engine.finish(out, None)

    def _mind(self, framer: Framer) -> None:
        """Answer signs of life (a peer that does not read gets one answer for many); end at a flaw."""
        counts, pings = self.engine.counts, framer.pings
        counts["pings"] += pings
        counts["pongs"] += framer.pongs
        self.pongs += framer.pongs
        framer.pings = framer.pongs = 0
        if pings and self.state is OPEN and not self.queue:
            self.send(Outgoing(b"\r\n" * min(pings, 8), "", None))
        if framer.flaw is not None and self.state is OPEN:
            self.engine.reject(self, framer.flaw)

    # -- sending --------------------------------------------------------------------------------------

    def send(self, out: Outgoing) -> None:
        """Send a message, or put it in the queue."""
        out.flow = self
        if out.asks and self.state is OPEN:
            self.engine.limits.asked(self)
        if self.state is OPEN and not self.queue:
            link = self.link
            assert link is not None, "an open flow has a link"
            try:
                out.sent = link.try_send(out.data)
            except BrokenResourceError as exc:
                self._break(exc)
            else:
                self.last = self.engine.clock()
                if out.sent == len(out.data) and not (link.layered and link.unsent):
                    self._done(out)
                    return
        if self.queue is None:
            self.queue = deque()
        self.queue.append(out)
        self.queued += len(out.data)
        if self.state is OPEN:
            self.set_result()

    def _done(self, out: Outgoing) -> None:
        if out.callback is None:
            out.went = self.source
        if out.pings and self.framer is not None:
            self.framer.due = min(self.framer.due + out.pings, MAX_DUE)
        if self.taken is None:
            self.engine.finish(out, None)
        else:
            self.taken.append(out)

    def _break(self, exc: BrokenResourceError) -> None:
        """Note that nothing can be sent any more; the end comes when what the peer said last has been read.

        It may be answers to requests, or in a TLS alert the reason.
        """
        link = self.link
        assert link is not None, "an open flow has a link"
        self.broken = why(exc)
        link.writer = None
        link.readable = True  # whether the poller has told it or not
        self.engine.postpone(self)

    def done(self) -> bool:
        """Say that this waiting writer can always be woken; see `Parking`."""
        return False

    def set_result(self, _: None = None, /) -> None:
        """Send on: the kernel has room. See `Parking`."""
        link, queue = self.link, self.queue
        if self.state is HANDSHAKE:
            self._shake_hands()
        if self.state is not OPEN or link is None or self.broken is not None:
            return
        try:
            while queue:
                out = queue[0]
                if out.sent < len(out.data):
                    sent = link.try_send(memoryview(out.data)[out.sent :])
                    out.sent += sent
                    if not sent:
                        break
                    self.last = self.engine.clock()
                    continue
                if link.layered and link.unsent:
                    link.try_send(b"")
                    if link.unsent:
                        break
                queue.popleft()
                self.queued -= len(out.data)
                self._done(out)
        except BrokenResourceError as exc:
            self._break(exc)
            return
        link.writer = self if queue else None
        if not queue:
            self.queue = None
            self.settle()

    def settle(self) -> None:
        """Note that something is pending no more."""
        if self.spared and not self.pending:
            self.engine.settled(self)

    def awaits(self, key: bytes) -> bool:
        """Note that a request was given to it: its response is to come. Say whether it is a new one."""
        if self.awaited is None:
            self.awaited = {}
        if key in self.awaited:
            return False
        self.awaited[key] = None
        if len(self.awaited) > MAX_AWAITED:
            del self.awaited[next(iter(self.awaited))]
        return True

    def withdraw(self, out: Outgoing) -> None:
        """Take a message out of the queue, if no byte of it has gone out."""
        out.callback = out.parked = None
        if self.queue and out in self.queue and not out.sent:
            self.queue.remove(out)
            self.queued -= len(out.data)
            out.finished = True
            if out.opens and self.awaited is not None and out.key is not None:
                self.awaited.pop(out.key, None)
                self.settle()


def why(exc: Exception) -> tuple[int | None, str]:
    """Return errno and text of what broke a connection."""
    cause: BaseException = exc
    if isinstance(exc, BrokenResourceError) and exc.__cause__ is not None:
        cause = exc.__cause__
    number = cause.errno if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) else None
    return number, text_of(cause) if isinstance(cause, Exception) else str(cause)
