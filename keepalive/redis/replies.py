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
_LIMIT = (512 << 20) + 65536
"""Bytes of one string at most, and what is read with it (the server's proto-max-bulk-len)."""
_IDLE_LIMIT = 1 << 20
"""Bytes of a push that has not come as a whole while its connection is idle."""
_log = logging.getLogger("keepalive")


class Replies:
    """The parser of one connection, for its life.

    :param pushed: told of what the server pushes (RESP3)
    """

    __slots__ = ("_feed", "_gets", "_held", "_pushed")

    def __init__(self, pushed: Callable[[list[Any]], None] | None = None) -> None:
        reader = hiredis.Reader(protocolError=BadReply, replyError=ReplyError, notEnoughData=INCOMPLETE)
        self._gets = reader.gets
        self._pushed = pushed
        self._feed, self._held = reader.feed, reader.len

    def feed(self, data: bytes) -> None:
        """Take in what was received.

        :raises BadReply: a part of a reply is longer than the protocol has it
        """
        self._feed(data)
        if self._held() > _LIMIT:
            msg = "a part of a reply is longer than 512 MiB"
            raise BadReply(msg)

    def take(self) -> Any:
        """Return the next reply, a `ReplyError` too, or INCOMPLETE. Pushes are told on the way.

        :raises BadReply: what came is not the protocol
        """
        try:
            return self._take()
        except MemoryError:
            msg = "a reply announced more elements than memory has room for"
            raise BadReply(msg) from None

    def _take(self) -> Any:
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
        try:
            self.feed(data)
            return self.take() is INCOMPLETE and self._held() <= _IDLE_LIMIT
        except BadReply:
            return False
