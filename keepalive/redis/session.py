"""A connection that one borrower has for himself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

from .errors import BadReply, NoReply
from .replies import INCOMPLETE, Replies

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

__all__ = ("Session", "exchange")

_READ_SIZE = 65536


class Session:
    """What `RedisLifecycle` makes of a connection: its ``conn.state``. Use it by `Commands`.

    :ivar server: what the server told in its HELLO; empty with protocol 2
    """

    __slots__ = ("replies", "server")

    def __init__(self, pushed: Callable[[list[Any]], None] | None) -> None:
        self.replies = Replies(pushed)
        self.server: dict[str, Any] = {}


async def exchange(stream: ByteStream, replies: Replies, data: bytes, count: int) -> list[Any]:
    """Send commands, and return their replies; those that are errors, too.

    When this fails or is cancelled, replies are outstanding: the connection is of no use any more.

    :raises NoReply: the connection ended
    :raises BadReply: what came is not the protocol, or more than was asked for
    """
    got: list[Any] = []
    try:
        await stream.send(data)
        while len(got) < count:
            reply = replies.take()
            if reply is INCOMPLETE:
                replies.feed(await stream.receive(_READ_SIZE))
            else:
                got.append(reply)
    except EndOfStream:
        msg = "the server closed the connection"
        raise NoReply(msg) from None
    except (BrokenResourceError, ClosedResourceError) as exc:
        raise NoReply(str(exc.__cause__ or exc) or "the connection was closed") from exc
    if replies.take() is not INCOMPLETE:
        msg = "the server sent more replies than there were commands"
        raise BadReply(msg)
    return got
