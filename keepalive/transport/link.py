"""A link: one non-blocking socket with readiness flags. No task ever waits in here.

`try_receive` and `try_send` do what can be done now; who must wait parks at `reader` or `writer`,
which the poller wakes. All awaits are in `_stream`.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

from anyio import BrokenResourceError
from anyio.abc import SocketAttribute

from keepalive.base.types import NEVER, CloseReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.base.timer_queue import Entry

    from .runtime import Parking, Wakeable


FAIR_RUN = 64
"""So many operations may succeed in a row without waiting, then the task lets others run."""
_LOOK = int(socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0))


class Alarms(Protocol):
    """What wakes a task that waits at a link when the link's deadline has come."""

    def watch(self, link: Link) -> None:
        """Have the task that begins to wait here woken at the deadline."""

    def forget(self, link: Link) -> None:
        """Note that a link is closed."""


class Registry(Protocol):
    """The poller, as far as a link needs it."""

    park: Callable[[], Parking]
    freed: Callable[[], None] | None
    deadlines: Alarms

    def add(self, link: Link) -> None:
        """Register a link, for good."""

    def watch(self, link: Link, watched: bool) -> None:
        """Say whether what comes is to be told of."""

    def remove(self, link: Link) -> None:
        """Take a link out, before its descriptor is closed."""


