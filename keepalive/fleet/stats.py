"""What a fleet's member tells of itself, and what a store tells of the fleet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keepalive import Key


@dataclass(frozen=True, slots=True)
class FleetKeyStats:
    """One key, as one member sees it.

    :ivar held: places that this member holds
    :ivar places: of these, what it may use now
    :ivar total: places that all members held when the store last said
    :ivar limit: the fleet's limit; None for none
    :ivar contended: whether requests of the fleet wait for it
    """

    held: int
    places: int | None
    total: int
    limit: int | None
    contended: bool


@dataclass(frozen=True, slots=True)
class FleetStats:
    """A frozen snapshot of one member.

    :ivar state: "joining", "leased", "fallback" (the store is away; see `fallback`), "bare" (the store is
        away and nothing is left), or "left"
    :ivar fallback: "share", "none" or "local": what counts while the store is away
    :ivar members: members of the fleet, when the store last said
    :ivar fence: this member's fencing number: a member that joined later has a higher one; 0 before it joined
    :ivar lease_left: seconds until its lease ends, or its fallback; None when nothing ends
    :ivar quiet: seconds for which the store grants nothing new, since it is new or was restarted
    :ivar calls: calls to the store so far
    :ivar failures: how many of them were not answered
    :ivar held: places of all keys together
    :ivar keys: by key
    """

    state: str
    fallback: str
    members: int
    fence: int
    lease_left: float | None
    quiet: float
    calls: int
    failures: int
    held: int
    keys: Mapping[Key, FleetKeyStats] = field(default_factory=dict)
