"""One connection while an exchange is under way: sending and receiving within time limits.

Content that takes its time goes out in a task of its own, while the answer is read: a server may answer, and
go on answering, before it has read all, and who only writes then and who only reads wait for each other. So
the answer is taken as it comes, by whoever wants it, and the request goes on below.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NoReturn

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, EndOfStream

from .errors import InvalidRequest, ReadError, ReadTimeout, WriteTimeout
from .reader import DONE, HEAD, RAW
from .task import Task

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
AFTER_BREAK = 1.0
"""Seconds to wait for what a peer said before sending to it broke. It is on its way, or never was."""

CHUNK = 262144
"""Bytes of content that the write timeout is for."""
WANTED = 300
"""From this status on an early answer says that the rest of the content is not wanted (RFC 9112 9.5)."""


@dataclass(eq=False, repr=False, slots=True)
class Wire:
    """A connection, the reader of the answer, and the limits."""

    conn: Connection
    reader: Reader
    timeout: Timeout
    deadline: float | None  # when the exchange must be over, by `anyio.current_time`
    sent: bool = False  # the request is out, whole
    broken: BrokenResourceError | None = None  # why sending broke
    upload: Upload | None = None  # what is still going out meanwhile, if anything may be

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
        reader, upload = self.reader, self.upload
        try:
            if upload is not None and not upload.ended:
                scope: CancelScope | None = upload.listening()
            elif upload is not None and upload.failure is not None:
                raise upload.failure
            else:
                scope = self._scope(self.patience())
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
            raise ReadError(f"the connection broke before the answer was complete: {_why(exc)}") from exc
        except ClosedResourceError as exc:
            raise ReadError(
                "the connection was closed at this end, by the end of its manager perhaps"
            ) from exc
        return reader.receive(data)

    def patience(self) -> float | None:
        """How long to wait for more of the answer, by the limits; not long after sending broke."""
        limit = self.timeout.read
        if self.broken is None:
            return limit
        return AFTER_BREAK if limit is None else min(limit, AFTER_BREAK)

    def _too_late(self) -> NoReturn:
        """Say why nothing was received in time."""
        upload = self.upload
        if upload is not None and upload.failure is not None:
            raise upload.failure
        if self.broken is not None:
            raise ReadError(f"the connection broke: {_why(self.broken)}") from self.broken
        if upload is not None and not self.sent:
            raise WriteTimeout("the request was not out in time")
        raise ReadTimeout("nothing more of the answer came in time")

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

    async def _upload(self, message: Message) -> bytes:
        """Send in a task of its own and read the head; the rest goes out while the content is read."""
        upload = self.upload = Upload(self, message)
        reader, content = self.reader, b""
        try:
            while reader.state is HEAD:
                content = await self.receive()
                if reader.head is not None:
                    upload.heard(final=True, status=reader.head.status)
                elif reader.interim and reader.interim[-1][0] == 100:
                    upload.heard(final=False, status=100)
            if reader.state is DONE or reader.state is RAW:
                await upload.finish()
        except BaseException:
            await upload.end()
            raise
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


def _why(exc: BrokenResourceError) -> str:
    cause = exc.__cause__
    return (cause.strerror or str(cause)) if isinstance(cause, OSError) else "it was cut off"


class Upload:
    """The sending side of an exchange whose content takes its time.

    Any answer below 300 lets it go on, however the connection ends afterwards: the server may answer first
    and read then.

    :ivar ended: whether nothing more goes out, for whatever reason
    :ivar failure: why the exchange must fail, or None
    """

    def __init__(self, wire: Wire, message: Message) -> None:
        self.ended = False
        self.failure: BaseException | None = None
        self._wire = wire
        self._message = message
        self._over = anyio.Event()  # set when the task has gone
        self._heard = anyio.Event()  # of "100 Continue", or of a final answer
        self._left = message.length  # of announced content
        self._waiting: CancelScope | None = None  # of who waits for the answer
        self._sending = CancelScope(deadline=inf if wire.deadline is None else wire.deadline)
        self._task = Task(self._run, self._gone)

    # -- for who reads the answer -------------------------------------------------------------------

    def listening(self) -> CancelScope:
        """Return a scope to wait for the answer in.

        It ends at the exchange's deadline, when sending fails, and, once the request is out, in the read
        timeout: before that a server owes no answer.
        """
        if self.failure is not None:
            raise self.failure
        deadline = self._wire.deadline
        self._waiting = CancelScope(deadline=inf if deadline is None else deadline)
        return self._waiting

    def heard(self, *, final: bool, status: int) -> None:
        """Take note of "100 Continue", or of a final answer."""
        if final and status >= WANTED:
            self._sending.cancel()
        self._heard.set()

    async def finish(self) -> None:
        """Wait until the request is out, or nothing more of it will be.

        :raises Exception: what made it fail
        """
        await self._over.wait()
        if self.failure is not None:
            raise self.failure

    def cancel(self) -> None:
        """Send nothing more. Does not switch tasks."""
        self.ended = True
        self._sending.cancel()
        self._task.cancel()

    def drop(self) -> None:
        """Do the same from any thread. Raises RuntimeError if the loop has ended."""
        self._task.call_soon(self.cancel)

    async def end(self) -> None:
        """Do the same and wait until its task, and so the content's generator, has ended."""
        self.cancel()
        with CancelScope(shield=True):
            await self._over.wait()

    # -- the task -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._send_all()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:  # whatever it is, it is for who asked
            self.failure = exc
        self.ended = True
        scope, wire = self._waiting, self._wire
        if scope is None:
            return
        if self.failure is not None:
            scope.cancel()
        elif (limit := wire.patience()) is not None:
            scope.deadline = min(scope.deadline, anyio.current_time() + limit)

    def _gone(self) -> None:
        self.ended = True
        del self._wire  # a circle; nobody asks for it any more
        self._over.set()

    async def _send_all(self) -> None:
        wire, message = self._wire, self._message
        with self._sending:
            try:
                await wire.send(message.head)
                if message.expects:
                    with anyio.move_on_after(CONTINUE_PATIENCE):
                        await self._heard.wait()
                if message.chunks is None:
                    await self._send_body(message.body)
                else:
                    await self._send_chunks(message.chunks)
                wire.sent = True
            except BrokenResourceError as exc:
                wire.broken = exc  # the answer may be there, and say why
            except ClosedResourceError:
                pass  # who reads is told the same
        if self._sending.cancelled_caught and not self._sending_was_cut():
            raise WriteTimeout("the request was not out in time")

    def _sending_was_cut(self) -> bool:
        """Say whether it ended by an answer, or by its own exchange; otherwise it was the deadline."""
        head = self._wire.reader.head
        return self.ended or (head is not None and head.status >= WANTED)

    async def _send_body(self, body: bytes) -> None:
        if self._wire.timeout.write is None:
            await self._wire.send(body)
            return
        for start in range(0, len(body), CHUNK):  # each with its own limit
            await self._wire.send(body[start : start + CHUNK])

    async def _send_chunks(self, chunks: Iterable[bytes] | AsyncIterable[bytes]) -> None:
        if isinstance(chunks, AsyncIterable):
            iterator = aiter(chunks)
            try:
                async for chunk in iterator:
                    await self._send_chunk(chunk)
            finally:
                aclose = getattr(iterator, "aclose", None)
                if aclose is not None:  # a generator, left in the middle perhaps
                    with CancelScope(shield=True):
                        await aclose()
        else:
            for chunk in chunks:
                await self._send_chunk(chunk)
        if self._left is None:
            await self._wire.send(b"0\r\n\r\n")
        elif self._left:
            length = self._message.length
            raise InvalidRequest(f"content is {self._left} bytes shorter than its Content-Length of {length}")

    async def _send_chunk(self, chunk: object) -> None:
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
            raise InvalidRequest(f"content is longer than its Content-Length of {self._message.length}")
        await self._wire.send(data)


class UploadHolder:
    """Holds an upload; when it is dropped with its response, the upload ends."""

    __slots__ = ("upload",)

    def __init__(self, upload: Upload) -> None:
        self.upload = upload

    def __del__(self) -> None:
        if not self.upload.ended:
            with suppress(RuntimeError):  # the loop has ended, and all tasks with it
                self.upload.drop()