class Link:
    """A connected (or connecting) stream socket, registered with a poller.

    :ivar slot: its owner's record of it, once it belongs to a connection; never looked into here
    :ivar state: what its protocol made of it; never looked into here
    :ivar name: the host name that its address was found by; empty if it was by none
    :ivar reader: where the task inside `receive` is parked; not None exactly while there is one
    :ivar writer: the same for `send`, or whoever else waits for room to send
    :ivar away: another process has it, and nothing is told of it here
    :ivar exposed: its user may have the raw socket
    :ivar starved: who waits to send waits for the peer to speak: TLS renegotiates
    :ivar touched: something was sent or received (or tried) since this was set to False
    :ivar failed: the errno that the kernel gave for a connection that is broken; it gives it only once
    :ivar deadline: when a task that waits here gives up, by the clock of the poller's owner
    :ivar late: its time has come, and it was woken for that
    :ivar torn: a `send` was interrupted in the middle, or the stream failed: not fit for reuse
    :ivar doubtful: more than `readable` and who is inside it decides on its reuse: ask `reuse_blocker`
    """

    __slots__ = (
        "__weakref__",
        "ahead",
        "away",
        "closed",
        "credit",
        "deadline",
        "doubtful",
        "eof",
        "eof_sent",
        "exposed",
        "failed",
        "fd",
        "hung",
        "late",
        "name",
        "poller",
        "readable",
        "reader",
        "slot",
        "sock",
        "starved",
        "state",
        "timer",
        "torn",
        "touched",
        "writer",
    )

    layered = False
    """Whether there may be something to read, or to send, that the kernel does not know of."""

    minds_room = True
    """Whether the poller tells from the beginning when there is room to send.

    That makes an event at once, and on a Unix socket one for each message that the peer takes; who sends
    little asks for it when it is wanted (`Poller.mind_room`).
    """

    def __init__(self, sock: socket.socket, poller: Registry) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.poller = poller
        self.slot: Any = None
        self.state: Any = None
        self.name = ""
        self.reader: Parking | None = None
        self.writer: Wakeable | None = None
        self.readable = False
        self.ahead = b""  # read from the kernel, and given back by `put_back`
        self.hung = False
        self.closed = False
        self.eof = False
        self.eof_sent = False
        self.exposed = False
        self.away = False
        self.failed = 0
        self.starved = False
        self.torn = False
        self.doubtful = self.layered
        self.touched = False
        self.credit = FAIR_RUN
        self.deadline = NEVER
        self.late = False
        self.timer: Entry | None = None
        poller.add(self)

    @property
    def unsent(self) -> bool:
        """Whether bytes taken by `try_send` have not reached the kernel yet."""
        return False

    def try_receive(self, max_bytes: int) -> bytes | None:
        """Return what is there, b"" at the end of the stream, None if one must wait.

        :raises BrokenResourceError: the connection was reset or failed
        """
        if not self.readable:
            return None
        if self.ahead:
            return self._take_ahead(max_bytes)
        try:
            data = self.sock.recv(max_bytes)
        except (BlockingIOError, InterruptedError):
            # A flag without bytes was a false alarm; a hang-up reported for real would read as b"".
            self.readable = self.hung = False
            return None
        except OSError as exc:
            self._fail(exc)
            raise BrokenResourceError from exc
        if not data:
            if self.failed:
                # The error went to whoever sent or received before; to report an end now would pass a
                # cut-off stream for a whole one.
                raise BrokenResourceError from OSError(self.failed, os.strerror(self.failed))
            self.eof = self.doubtful = True
        elif len(data) < max_bytes and not self.hung:
            self.readable = False
        return data

    def try_send(self, data: bytes | memoryview) -> int:
        """Give the kernel as much as it takes; return how much that was.

        :raises BrokenResourceError: the connection was closed by the peer, reset or failed
        """
        try:
            return self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            self._fail(exc)
            raise BrokenResourceError from exc

    def peek(self, max_bytes: int) -> bytes | None:
        """Return what `try_receive` would return, but leave it there.

        :raises BrokenResourceError: the connection was reset or failed
        """
        if not self.readable:
            return None
        if self.ahead:
            return self.ahead[:max_bytes]
        try:
            data = self.sock.recv(max_bytes, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            self.readable = self.hung = False
            return None
        except OSError as exc:
            self._fail(exc)
            raise BrokenResourceError from exc
        return data or self.try_receive(max_bytes)  # an end stays one

    def put_back(self, data: bytes) -> None:
        """Make these bytes the next ones to be received. They count as unread."""
        if data:
            self.ahead = data + self.ahead
            self.readable = True  # so that it is asked for

    def _take_ahead(self, max_bytes: int) -> bytes:
        data, self.ahead = self.ahead[:max_bytes], self.ahead[max_bytes:]
        return data

    def _fail(self, exc: OSError) -> None:
        self.torn = self.doubtful = True
        if exc.errno is not None and exc.errno != errno.EPIPE:  # which says nothing of the other direction
            self.failed = exc.errno

    def send_eof(self) -> None:
        """Close the sending direction."""
        self.eof_sent = self.doubtful = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self.torn = True
            raise BrokenResourceError from exc

    def reuse_blocker(self) -> CloseReason | None:
        """Say what forbids the reuse of a connection that is given back."""
        if not (self.readable or self.doubtful) and self.reader is None and self.writer is None:
            return None
        if self.reader is not None or self.writer is not None or self.torn or self.eof_sent:
            return CloseReason.BUSY
        if self.layered and self.unsent:
            return CloseReason.BUSY
        if self.eof:
            return CloseReason.PEER
        if self.exposed and self.sock.fileno() != self.fd:
            return CloseReason.DISCARDED  # closed under us by way of the raw socket
        if self.away:
            self.away = False
            self.poller.watch(self, True)
            self.readable = True  # nobody has told, so the kernel is asked
        return self.look() if self.readable or self.layered else None

    def look(self) -> CloseReason | None:
        """Say whether a connection in nobody's use has unread bytes or has been closed by its peer."""
        if not self.readable:
            return None
        if self.ahead:
            return CloseReason.UNREAD
        try:
            # Not to wait is said in the call, too: whoever has had a copy may have made the socket block.
            data = self.sock.recv(1, _LOOK)
        except (BlockingIOError, InterruptedError):
            self.readable = self.hung = False
            return None
        except OSError:
            return CloseReason.PEER
        return CloseReason.UNREAD if data else CloseReason.PEER

    def close(self) -> None:
        """Close at once; whoever is parked here is woken and finds it closed."""
        if self.closed:
            return
        self.closed = True
        self.poller.remove(self)
        if self.timer is not None:
            self.poller.deadlines.forget(self)
        self.sock.close()
        if self.poller.freed is not None:
            self.poller.freed()
        self.wake()

    def wake(self) -> None:
        """Wake whoever is parked here."""
        for parked in (self.reader, self.writer):
            if parked is not None and not parked.done():
                parked.set_result(None)

    def drop(self) -> None:
        """Close this process's copy of the descriptor, without a word to anybody (after a fork)."""
        self.closed = True
        self.sock.close()

    def expose(self) -> socket.socket:
        """Give the raw socket out. What is done with it there goes by unseen."""
        self.exposed = self.doubtful = self.touched = True
        return self.sock

    def look_away(self) -> None:
        """Be told of nothing that comes, until it is given back: another process reads it meanwhile."""
        self.away = self.doubtful = self.touched = True
        self.poller.watch(self, False)

    def attributes(self) -> dict[Any, Callable[[], Any]]:
        """Return anyio's typed attributes of this socket."""
        sock = self.sock
        found: dict[Any, Callable[[], Any]] = {
            SocketAttribute.family: lambda: sock.family,
            SocketAttribute.local_address: lambda: _plain(sock.getsockname()),
            SocketAttribute.raw_socket: self.expose,
        }
        try:
            peer = _plain(sock.getpeername())
        except OSError:
            peer = None
        if peer is not None:
            found[SocketAttribute.remote_address] = lambda: peer
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            found[SocketAttribute.local_port] = lambda: sock.getsockname()[1]
            if isinstance(peer, tuple):
                found[SocketAttribute.remote_port] = lambda: peer[1]
        return found


def _plain(address: Any) -> tuple[str, int] | str:
    """Bring a socket address into anyio's form: (host, port), the scope of an IPv6 one in the host."""
    if isinstance(address, tuple):
        host, port, *rest = address
        return (f"{host}%{rest[1]}" if len(rest) > 1 and rest[1] and "%" not in host else host), port
    return address if isinstance(address, str) else bytes(address).decode(errors="surrogateescape")
