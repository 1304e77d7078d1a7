"""A byte stream over a link. All waiting for sockets is in this file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import BusyResourceError, ClosedResourceError, DelimiterNotFound, EndOfStream, IncompleteRead
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from keepalive.base.types import NEVER

from .link import FAIR_RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from .link import Link


async def until_readable(link: Link) -> None:
    """Park until the poller sees something to read, or the link is closed. Nothing is read here."""
    link.credit = FAIR_RUN
    parked = link.reader = link.poller.park()
    try:
        await parked
    finally:
        link.reader = None


async def until_writable(link: Link) -> None:
    """Park until the poller sees room to send, or the link is closed."""
    link.credit = FAIR_RUN
    parked = link.writer = link.poller.park()
    if link.deadline != NEVER:
        link.poller.deadlines.watch(link)
    try:
        await parked
    finally:
        link.writer = None


async def let_others_read(link: Link) -> None:
    """Let other tasks run in the midst of many receives; the link counts as being read meanwhile."""
    link.credit = FAIR_RUN
    link.reader = link.poller.park()
    try:
        await checkpoint()
    finally:
        link.reader = None


async def let_others_write(link: Link) -> None:
    """Let other tasks run in the midst of many sends; the link counts as being written to meanwhile."""
    link.credit = FAIR_RUN
    link.writer = link.poller.park()
    try:
        await checkpoint()
    finally:
        link.writer = None


def _late(link: Link) -> TimeoutError:
    link.late = False
    return TimeoutError("the deadline of the connection has come")


class LinkStream(ByteStream):
    """An `anyio.abc.ByteStream` over a link.

    `send` and `receive` switch tasks only when they must wait, and once in a while (`FAIR_RUN`).
    """

    __slots__ = ("_link",)

    _link: Link | None  # no `__init__` sets it: for a `Connection` it would cost as much as all the rest

    @classmethod
    def over(cls, link: Link) -> Self:
        """Return a stream over this link."""
        stream = cls()
        stream._link = link
        return stream

    def detach(self) -> None:
        """Take the link away from whoever holds this stream: it is closed for them, and the link is not."""
        self._link = None

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one byte.

        A cancelled call has taken nothing. Switches tasks if there is nothing to read yet.

        :param max_bytes: the most to return, > 0
        :raises EndOfStream: the peer has closed its direction
        :raises ClosedResourceError: this end was closed or given back, maybe while waiting
        :raises BrokenResourceError: the connection was reset or failed
        :raises BusyResourceError: another task is inside `receive`
        """
        link = self._link
        if link is None or link.closed:
            raise ClosedResourceError
        if link.reader is not None:
            action = "receiving from"
            raise BusyResourceError(action)
        if max_bytes < 1:
            msg = f"max_bytes must be at least 1, not {max_bytes}"
            raise ValueError(msg)
        link.touched = True
        link.credit -= 1
        if link.credit < 0:
            await let_others_read(link)
            self._check_open(link)
        # `until_readable` without its frame: this is where every exchange waits.
        data = link.try_receive(max_bytes) if link.readable or link.layered else None
        while data is None:
            link.credit = FAIR_RUN
            parked = link.reader = link.poller.park()
            if link.deadline != NEVER:
                link.poller.deadlines.watch(link)
            try:
                await parked
            finally:
                link.reader = None
            if self._link is not link or link.closed:
                raise ClosedResourceError
            data = link.try_receive(max_bytes)
            if data is None and link.late and link.deadline != NEVER:
                raise _late(link)
        if not data:
            raise EndOfStream
        return data

    async def receive_until(self, delimiter: bytes, max_bytes: int) -> bytes:
        """Receive up to a delimiter; return what comes before it, and take the delimiter too.

        What was read beyond it is what the next receive gives first, and counts as unread at a release; so
        does all that had come when this fails or is cancelled. Switches tasks only if it must wait.

        :param max_bytes: where the delimiter must have ended, > 0
        :raises DelimiterNotFound: it has not
        :raises IncompleteRead: the peer has closed its direction before
        :raises ClosedResourceError, BrokenResourceError, BusyResourceError: as `receive` does
        """
        if not delimiter or max_bytes < 1:
            msg = f"delimiter must not be empty, and max_bytes at least 1, not {delimiter!r}, {max_bytes}"
            raise ValueError(msg)
        size, link = len(delimiter), self._link
        taken, rest, looked = bytearray(), 0, 0
        try:
            while True:
                taken += await self._more()
                at = taken.find(delimiter, looked, max_bytes)
                if at >= 0:
                    rest = at + size
                    return bytes(taken[:at])
                if len(taken) >= max_bytes:
                    raise DelimiterNotFound(max_bytes)
                looked = max(len(taken) - size + 1, 0)
        finally:
            self._put_back(link, bytes(taken[rest:]))

    async def receive_exactly(self, nbytes: int) -> bytes:
        """Receive that many bytes.

        When this fails or is cancelled, what had come is what the next receive gives first. Switches tasks
        only if it must wait.

        :param nbytes: how many, >= 0
        :raises IncompleteRead: the peer has closed its direction before
        :raises ClosedResourceError, BrokenResourceError, BusyResourceError: as `receive` does
        """
        if nbytes < 0:
            msg = f"nbytes must not be negative, not {nbytes}"
            raise ValueError(msg)
        taken, link, whole = bytearray(), self._link, False
        if link is None or link.closed:
            raise ClosedResourceError
        try:
            while len(taken) < nbytes:
                taken += await self._more(min(nbytes - len(taken), 65536))
            whole = True
            return bytes(taken)
        finally:
            if not whole:
                self._put_back(link, bytes(taken))

    async def _more(self, max_bytes: int = 65536) -> bytes:
        try:
            return await self.receive(max_bytes)
        except EndOfStream:
            raise IncompleteRead from None

    def _put_back(self, link: Link | None, data: bytes) -> None:
        """Give bytes back, unless the link is another's by now."""
        if data and link is not None and self._link is link and not link.closed:
            link.put_back(data)

    async def send(self, item: bytes) -> None:
        """Send all of the bytes; returns when the kernel has taken them.

        Switches tasks if the kernel's buffer is full. When cancelled, a part may have been sent, and
        the connection will not be reused.

        :raises ClosedResourceError: this end was closed or given back, maybe while waiting
        :raises BrokenResourceError: the peer has closed, or the connection was reset or failed
        :raises BusyResourceError: another task is inside `send`
        """
        link = self._link
        if link is None or link.closed:
            raise ClosedResourceError
        if link.writer is not None:
            action = "sending to"
            raise BusyResourceError(action)
        link.touched = True
        link.credit -= 1
        if link.credit < 0:
            await let_others_write(link)
            self._check_open(link)
        if type(item) is not bytes:
            item = bytes(memoryview(item))  # bytes(5) would be five zeros
        sent = link.try_send(item)
        if sent != len(item) or (link.layered and link.unsent):
            await self._send_rest(link, memoryview(item)[sent:])

    async def _send_rest(self, link: Link, rest: memoryview) -> None:
        link.doubtful = True
        torn, link.torn = link.torn, True  # until all is out: a cancelled send leaves half a message
        while rest or link.unsent:
            sent = link.try_send(rest)
            rest = rest[sent:]
            if not (rest or link.unsent):
                break
            link.credit -= 1 + (sent >> 16)  # much at a time takes its time, too
            if not sent:
                await until_writable(link)
                if link.late and link.deadline != NEVER and not link.closed:
                    raise _late(link)
            elif link.credit < 0:
                await let_others_write(link)
            self._check_open(link)
        link.torn = torn

    def _check_open(self, link: Link) -> None:
        """Refuse to go on with a link that was closed or given back while this task was waiting."""
        if self._link is not link or link.closed:
            raise ClosedResourceError

    async def send_eof(self) -> None:
        """Close the sending direction; the connection will not be reused. Harmless the second time.

        With TLS it sends TLS's own end, and switches tasks if the kernel's buffer is full.

        :raises ClosedResourceError: this end was closed or given back
        :raises BrokenResourceError: the connection was reset or failed
        :raises BusyResourceError: another task is inside `send`
        """
        link = self._link
        if link is None or link.closed:
            raise ClosedResourceError
        if link.writer is not None:
            action = "sending to"
            raise BusyResourceError(action)
        link.touched = True
        if not link.eof_sent:
            link.send_eof()
            if link.unsent:
                await self._send_rest(link, memoryview(b""))

    async def aclose(self) -> None:
        """Close for good, at once, then let others run."""
        if self._link is not None:
            self._link.close()
        await checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The `SocketAttribute` values of anyio, and with TLS its `TLSAttribute` values."""
        if self._link is None or self._link.closed:
            raise ClosedResourceError
        return self._link.attributes()
