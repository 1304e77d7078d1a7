"""What is said to a server before its connection has a user."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .command import Argument, pack_batch
from .errors import ReplyError
from .session import exchange

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from .replies import Replies

__all__ = ("Setup", "ping")

_ALIVE = frozenset({"LOADING", "BUSY", "MASTERDOWN"})
"""Errors of a server that lives, and cannot serve anybody now: a new connection would be no better."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Who we are for the server, checked."""

    username: str | None
    password: str | None = field(repr=False)
    db: int
    client_name: str | None
    protocol: int

    def __post_init__(self) -> None:
        for name in ("username", "password", "client_name"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                msg = f"{name} must be a str or None, not {type(value).__name__}"
                raise TypeError(msg)
        if self.username is not None and self.password is None:
            msg = "username must not be given without a password"
            raise ValueError(msg)
        if self.client_name is not None and not all("!" <= char <= "~" for char in self.client_name):
            msg = f"client_name must be of visible ASCII characters without blanks, not {self.client_name!r}"
            raise ValueError(msg)
        if isinstance(self.db, bool) or not isinstance(self.db, int):
            msg = f"db must be a whole number, not {self.db!r}"
            raise TypeError(msg)
        if self.db < 0:
            msg = f"db must not be negative, not {self.db!r}"
            raise ValueError(msg)
        if self.protocol not in (2, 3) or isinstance(self.protocol, bool):
            msg = f"protocol must be 2 or 3, not {self.protocol!r}"
            raise ValueError(msg)

    def commands(self) -> list[tuple[Argument, ...]]:
        """Return what is to be said."""
        said: list[tuple[Argument, ...]] = []
        if self.protocol == 3:
            hello: tuple[Argument, ...] = ("HELLO", "3")
            if self.password is not None:
                hello += ("AUTH", self.username or "default", self.password)
            if self.client_name is not None:
                hello += ("SETNAME", self.client_name)
            said.append(hello)
        else:
            if self.password is not None:
                said.append(("AUTH", *([self.username] if self.username else []), self.password))
            if self.client_name is not None:
                said.append(("CLIENT", "SETNAME", self.client_name))
        if self.db:
            said.append(("SELECT", self.db))
        return said

    async def say(self, stream: ByteStream, replies: Replies) -> dict[str, Any]:
        """Say it; return what the server told of itself.

        :raises ReplyError: the server refused
        :raises NoReply, BadReply: as `exchange` does
        """
        said = self.commands()
        if not said:
            return {}
        got = await exchange(stream, replies, pack_batch(said, shared=False), len(said))
        for reply in got:
            if isinstance(reply, ReplyError):
                raise reply
        told = got[0] if self.protocol == 3 else {}
        return {_text(name): _text(value) for name, value in told.items()} if isinstance(told, dict) else {}


def ping(reply: Any) -> None:
    """Check the reply to a PING.

    :raises ReplyError: the connection is of no use
    """
    if isinstance(reply, ReplyError) and reply.code not in _ALIVE:
        raise reply


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
