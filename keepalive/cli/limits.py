"""The limit of open files, which is often lower than what a command is asked to do needs."""

from __future__ import annotations

from .screen import note

SPARE = 64
"""Descriptors for the program itself: the loop, name servers, the terminal."""


def raise_limit(connections: int) -> None:
    """Raise the soft limit of descriptors, as far as the system allows, so that so many connections fit."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections * 8 // 7 + SPARE  # `MultiClient` leaves an eighth to its program
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    enough = "" if wanted == needed else f"; {connections} connections at a time do not fit, some will wait"
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        note(f"The limit of open files is {soft}, and cannot be raised: some connections will wait.")
        return
    done = f"is {soft}, and may not be raised" if wanted == soft else f"was raised from {soft} to {wanted}"
    note(f"The limit of open files {done}{enough}.")
