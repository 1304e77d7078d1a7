"""An answer whose head has come, and the connection below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from anyio import ClosedResourceError
from anyio.abc import ByteStream

from keepalive import printable

from .reader import DONE, RAW
from .upload import UploadHolder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive import Connection

    from .head import Headers
    from .passage import Carrier, Passage

__all__ = ("RawStream", "Response")

MARGIN = 1.0
"""Seconds by which a server's announced keep-alive time is shortened: its clock started before ours."""


class Response:
    """The head of an answer, and its content as it comes.

    Iterate over it for the content in pieces, or `read` it whole. The connection goes back to its manager
    the moment the exchange is over: the request is out, the answer is complete, and both sides wish to
    keep it. In all other cases it is closed: a response that is closed early, a cancellation or an error in
    the midst of it, an answer that came before the request was out, bytes after its end.

    :ivar stream: what the connection has become after 101, or a 2xx to CONNECT; None otherwise
    :ivar from_cache: how the connection came, see `Connection.from_cache`
    :ivar retried: whether this is the answer to a second try, after a stale connection
    """

    __slots__ = (
        "_conn",
        "_content",
        "_head",
        "_holder",
        "_keep",
        "_link",
        "_may_keep",
        "_wire",
        "from_cache",
        "retried",
        "stream",
    )  # fmt: skip

    def __init__(
        self,
        wire: Passage,
        keep: bool,
        content: bytes,
        retried: bool,
        may_keep: Callable[[Connection], bool] | None,
    ) -> None:
        reader = wire.reader
        assert reader.head is not None, "made when the head is there"
        self._wire = wire
        self._head = reader.head
        self._keep = keep
        self._may_keep = may_keep
        self._content = content
        self._conn: Carrier | None = wire.conn
        # An internal of the connection: most never ask for its attributes, and to look them all up before
        # it is given back would cost each exchange microseconds.
        self._link = wire.conn._link
        self.from_cache = wire.conn.from_cache
        self.retried = retried
        self.stream: RawStream | None = None
        upload = wire.upload
        self._holder = None if upload is None else UploadHolder(upload)
        if reader.state is DONE:
            self._complete()
        elif reader.state is RAW:
            self.stream = RawStream(wire.conn, reader.surplus)

    @property
    def status(self) -> int:
        """The status code, 100 to 999."""
        return self._head.status

    @property
    def reason(self) -> bytes:
        """The reason phrase, maybe empty."""
        return self._head.reason

    @property
    def http_version(self) -> str:
        """What the peer speaks: "2", "1.1" or "1.0"."""
        return self._head.version

    @property
    def stream_id(self) -> int | None:
        """The request's number on a connection that serves many at once (HTTP/2), else None."""
        return self._wire.stream_id

    @property
    def headers(self) -> Headers:
        """The header fields, pairs of bytes."""
        return self._head.headers

    @property
    def holds(self) -> bool:
        """Whether the connection is still this response's: neither given back nor closed."""
        return self._conn is not None

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the connection (anyio's), also when it has been given back by now.

        Those of a connection that is closed raise `OSError`, or are gone. Do not touch its raw socket.
        """
        return {} if self._link is None else self._link.attributes()

    @property
    def trailers(self) -> Headers:
        """The fields after chunked content, complete when the content is."""
        return self._wire.reader.trailers

    @property
    def interim(self) -> tuple[tuple[int, Headers], ...]:
        """Status and fields of the interim answers (1xx) that came before."""
        return self._wire.reader.interim

    # -- content ------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """Return all (the rest) of the content. Switches tasks if it is not there yet.

        :raises HTTPError: the answer was cut off or broke the rules
        :raises ClosedResourceError: the response was closed before its content was complete
        """
        content, self._content = self._content, b""
        if self._conn is None and self._wire.reader.state is DONE:
            return content
        pieces = [content]
        async for piece in self:
            pieces.append(piece)  # noqa: PERF401  # an async comprehension is slower here
        return b"".join(pieces)

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece of the content, not empty. Switches tasks if none is there yet.

        :raises HTTPError: the answer was cut off or broke the rules
        :raises ClosedResourceError: the response was closed before its content was complete
        """
        if self._content:
            content, self._content = self._content, b""
            return content
        reader = self._wire.reader
        state = reader.state
        while state is not DONE:
            if self._conn is None:
                raise ClosedResourceError
            if state is RAW:
                break
            try:
                if reader.failure is not None:
                    raise reader.failure
                content = await self._wire.receive()
                if reader.state is DONE and self.uploading:
                    self._content = content  # of a call that is cancelled meanwhile, nothing is lost
                    await self.finish()
                    self._content = b""
            except BaseException:
                self.close()
                raise
            state = reader.state
            if state is DONE:
                self._complete()
            if content:
                return content
        raise StopAsyncIteration

    @property
    def uploading(self) -> bool:
        """Whether the request's content is still going out, though the answer has begun."""
        return self._holder is not None and not self._holder.upload.ended

    async def finish(self) -> None:
        """Wait until the request's content is out, if it is not yet; a checkpoint only then.

        Content of the answer is not read meanwhile: a server that waits for that, waits for ever.

        :raises WriteTimeout: the peer does not take it
        :raises Exception: what the content's iterator raised
        """
        if self._holder is not None:
            await self._holder.upload.finish()

    # -- the end ------------------------------------------------------------------------------------

    def _complete(self) -> None:
        """Give the connection back, or end it, as both sides wish. The answer is whole."""
        conn, self._conn = self._conn, None
        if conn is None:
            return
        keep_for = self._head.keep_for
        may_keep = self._may_keep is None or self._may_keep(cast("Connection", conn))
        if not (may_keep and self._keep and self._wire.reader.keep and self._wire.sent):
            conn.discard()
        elif keep_for is None:
            conn.release()
        elif keep_for > 0:
            conn.release(keep_for=max(keep_for - MARGIN, keep_for / 2))
        else:
            conn.discard()

    def close(self) -> None:
        """End it: a connection that is not given back yet is closed. Idempotent; does not switch tasks."""
        conn, self._conn = self._conn, None
        if self._holder is not None:
            self._holder.upload.cancel()
        if conn is not None:
            conn.discard()

    async def aclose(self) -> None:
        """Do what `close` does; for `contextlib.aclosing`. Does not switch tasks."""
        self.close()

    def __repr__(self) -> str:
        state = self._wire.reader.state.value
        return f"<Response {self.status} {printable(self.reason.decode('latin-1'), 80)}: {state}>"


class RawStream(ByteStream):
    """A connection after the end of HTTP on it: what came with the answer, then what comes."""

    def __init__(self, conn: Carrier, first: bytes) -> None:
        self._conn = conn
        self._first = first

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one byte; see `Connection.receive`."""
        if self._first and max_bytes > 0:
            data, self._first = self._first[:max_bytes], self._first[max_bytes:]
            return data
        return await self._conn.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        """Send all of the bytes; see `Connection.send`."""
        await self._conn.send(item)

    async def send_eof(self) -> None:
        """Close the sending direction; see `Connection.send_eof`."""
        await self._conn.send_eof()

    async def aclose(self) -> None:
        """Close the connection for good."""
        await self._conn.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the connection."""
        return self._conn.extra_attributes
