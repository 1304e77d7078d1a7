"""One connection while an exchange is under way: sending and receiving within time limits."""

from __future__ import annotations

from collections.abc import AsyncIterable
from math import inf
from typing import TYPE_CHECKING

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, EndOfStream

from .errors import InvalidRequest, ReadError, ReadTimeout, WriteTimeout
from .reader import HEAD
from .timeout import NONE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keepalive import Connection

    from .reader import Reader
    from .request import Message
    from .timeout import Timeout

CONTINUE_PATIENCE = 1.0
"""Seconds to wait for "100 Continue"; many servers never say it (RFC 9110 10.1.1)."""
MOMENT = 0.01
"""That part of a limit makes no difference."""
CHUNK = 262144
"""Bytes of content that the write timeout is for."""


class Wire:
    """A connection, the reader of the answer, and the limits.

    :ivar deadline: when the exchange must be over, by `anyio.current_time`; None for no limit
    :ivar sent: whether the request is out, whole
    """

    __slots__ = ("conn", "deadline", "reader", "sent", "timeout")

    def __init__(self, conn: Connection, reader: Reader, timeout: Timeout, deadline: float | None) -> None:
        self.conn = conn
        self.reader = reader
        self.timeout = timeout
        self.deadline = deadline
        self.sent = False

    # -- within time --------------------------------------------------------------------------------

    def _scope(self, limit: float | None) -> CancelScope | None:
        if self.deadline is None:
            return None if limit is None else anyio.move_on_after(limit)
        ends = self.deadline if limit is None else min(self.deadline, anyio.current_time() + limit)
        return CancelScope(deadline=ends)

    async def receive(self) -> bytes:
        """Receive some content (maybe none: more of the head, the end) and tell the reader.

        :raises HTTPError: what came is no answer, the connection broke, or it took too long
        """
        reader = self.reader
        try:
            scope = self._scope(self.timeout.read)
            if scope is None:
                data = await self.conn.receive()
            else:
                data = b""
                with scope:
                    data = await self.conn.receive()
                if not data:
                    raise ReadTimeout("nothing more of the answer came in time")
        except EndOfStream:
            reader.end()
            return b""
        except BrokenResourceError as exc:
            raise ReadError(f"the connection broke before the answer was complete: {_why(exc)}") from exc
        except ClosedResourceError as exc:
            raise ReadError(
                "the connection was closed at this end, by the end of its manager perhaps"
            ) from exc
        return reader.receive(data)

    async def send(self, data: bytes) -> None:
        """Send bytes.

        :raises BrokenResourceError: the connection broke; the answer may say why
        :raises WriteTimeout: the peer does not take them
        """
        scope = self._scope(self.timeout.write)
        if scope is None:
            await self.conn.send(data)
            return
        sent = False
        with scope:
            await self.conn.send(data)
            sent = True
        if not sent:
            raise WriteTimeout("the peer did not take the request in time")

    # -- the two directions -------------------------------------------------------------------------

    async def converse(self, message: Message) -> bytes:
        """Send a request and read the head of the answer; return the content that came with it."""
        if not message.at_once:
            return await _Upload(self, message).run()
        limits, reader = self.timeout, self.reader
        if self.deadline is None and limits.read is not None and limits.read == limits.write:
            content = await self._ask(message.at_once, limits.read)
        else:
            try:
                await self.send(message.at_once)
                self.sent = True
            except (BrokenResourceError, ClosedResourceError):
                pass  # the answer may be there, and say why
            content = await self.receive()
        while reader.state is HEAD:
            content = await self.receive()
        return content

    async def _ask(self, data: bytes, limit: float) -> bytes:
        """Do `send` and a first `receive` with one limit for each, in one scope: two would cost as much as
        all the rest.
        """  # noqa: D205  # one sentence that does not fit a line
        conn, answer = self.conn, b""
        begun = anyio.current_time()
        try:
            with CancelScope(deadline=begun + limit) as scope:
                await conn.send(data)
                self.sent = True
                now = anyio.current_time()
                if now - begun > limit * MOMENT:
                    scope.deadline = now + limit  # it had to wait
                answer = await conn.receive()
        except (BrokenResourceError, ClosedResourceError, EndOfStream):
            return await self.receive()  # it has an answer for us, or says the same again
        if answer:
            return self.reader.receive(answer)
        if self.sent:
            raise ReadTimeout("nothing of an answer came in time")
        raise WriteTimeout("the peer did not take the request in time")


