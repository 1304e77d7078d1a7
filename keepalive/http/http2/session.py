"""A shared connection at work: what reads, writes and wakes who waits.

Requests only ever touch the core, never the connection: whatever happens to one of them, cancellation too, no
write is cut short and no lock is held. All that goes out goes through one buffer, written by one task.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, EndOfStream

from keepalive.http.errors import BadAnswer, NoAnswer, ReadError
from keepalive.http.passage import Multiplexed
from keepalive.http.task import caller

from .core.connection import Core
from .core.stream import nothing
from .lease import StreamPassage

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

    from keepalive import Connection
    from keepalive.abc import Shares
    from keepalive.http.errors import HTTPError
    from keepalive.http.head import HeadLimits
    from keepalive.http.request import Message
    from keepalive.http.timeout import Timeout

    from .core.fields import Pair
    from .core.stream import Stream, Telling

LAST_WORDS = 1.0
"""Seconds to tell the peer what it did wrong."""


class Session(Multiplexed):
    """A connection that speaks HTTP/2.

    :param scheme: of the requests on it, "https" for example
    :param ping_after: seconds of silence after which the peer is asked for a sign of life, and again for as
        long until it is given up; None never asks
    """

    def __init__(
        self, scheme: bytes, limits: HeadLimits, window: int, most: int, ping_after: float | None
    ) -> None:
        self.scheme = scheme
        self.core = Core(limits, window, most)
        self._ping_after = ping_after
        self._shares: Shares | None = None
        self._writing: Callable[[], object] = nothing
        self._dropped: deque[Stream] = deque()
        self._call: Callable[[Callable[[], object]], object] | None = None
        self._reading = CancelScope()
        self._broken: Telling | None = None
        self._torn = False  # whether a write was begun and not ended

    def passage(
        self, conn: Connection, message: Message, limits: HeadLimits, timeout: Timeout, deadline: float
    ) -> StreamPassage:
        """Return what carries one exchange."""
        return StreamPassage(conn, self, message, limits, timeout, deadline)

    # -- for exchanges, all plain -------------------------------------------------------------------

    def open(self, stream: Stream, fields: list[Pair], content: bytes, *, whole: bool) -> None:
        """Begin a request; see `Core.open`."""
        try:
            self.core.open(stream, fields, content, anyio.current_time(), whole=whole)
        finally:
            self.settle()

    def read(self, stream: Stream, most: int = 0) -> bytes:
        """Take content of an answer; see `Core.read`."""
        try:
            return self.core.read(stream, most)
        finally:
            self.settle()

    def write(self, stream: Stream, data: bytes) -> None:
        """Give content of a request; see `Core.write`."""
        self.core.write(stream, data)
        self.settle()

    def close(self, stream: Stream) -> None:
        """End the content of a request."""
        self.core.close(stream)
        self.settle()

    def leave(self, stream: Stream) -> None:
        """Have no more to do with a request; see `Core.leave`."""
        # The time matters to those only that are left too early, and is not for nothing.
        self.core.leave(stream, stream.since if stream.over else anyio.current_time())
        self.settle()

    def drop(self, stream: Stream) -> None:
        """Do the same soon; from any thread, at any moment."""
        self._dropped.append(stream)
        if self._call is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._call(self.settle)

    def settle(self) -> None:
        """Do what follows from what has happened: wake who waits, write, say how many may come."""
        core = self.core
        while self._dropped:
            stream = self._dropped.popleft()
            core.leave(stream, stream.since)
        if core.woken:
            woken, core.woken = core.woken, []
            for stream in woken:
                wake, stream.wake_reader = stream.wake_reader, nothing
                wake()
                wake, stream.wake_writer = stream.wake_writer, nothing
                wake()
        if core.waiting:
            wake, self._writing = self._writing, nothing
            wake()
        shares = self._shares
        if shares is not None and core.settled:  # a set-up that has failed is told by the end of `run`
            if core.retired:
                self._shares = None
                shares.retire()
            elif shares.capacity != core.capacity:
                shares.capacity = core.capacity

    # -- the resident -------------------------------------------------------------------------------

    async def run(self, stream: ByteStream, shares: Shares) -> None:
        """Serve the connection until it ends; see `Lifecycle.run`."""
        self._shares = shares
        self._call = caller()
        error: Telling = _closed_here
        try:
            self.settle()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, stream)
                with self._reading:
                    error = await self._read(stream)
                self._lose(self._broken or error)  # before anybody else has his turn
                tasks.cancel_scope.cancel()
        finally:
            self._lose(_closed_here)
            self._shares = None
        if not self._torn:  # the peer may be told what it did wrong
            with anyio.move_on_after(LAST_WORDS), suppress(BrokenResourceError, ClosedResourceError):
                await stream.send(self.core.take())
        if not self.core.settled and self.core.end is not None:
            raise self.core.end(False)  # the set-up has failed

    def _lose(self, error: Telling) -> None:
        self.core.lost(error)
        self.settle()

    async def _read(self, stream: ByteStream) -> Telling:
        """Read until the connection ends; return what makes the error that tells it."""
        core, patience, asked = self.core, self._ping_after, False
        while True:
            data = b""
            try:
                if patience is None:
                    data = await stream.receive()
                else:
                    with anyio.move_on_after(patience):
                        data = await stream.receive()
                if data:
                    asked = False
                    core.receive(data, anyio.current_time())
                elif asked:
                    return _silent
                else:
                    asked = True
                    core.ping()
            except EndOfStream:
                return _ended(core.goaway)
            except (BrokenResourceError, ClosedResourceError) as exc:
                return _broken(exc)
            except BadAnswer as exc:
                return _bad(str(exc))
            self.settle()

    async def _write(self, stream: ByteStream) -> None:
        """Write all that is to be written; nobody else does."""
        core = self.core
        while True:
            if not core.waiting:
                something = anyio.Event()
                self._writing = something.set
                await something.wait()
                self._writing = nothing
            if core.end is not None:
                return  # what is left are last words
            data = core.take()
            self.settle()
            if not data:
                continue
            self._torn = True
            try:
                await stream.send(data)
            except (BrokenResourceError, ClosedResourceError) as exc:
                # The peer may have said why before it broke: that is here by now, or never will be.
                self._broken = _broken(exc)
                self._reading.deadline = anyio.current_time() + LAST_WORDS
                return
            self._torn = False


def _closed_here(began: bool) -> HTTPError:
    return ReadError("the connection was closed at this end, by the end of its manager perhaps")


def _ended(goaway: str) -> Telling:
    def ended(began: bool) -> HTTPError:
        if began:
            return BadAnswer(f"the connection ended in the middle of the answer{goaway}")
        return NoAnswer(f"the connection ended without an answer{goaway}")

    return ended


def _silent(began: bool) -> HTTPError:
    return ReadError("the peer is silent: it did not answer a ping")


def _broken(exc: Exception) -> Telling:
    cause = exc.__cause__
    why = (cause.strerror or str(cause)) if isinstance(cause, OSError) else "it was cut off"
    return lambda began: ReadError(f"the connection broke before the answer was complete: {why}")


def _bad(text: str) -> Telling:
    return lambda began: BadAnswer(text)
