"""redis-py's parser, fed by a connection of the manager's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hiredis
from redis import exceptions
from redis.asyncio.connection import DefaultParser

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ("INCOMPLETE", "Parser")

INCOMPLETE = object()
"""What the parser gives while a reply has not come as a whole."""

_PUSH: type = hiredis.PushNotification
_Base: Any = (
    DefaultParser  # which redis-py chooses when it is imported: with hiredis there, its parser for it
)


class Parser(_Base):  # type: ignore[misc]  # for the same reason
    """Finds replies in bytes; what they mean, and what becomes of pushes, is redis-py's.

    It reads nothing itself: its connection does that.
    """

    def on_connect(self, connection: AbstractConnection) -> None:
        """Begin with a new stream."""
        encoder = connection.encoder
        options: dict[str, Any] = {}
        if encoder.decode_responses:
            options = {"encoding": encoder.encoding, "errors": encoder.encoding_errors}
        reader = hiredis.Reader(
            protocolError=exceptions.InvalidResponse,
            replyError=self.parse_error,
            notEnoughData=INCOMPLETE,
            **options,
        )
        self.feed, self.take, self.unread = reader.feed, reader.gets, reader.has_data

    def on_disconnect(self) -> None:
        """Do nothing: what has been read can still be parsed."""

    async def seen(self, reply: Any, *, push_request: bool | None) -> Any:
        """Deal with pushes and errors of the connection.

        :return: the reply; INCOMPLETE if it was a push that nobody asked for
        """
        if isinstance(reply, exceptions.ConnectionError):
            raise reply
        if isinstance(reply, _PUSH):
            told = await self.handle_push_response(reply)
            return told if push_request else INCOMPLETE
        if isinstance(reply, list) and reply and isinstance(reply[0], exceptions.ConnectionError):
            raise reply[0]
        return reply
