"""The hosts file (hosts(5)): names with fixed addresses, asked before DNS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.addresses import is_literal

if TYPE_CHECKING:
    from collections.abc import Callable


def parse(text: str, complain: Callable[[int, str], None]) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each name, lower case and without trailing dot. Wrong lines are skipped."""
    table: dict[str, list[str]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        address, *names = words
        if not is_literal(address):
            complain(number, f"{address[:100]!r} is no address")
        elif not names:
            complain(number, f"no name for {address}")
        else:
            for name in names:
                found = table.setdefault(name.lower().removesuffix("."), [])
                if address not in found:
                    found.append(address)
    return {name: tuple(found) for name, found in table.items()}
