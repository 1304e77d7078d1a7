"""The messages by which an old agent hands everything over to a new one; see `handover`."""

# No postponed annotations: msgspec reads them, so what they name is imported for it.
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from .core.frames import framed
from .wire import Allocate, KeyParts

Id: TypeAlias = Annotated[int, Meta(ge=0)]


class Listening(Struct, tag="listening", array_like=True, frozen=True):
    """A listening socket; its descriptor comes with it, as with all but the last two of these.

    :ivar owns_file: the agent has made its file, and removes it at its end
    """

    owns_file: bool


class Idle(Struct, tag="idle", array_like=True, frozen=True):
    """A connection that nobody has."""

    pool: str
    user: int | None
    key: KeyParts


class Borrowing(Struct, tag="borrowing", array_like=True, frozen=True):
    """A line to a borrower, and what the agent knows of it."""

    pid: int
    user: Id
    group: Id
    pool: str | None
    sticky: bool
    patience: float
    last: int
    rest: bytes


class Lending(Struct, tag="lending", array_like=True, frozen=True):
    """A loan of the borrower named last; or the token of one, where it is TLS."""

    number: int
    key: KeyParts
    recalled: bool
    token: bool


class Waiting(Struct, tag="waiting", array_like=True, frozen=True):
    """A request of that borrower that is not served yet, and for how long it has waited."""

    terms: Allocate
    waited: float


class End(Struct, tag="end", array_like=True, frozen=True):
    """That was all."""


Item: TypeAlias = Listening | Idle | Borrowing | Lending | Waiting | End
unpacked = msgspec.msgpack.Decoder(Item).decode

TAKEN = framed(b"taken")
"""What the new one answers."""
_encode = msgspec.msgpack.Encoder().encode


def packed(item: Item) -> bytes:
    """Make an item ready to be sent."""
    return framed(_encode(item))
