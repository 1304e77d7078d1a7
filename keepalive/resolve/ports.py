"""The sockets that questions leave from: few, however many names are asked for.

A question has a socket of its own, connected to the server, as long as there are not many: the kernel then
picks a random port for each, and lets through only what comes from the server's address and port (RFC 5452
9). From `MOST_SOCKETS` on questions share. All resolvers of an event loop share, too.

Nobody reads in the background. Of those who wait at a socket one reads for all; when it goes, with its
answer or cancelled, it hands that over to another. The last one to go closes the socket.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import RunVar

from keepalive.base.addresses import family_of, target_of

from .message import Reply, Unreadable, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dns.message import QueryMessage

    from .resolv_conf import Server

MOST_SOCKETS = 16
"""So many UDP sockets are open to one server at most, per event loop."""
MOST_STREAMS = 8
"""So many TCP connections; further questions wait."""
BURST = 100
"""So many questions wait in a server's receive buffer at most; Linux has room for some 160 by default."""
BURST_TIME = 0.5
"""Seconds after which a server that says nothing at all is sent more."""
LOTS = 32
"""So many datagrams are read in one go."""
UNREADABLE_PATIENCE = 0.5
"""Seconds to wait for a better answer after one that cannot be read."""

NO_ROOM = (errno.EMFILE, errno.ENFILE)
"""No descriptor is free."""


class Question:
    """One question by UDP, waiting for its answer."""

    def __init__(self, message: QueryMessage) -> None:
        self.message = message
        self.reply: Reply | None = None
        self.error: OSError | None = None
        self.unreadable = False
        self.sent_at = math.inf
        self.event = anyio.Event()

    def take(self, data: bytes) -> None:
        """See whether this is the answer."""
        try:
            self.reply = read(data, self.message)
        except Unreadable:
            self.unreadable = True
        if self.reply is not None or self.unreadable:
            self.event.set()


class _Port:
    """One UDP socket, and the questions that wait at it, by their numbers."""

    def __init__(self, server: Server) -> None:
        self.sock = _socket(socket.SOCK_DGRAM, server)
        self.waiting: dict[int, Question] = {}
        self._reader: Question | None = None
        try:
            self.sock.connect(target_of(*server))
        except BaseException:
            self.sock.close()
            raise

    def leave(self, question: Question) -> None:
        """Take a question away, and hand the reading over if it was the one that did it."""
        del self.waiting[question.message.id]
        if self._reader is question:
            self._reader = next(iter(self.waiting.values()), None)
            if self._reader is not None:
                self._reader.event.set()

    async def changed(self, question: Question) -> None:
        """Wait for something that concerns a question; it may be nothing yet."""
        if self._reader is None:
            self._reader = question
        if self._reader is question:
            await anyio.wait_readable(self.sock)
            self._harvest()
        else:
            await question.event.wait()
        question.event = anyio.Event()

    def _harvest(self) -> None:
        try:
            for _ in range(LOTS):
                data = self.sock.recv(65535)
                question = self.waiting.get(int.from_bytes(data[:2], "big"))
                if question is not None and question.reply is None:
                    question.take(data)
        except BlockingIOError:
            pass  # also for a datagram with a wrong checksum: it wakes, but is not there
        except OSError as exc:  # the server's machine says that nobody listens: that concerns all
            self.failed(exc)

    def failed(self, exc: OSError) -> None:
        """Tell all who wait."""
        for question in self.waiting.values():
            question.error = exc
            question.event.set()


class _Burst:
    """The questions that one server may not have taken out of its receive buffer yet.

    It takes them in their order, so an answer to one says that those before it have left the buffer, even
    if their own answers take long.
    """

    def __init__(self) -> None:
        self._room = anyio.Semaphore(BURST, fast_acquire=True)
        self._out: dict[Question, None] = {}  # in the order in which they were sent
        self._heard = -math.inf

    async def enter(self, question: Question) -> None:
        """Wait for room in the buffer, first come first served."""
        await self._room.acquire()
        self._out[question] = None

    def leave(self, question: Question) -> None:
        """Note that a question is not in the buffer any more; harmless if that is known."""
        if question in self._out:
            del self._out[question]
            self._room.release()

    def answered(self, question: Question) -> None:
        """Note that the server has come to this question."""
        self._heard = anyio.current_time()
        while question in self._out:
            self.leave(next(iter(self._out)))

    def looks_at(self, question: Question) -> float:
        """Return when to `look` again."""
        return anyio.current_time() + BURST_TIME if question in self._out else math.inf

    def look(self, question: Question) -> None:
        """Hold nobody up for a server that says nothing."""
        if anyio.current_time() - max(self._heard, question.sent_at) >= BURST_TIME:
            self.leave(question)


