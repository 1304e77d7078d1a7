"""Commands over a connection that a manager has lent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import ClosedResourceError

from .command import Argument, checked_batch, pack, pack_batch
from .errors import ReplyError
from .multiplexer import Multiplexer
from .session import Session, exchange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keepalive import Connection

__all__ = ("Commands",)


class Commands:
    """Sends commands over a connection of a manager with one of the Redis life cycles.

    Where the connection is exclusive, a command that fails or is cancelled before its reply has come closes
    it: nobody else gets that reply. Where it is shared, nobody else notices.

    :param conn: a connection that is lent
    :raises TypeError: the manager has no Redis life cycle for the connection's scheme
    """

    __slots__ = ("_conn", "_state")

    def __init__(self, conn: Connection) -> None:
        state = conn.state
        if not isinstance(state, (Session, Multiplexer)):
            msg = (
                f'the manager has no Redis life cycle for "{conn.scheme}"; '
                f'give it lifecycles={{"{conn.scheme}": RedisLifecycle()}}'
            )
            raise TypeError(msg)
        self._conn = conn
        self._state: Session | Multiplexer = state

    async def execute(self, *command: Argument) -> Any:
        """Send a command and return its reply.

        :raises ReplyError: the server answered with an error; the connection goes on
        :raises NoReply, BadReply: the connection ended before the reply came
        :raises ClosedResourceError: the connection was given back
        :raises TypeError, ValueError: it is no command, or not one for such a connection
        """
        state = self._held()
        if isinstance(state, Multiplexer):
            return await state.execute(*command)
        (reply,) = await self._exchange(state, pack(command, shared=False), 1)
        if type(reply) is ReplyError:
            raise reply
        return reply

    async def pipeline(
        self, commands: Iterable[tuple[Argument, ...]], *, raise_on_error: bool = True
    ) -> list[Any]:
        """Send commands in one piece and return their replies.

        ``MULTI`` first and ``EXEC`` last make it a transaction.

        :param raise_on_error: raise the first error among them, after all have come; otherwise errors are
            in the list
        :raises ReplyError, NoReply, BadReply, ClosedResourceError, TypeError, ValueError: as `execute` does
        """
        state = self._held()
        if isinstance(state, Multiplexer):
            return await state.pipeline(commands, raise_on_error=raise_on_error)
        batch = checked_batch(commands)
        replies = await self._exchange(state, pack_batch(batch, shared=False), len(batch))
        if raise_on_error:
            for reply in replies:
                if type(reply) is ReplyError:
                    raise reply
        return replies

    def _held(self) -> Session | Multiplexer:
        held: bool = self._conn.state is self._state
        if not held:
            raise ClosedResourceError
        return self._state

    async def _exchange(self, state: Session, data: bytes, count: int) -> list[Any]:
        try:
            return await exchange(self._conn, state.replies, data, count)
        except BaseException:
            self._conn.discard()
            raise
