"""A fixed table of names."""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING

from keepalive.base import arguments as settings
from keepalive.resolve.resolver import Resolution

from .check import ascii_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class StaticResolver:
    """A fixed table, for tests and closed networks: names to one address or several."""

    def __init__(self, table: Mapping[str, str | Sequence[str]]) -> None:
        self._table = {
            ascii_name(host).rstrip("."): settings.addresses(host, found) for host, found in table.items()
        }

    async def resolve(self, host: str) -> Resolution:
        """Return the table's entry; names are compared without case and trailing dot."""
        try:
            return Resolution(self._table[ascii_name(host).rstrip(".")], math.inf)
        except KeyError:
            raise socket.gaierror(socket.EAI_NONAME, "not in the table") from None
