"""One connection while an exchange is under way: sending and receiving within time limits."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

from .errors import ReadError, WriteTimeout
from .passage import Passage, why
from .reader import HEAD
from .timeout import NONE

if TYPE_CHECKING:
    from keepalive import Connection

    from .reader import Reader
    from .request import Message
    from .timeout import Timeout

CHUNK = 262144
"""Bytes of content that the write timeout is for."""


class Wire(Passage):
    """A connection of its own, on which HTTP/1.1 is spoken."""

    __slots__ = ("_chunked",)

    conn: Connection
    reader: Reader

    def __init__(self, conn: Connection, reader: Reader, timeout: Timeout, deadline: float) -> None:
        super().__init__(conn, reader, timeout, deadline)
        self._chunked = False

    # -- within time --------------------------------------------------------------------------------

    def _limit(self, seconds: float | None) -> None:
        """Give up what waits from now on after so many seconds, or when the exchange must be over."""
        conn, ends = self.conn, self.deadline
        if seconds is not None:
            ends = min(ends, conn.time() + seconds)
        conn.deadline = ends

    async def receive(self) -> bytes:
        """Receive some content (maybe none: more of the head, the end) and tell the reader.

        :raises HTTPError: what came is no answer, the connection broke, or it took too long
        """
        reader, upload = self.reader, self.upload
        try:
            if upload is not None and not upload.ended:
                data = b""
                with upload.listening():
                    data = await self.conn.receive()
                if not data:
                    self._too_late()
            elif upload is not None and upload.failure is not None:
                raise upload.failure
            else:
                self._limit(self.patience())
                data = await self.conn.receive()
        except TimeoutError:
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

    # -- content that takes its time, see `Outlet` --------------------------------------------------

    async def _send(self, data: bytes) -> None:
        """Send bytes within the write timeout."""
        sent = False
        with anyio.move_on_after(self.timeout.write):
            await self.conn.send(data)
            sent = True
        if not sent:
            raise WriteTimeout("the peer did not take the request in time")

    async def begin(self, message: Message) -> None:
        """Send the head; see `Outlet`."""
        self._chunked = message.chunks is not None and message.length is None
        await self._send(message.head)

    async def put(self, data: bytes) -> None:
        """Send some content."""
        await self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def put_all(self, message: Message) -> None:
        """Send the content that is at hand."""
        body = message.body
        if self.timeout.write is None:
            await self._send(body)
            return
        for start in range(0, len(body), CHUNK):  # each with its own limit
            await self._send(body[start : start + CHUNK])

    async def end(self) -> None:
        """Say that the content is complete."""
        if self._chunked:
            await self._send(b"0\r\n\r\n")
        self.sent = True

    # -- the two directions -------------------------------------------------------------------------

    async def converse(self, message: Message) -> bytes:
        """Send a request and read the head of the answer; return the content that came with it."""
        if not message.at_once:
            return await self._upload(message)
        content = await self._ask(message.at_once)
        while self.reader.state is HEAD:
            content = await self.receive()
        return content

    async def _upload(self, message: Message) -> bytes:
        """Send in a task of its own; see `Passage`."""
        self.conn.deadline = inf  # two tasks wait there, each with limits of its own
        return await super()._upload(message)

    async def _ask(self, data: bytes) -> bytes:
        """Send all of a request, and receive what comes first of its answer."""
        conn, limits = self.conn, self.timeout
        limited = limits is not NONE
        try:
            if limited:
                self._limit(limits.write)
            await conn.send(data)
            self.sent = True
            if limited:
                self._limit(limits.read)
            answer = await conn.receive()
        except TimeoutError:
            self._too_late()
        except BrokenResourceError as exc:
            self.broken = exc
            return await self.receive()  # it has an answer for us, or says the same again
        except (ClosedResourceError, EndOfStream):
            return await self.receive()
        return self.reader.receive(answer)
