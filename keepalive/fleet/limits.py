"""The limits that a fleet's user gives, and what they say of a key."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keepalive import Key

    Place = str | tuple[str, str] | tuple[str, str, int]
    """What a limit is for: a scheme, host, or host:port; (scheme, host); (scheme, host, port)."""


def checked_limit(name: str, value: object) -> float:
    """Check a number of connections, or None for no limit."""
    if value is None:
        return inf
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a whole number or None, not {value!r}"
        raise TypeError(msg)
    if not 1 <= value < 10**9:
        msg = f"{name} must be at least 1, and less than 10^9, not {value!r}"
        raise ValueError(msg)
    return value


class Limits:
    """What each key of the fleet may have.

    :param given: one number for every key; None for no limit; or a mapping, see `RedisFleet`
    """

    def __init__(self, given: int | Mapping[Any, int | None] | None) -> None:
        self._all: float = inf
        self._some: dict[Any, float] = {}
        if not isinstance(given, Mapping):
            self._all = checked_limit("max_per_host", given)
            return
        for place, limit in given.items():
            checked = checked_limit(f"max_per_host[{place!r}]", limit)
            if place == "*":
                self._all = checked
            else:
                self._some[_checked_place(place)] = checked

    def of(self, key: Key) -> float:
        """Return the limit of a key: the most particular one that was given."""
        if not self._some:
            return self._all
        places: tuple[Any, ...] = (
            str(key),
            key[:3],
            f"{key.addr}:{key.port}",
            key[:2],
            key.addr,
            key.scheme,
        )
        for place in places:
            if place in self._some:
                return self._some[place]
        return self._all


def _checked_place(place: Any) -> Any:
    kinds = (str, str, int)
    parts = (place,) if isinstance(place, str) else place
    if (
        not isinstance(parts, tuple)
        or not 1 <= len(parts) <= 3
        or not all(isinstance(part, kind) for part, kind in zip(parts, kinds, strict=False))
    ):
        msg = (
            "max_per_host is for a host, 'host:port', a scheme, (scheme, host), (scheme, host, port) or '*', "
            f"not {place!r}"
        )
        raise TypeError(msg)
    return place
