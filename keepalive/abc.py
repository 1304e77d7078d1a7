"""What can be plugged into a manager: connectors, resolvers, observers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from keepalive.base.types import CloseReason, Key, Reuse
    from keepalive.connect.dial import Dial
    from keepalive.transport.link import Link

__all__ = ("Connector", "Observer", "Resolution", "Resolver")


@runtime_checkable
class Connector(Protocol):
    """Opens connections of a scheme."""

    async def connect(self, dial: Dial) -> Link:
        """Open one connection for ``dial.key`` and return its link.

        Called in a task of the manager's own, inside the limits and timeouts; the methods of the
        `Dial` do the work, and whatever they have opened is closed by the manager if this raises or
        is cancelled. An `OSError` or `ssl.SSLError` that is raised becomes the failure of the
        request, in the phase the dial was in; any other exception does too, and is logged.
        """


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


class Observer:
    """Told of every transition as it happens. Subclass it and override what you want to know.

    The methods are plain and run inside the manager: they must be quick. They may call the manager.
    One that raises is logged and changes nothing. Connections and requests have numbers of their own.
    """

    def queued(self, key: Key, request_id: int) -> None:
        """Note that a request could not be served at once."""

    def opening(self, key: Key, connection_id: int) -> None:
        """Note that an attempt to open a connection starts."""

    def opened(self, key: Key, connection_id: int) -> None:
        """Note that an attempt succeeded."""

    def attempt_failed(self, key: Key, connection_id: int, error: Exception) -> None:
        """Note that an attempt failed."""

    def attempt_aborted(self, key: Key, connection_id: int) -> None:
        """Note that an attempt was given up: nobody needs it, or it took too long."""

    def lent(self, key: Key, connection_id: int, request_id: int, reuse: Reuse | None, waited: float) -> None:
        """Note that a request has its connection, after so many seconds; `reuse` None means a new one."""

    def idle(self, key: Key, connection_id: int) -> None:
        """Note that a connection waits for its next use."""

    def closed(self, key: Key, connection_id: int, reason: CloseReason) -> None:
        """Note that an open connection was closed."""

    def failed(self, key: Key, request_id: int, failure: str, phase: str) -> None:
        """Note that a request failed, in a phase.

        `failure` is "timeout", "attempt", "connect_timeout", "resolve_timeout", "tls_timeout", "paused" or
        "shutdown".
        """

    def paused(self, key: Key, failures: int, seconds: float) -> None:
        """Note that a key's attempts have failed so many times in a row: it is left alone for a while."""

    def cancelled(self, key: Key, request_id: int) -> None:
        """Note that a request was cancelled, deallocated or dropped."""
