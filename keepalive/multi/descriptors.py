"""Descriptors of this process: how many there may be, and what says that there are none left."""

from __future__ import annotations

import errno
from typing import Final

from keepalive.base.types import NEVER

_SHORT: Final = (errno.EMFILE, errno.ENFILE)
_SPARE_PART: Final = 8
_LEAST_SPARE: Final = 32


def ran_out(exc: BaseException | None) -> bool:
    """Say whether an error, or one behind it, is a lack of descriptors: of the process, or the system."""
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in _SHORT:
            return True
        if getattr(exc, "number", None) in _SHORT:  # a `DialFailure`
            return True
        if isinstance(exc, BaseExceptionGroup) and any(map(ran_out, exc.exceptions)):
            return True
        exc = exc.__cause__
    return False


def most_connections() -> float:
    """Return how many connections the soft limit of descriptors allows, with some left for the program.

    An eighth is left, 32 at least. Without such a limit there is none.
    """
    try:
        import resource
    except ImportError:  # not a POSIX system
        return NEVER
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return NEVER
    return max(1, soft - max(soft // _SPARE_PART, _LEAST_SPARE))
