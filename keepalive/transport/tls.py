"""TLS over a link: the same non-blocking interface, one layer up.

The engine works on memory buffers, never on the descriptor: so it goes over any link, another TLS
link included, its session tickets are told from data, and nothing of it acts by itself after a fork.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from anyio import BrokenResourceError, TypedAttributeSet, typed_attribute
from anyio.streams.tls import TLSAttribute

from keepalive.base.types import CloseReason

from .link import FAIR_RUN, Link

if TYPE_CHECKING:
    from collections.abc import Callable

_READ = 65536  # sealed bytes taken from the kernel at a time
_SEAL = 262144  # plaintext sealed at a time, so that a slow peer bounds what waits in memory


class TLSSessionAttribute(TypedAttributeSet):
    """What `anyio.streams.tls.TLSAttribute` does not tell of a TLS stream."""

    session_reused: bool = typed_attribute()
    """Whether the handshake resumed a session: then it verified no certificate, since that one's did."""


def _of_inner(name: str) -> Any:
    """Make an attribute that is the inner link's: descriptor, flags and parking places exist once."""

    def read(self: TLSLink) -> object:
        return getattr(self.inner, name)

    def write(self: TLSLink, value: object) -> None:
        setattr(self.inner, name, value)

    return property(read, write)


class TLSLink(Link):
    """A link whose bytes are sealed by TLS.

    Reading may find handshake messages only (session tickets, key updates): these are not bytes for
    anybody, and a link with nothing else is quiet.
    """

    __slots__ = (
        "_hungry",
        "_opened",
        "_outbox",
        "_sealed_in",
        "_sealed_out",
        "_strict",
        "depth",
        "engine",
        "inner",
    )

    layered = True
    closed = _of_inner("closed")
    away = _of_inner("away")
    deadline = _of_inner("deadline")
    exposed = _of_inner("exposed")
    fd = _of_inner("fd")
    hung = _of_inner("hung")
    late = _of_inner("late")
    poller = _of_inner("poller")
    readable = _of_inner("readable")
    reader = _of_inner("reader")
    slot = _of_inner("slot")
    sock = _of_inner("sock")
    starved = _of_inner("starved")
    state = _of_inner("state")
    timer = _of_inner("timer")
    torn = _of_inner("torn")
    touched = _of_inner("touched")
    writer = _of_inner("writer")

    def __init__(
        self,
        inner: Link,
        context: ssl.SSLContext,
        server_hostname: str | None,
        *,
        strict: bool,
        session: ssl.SSLSession | None = None,
        server_side: bool = False,
    ) -> None:
        """Put TLS over a link; its handshake is still to come.

        :param strict: whether an end of stream without TLS's own end is an error, as it must be
            wherever the end of the stream means something (truncation, RFC 8446 6.1)
        :param session: of the same context, to be resumed if the peer still knows it
        :param server_side: whether this is the end that was called
        """
        # super().__init__ would register the descriptor a second time.
        self.inner = inner
        self.depth: int = inner.depth + 1 if isinstance(inner, TLSLink) else 1
        self.credit = FAIR_RUN
        self.eof = self.eof_sent = False
        self.doubtful = True  # there is always more to ask: what this side holds back
        self._strict = strict
        self._hungry = False  # the handshake can go on only when the peer has spoken
        self._outbox = b""  # sealed, not yet taken by the kernel
        self._opened = b""  # plaintext that was read ahead by `look`
        self._sealed_in = ssl.MemoryBIO()
        self._sealed_out = ssl.MemoryBIO()
        self.engine = context.wrap_bio(
            self._sealed_in,
            self._sealed_out,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session,
        )

    @property
    def unsent(self) -> bool:
        """Whether sealed bytes still wait for the kernel to take them, here or in a TLS link below."""
        return bool(self._outbox) or self.inner.unsent

    def try_handshake(self) -> bool:
        """Go on with the handshake; False if the peer, or room to send, must be awaited.

        :raises ssl.SSLError: the handshake failed
        :raises BrokenResourceError: the connection did
        """
        if self._hungry and not self._feed():
            return False
        while True:
            try:
                self.engine.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if self.unsent:
                    return False
                self._hungry = not self._feed()
                if self._hungry:
                    return False
            except ssl.SSLError:
                with suppress(BrokenResourceError):
                    self._flush()  # the alert that tells the peer why
                raise
            else:
                self._flush()
                return not self.unsent

    def try_receive(self, max_bytes: int) -> bytes | None:
        """Return opened bytes; see `Link.try_receive`."""
        if self._opened:
            data, self._opened = self._opened[:max_bytes], self._opened[max_bytes:]
            return data
        while True:
            try:
                data = self.engine.read(max_bytes)
            except ssl.SSLWantReadError:
                if not self._feed():
                    return None
            except ssl.SSLZeroReturnError:  # instead of b"" once both sides have said their goodbye
                self.eof = True
                return b""
            except ssl.SSLEOFError as exc:
                return self._ragged_end(exc)
            except ssl.SSLError as exc:
                self.torn = True
                raise BrokenResourceError from exc
            else:
                if not data:
                    self.eof = True
                return data

    def _ragged_end(self, exc: ssl.SSLError) -> bytes:
        if self._strict:
            self.torn = True
            raise BrokenResourceError from exc
        self.eof = True
        return b""

    def _feed(self) -> bool:
        """Give the engine what the kernel has; False if that is nothing."""
        with suppress(BrokenResourceError):
            self._flush()  # an answer of the engine's own; if it cannot go out, what came in still counts
        sealed = self.inner.try_receive(_READ)
        if sealed is None:
            return False
        if sealed:
            self._sealed_in.write(sealed)
        else:
            self._sealed_in.write_eof()
        return True

    def _flush(self) -> None:
        if self._sealed_out.pending:
            self._outbox += self._sealed_out.read()
        while self._outbox:
            sent = self.inner.try_send(self._outbox)
            if not sent:
                return
            self._outbox = self._outbox[sent:]
        if self.inner.unsent:
            self.inner.try_send(b"")

    def try_send(self, data: bytes | memoryview) -> int:
        """Seal and send; what is sealed counts as taken, and `unsent` tells when it has gone out."""
        self._flush()
        if not data or self.unsent:
            return 0
        while True:
            try:
                taken = self.engine.write(memoryview(data)[:_SEAL])
            except ssl.SSLWantReadError:  # TLS 1.2 renegotiates (RFC 5246 7.4.1.1): the peer must speak first
                if not self._feed():
                    self.starved = True
                    return 0
            except ssl.SSLError as exc:
                self.torn = True
                raise BrokenResourceError from exc
            else:
                self.starved = False
                self._flush()
                return taken

    def put_back(self, data: bytes) -> None:
        """Make these bytes the next ones to be received; see `Link.put_back`."""
        self._opened = data + self._opened

    def peek(self, max_bytes: int) -> bytes | None:
        """Return opened bytes, and leave them; see `Link.peek`."""
        data = self.try_receive(max_bytes)
        if data:
            self._opened = data + self._opened
        return data

    def send_eof(self) -> None:
        """Send TLS's own end (close_notify); the other direction stays open (RFC 8446 6.1)."""
        self.eof_sent = True
        # The engine looks for the peer's end at once and chokes on data there: take that out before.
        with suppress(BrokenResourceError):
            while data := self._try_engine():
                self._opened += data
        with suppress(ssl.SSLError):
            self.engine.unwrap()
        self._flush()

    def _try_engine(self) -> bytes:
        try:
            return self.engine.read(_READ)
        except ssl.SSLError:
            return b""

    def look(self) -> CloseReason | None:
        """Look through the TLS layer: tickets are no news, data and ends are."""
        try:
            data = self.peek(_READ)
        except BrokenResourceError:
            return CloseReason.PEER
        if data is None:
            return None
        return CloseReason.UNREAD if data else CloseReason.PEER

    def close(self) -> None:
        """Close at once; TLS's own end is sent if the kernel takes it."""
        if self.closed:
            return
        if not self.torn and not self.eof_sent and not self._outbox:
            with suppress(BrokenResourceError, ssl.SSLError, ValueError):
                try:
                    self.engine.unwrap()
                finally:
                    self._flush()
        self.inner.close()

    def drop(self) -> None:
        """Close this process's copy of the descriptor."""
        self.inner.drop()

    def _expose_engine(self) -> ssl.SSLObject:
        self.expose()
        return self.engine

    def attributes(self) -> dict[Any, Callable[[], Any]]:
        """Return anyio's typed attributes of the TLS layer and of the socket."""
        engine = self.engine
        return {
            **self.inner.attributes(),
            TLSAttribute.alpn_protocol: engine.selected_alpn_protocol,
            TLSAttribute.channel_binding_tls_unique: engine.get_channel_binding,
            TLSAttribute.cipher: engine.cipher,
            TLSAttribute.peer_certificate: lambda: engine.getpeercert(False),
            TLSAttribute.peer_certificate_binary: lambda: engine.getpeercert(True),
            TLSAttribute.server_side: lambda: engine.server_side,
            TLSAttribute.shared_ciphers: lambda: None,
            TLSAttribute.standard_compatible: lambda: self._strict,
            TLSAttribute.ssl_object: self._expose_engine,
            TLSAttribute.tls_version: engine.version,
            TLSSessionAttribute.session_reused: lambda: bool(engine.session_reused),
        }
