"""What an exchange sees of a shared connection: its stream, and its share of the connection."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, EndOfStream
from anyio.lowlevel import checkpoint

from keepalive.http.errors import HTTPError, WriteTimeout
from keepalive.http.passage import Passage
from keepalive.http.reader import HEAD, RAW

from .core.fields import of_request
from .core.stream import Stream, nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive import Connection, Link, Reuse
    from keepalive.http.head import HeadLimits
    from keepalive.http.request import Message
    from keepalive.http.timeout import Timeout

    from .core.fields import Pair
    from .core.stream import Answer

PIECE = 65536
"""Bytes of a request's content that are held for it at a time."""


class Streams(Protocol):
    """The connection that it is a share of; see `Session`."""

    scheme: bytes

    def open(self, stream: Stream, fields: list[Pair], content: bytes, *, whole: bool) -> None:
        """Begin a request."""

    def read(self, stream: Stream, most: int = 0) -> bytes:
        """Take content of an answer."""

    def write(self, stream: Stream, data: bytes) -> None:
        """Give content of a request."""

    def close(self, stream: Stream) -> None:
        """End the content of a request."""

    def leave(self, stream: Stream) -> None:
        """Have no more to do with a request."""

    def drop(self, stream: Stream) -> None:
        """Do the same from any thread, at any moment."""


class Lease:
    """A stream, and the share that it needs. When it is given back, the stream is over or cancelled.

    After a CONNECT it is a byte stream, see `RawStream`.
    """

    __slots__ = ("_conn", "_link", "_session", "_stream", "from_cache", "time")

    def __init__(self, conn: Connection, session: Streams, stream: Stream) -> None:
        self._conn: Connection | None = conn
        self._link: Link | None = conn._link
        self._session = session
        self._stream = stream
        self.from_cache: Reuse | None = conn.from_cache
        self.time = conn.time

    # -- its end ------------------------------------------------------------------------------------

    def release(self, keep_for: float | None = None) -> None:
        """Give the share back, and cancel what is not complete. Idempotent."""
        conn, self._conn = self._conn, None
        if conn is not None:
            self._session.leave(self._stream)
            conn.release()

    def discard(self) -> None:
        """Do the same: what is wrong with one request is nothing to the others."""
        self.release()

    async def aclose(self) -> None:
        """Do the same, then let others run."""
        self.release()
        await checkpoint()

    def __del__(self) -> None:
        if self._conn is not None:  # its own end is told by itself
            self._session.drop(self._stream)

    # -- waiting ------------------------------------------------------------------------------------

    async def news(self) -> None:
        """Wait until there is something to read, be it the end."""
        stream = self._stream
        while not stream.answer.news:
            something = anyio.Event()
            stream.wake_reader = something.set
            try:
                await something.wait()
            finally:
                stream.wake_reader = nothing

    async def room(self) -> None:
        """Wait until all content that was given is written, and its end if that was given.

        :raises BrokenResourceError: the peer does not want it, or the connection is at its end
        """
        stream = self._stream
        while stream.pending or (stream.closing and not stream.sent):
            if stream.left or stream.answer.error is not None:
                raise BrokenResourceError
            something = anyio.Event()
            stream.wake_writer = something.set
            try:
                await something.wait()
            finally:
                stream.wake_writer = nothing

    # -- as a byte stream ---------------------------------------------------------------------------

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one byte of a tunnel; see `Connection.receive`."""
        stream = self._stream
        while True:
            if self._conn is None:
                raise ClosedResourceError
            try:
                data = self._session.read(stream, max_bytes)
            except HTTPError as exc:
                raise BrokenResourceError from exc
            if data:
                return data
            if stream.answer.ended:
                raise EndOfStream
            await self.news()

    async def send(self, item: bytes) -> None:
        """Send all of the bytes into a tunnel; see `Connection.send`."""
        for start in range(0, len(item), PIECE):
            await self.room()
            if self._conn is None or self._stream.closing:
                raise ClosedResourceError
            self._session.write(self._stream, item[start : start + PIECE])
        await self.room()

    async def send_eof(self) -> None:
        """End the sending direction of a tunnel."""
        if self._conn is None:
            raise ClosedResourceError
        self._session.close(self._stream)
        await self.room()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the connection."""
        return {} if self._link is None else self._link.attributes()


class StreamPassage(Passage):
    """A request that is a stream of a shared connection."""

    __slots__ = ("_session", "_stream", "_tunnel")

    conn: Lease
    reader: Answer

    def __init__(
        self,
        conn: Connection,
        session: Streams,
        message: Message,
        limits: HeadLimits,
        timeout: Timeout,
        deadline: float,
    ) -> None:
        stream = self._stream = Stream(message.method, limits)
        super().__init__(Lease(conn, session, stream), stream.answer, timeout, deadline)
        self._session = session
        self._tunnel = message.method == b"CONNECT"  # whose sending direction stays open

    async def converse(self, message: Message) -> bytes:
        """Send a request and read the head of the answer; return the content that came with it."""
        if not message.at_once:
            return await self._upload(message)
        self._open(message, message.content, whole=not self._tunnel)
        content, reader = await self.receive(), self.reader
        while reader.state is HEAD:
            content = await self.receive()
        if reader.state is RAW:
            reader.surplus, content = content, b""
        return content

    def _open(self, message: Message, content: bytes, *, whole: bool) -> None:
        pairs = message.pairs
        if pairs is None:
            pairs = message.pairs = of_request(message, self._session.scheme)
        self._session.open(self._stream, pairs, content, whole=whole)
        self.stream_id = self._stream.id

    async def receive(self) -> bytes:
        """Receive some content, maybe none; see `Passage.receive`."""
        stream = self._stream
        if not stream.answer.news:
            scope = self._listening()
            if scope is None:
                await self.conn.news()
            else:
                with scope:
                    await self.conn.news()
                if not stream.answer.news:
                    self._too_late()
        content = self._session.read(stream)
        self.sent = stream.sent
        return content

    def _too_late(self) -> NoReturn:
        self.sent = self._stream.sent
        super()._too_late()

    def _limited(self, seconds: float | None) -> CancelScope | None:
        """Return the scope to wait in for so many seconds, and within the exchange's time; None for ever."""
        ends = self.ends()
        if seconds is not None:
            ends = min(ends, anyio.current_time() + seconds)
        return None if ends == inf else CancelScope(deadline=ends)

    def _listening(self) -> CancelScope | None:
        """Return the scope to wait for more of the answer in."""
        upload = self.upload
        if upload is not None:
            if not upload.ended:
                return upload.listening()
            if upload.failure is not None:
                raise upload.failure
        return self._limited(self.patience())

    # -- content, see `Outlet` ----------------------------------------------------------------------

    async def begin(self, message: Message) -> None:
        """Send the head."""
        self._open(message, b"", whole=False)

    async def put(self, data: bytes) -> None:
        """Send some content, once what was given before is written."""
        for start in range(0, len(data), PIECE):
            await self._room()
            self._session.write(self._stream, data[start : start + PIECE])

    async def put_all(self, message: Message) -> None:
        """Send the content that is at hand."""
        await self.put(message.content)

    async def end(self) -> None:
        """Say that the content is complete, and wait until that is written."""
        if self._tunnel:
            return
        await self._room()
        self._session.close(self._stream)
        await self._room()
        self.sent = True

    async def _room(self) -> None:
        scope = self._limited(self.timeout.write)
        if scope is None:
            await self.conn.room()
            return
        with scope:
            await self.conn.room()
            return
        raise WriteTimeout("the peer did not take the request in time")
