"""Descriptors of this process: how many connections there may be."""

from __future__ import annotations

from typing import Final

from keepalive.base.types import NEVER

_SPARE_PART: Final = 8
_LEAST_SPARE: Final = 32


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
