"""How long each part of an exchange may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keepalive import AllocateTimeout

__all__ = ("Timeout",)


@dataclass(frozen=True, slots=True)
class Timeout:
    """Limits in seconds; None is no limit.

    :ivar total: for everything, from the request for a connection to the last byte of the answer
    :ivar pool: for waiting until there is room for a connection; `AllocateTimeout` with function "queue"
    :ivar connect: for opening one, the name and TLS included; `AllocateTimeout`
    :ivar read: for each wait for bytes of the answer; `ReadTimeout`
    :ivar write: for each wait until bytes of the request are taken; `WriteTimeout`
    """

    total: float | None = None
    pool: float | None = None
    connect: float | None = None
    read: float | None = None
    write: float | None = None
    first: float | None = field(default=None, init=False, repr=False, compare=False)
    """How long to ask for a connection at first; see `goes_on`."""

    def __post_init__(self) -> None:
        for name in ("total", "pool", "connect", "read", "write"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                msg = f"{name} must be a number of seconds or None, not {value!r}"
                raise TypeError(msg)
            if not value >= 0:
                msg = f"{name} must not be negative or NaN, not {value!r}"
                raise ValueError(msg)

        limits = [limit for limit in (self.pool, self.connect) if limit is not None]
        object.__setattr__(self, "first", min(limits, default=None))

    def goes_on(self, exc: AllocateTimeout) -> bool:
        """Say whether the phase that a first request timed out in has time left.

        A request for a connection has one timeout, and only its end tells what it was waiting for. So the
        shorter limit comes first; an attempt that is under way by then serves the second request.
        """
        pool, connect = (inf if value is None else value for value in (self.pool, self.connect))
        return pool > connect if exc.function == "queue" else connect > pool

    @property
    def more(self) -> float | None:
        """How long to ask for a connection again, see `goes_on`.

        Where only connecting is limited, that must have its end too: in as much time as was waited before.
        """
        if self.connect is None:
            return None
        return self.connect * 2 if self.pool is None else abs(self.pool - self.connect)


NONE = Timeout()
"""No limit at all."""


def checked(timeout: Timeout | float | None) -> Timeout:
    """Make a `Timeout` of what users give: a number is the total."""
    if timeout is None:
        return NONE
    return timeout if isinstance(timeout, Timeout) else Timeout(total=timeout)
