"""What turns host names into addresses: what it must be able to do, and a fixed table."""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from keepalive.base import arguments as settings
from keepalive.base.hostname import ascii_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a resolver found out.

    :ivar addresses: IPv4 and IPv6 literals, the preferred first; none if it is known that there are none
    :ivar ttl: for how many seconds this may be remembered
    :ivar stale: for how many seconds more the addresses may serve where asking again fails or is slow
    :ivar partial: these are the addresses of one family, and nobody could tell those of the other
    """

    addresses: tuple[str, ...]
    ttl: float = 0.0
    stale: float = 0.0
    partial: bool = False


@runtime_checkable
class Resolver(Protocol):
    """Turns host names into addresses. Literals and ``localhost`` never reach one.

    Names come in lower case and in ASCII (IDNA 2008), checked for length, without a trailing dot; unless
    the resolver has a true attribute ``absolute_names``: then a dot that was given stays.

    A resolver that hears of some addresses before others (of the families, say) may also have a method
    ``async def resolve_parts(host, part) -> Resolution``. It is then called instead of `resolve`: it calls
    the plain function `part` with a `Resolution` of each such lot as soon as it is there, at least one
    address in it, and returns all that there is in the end. And a plain method ``edition() -> object``,
    which is called before a remembered answer is used, and must be quick: when it returns something else
    than before, all that was remembered is forgotten.
    """

    async def resolve(self, host: str) -> Resolution:
        """Return the addresses of a host name.

        Called in a task of the manager's own, once for all that ask for the same name at a time;
        cancelled when the last of them has gone.

        :raises OSError: the name does not exist or nobody could be asked. If the error has an attribute
            ``ttl``, it is known that there is no address, and remembered for so many seconds; if it has an
            attribute ``retry_after``, nobody knows, and nobody is asked again for so many seconds. Its
            errno, unless it is a `socket.gaierror`, is the request's `error_num`
        """


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