class _Upload:
    """Content that takes its time: meanwhile somebody listens, for the answer may come early.

    An early answer that is an error, or that ends the connection, ends the upload too; with any other
    answer it goes on. The content of the answer is not read before the request is out.
    """

    def __init__(self, wire: Wire, message: Message) -> None:
        self._wire = wire
        self._message = message
        self._heard = anyio.Event()  # of "100 Continue", or of a final answer
        self._answered = anyio.Event()
        self._content = b""
        self._failure: Exception | None = None
        self._left: int | None = None  # of an announced length
        self._sending = CancelScope(deadline=inf if wire.deadline is None else wire.deadline)

    async def run(self) -> bytes:
        """Send and listen at the same time; exceptions leave in no group."""
        wire = self._wire
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            try:
                await self._send_all()
                with wire._scope(wire.timeout.read) or CancelScope():
                    await self._answered.wait()
                if not self._answered.is_set() and self._failure is None:
                    self._failure = ReadTimeout("no answer came in time")
            except Exception as exc:
                self._failure = exc
            group.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        return self._content

    async def _listen(self) -> None:
        wire, reader = self._wire, self._wire.reader
        listener = Wire(wire.conn, reader, NONE, None)
        try:
            while reader.state is HEAD:
                self._content = await listener.receive()
                if reader.interim and reader.interim[-1][0] == 100:
                    self._heard.set()
            if reader.head is None or reader.head.status >= 300 or not reader.keep:
                self._sending.cancel()
        except Exception as exc:
            self._failure = exc
            self._sending.cancel()
        finally:
            self._heard.set()
            self._answered.set()

    async def _send_all(self) -> None:
        wire, message = self._wire, self._message
        with self._sending:
            try:
                await wire.send(message.head)
                if message.expects:
                    with anyio.move_on_after(CONTINUE_PATIENCE):
                        await self._heard.wait()
                    if self._answered.is_set():
                        return  # the peer does not want it
                if message.chunks is None:
                    await self._send_body(message.body)
                else:
                    await self._send_chunks(message.chunks, message.length)
                wire.sent = True
            except (BrokenResourceError, ClosedResourceError):
                pass  # the answer may be there, and say why
        if self._sending.cancelled_caught and not self._answered.is_set():
            raise WriteTimeout("the request was not out in time")

    async def _send_body(self, body: bytes) -> None:
        if self._wire.timeout.write is None:
            await self._wire.send(body)
            return
        for start in range(0, len(body), CHUNK):  # each with its own limit
            await self._wire.send(body[start : start + CHUNK])

    async def _send_chunks(self, chunks: Iterable[bytes] | AsyncIterable[bytes], length: int | None) -> None:
        self._left = length
        if isinstance(chunks, AsyncIterable):
            iterator = aiter(chunks)
            try:
                async for chunk in iterator:
                    await self._send_chunk(chunk, length)
            finally:
                aclose = getattr(iterator, "aclose", None)
                if aclose is not None:  # a generator, left in the middle perhaps
                    with CancelScope(shield=True):
                        await aclose()
        else:
            for chunk in chunks:
                await self._send_chunk(chunk, length)
        if length is None:
            await self._wire.send(b"0\r\n\r\n")
        elif self._left:
            raise InvalidRequest(f"content is {self._left} bytes shorter than its Content-Length of {length}")

    async def _send_chunk(self, chunk: object, length: int | None) -> None:
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            msg = f"content must yield bytes, not {chunk!r}"
            raise TypeError(msg)
        data = chunk if isinstance(chunk, bytes) else bytes(chunk)
        if not data:
            return  # in the chunked coding it would be the end
        if self._left is None:
            await self._wire.send(b"%x\r\n%b\r\n" % (len(data), data))
            return
        self._left -= len(data)
        if self._left < 0:
            raise InvalidRequest(f"content is longer than its Content-Length of {length}")
        await self._wire.send(data)


def _why(exc: BrokenResourceError) -> str:
    cause = exc.__cause__
    return (cause.strerror or str(cause)) if isinstance(cause, OSError) else "it was cut off"
