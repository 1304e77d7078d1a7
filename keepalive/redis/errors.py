"""What can go wrong with a command, the connection itself apart."""

from __future__ import annotations

from keepalive import KeepaliveError, printable

__all__ = ("BadReply", "NoReply", "RedisError", "ReplyError")


class RedisError(KeepaliveError):
    """The root of the errors of a command. No connection for it is an `AllocateError` and so on."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))  # a server has a part in most of them


class ReplyError(RedisError):
    """The server answered with an error; the connection goes on.

    :ivar code: its first word: "ERR", "WRONGTYPE", "NOAUTH", "LOADING" and so on
    """

    @property
    def code(self) -> str:
        """The first word of the reply."""
        return str(self).partition(" ")[0]


class NoReply(RedisError):
    """The connection ended before the reply came. The server may have carried the command out."""


class BadReply(RedisError):
    """What came is not Redis's protocol, or more than was asked for; the connection ends."""
