"""What a member and the store say to each other.

A *place* is the right to one connection of a key, counted from before its attempt until it is closed. The
empty key stands for all connections together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

ALL: Final = ""
"""The key that stands for all keys together."""

VERSION: Final = 1
"""Of this language: a store that was left by another version is refused."""

MARGIN: Final = 0.1
"""The part of a lease that a member does not use: for the drift of clocks, and the time it takes to close."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a member takes part.

    :ivar interval: seconds from one renewal to the next
    :ivar lease: seconds for which the store keeps what a member holds
    :ivar fallback: what counts when the leases have ended and the store is away: "share", "none" or "local"
    :ivar fallback_for: seconds for which a share counts after the end of the leases
    :ivar max_open: of all keys together; `inf` for no limit
    :ivar weight: this member's share under contention, relative to others
    """

    interval: float = 5.0
    lease: float = 15.0
    fallback: str = "share"
    fallback_for: float = 30.0
    max_open: float = inf
    weight: int = 1

    @property
    def kept(self) -> float:
        """For how long the store keeps this member's share after the end of its lease."""
        return self.fallback_for if self.fallback == "share" else 0.0


class Claim(NamedTuple):
    """What a call says of one key.

    :ivar limit: the most that this member knows the fleet may have; `inf` for no limit
    :ivar held: places that it goes on holding
    :ivar need: connections in use or on their way, and requests that wait
    :ivar ask: places that it would like to hold
    """

    key: str
    limit: float
    held: int
    need: int
    ask: int


@dataclass(slots=True)
class Call:
    """One call to the store: it renews all that the member holds, whatever it says of single keys.

    :ivar member: the member's own name, which no other has
    :ivar fence: the number that the store gave it; 0 if it has none
    :ivar seq: rises with each call; the store ignores what comes after a newer one
    :ivar base: the last call whose answer has been taken in; only if it is the last that the store took in
        may a call leave out what has not changed
    :ivar whole: whether all keys are told
    :ivar members: how many members its last answer knew of
    :ivar leaves: whether it gives back everything and goes
    """

    member: str
    fence: int
    seq: int
    base: int
    whole: bool
    members: int
    terms: Terms
    claims: list[Claim]
    leaves: bool = False


class Row(NamedTuple):
    """What an answer says of one key.

    :ivar held: places that the member holds from now on
    :ivar target: what it should come down to, as its idle ones allow
    :ivar contended: whether others wait: then it tells its need at each renewal
    :ivar hard: whether it must have come down to its target at the end of its running lease
    :ivar limit: the fleet's; `inf` for no limit
    :ivar total: places that all members hold
    """

    key: str
    held: int
    target: int
    contended: bool
    hard: bool
    limit: float
    total: int


@dataclass(slots=True)
class Reply:
    """The store's answer.

    :ivar status: "ok"; "whole" if the member must tell all of its keys; "old" for a call that was overtaken
    :ivar members: how many members there are
    :ivar quiet: seconds for which nothing new is granted, since the store is new or was restarted
    """

    status: str
    fence: int = 0
    members: int = 0
    quiet: float = 0.0
    rows: list[Row] = field(default_factory=list)
