"""One accepted connection of a test server; everything here runs in the server's own thread."""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Behaviour:
    """What a server does with its peers. The base class reads and says nothing."""

    def opened(self, peer: Peer) -> None:
        """Told when a peer is connected and, with TLS, shaken hands with."""

    def received(self, peer: Peer, data: bytes) -> None:
        """Told of each chunk that arrives."""

    def ended(self, peer: Peer) -> None:
        """Told when the peer sends no more."""
        peer.close()


class Owner(Protocol):
    """What a peer tells its server."""

    def watch(self, peer: Peer) -> None: ...
    def forget(self, peer: Peer) -> None: ...
    def shaken(self, resumed: bool) -> None: ...
    def changed(self) -> None: ...


class Peer:
    """A non-blocking socket, plain or TLS, with an unbounded buffer for what is to be sent."""

    def __init__(self, owner: Owner, sock: socket.socket, behaviour: Behaviour) -> None:
        self.sock = sock
        self.inbox = bytearray()  # for behaviours that gather input
        self.turns = 0  # for behaviours that count requests
        self.gone = False  # the kernel knows that the other side has ended, half-closed or reset it
        self.ended = False  # and all that it had sent is read
        self.closed = False
        self.received = 0
        self._owner = owner
        self._behaviour = behaviour
        self._outbox = bytearray()
        self._closing = False
        self._paused = False
        self._shaking = isinstance(sock, ssl.SSLSocket)

    @property
    def events(self) -> int:
        """What to wait for, as a selector's mask; 0 for nothing."""
        reading = not self._paused and not self.ended
        return (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if self._outbox else 0)

    @property
    def shaking(self) -> bool:
        """Whether the TLS hand-shake is still under way."""
        return self._shaking

    @property
    def unsent(self) -> int:
        """How many bytes wait for the socket to take them."""
        return len(self._outbox)

    def start(self) -> None:
        """Begin: at once without TLS, after the hand-shake with it."""
        if self._shaking:
            self._guarded(self._shake)
        else:
            self._behaviour.opened(self)

    def ready(self, mask: int) -> None:
        """Carry on after the selector has reported the socket."""
        if self._shaking:
            self._guarded(self._shake)
            return
        if mask & selectors.EVENT_WRITE:
            self._guarded(self._flush)
        if mask & selectors.EVENT_READ and not self.closed:
            self._guarded(self._read)
        self._refresh()

    def send(self, data: bytes) -> None:
        """Send, now or as soon as the socket takes it."""
        if not self.closed:
            self._outbox += data
            self._guarded(self._flush)
            self._refresh()

    def pause(self) -> None:
        """Stop reading, so that the other side feels back-pressure."""
        self._paused = True
        self._refresh()

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        if not self._shaking:
            self._guarded(self._read)  # TLS may hold what the selector cannot see
        self._refresh()

    def half_close(self) -> None:
        """Send a FIN (and TLS's own farewell) and go on reading."""
        if isinstance(self.sock, ssl.SSLSocket):
            self._say_goodbye(self.sock)
        # SSLSocket.shutdown would throw the TLS engine away, and with it all reading.
        self._guarded(lambda: socket.socket.shutdown(self.sock, socket.SHUT_WR))

    def close(self) -> None:
        """Close with a FIN once everything is sent."""
        self._closing = True
        if not self.closed and not self._outbox:
            self._finish()

    def reset(self) -> None:
        """Close with an RST, whatever is still unsent."""
        if self.closed:
            return
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._drop()

    def cut(self) -> None:
        """Close with a FIN, but without TLS's farewell."""
        if not self.closed:
            self._drop()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:  # reset by the other side, or its TLS alert
            self._drop()

    def _shake(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.getpeername()  # an OSError where the socket was reset before it could be wrapped
        self.sock.do_handshake()
        self._shaking = False
        self._owner.shaken(bool(self.sock.session_reused))
        self._behaviour.opened(self)
        if not self.closed:
            self._read()  # the first request may have come with the end of the hand-shake

    def _read(self) -> None:
        while not (self.closed or self._paused or self.ended):
            data = self.sock.recv(_CHUNK)
            if data:
                self.received += len(data)
                self._behaviour.received(self, data)
            else:
                self.gone = self.ended = True
                self._behaviour.ended(self)
            self._owner.changed()

    def _flush(self) -> None:
        while self._outbox and not self.closed:
            sent = self.sock.send(self._outbox)
            del self._outbox[:sent]
        if self._closing and not self.closed:
            self._finish()

    def _finish(self) -> None:
        if isinstance(self.sock, ssl.SSLSocket):
            self._say_goodbye(self.sock)
        self._drain()
        self._drop()

    def _say_goodbye(self, sock: ssl.SSLSocket) -> None:
        try:
            sock.unwrap()
        except (OSError, ValueError):  # it never waits for the answer, or there was no hand-shake
            pass

    def _drain(self) -> None:
        # A socket closed with unread bytes sends an RST where a FIN was asked for.
        try:
            while self.sock.recv(_CHUNK):
                pass
        except (OSError, ValueError):
            pass

    def _drop(self) -> None:
        if not self.closed:
            self.closed = self.gone = True
            self._outbox.clear()
            self._owner.forget(self)
            self.sock.close()
            self._owner.changed()

    def _refresh(self) -> None:
        if not self.closed:
            self._owner.watch(self)
