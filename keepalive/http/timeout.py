"""How long each part of an exchange may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

__all__ = ("Timeout",)

_BITS = 1023


@dataclass(frozen=True, slots=True)
class Timeout:
    """Limits in seconds; None is no limit. Each begins with its phase; 0 means at once.

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
    wait: float | None = field(default=None, init=False, repr=False, compare=False)
    """The timeout of the request for a connection as a whole; None for the manager's own."""

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
            if isinstance(value, int) and value.bit_length() > _BITS:
                msg = f"{name} must be a number of seconds that a float can hold"
                raise ValueError(msg)

        if self.pool is not None or self.connect is not None:
            object.__setattr__(self, "wait", inf)


NONE = Timeout()
"""No limit at all."""


def checked(timeout: Timeout | float | None) -> Timeout:
    """Make a `Timeout` of what users give: a number is the total."""
    if timeout is None:
        return NONE
    return timeout if isinstance(timeout, Timeout) else Timeout(total=timeout)
