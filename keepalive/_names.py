"""From host names to addresses: literals, localhost, and look-ups that all askers share."""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from . import _settings as settings
from ._core._types import Phase
from ._dial import DialFailure, is_literal, text_of
from .abc import Resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._runtime import Cancellable, Parking, Runtime
    from .abc import Resolver

__all__ = ("Names", "StaticResolver", "SystemResolver")

LOOPBACK = ("127.0.0.1", "::1")


class SystemResolver:
    """The system's own resolver (`getaddrinfo`): hosts file, DNS, mDNS, whatever nsswitch says.

    It runs in threads of its own, never in a pool shared with other work, so that unrelated sleepers
    do not turn into "DNS timeouts". It tells no time to live.

    :param threads: how many look-ups may run at once
    """

    def __init__(self, threads: int = 8) -> None:
        self._threads = settings.count("threads", threads, least=1)
        self._limiters: dict[int, anyio.CapacityLimiter] = {}

    async def resolve(self, host: str) -> Resolution:
        """Return the addresses in the system's order of preference. A cancelled look-up's thread goes on."""
        found = await to_thread.run_sync(
            socket.getaddrinfo,
            host,
            None,
            socket.AF_UNSPEC,
            socket.SOCK_STREAM,
            abandon_on_cancel=True,
            limiter=self._limiter(),
        )
        return Resolution(tuple(dict.fromkeys(str(address[0]) for *_, address in found)))

    def _limiter(self) -> anyio.CapacityLimiter:
        # A limiter belongs to one event loop; a resolver may outlive several.
        token = id(anyio.lowlevel.current_token())
        if token not in self._limiters:
            self._limiters = {token: anyio.CapacityLimiter(self._threads)}
        return self._limiters[token]


class StaticResolver:
    """A fixed table, for tests and closed networks: names to one address or several."""

    def __init__(self, table: Mapping[str, str | Sequence[str]]) -> None:
        self._table = {
            host.lower().rstrip("."): settings.addresses(host, found) for host, found in table.items()
        }

    async def resolve(self, host: str) -> Resolution:
        """Return the table's entry; names are compared without case and trailing dot."""
        try:
            return Resolution(self._table[host.lower().rstrip(".")], math.inf)
        except KeyError:
            raise socket.gaierror(socket.EAI_NONAME, "not in the table") from None


class _Lookup:
    __slots__ = ("answer", "askers", "task")

    def __init__(self) -> None:
        self.askers: dict[Parking, None] = {}
        self.answer: tuple[str, ...] | DialFailure | None = None
        self.task: Cancellable | None = None


class Names:
    """The look-ups of one manager: one per name at a time, which belongs to all who wait for it."""

    def __init__(self, resolver: Resolver, runtime: Runtime, ended: Callable[[], None]) -> None:
        self._resolver = resolver
        self._ended = ended
        self._runtime = runtime
        self._running: dict[str, _Lookup] = {}
        self.tasks = 0  # not yet ended, cancelled ones included

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host, at least one. Cancelling one asker never hurts another.

        :raises DialFailure: there are none
        """
        if is_literal(host):
            return (host,)
        name = host.lower().rstrip(".")
        if name == "localhost" or name.endswith(".localhost"):
            return LOOPBACK  # RFC 6761 6.3
        lookup = self._running.get(name)
        if lookup is None:
            lookup = self._running[name] = _Lookup()
            self._start(name, lookup)
        parked = self._runtime.park()
        lookup.askers[parked] = None
        try:
            await parked
        finally:
            del lookup.askers[parked]
            if not lookup.askers and lookup.answer is None:
                self._drop(name, lookup)
        if isinstance(lookup.answer, tuple):
            return lookup.answer
        assert lookup.answer is not None, "askers are woken by an answer only"
        # An exception object of its own for each asker: tracebacks grow on what is raised.
        raise DialFailure(*lookup.answer.args) from lookup.answer.__cause__

    def _start(self, name: str, lookup: _Lookup) -> None:
        async def run() -> None:
            try:
                found = await self._resolver.resolve(name)
                lookup.answer = _checked(name, found)
            except Exception as exc:  # whatever a resolver raises is the answer to all who asked
                lookup.answer = exc if isinstance(exc, DialFailure) else _failure(exc)

        def done() -> None:
            self.tasks -= 1
            if lookup.answer is None:  # ended from outside, or by a cancellation of the resolver's own
                lookup.answer = DialFailure(Phase.RESOLVE, None, "the look-up was cancelled")
            self._drop(name, lookup, answered=True)
            for parked in lookup.askers:
                if not parked.done():
                    parked.set_result(None)
            self._ended()

        try:
            lookup.task = self._runtime.spawn(run, done, f"keepalive look-up of {name}")
        except BaseException:
            del self._running[name]
            raise
        self.tasks += 1

    def _drop(self, name: str, lookup: _Lookup, *, answered: bool = False) -> None:
        if self._running.get(name) is lookup:
            del self._running[name]
        if not answered and lookup.task is not None:
            lookup.task.cancel()


def _checked(name: str, found: Resolution) -> tuple[str, ...]:
    addresses = tuple(address for address in found.addresses if is_literal(address))
    if not addresses:
        raise DialFailure(Phase.RESOLVE, None, f"{name} has no address")
    return addresses


def _failure(exc: Exception) -> DialFailure:
    failure = DialFailure(Phase.RESOLVE, None, text_of(exc))
    failure.__cause__ = exc
    return failure
