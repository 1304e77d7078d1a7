"""A connection that many use at once: commands go out as they come, replies come back in that order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

from .command import Argument, checked_batch, pack, pack_batch
from .errors import BadReply, NoReply, ReplyError
from .replies import INCOMPLETE, Replies
from .waker import Waker, wakers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from anyio.abc import ByteStream

__all__ = ("Multiplexer",)

_READ_SIZE = 65536


class _Asker:
    """Who waits for replies. A cancelled one keeps his place, and his replies go nowhere."""

    __slots__ = ("got", "missing", "waker")

    def __init__(self, waker: Waker, missing: int) -> None:
        self.waker = waker
        self.missing = missing
        self.got: list[Any] = []


class Multiplexer:
    """What `RedisMultiplexed` makes of a connection: its ``conn.state``, common to all borrowers.

    What is asked in one turn of the event loop is sent in one piece. A cancelled `execute` or `pipeline`
    disturbs nobody: its command may be carried out, its reply is thrown away.

    :ivar server: what the server told in its HELLO; empty with protocol 2
    """

    def __init__(self, pushed: Callable[[list[Any]], None] | None, reply_timeout: float | None) -> None:
        self.replies = Replies(pushed)
        self.server: dict[str, Any] = {}
        self._timeout = reply_timeout
        self._waker = wakers()
        self._askers: deque[_Asker] = deque()
        self._out: list[bytes] = []
        self._received = 0
        self._idle_writer: Waker | None = None
        self._idle_watch: Waker | None = None
        self._ended = ""
        self._failure: BadReply | None = None

    # -- for borrowers ------------------------------------------------------------------------------

    async def execute(self, *command: Argument) -> Any:
        """Send a command and return its reply. Switches tasks.

        :raises ReplyError: the server answered with an error
        :raises NoReply: the connection ended before the reply came
        :raises TypeError, ValueError: it is no command, or not one for a shared connection
        """
        (reply,) = await self._ask(pack(command, shared=True), 1)
        if type(reply) is ReplyError:
            raise reply
        return reply

    async def pipeline(
        self, commands: Iterable[tuple[Argument, ...]], *, raise_on_error: bool = True
    ) -> list[Any]:
        """Send commands in one piece, which nobody's command comes between, and return their replies.

        :param raise_on_error: raise the first error among them, after all have come; otherwise errors are
            in the list
        :raises ReplyError, NoReply, TypeError, ValueError: as `execute` does
        """
        batch = checked_batch(commands)
        replies = await self._ask(pack_batch(batch, shared=True), len(batch))
        if raise_on_error:
            for reply in replies:
                if type(reply) is ReplyError:
                    raise reply
        return replies

    async def _ask(self, data: bytes, count: int) -> list[Any]:
        if self._ended:
            raise NoReply(self._ended)
        asker = _Asker(self._waker(), count)
        self._askers.append(asker)
        self._out.append(data)
        if self._idle_writer is not None:
            self._idle_writer = _wake(self._idle_writer)
        if self._idle_watch is not None:
            self._idle_watch = _wake(self._idle_watch)
        got: list[Any] | None = await asker.waker
        if got is None:
            raise NoReply(self._ended)
        return got

    # -- for the connection's own task --------------------------------------------------------------

    async def serve(self, stream: ByteStream) -> None:
        """Send and receive until the connection ends; then tell each who waits, once.

        :raises BadReply: what came is not the protocol, or more than was asked for
        """
        try:
            async with anyio.create_task_group() as tasks:

                async def part(does: Callable[[ByteStream], Awaitable[None]]) -> None:
                    self._ended = await self._until_end(does, stream)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(part, self._send)
                if self._timeout is not None:
                    tasks.start_soon(part, self._watch)
                await part(self._receive)
        finally:
            self._ended = self._ended or "the connection was closed"
            while self._askers:
                asker = self._askers.popleft()
                if not asker.waker.done():
                    asker.waker.set_result(None)
        if self._failure is not None:
            raise self._failure

    async def _until_end(self, does: Callable[[ByteStream], Awaitable[None]], stream: ByteStream) -> str:
        try:
            await does(stream)
        except EndOfStream:
            return "the server closed the connection"
        except (BrokenResourceError, ClosedResourceError) as exc:
            return str(exc.__cause__ or exc) or "the connection was closed"
        except BadReply as exc:
            self._failure = exc
            return str(exc)
        return f"no reply for {self._timeout} seconds"  # only the watch ever returns

    async def _send(self, stream: ByteStream) -> None:
        out = self._out
        while True:
            if not out:
                self._idle_writer = self._waker()
                await self._idle_writer
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            await stream.send(data)

    async def _receive(self, stream: ByteStream) -> None:
        replies, askers = self.replies, self._askers
        while True:
            while (reply := replies.take()) is not INCOMPLETE:
                if not askers:
                    msg = "the server sent a reply that nobody asked for"
                    raise BadReply(msg)
                asker = askers[0]
                asker.got.append(reply)
                asker.missing -= 1
                if not asker.missing:
                    askers.popleft()
                    if not asker.waker.done():
                        asker.waker.set_result(asker.got)
            replies.feed(await stream.receive(_READ_SIZE))
            self._received += 1

    async def _watch(self, stream: ByteStream) -> None:
        """Return when nothing came for too long while replies were outstanding.

        Otherwise a peer that fell silent would keep its connection, and everybody who is lent it.
        """
        assert self._timeout is not None, "there is a watch"
        while True:
            if not self._askers:
                self._idle_watch = self._waker()
                await self._idle_watch
            asker, received = self._askers[0], self._received
            await anyio.sleep(self._timeout)
            if self._askers and self._askers[0] is asker and self._received == received:
                return


def _wake(waker: Waker) -> Waker | None:
    """Wake a part of the connection's task; it sleeps no more."""
    if not waker.done():
        waker.set_result(None)
    return None
