"""The messages between agent and borrowers: msgpack, each an array that begins with its name.

A later version may add fields at an end, which older readers skip. The greeting and the refusal keep their
form for ever, so that any two versions can find out what they have in common.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from .core.frames import HEAD

MOST_ASKED = 16_384
"""Bytes of the longest message of a borrower."""
MOST_ANSWERED = 4_194_304
"""Bytes of the longest message of an agent: the numbers of many keys."""

Number: TypeAlias = Annotated[int, Meta(ge=1, le=2**53)]
Text: TypeAlias = Annotated[str, Meta(max_length=2048)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
AnySeconds: TypeAlias = Annotated[float, Meta(ge=-1e9, le=1e9)]
KeyParts: TypeAlias = tuple[Text, Text, Port, Text, Text, Port]


class Hello(Struct, tag="hello", array_like=True, frozen=True):
    """The first message of a client: the versions that it speaks, and what it would like."""

    versions: Annotated[list[int], Meta(max_length=64)]
    sticky: bool = False
    patience: Seconds | None = None


class Succeed(Struct, tag="succeed", array_like=True, frozen=True):
    """The first message of an agent that is to take this one's place; for the agent's own user only."""

    versions: Annotated[list[int], Meta(max_length=64)]


class Allocate(Struct, tag="allocate", array_like=True, frozen=True):
    """Ask for a connection; see `ConnectionManager.allocate`."""

    number: Number
    key: KeyParts
    timeout: AnySeconds | None = None
    fresh: bool = False
    queue_timeout: Seconds | None = None
    open_timeout: Seconds | None = None


class Release(Struct, tag="release", array_like=True, frozen=True):
    """Give a connection back that is fit for reuse, as far as its borrower knows."""

    number: Number
    keep_for: Seconds | None = None


class Discard(Struct, tag="discard", array_like=True, frozen=True):
    """Give one back that is to be closed."""

    number: Number


class Cancel(Struct, tag="cancel", array_like=True, frozen=True):
    """Ask no more."""

    number: Number


class HalfClose(Struct, tag="eof", array_like=True, frozen=True):
    """What is sent on a relayed connection has come to its end."""

    number: Number


class Ping(Struct, tag="ping", array_like=True, frozen=True):
    """Be there."""


class Ask(Struct, tag="stats", array_like=True, frozen=True):
    """Ask for the numbers of the pool."""

    number: Number


class Welcome(Struct, tag="welcome", array_like=True, frozen=True):
    """The agent's answer to the greeting: the version from now on, and how often to be heard of."""

    version: int
    patience: float
    pool: str


class Refusal(Struct, tag="refusal", array_like=True, frozen=True):
    """The agent's last word."""

    text: str
    versions: list[int] = []


class Sealed(Struct, array_like=True, frozen=True):
    """What was agreed in the TLS handshake that the agent has made."""

    version: str
    alpn: str | None
    cipher: tuple[str, str, int] | None


class Lent(Struct, tag="lent", array_like=True, frozen=True):
    """A connection; its descriptor comes with it."""

    number: int
    reuse: str | None
    uses: int
    idle_for: float
    age: float
    may_keep: bool
    family: int
    sealed: Sealed | None = None


class Failed(Struct, tag="failed", array_like=True, frozen=True):
    """Why there is none."""

    number: int
    kind: str
    phase: str
    error: int | None
    text: str


class Recall(Struct, tag="recall", array_like=True, frozen=True):
    """Somebody waits: do not keep it after use, and return it now if it is only kept."""

    number: int


class Cut(Struct, tag="cut", array_like=True, frozen=True):
    """The connection was ended: its borrower has been silent for too long."""

    number: int


class Over(Struct, tag="over", array_like=True, frozen=True):
    """What a relayed connection receives has come to its end: a clean one, or the connection is broken."""

    number: int
    clean: bool


class Numbers(Struct, tag="numbers", array_like=True, frozen=True):
    """The numbers of the pool, as the fields of `Stats`."""

    number: int
    fields: dict[str, int | dict[str, int]]


class Descriptors(Struct, tag="descriptors", array_like=True, frozen=True):
    """So many descriptors come with this, one for each of the next `Lent`."""

    count: int


class Leaving(Struct, tag="leaving", array_like=True, frozen=True):
    """The agent ends soon: nothing more is lent."""


FromClient: TypeAlias = Hello | Succeed | Allocate | Release | Discard | Cancel | HalfClose | Ping | Ask
FromAgent: TypeAlias = (
    Welcome | Refusal | Lent | Failed | Recall | Cut | Over | Numbers | Descriptors | Leaving
)

BadMessage = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What the two decoders raise."""

of_client = msgspec.msgpack.Decoder(FromClient).decode
of_agent = msgspec.msgpack.Decoder(FromAgent).decode
_encode = msgspec.msgpack.Encoder().encode


def packed(message: FromClient | FromAgent) -> bytes:
    """Make a message ready to be sent."""
    data = _encode(message)
    return len(data).to_bytes(HEAD) + data  # `framed` without its call
