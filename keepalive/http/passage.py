"""A request and its answer on their way over whatever carries them, within time limits.

Exchange, upload and response know no more than this: `wire` is HTTP/1.1 on a connection of its own,
`http2.lease` a stream on a shared one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import anyio

from .errors import ReadError, ReadTimeout, WriteTimeout
from .reader import DONE, HEAD, RAW
from .upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio import BrokenResourceError

    from keepalive import Connection, Link, Reuse

    from .head import HeadLimits
    from .reader import Following
    from .request import Message
    from .timeout import Timeout

CONTINUE_PATIENCE = 1.0
"""Seconds to wait for "100 Continue"; many servers never say it (RFC 9110 10.1.1)."""
AFTER_BREAK = 1.0
"""Seconds to wait for what a peer said before sending to it broke. It is on its way, or never was."""


class Carrier(Protocol):
    """What carries an exchange; see `Connection`."""

    _link: Link | None
    from_cache: Reuse | None

    def time(self) -> float:
        """Return the time of its clock."""

    def release(self, keep_for: float | None = None) -> None:
        """Give it back."""

    def discard(self) -> None:
        """Give it back before the exchange is complete."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive bytes of another protocol."""

    async def send(self, item: bytes) -> None:
        """Send bytes of another protocol."""

    async def send_eof(self) -> None:
        """End the sending direction."""

    async def aclose(self) -> None:
        """Close it."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the connection."""


class Passage(ABC):
    """What carries an exchange, the reader of the answer, and the limits.

    :ivar deadline: when the exchange must be over, by the connection's clock
    :ivar sent: whether the request is out, whole
    :ivar broken: why sending broke, if it did
    :ivar upload: what is still going out meanwhile, if anything may be
    :ivar stream_id: the number of the request on a shared connection
    """

    __slots__ = ("broken", "conn", "deadline", "reader", "sent", "stream_id", "timeout", "upload")

    def __init__(self, conn: Carrier, reader: Following, timeout: Timeout, deadline: float) -> None:
        self.conn = conn
        self.reader = reader
        self.timeout = timeout
        self.deadline = deadline
        self.sent = False
        self.broken: BrokenResourceError | None = None
        self.upload: Upload | None = None
        self.stream_id: int | None = None

    # -- what differs -------------------------------------------------------------------------------

    @abstractmethod
    async def converse(self, message: Message) -> bytes:
        """Send a request and read the head of the answer; return the content that came with it."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Receive some content (maybe none: more of the head, the end) and tell the reader.

        :raises HTTPError: what came is no answer, the connection broke, or it took too long
        """

    @abstractmethod
    async def begin(self, message: Message) -> None:
        """Send the head; for these four see `Outlet`."""

    @abstractmethod
    async def put(self, data: bytes) -> None:
        """Send some content."""

    @abstractmethod
    async def put_all(self, message: Message) -> None:
        """Send the content that is at hand."""

    @abstractmethod
    async def end(self) -> None:
        """Say that the content is complete."""

    # -- what does not ------------------------------------------------------------------------------

    def ends(self) -> float:
        """Return when the exchange must be over, by the loop's own clock."""
        return inf if self.deadline == inf else anyio.current_time() + self.deadline - self.conn.time()

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
            raise ReadError(f"the connection broke: {why(self.broken)}") from self.broken
        if not self.sent:
            raise WriteTimeout("the peer did not take the request in time")
        raise ReadTimeout("nothing more of the answer came in time")

    async def _upload(self, message: Message) -> bytes:
        """Send in a task of its own and read the head; the rest goes out while the content is read."""
        upload = self.upload = Upload(self, message, CONTINUE_PATIENCE)
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


def why(exc: BrokenResourceError) -> str:
    """Say why a connection broke."""
    cause = exc.__cause__
    return (cause.strerror or str(cause)) if isinstance(cause, OSError) else "it was cut off"


class Multiplexed(ABC):
    """What ``conn.state`` is on a connection that serves many requests at once."""

    @abstractmethod
    def passage(
        self, conn: Connection, message: Message, limits: HeadLimits, timeout: Timeout, deadline: float
    ) -> Passage:
        """Return what carries one exchange."""


class Multiplexing:
    """A life cycle whose connections may have a `Multiplexed` state."""

    __slots__ = ()
