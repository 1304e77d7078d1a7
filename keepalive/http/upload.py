"""Content on its way out, in a task of its own, while the answer is read.

A server may answer, and go on answering, before it has read all: who only writes then and who only reads
wait for each other. So the answer is taken as it comes, by whoever wants it, and the request goes on below.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError

from .errors import InvalidRequest, WriteTimeout
from .task import Task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .reader import Following
    from .request import Message
    from .timeout import Timeout

WANTED = 300
"""From this status on an early answer says that the rest of the content is not wanted (RFC 9112 9.5)."""


class Outlet(Protocol):
    """The exchange, as far as its content needs it; see `Wire`."""

    reader: Following
    timeout: Timeout
    sent: bool
    broken: BrokenResourceError | None

    def ends(self) -> float:
        """Return when the exchange must be over, by the loop's own clock."""

    def patience(self) -> float | None:
        """Return how long to wait for the answer, once the request is out."""

    async def begin(self, message: Message) -> None:
        """Send the head."""

    async def put(self, data: bytes) -> None:
        """Send some content, framed as the head has announced it."""

    async def put_all(self, message: Message) -> None:
        """Send the content that is at hand."""

    async def end(self) -> None:
        """Say that the content is complete."""


class Upload:
    """The sending side of an exchange whose content takes its time.

    Any answer below 300 lets it go on, however the connection ends afterwards: the server may answer first
    and read then.

    :ivar ended: whether nothing more goes out, for whatever reason
    :ivar touched: whether content that is yielded was asked for, and cannot be sent again
    :ivar failure: why the exchange must fail, or None
    """

    def __init__(self, wire: Outlet, message: Message, patience: float) -> None:
        self.ended = False
        self.touched = False
        self.failure: BaseException | None = None
        self._wire = wire
        self._message = message
        self._patience = patience
        self._over = anyio.Event()  # set when the task has gone
        self._heard = anyio.Event()  # of "100 Continue", or of a final answer
        self._waiting: CancelScope | None = None  # of who waits for the answer
        self._ends = wire.ends()
        self._sending = CancelScope(deadline=self._ends)
        self._task = Task(self._run, self._gone)

    # -- for who reads the answer -------------------------------------------------------------------

    def listening(self) -> CancelScope:
        """Return a scope to wait for the answer in.

        It ends at the exchange's deadline, when sending fails, and, once the request is out, in the read
        timeout: before that a server owes no answer.
        """
        if self.failure is not None:
            raise self.failure
        self._waiting = CancelScope(deadline=self._ends)
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
                await wire.begin(message)
                if message.expects:
                    with anyio.move_on_after(self._patience):
                        await self._heard.wait()
                if message.chunks is None:
                    await wire.put_all(message)
                else:
                    self.touched = True
                    await _Pieces(wire, message.length).send(message.chunks)
                await wire.end()
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


class UploadHolder:
    """Holds an upload; when it is dropped with its response, the upload ends."""

    __slots__ = ("upload",)

    def __init__(self, upload: Upload) -> None:
        self.upload = upload

    def __del__(self) -> None:
        if not self.upload.ended:
            with suppress(RuntimeError):  # the loop has ended, and all tasks with it
                self.upload.drop()


class _Pieces:
    """Content that is yielded piece by piece."""

    def __init__(self, wire: Outlet, length: int | None) -> None:
        self._wire = wire
        self._length = length
        self._left = length

    async def send(self, chunks: Iterable[bytes] | AsyncIterable[bytes]) -> None:
        if isinstance(chunks, AsyncIterable):
            iterator = aiter(chunks)
            try:
                async for chunk in iterator:
                    await self._send(chunk)
            finally:
                aclose = getattr(iterator, "aclose", None)
                if aclose is not None:  # a generator, left in the middle perhaps
                    with CancelScope(shield=True):
                        await aclose()
        else:
            for chunk in chunks:
                await self._send(chunk)
        if self._left:
            raise InvalidRequest(
                f"content is {self._left} bytes shorter than its Content-Length of {self._length}"
            )

    async def _send(self, chunk: object) -> None:
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            msg = f"content must yield bytes, not {chunk!r}"
            raise TypeError(msg)
        data = chunk if isinstance(chunk, bytes) else bytes(chunk)
        if not data:
            return  # in the chunked coding it would be the end
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise InvalidRequest(f"content is longer than its Content-Length of {self._length}")
        await self._wire.put(data)
