"""The socket that a pool was given: a listener, or a datagram socket."""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from keepalive.base.failure import text_of
from keepalive.transport.datagrams import Datagrams
from keepalive.transport.listener import Listener

from .errors import send_error
from .head import Flaw, parse_head
from .reply import bad_request
from .source import Source

if TYPE_CHECKING:
    from .engine import Engine
    from .flow import Outgoing

logger = logging.getLogger("keepalive.sip")

ACCEPTS: Final = 64
"""Connections accepted, or datagrams read, before others have their turn."""
SHORT_PAUSE: Final = 0.1
"""Seconds until accepting is tried again when descriptors or memory were short."""
_SHORT: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Takes the connections that arrive at a listener."""

    def __init__(self, engine: Engine, sock: socket.socket) -> None:
        self._engine = engine
        self._said = self._pausing = False
        self.link = Listener(sock, engine.poller)
        self.link.slot = self

    def read(self) -> int:
        """Accept what waits, for a while."""
        engine = self._engine
        for _ in range(0 if self._pausing else ACCEPTS):
            try:
                found = self.link.try_accept()
            except OSError as exc:
                if exc.errno not in _SHORT:
                    continue  # the caller had gone before we came
                if not self._said:
                    self._said = True
                    logger.warning("cannot accept connections: %s; trying again", exc.strerror)
                self._pausing = True
                engine.later(SHORT_PAUSE, self._retry)
                return 1
            if found is None:
                self._said = False
                return 1
            sock, address = found
            engine.accepted(sock, place_of(address))
        if not self._pausing:
            engine.postpone(self)
        return ACCEPTS

    def _retry(self) -> None:
        self._pausing = False
        self.read()


class Mailbox:
    """Sends and receives the datagrams of one socket.

    :ivar ipv6: which family it is of
    """

    def __init__(self, engine: Engine, sock: socket.socket, *, connected: bool) -> None:
        self._engine = engine
        self._queue: deque[tuple[Outgoing, Any]] = deque()
        self._queued = 0
        self._connected = connected
        self.ipv6 = sock.family == socket.AF_INET6
        self.link = Datagrams(sock, engine.poller)
        self.link.slot = self

    def read(self) -> int:
        """Read what waits, for a while."""
        engine = self._engine
        for n in range(ACCEPTS):
            if engine.inbox.full:
                engine.inbox.stall(self)
                return n + 1
            if self.link.closed:
                return n + 1
            try:
                found = self.link.try_receive_from(65536)
            except OSError as exc:  # what became of a datagram sent before
                engine.note_flaw(f"icmp: {exc.strerror}")
                continue
            if found is None:
                return n + 1
            self._take(*found)
        engine.postpone(self)
        return ACCEPTS

    def _take(self, data: bytes, address: Any) -> None:
        engine = self._engine
        host, port = place_of(address)
        if not engine.admits(host, port):
            engine.note_flaw("not from dst")
            return
        if len(data) < 13:  # a keep-alive (RFC 5626 4.4 and older ways)
            return
        end = data.find(b"\r\n\r\n")
        try:
            if end < 0:
                raise Flaw("no end of header", data)
            skip = len(data) - len(data.lstrip(b"\r\n"))
            if skip > end:
                raise Flaw("empty", data)
            head = parse_head(data[skip : end + 2])
            if head.length > len(data) - end - 4:
                raise Flaw("body cut off", head.header)
        except Flaw as flaw:
            engine.note_flaw(flaw.reason)
            logger.info("datagram from %s, port %d: %s", host, port, flaw.reason)
            # RFC 3261 18.3 wants an answer to a request whose body is cut off, and to nothing else.
            answer = bad_request(flaw.header, flaw.reason) if flaw.reason == "body cut off" else None
            if answer is not None:
                self._send_now(answer, None if self._connected else address)
            return
        head.raw = data[skip:] if skip else data
        engine.deliver(head, Source(host, host, port, "udp"), None)

    def _send_now(self, data: bytes, address: Any) -> None:
        try:
            self.link.try_send_to(data, address)
        except OSError as exc:
            logger.info("cannot answer: %s", exc.strerror)

    def send(self, out: Outgoing, address: Any) -> None:
        """Send a datagram, or put it in the queue while the kernel has no room."""
        if self._connected:
            address = None
        if self._queue:
            if self._queued + len(out.data) > self._engine.config.max_queue:
                self._engine.finish(out, send_error(out.where, "queue", errno.ENOBUFS))
                return
        elif self._try(out, address):
            return
        self._queue.append((out, address))
        self._queued += len(out.data)
        self.link.writer = self

    def _try(self, out: Outgoing, address: Any) -> bool:
        try:
            if not self.link.try_send_to(out.data, address):
                return False
        except OSError as exc:
            number = exc.errno if exc.errno is not None and exc.errno > 0 else None
            reason = "size" if number == errno.EMSGSIZE else "send"
            self._engine.finish(out, send_error(out.where, reason, number, text_of(exc)))
        else:
            self._engine.finish(out, None)
        return True

    def done(self) -> bool:
        """Say that this waiting writer can always be woken; see `Parking`."""
        return False

    def set_result(self, _: None = None, /) -> None:
        """Send on: the kernel has room. See `Parking`."""
        while self._queue and not self.link.closed:
            out, address = self._queue[0]
            if not out.finished and not self._try(out, address):
                return
            self._queue.popleft()
            self._queued -= len(out.data)
        self.link.writer = None

    def close(self) -> list[Outgoing]:
        """Close the socket; return what was not sent."""
        self.link.writer = None
        self.link.close()
        return [out for out, _ in self._queue if not out.finished]


def place_of(address: Any) -> tuple[str, int]:
    """Return host and port of a socket address, the scope of an IPv6 one in the host."""
    host, port, *rest = address
    if len(rest) > 1 and rest[1] and "%" not in host:
        host = f"{host}%{rest[1]}"
    return host, port
