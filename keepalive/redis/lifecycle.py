"""Redis's life cycles: connections that one borrower has for himself, or many share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepalive.abc import Lifecycle

from .command import pack
from .errors import ReplyError
from .multiplexer import Multiplexer
from .session import Session, exchange
from .setup import Setup, ping

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

    from keepalive import Key
    from keepalive.abc import Shares

__all__ = ("RedisLifecycle", "RedisMultiplexed")

_PING = pack(("PING",), shared=False)


class RedisLifecycle(Lifecycle[Session]):
    """The life cycle of connections to a Redis or Valkey server that one borrower has for himself.

    A new connection is greeted and authenticated (HELLO, AUTH), named (SETNAME) and put into its database
    (SELECT) before its first user has it; after a rest a PING sees whether it serves; pushes that come while
    it is idle are taken in. Borrowers use `Commands`.

    :param username: of an ACL; needs a password
    :param password: None for a server without one
    :param db: the database, >= 0
    :param client_name: what CLIENT LIST shows
    :param protocol: 3, or 2 for servers before Redis 6
    :param on_push: a plain function, told of each push: what client-side caching invalidates, for example
    :raises TypeError, ValueError: an argument is wrong; the message names it
    """

    def __init__(
        self,
        username: str | None = None,
        password: str | None = None,
        db: int = 0,
        client_name: str | None = None,
        protocol: int = 3,
        *,
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self._setup = Setup(username, password, db, client_name, protocol)
        self._on_push = _checked_plain("on_push", on_push)

    async def opened(self, stream: ByteStream, key: Key) -> Session:
        """Set a new connection up."""
        session = Session(self._on_push)
        session.server = await self._setup.say(stream, session.replies)
        return session

    async def check(self, stream: ByteStream, state: Session) -> None:
        """See whether it still serves."""
        (reply,) = await exchange(stream, state.replies, _PING, 1)
        ping(reply)

    def received(self, state: Session, data: bytes) -> bytes | None:
        """Take in pushes; anything else that comes unasked closes the connection."""
        return b"" if state.replies.take_idle(data) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._setup}>"


class RedisMultiplexed(Lifecycle[Multiplexer]):
    """The life cycle of connections to a Redis or Valkey server that many borrowers share.

    Set up as by `RedisLifecycle`. Commands of all borrowers go out together, and replies come back in their
    order; so commands that block, or change the connection, are refused. Borrowers use `Commands`, or
    `conn.state` itself.

    :param username, password, db, client_name, protocol, on_push: as for `RedisLifecycle`
    :param capacity: how many borrow one connection at once, > 0
    :param reply_timeout: seconds; a connection on which nothing comes for so long, while replies are
        outstanding, ends. None waits for ever
    :raises TypeError, ValueError: an argument is wrong; the message names it
    """

    def __init__(
        self,
        username: str | None = None,
        password: str | None = None,
        db: int = 0,
        client_name: str | None = None,
        protocol: int = 3,
        *,
        on_push: Callable[[list[Any]], None] | None = None,
        capacity: int = 100,
        reply_timeout: float | None = 30.0,
    ) -> None:
        self._setup = Setup(username, password, db, client_name, protocol)
        self._on_push = _checked_plain("on_push", on_push)
        self._capacity = _checked_capacity(capacity)
        self._reply_timeout = _checked_seconds("reply_timeout", reply_timeout)

    async def opened(self, stream: ByteStream, key: Key) -> Multiplexer:
        """Set a new connection up."""
        state = Multiplexer(self._on_push, self._reply_timeout)
        state.server = await self._setup.say(stream, state.replies)
        return state

    async def check(self, stream: ByteStream, state: Multiplexer) -> None:
        """See whether it still serves; among the others' commands."""
        try:
            await state.execute("PING")
        except ReplyError as exc:
            ping(exc)

    async def run(self, stream: ByteStream, state: Multiplexer, shares: Shares) -> None:
        """Send and receive for all borrowers."""
        shares.capacity = self._capacity
        await state.serve(stream)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._setup}, capacity {self._capacity}>"


def _checked_plain(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        msg = f"{name} must be a plain function or None, not {value!r}"
        raise TypeError(msg)
    return value


def _checked_capacity(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"capacity must be a whole number, not {value!r}"
        raise TypeError(msg)
    if value < 1:
        msg = f"capacity must be at least 1, not {value!r}"
        raise ValueError(msg)
    return value


def _checked_seconds(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"{name} must be a number of seconds or None, not {value!r}"
        raise TypeError(msg)
    if not value > 0:
        msg = f"{name} must be greater than 0, not {value!r}"
        raise ValueError(msg)
    return value
