"""What an operator sees and sets of a fleet, without being a member."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf
from typing import Any

from keepalive import FleetError

from .limits import checked_limit
from .names import checked_name
from .store import checked_url, first_of, opened

__all__ = ("FleetKey", "FleetMember", "FleetStatus", "set_limit", "status")

PATIENCE = 5.0
"""Seconds for one call."""


@dataclass(frozen=True, slots=True)
class FleetMember:
    """One member, as the store knows it.

    :ivar name: its own name
    :ivar label: its host and process
    :ivar fence: its fencing number
    :ivar weight: its weight
    :ivar held: places that it holds
    :ivar waiting: connections that it needs beyond these
    :ivar lease_left: seconds until the store gives its places to others
    :ivar absent: whether it has not called in time, and only its share is kept for it
    """

    name: str
    label: str
    fence: int
    weight: int
    held: int
    waiting: int
    lease_left: float
    absent: bool


@dataclass(frozen=True, slots=True)
class FleetKey:
    """One key over all members; the one without a name is the sum of all.

    :ivar key: such as ``https://api.example.com:443``
    :ivar limit: what counts now; None for none
    :ivar held: places that members hold
    :ivar waiting: connections needed beyond these
    :ivar members: members that hold or need some
    """

    key: str
    limit: int | None
    held: int
    waiting: int
    members: int


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """What a store knows of a fleet.

    :ivar members: by fencing number
    :ivar keys: by name
    :ivar limits: what an operator has set, by key; "*" for every key, "" for all together
    :ivar quiet: seconds for which nothing new is granted, since the store is new or was restarted
    """

    members: tuple[FleetMember, ...]
    keys: tuple[FleetKey, ...]
    limits: dict[str, int]
    quiet: float


async def status(url: str, name: str) -> FleetStatus:
    """Ask a store for what it knows of a fleet. Changes nothing. Switches tasks.

    :param url: as for `RedisFleet`
    :raises FleetError: the store cannot be reached, or refuses
    """
    found = await _run(url, name, "status")
    try:
        return _read(json.loads(found))
    except (ValueError, TypeError, KeyError) as error:
        msg = f"the store's answer for the fleet {name!r} is not one of this fleet's script"
        raise FleetError(msg) from error


async def set_limit(url: str, name: str, limit: int | None, key: str = "*") -> None:
    """Set what a fleet may have, whatever its members were given. Switches tasks.

    Members that hold more come down to it: by idle connections at once, and by those in use at the end of the
    lease that runs.

    :param limit: connections, > 0; None takes back what was set
    :param key: such as ``https://api.example.com:443``; "*" for every key that none is set for; "" for all
        keys together
    :raises TypeError, ValueError: an argument is wrong; the message names it
    :raises FleetError: the store cannot be reached, or refuses
    """
    given: object = key  # whatever the annotation says
    if not isinstance(given, str):
        msg = f"key must be a str, not {given!r}"
        raise TypeError(msg)
    number = checked_limit("limit", limit)
    await _run(url, name, "limit", key, "" if number == inf else str(int(number)))


async def _run(url: str, name: str, *arguments: str) -> Any:
    try:
        async with opened(checked_url(url), checked_name(name), PATIENCE) as store:
            return await store.run(*arguments)
    except Exception as error:  # the client's tasks raise groups
        first = first_of(error)
        if isinstance(first, OSError):
            raise FleetError(f"the fleet {name!r}: {first}") from first
        raise first from first.__cause__


def _read(found: dict[str, Any]) -> FleetStatus:
    members = [
        FleetMember(
            str(one["name"]),
            str(one["label"]),
            int(one["fence"]),
            int(one["weight"]),
            int(one["held"]),
            int(one["waiting"]),
            float(one["left"]),
            bool(one["absent"]),
        )
        for one in found["members"] or ()
    ]
    keys = [
        FleetKey(
            str(one["key"]),
            None if one["limit"] == "inf" else int(one["limit"]),
            int(one["held"]),
            int(one["waiting"]),
            int(one["members"]),
        )
        for one in found["keys"] or ()
    ]
    return FleetStatus(
        tuple(sorted(members, key=lambda one: one.fence)),
        tuple(sorted(keys, key=lambda one: one.key)),
        {str(key): int(limit) for key, limit in dict(found["limits"] or {}).items()},
        float(found["quiet"]),
    )
