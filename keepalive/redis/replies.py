"""Replies, found in bytes by hiredis. Pure."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import hiredis

from .errors import BadReply, ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("INCOMPLETE", "Replies")

INCOMPLETE = object()
"""What stands for a reply that has not come as a whole."""

_PUSH: Any = hiredis.PushNotification
_IDLE_LIMIT = 1 << 20
_log = logging.getLogger("keepalive")


class Replies:
    """The parser of one connection, for its life.

    :param pushed: told of what the server pushes (RESP3)
    """

    __slots__ = ("_gets", "_pushed", "feed", "held")

    def __init__(self, pushed: Callable[[list[Any]], None] | None = None) -> None:
        reader = hiredis.Reader(protocolError=BadReply, replyError=ReplyError, notEnoughData=INCOMPLETE)
        self._gets = reader.gets
        self._pushed = pushed
        self.feed, self.held = reader.feed, reader.len

    def take(self) -> Any:
        """Return the next reply, a `ReplyError` too, or INCOMPLETE. Pushes are told on the way.

        :raises BadReply: what came is not the protocol
        """
        reply = self._gets()
        while type(reply) is _PUSH:
            if self._pushed is not None:
                try:
                    self._pushed(list(reply))
                except Exception:
                    _log.exception("on_push failed")
            reply = self._gets()
        return reply

    def take_idle(self, data: bytes) -> bool:
        """Take in what came while nothing was asked; False if that is not pushes only."""
        self.feed(data)
        try:
            return self.take() is INCOMPLETE and self.held() <= _IDLE_LIMIT
        except BadReply:
            return False
