"""The names of fleets."""

from __future__ import annotations


def checked_name(name: object) -> str:
    """Check the name of a fleet, which becomes a part of its keys in the store.

    :raises TypeError, ValueError: it cannot be one
    """
    if not isinstance(name, str):
        msg = f"name must be a str, not {name!r}"
        raise TypeError(msg)
    if not name or len(name) > 200 or "{" in name or "}" in name or not name.isprintable():
        msg = f"name must be 1 to 200 printable characters without braces, not {name!r}"
        raise ValueError(msg)
    return name