class Ports:
    """The sockets to name servers of one event loop."""

    def __init__(self) -> None:
        self._open: dict[Server, list[_Port]] = {}
        self._bursts: dict[Server, _Burst] = defaultdict(_Burst)
        self.streams: dict[Server, anyio.Semaphore] = defaultdict(
            lambda: anyio.Semaphore(MOST_STREAMS, fast_acquire=True)
        )

    async def by_udp(self, message: QueryMessage, server: Server, seconds: float, *, more: bool) -> Reply:
        """Ask, and wait for an answer for so many seconds, counted from when the question goes out.

        :param more: another server could be asked
        :raises Unreadable: the answer cannot be read, and no better one came
        :raises TimeoutError: there was none
        """
        burst, question = self._bursts[server], Question(message)
        await burst.enter(question)
        try:
            with anyio.fail_after(seconds) as scope, self._sent(question, server) as port:
                while question.reply is None:
                    if question.error is not None:
                        raise OSError(*question.error.args) from question.error
                    if question.unreadable:
                        if more:
                            raise Unreadable
                        scope.deadline = min(scope.deadline, anyio.current_time() + UNREADABLE_PATIENCE)
                    with anyio.CancelScope(deadline=burst.looks_at(question)):
                        await port.changed(question)
                    burst.look(question)
                burst.answered(question)
                return question.reply
        except TimeoutError:
            if question.unreadable:
                raise Unreadable from None
            raise
        finally:
            burst.leave(question)

    @contextmanager
    def _sent(self, question: Question, server: Server) -> Iterator[_Port]:
        port, message = self._port(server), question.message
        while message.id in port.waiting:
            message.id = int.from_bytes(os.urandom(2), "big")
        port.waiting[message.id] = question
        question.sent_at = anyio.current_time()
        try:
            try:
                port.sock.send(message.to_wire())
            except BlockingIOError:
                pass  # as good as lost on the way
            except OSError as exc:  # what an earlier question met with
                port.failed(exc)
            yield port
        finally:
            port.leave(question)
            if not port.waiting:
                self._close(port, server)

    def _port(self, server: Server) -> _Port:
        ports = self._open.setdefault(server, [])
        if len(ports) < MOST_SOCKETS:
            try:
                ports.append(_Port(server))
                return ports[-1]
            except OSError as exc:
                if not ports:
                    del self._open[server]
                    raise
                if exc.errno not in NO_ROOM:
                    raise
        return min(ports, key=lambda port: len(port.waiting))

    def _close(self, port: _Port, server: Server) -> None:
        port.sock.close()
        ports = self._open[server]
        ports.remove(port)
        if not ports:
            del self._open[server]


_ports: RunVar[Ports] = RunVar("keepalive ports to name servers")


def ports() -> Ports:
    """Return the running event loop's."""
    found = _ports.get(None)
    if found is None:
        found = Ports()
        _ports.set(found)
    return found


def _socket(kind: socket.SocketKind, server: Server) -> socket.socket:
    sock = socket.socket(family_of(server[0]), kind)
    sock.setblocking(False)
    return sock


# -- TCP ---------------------------------------------------------------------------------------------


async def by_tcp(message: QueryMessage, server: Server, seconds: float) -> Reply:
    """Ask by a connection of its own; see `Ports.by_udp`."""
    async with ports().streams[server]:
        with anyio.fail_after(seconds):
            return await _by_stream(message, server)


async def _by_stream(message: QueryMessage, server: Server) -> Reply:
    with _socket(socket.SOCK_STREAM, server) as sock:
        number = sock.connect_ex(target_of(*server))
        if number == errno.EINPROGRESS:
            await anyio.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        wire = message.to_wire(prepend_length=True)
        while wire:
            await anyio.wait_writable(sock)
            wire = wire[sock.send(wire) :]
        while True:
            length = int.from_bytes(await _exactly(sock, 2), "big")
            reply = read(await _exactly(sock, length), message)
            if reply is not None:
                return reply


async def _exactly(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        await anyio.wait_readable(sock)
        try:
            chunk = sock.recv(count - len(got))
        except BlockingIOError:
            continue
        if not chunk:
            raise OSError(errno.ECONNRESET, "the connection ended early")
        got += chunk
    return bytes(got)
