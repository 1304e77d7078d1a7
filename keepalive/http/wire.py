"""One connection while an exchange is under way: sending and receiving within time limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, EndOfStream

from .errors import ReadError, ReadTimeout, WriteTimeout
from .passage import Passage, why
from .reader import HEAD

if TYPE_CHECKING:
    from keepalive import Connection

    from .reader import Reader
    from .request import Message
    from .timeout import Timeout

MOMENT = 0.01
"""That part of a limit makes no difference."""
CHUNK = 262144
"""Bytes of content that the write timeout is for."""


class Wire(Passage):
    """A connection of its own, on which HTTP/1.1 is spoken."""

    __slots__ = ("_chunked",)

    reader: Reader

    def __init__(self, conn: Connection, reader: Reader, timeout: Timeout, deadline: float | None) -> None:
        super().__init__(conn, reader, timeout, deadline)
        self._chunked = False

    # -- within time --------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Receive some content (maybe none: more of the head, the end) and tell the reader.

        :raises HTTPError: what came is no answer, the connection broke, or it took too long
        """
        reader = self.reader
        try:
            scope = self._listening()
            if scope is None:
                data = await self.conn.receive()
            else:
                data = b""
                with scope:
                    data = await self.conn.receive()
                if not data:
                    self._too_late()
        except EndOfStream:
            reader.end()
            return b""
        except BrokenResourceError as exc:
            raise ReadError(f"the connection broke before the answer was complete: {why(exc)}") from exc
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
        scope = self._limited(self.timeout.write)
        if scope is None:
            await self.conn.send(data)
            return
        sent = False
        with scope:
            await self.conn.send(data)
            sent = True
        if not sent:
            raise WriteTimeout("the peer did not take the request in time")

    async def begin(self, message: Message) -> None:
        """Send the head; see `Outlet`."""
        self._chunked = message.chunks is not None and message.length is None
        await self.send(message.head)

    async def put(self, data: bytes) -> None:
        """Send some content."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def put_all(self, message: Message) -> None:
        """Send the content that is at hand."""
        body = message.body
        if self.timeout.write is None:
            await self.send(body)
            return
        for start in range(0, len(body), CHUNK):  # each with its own limit
            await self.send(body[start : start + CHUNK])

    async def end(self) -> None:
        """Say that the content is complete."""
        if self._chunked:
            await self.send(b"0\r\n\r\n")
        self.sent = True

    # -- the two directions -------------------------------------------------------------------------

    async def converse(self, message: Message) -> bytes:
        """Send a request and read the head of the answer; return the content that came with it."""
        if not message.at_once:
            return await self._upload(message)
        limits, reader = self.timeout, self.reader
        if self.deadline is None and limits.read is not None and limits.read == limits.write:
            content = await self._ask(message.at_once, limits.read)
        else:
            try:
                await self.send(message.at_once)
                self.sent = True
            except BrokenResourceError as exc:
                self.broken = exc  # the answer may be there, and say why
            except ClosedResourceError:
                pass  # it says the same again
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
        except BrokenResourceError as exc:
            self.broken = exc
            return await self.receive()  # it has an answer for us, or says the same again
        except (ClosedResourceError, EndOfStream):
            return await self.receive()
        if answer:
            return self.reader.receive(answer)
        if self.sent:
            raise ReadTimeout("nothing of an answer came in time")
        raise WriteTimeout("the peer did not take the request in time")
