"""The look-ups of one manager: literals, localhost, what is remembered, and one question for all who ask.

A look-up belongs to the manager, not to the first who asked. It ends when its last asker has gone; but
one that refreshes an answer which may serve meanwhile goes on by itself.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from keepalive.base.addresses import is_literal
from keepalive.base.failure import DialFailure, text_of
from keepalive.base.types import Phase

from .cache import Cache
from .check import WrongName, ascii_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType
    from typing import Self

    from keepalive.resolve.resolver import Resolution, Resolver
    from keepalive.transport.reactor import Reactor
    from keepalive.transport.runtime import Cancellable, Parking, Wakeable

LOOPBACK = ("127.0.0.1", "::1")
STALE_PATIENCE = 1.8
"""Seconds that somebody who could have an outdated answer waits for a new one (RFC 8767 5)."""
PARTIAL_TTL = 10.0
"""Seconds for which part of an answer is remembered, at most, when nobody waits for the rest."""


@dataclass(eq=False, slots=True)
class _Lookup:
    askers: dict[Wakeable, bool] = field(default_factory=dict)  # and whether they want to hear of parts
    parts: list[tuple[str, ...]] = field(default_factory=list)
    ttl: float = PARTIAL_TTL  # of the parts
    answer: tuple[str, ...] | DialFailure | None = None
    task: Cancellable | None = None
    refreshing: bool = False


class Asking:
    """One asker's view of a look-up: an iterator over lots of addresses as they come, each told once.

    Use it as a (plain) context manager: its end says that this asker has gone, and ends the look-up if
    nobody else waits for it.

    :ivar name: the host, as it is asked for
    :ivar over: all addresses have been told
    """

    def __init__(self, names: Names, host: str) -> None:
        self._names = names
        self.name = host
        self._known: tuple[str, ...] | None = None
        self._lookup: _Lookup | None = None  # None: known, or an outdated answer may serve
        self._parked: Parking | None = None
        self._told: set[str] = set()
        self._parts = 0
        self.over = False

    def __enter__(self) -> Self:
        """Start to ask, or join in.

        :raises DialFailure: it is known that there are no addresses
        """
        self.name, self._known, old = self._names._look(self.name)
        if self._known is None and old is None:
            self._lookup = self._names._lookup(self.name)
            self._parked = self._names._enter(self._lookup, parts=True)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Go."""
        self.over = True
        if self._lookup is not None and self._parked is not None:
            parked, self._parked = self._parked, None
            self._names._leave(self.name, self._lookup, parked)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, ...]:
        """Return addresses that were not told before. Switches tasks only if there are none yet.

        :raises DialFailure: there are no addresses at all
        """
        while not self.over:
            addresses = await self._next()
            fresh = tuple(address for address in addresses if address not in self._told)
            if fresh:
                self._told.update(fresh)
                return fresh
        raise StopAsyncIteration

    async def _next(self) -> tuple[str, ...]:
        lookup = self._lookup
        if lookup is None:
            self.over = True
            return self._known or await self._names.resolve(self.name)
        while True:
            if self._parts < len(lookup.parts):
                self._parts += 1
                return lookup.parts[self._parts - 1]
            if lookup.answer is not None:
                self.over = True
                return (
                    () if self._told and isinstance(lookup.answer, DialFailure) else _outcome(lookup.answer)
                )
            assert self._parked is not None, "used in its context"
            await self._parked
            after = self._names._enter(lookup, parts=True)
            del lookup.askers[self._parked]
            self._parked = after


@dataclass(eq=False, slots=True)
class Callback:
    """An asker that is no task: it is called when the look-up has ended."""

    _names: Names
    _name: str
    _lookup: _Lookup
    _told: Callable[[tuple[str, ...] | DialFailure], None]

    def done(self) -> bool:
        """Say whether it has gone."""
        return self not in self._lookup.askers

    def set_result(self, _: None) -> None:
        """Tell the answer; see `Wakeable`."""
        answer = self._lookup.answer
        assert answer is not None, "askers are woken by an answer only"
        del self._lookup.askers[self]
        self._told(answer if isinstance(answer, tuple) else _failure(answer))

    def cancel(self) -> None:
        """Go, without an answer."""
        if not self.done():
            self._names._leave(self._name, self._lookup, self)


class Names:
    """The look-ups of one manager: one per name at a time, which belongs to all who wait for it."""

    def __init__(self, resolver: Resolver, reactor: Reactor) -> None:
        self._resolver = resolver
        self._keeps_dot = bool(getattr(resolver, "absolute_names", False))
        self.reactor = reactor
        self._running: dict[str, _Lookup] = {}
        self._aside: set[_Lookup] = set()  # began before what is known was forgotten; nobody joins them
        self._cache = Cache()
        self._edition: object = None
        self.answered: Callable[[str, tuple[str, ...] | None, float, bool], None] | None = None

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host, at least one. Cancelling one asker never hurts another.

        Does not switch tasks where the answer is known.

        :raises DialFailure: there are none
        """
        name, known, old = self._look(host)
        if known is not None:
            return known
        if old is None:
            return _outcome(await self._wait(name, self._lookup(name)))
        return await self._refreshed(name, old)

    def ask(self, host: str) -> Asking:
        """Ask as `resolve` does, for addresses as they come; see `Asking`."""
        return Asking(self, host)

    def call_back(
        self, host: str, told: Callable[[tuple[str, ...] | DialFailure], None]
    ) -> tuple[str, ...] | Callback:
        """Ask as `resolve` does, from a plain function; return the addresses if they are known.

        An outdated answer serves at once, and is refreshed meanwhile.

        :param told: called with the answer later, unless it is cancelled before
        :raises DialFailure: it is known that there are no addresses
        """
        name, known, old = self._look(host)
        if known is None and old is not None:
            self.refresh(name)
        if addresses := known or old:
            return addresses
        lookup = self._lookup(name)
        asker = Callback(self, name, lookup, told)
        lookup.askers[asker] = False
        return asker

    def refresh(self, name: str) -> None:
        """Look a name up though nobody waits for it; `answered` is told."""
        self._lookup(name).refreshing = True

    def close(self) -> None:
        """End all look-ups."""
        for name, lookup in list(self._running.items()):
            self._drop(name, lookup)
        for lookup in self._aside:
            if lookup.task is not None:
                lookup.task.cancel()

    def forget(self, host: str | None = None) -> None:
        """Forget the answers for a host, or all. Who waits for one gets it; who asks later, a new one."""
        if host is None:
            names = list(self._running)
            self._cache.forget(None)
        else:
            try:
                bare = ascii_name(host).removesuffix(".")
            except WrongName:
                return  # nothing is known of what cannot be a name
            names = [bare, f"{bare}."]
            for name in names:
                self._cache.forget(name)
        for name in names:
            lookup = self._running.pop(name, None)
            if lookup is not None:
                self._aside.add(lookup)

    def _check_edition(self) -> None:
        """Forget all that was learned from files that are different now."""
        tell = getattr(self._resolver, "edition", None)
        if tell is None:
            return
        edition = tell()
        if edition != self._edition:
            if self._edition is not None:
                self.forget()
            self._edition = edition

    def _look(self, host: str) -> tuple[str, tuple[str, ...] | None, tuple[str, ...] | None]:
        """Return how a name is asked for, what is known of it, and else what is outdated but may serve."""
        self._check_edition()
        known = self._known(host)
        if known is not None:
            return host, known, None
        try:
            name = ascii_name(host)
        except WrongName as exc:
            raise _failure(exc) from exc
        if not self._keeps_dot:
            name = name.removesuffix(".")
        known = None if name == host else self._known(name)
        old = self._cache.stale(name, self.reactor.clock()) if known is None else None
        return name, known, None if old is None else old.addresses

    def _known(self, name: str) -> tuple[str, ...] | None:
        entry = self._cache.fresh(name, self.reactor.clock())
        if entry is not None:
            if entry.addresses:
                return entry.addresses
            assert entry.error is not None, "no addresses, then an error"
            raise _failure(entry.error) from entry.error
        bare = name.removesuffix(".").lower()
        if is_literal(bare):
            return (bare,)
        if bare == "localhost" or bare.endswith(".localhost"):
            return LOOPBACK  # RFC 6761 6.3
        return None

    # -- waiting ------------------------------------------------------------------------------------

    async def _refreshed(self, name: str, old: tuple[str, ...]) -> tuple[str, ...]:
        """Wait for a new answer, but not for long, and take the old one where there is none."""
        lookup = self._lookup(name)
        lookup.refreshing = True
        answer: tuple[str, ...] | DialFailure | None = None
        with anyio.move_on_after(STALE_PATIENCE):
            answer = await self._wait(name, lookup)
        if answer is None:
            self._cache.refresh_failed(name, self.reactor.clock())
            return old
        if isinstance(answer, DialFailure) and self._cache.stale(name, self.reactor.clock()) is not None:
            return old
        return _outcome(answer)

    async def _wait(self, name: str, lookup: _Lookup) -> tuple[str, ...] | DialFailure:
        parked = self._enter(lookup)
        try:
            await parked
        finally:
            self._leave(name, lookup, parked)
        assert lookup.answer is not None, "askers are woken by an answer only"
        return lookup.answer

    def _enter(self, lookup: _Lookup, *, parts: bool = False) -> Parking:
        parked = self.reactor.park()
        lookup.askers[parked] = parts
        return parked

    def _leave(self, name: str, lookup: _Lookup, parked: Wakeable) -> None:
        del lookup.askers[parked]
        if not lookup.askers and lookup.answer is None:
            now = self.reactor.clock()
            if not lookup.refreshing or self._cache.stale(name, now) is None:
                self._drop(name, lookup)

    # -- look-ups -----------------------------------------------------------------------------------

    def _lookup(self, name: str) -> _Lookup:
        lookup = self._running.get(name)
        if lookup is None:
            lookup = self._running[name] = _Lookup()
            self._start(name, lookup)
        return lookup

    def _start(self, name: str, lookup: _Lookup) -> None:
        async def run() -> None:
            try:
                found = await self._asked(name, lookup)
                addresses = _usable(found)
                lookup.answer = addresses or DialFailure(Phase.RESOLVE, None, f"{name} has no address")
                self._remember(name, lookup, found)
            except Exception as exc:  # whatever a resolver raises is the answer to all who asked
                lookup.answer = _failure(exc)
                self._remember_error(name, lookup, exc)

        def done() -> None:
            if lookup.answer is None:  # ended from outside, or by a cancellation of the resolver's own
                lookup.answer = DialFailure(Phase.RESOLVE, None, "the look-up was cancelled")
            if self._running.get(name) is lookup:
                del self._running[name]
            self._aside.discard(lookup)
            _wake(lookup.askers)

        try:
            lookup.task = self.reactor.spawn(run, done, f"keepalive look-up of {name}")
        except BaseException:
            del self._running[name]
            raise

    def _asked(self, name: str, lookup: _Lookup) -> Awaitable[Resolution]:
        in_parts = getattr(self._resolver, "resolve_parts", None)
        if in_parts is None:
            return self._resolver.resolve(name)

        def part(some: Resolution) -> None:
            addresses = _usable(some)
            if addresses and lookup.answer is None:
                lookup.parts.append(addresses)
                lookup.ttl = min(lookup.ttl, some.ttl)
                _wake([parked for parked, parts in lookup.askers.items() if parts])

        found: Awaitable[Resolution] = in_parts(name, part)
        return found

    def _remember(self, name: str, lookup: _Lookup, found: Resolution) -> None:
        self._check_edition()
        if self._running.get(name) is not lookup:
            return  # everybody had gone, or what it was learned from has changed
        now = self.reactor.clock()
        if isinstance(lookup.answer, tuple):
            self._cache.found(name, lookup.answer, found.ttl, found.stale, now)
            if self.answered is not None:
                self.answered(name, lookup.answer, found.ttl, found.partial)
        elif not found.addresses and lookup.answer is not None:
            self._cache.missing(name, lookup.answer, found.ttl, now)

    def _remember_error(self, name: str, lookup: _Lookup, exc: Exception) -> None:
        if self._running.get(name) is not lookup:
            return
        if self.answered is not None:
            self.answered(name, None, 0.0, False)
        now = self.reactor.clock()
        ttl = getattr(exc, "ttl", None)
        if ttl is None and self._cache.stale(name, now) is None:
            ttl = getattr(exc, "retry_after", None)
        if isinstance(ttl, (int, float)) and isinstance(exc, OSError):
            exc.__traceback__ = None  # it would keep the resolver's frames
            self._cache.missing(name, exc, ttl, now)
        else:
            self._cache.refresh_failed(name, now)

    def _drop(self, name: str, lookup: _Lookup) -> None:
        if self._running.get(name) is lookup:
            del self._running[name]
            if lookup.parts:
                addresses = tuple(address for part in lookup.parts for address in part)
                self._cache.found(name, addresses, lookup.ttl, 0.0, self.reactor.clock())
                if self.answered is not None:
                    self.answered(name, None, lookup.ttl, True)  # the rest is still to be learnt
        if lookup.task is not None:
            lookup.task.cancel()


def _wake(askers: Iterable[Wakeable]) -> None:
    for parked in list(askers):  # what is called back may give others up
        if not parked.done():
            parked.set_result(None)


def _usable(found: Resolution) -> tuple[str, ...]:
    return tuple(address for address in found.addresses if is_literal(address))


def _outcome(answer: tuple[str, ...] | DialFailure) -> tuple[str, ...]:
    if isinstance(answer, tuple):
        return answer
    # An exception object of its own for each asker: tracebacks grow on what is raised.
    raise DialFailure(*answer.args) from answer.__cause__


def _failure(exc: Exception) -> DialFailure:
    if isinstance(exc, DialFailure):
        failure = DialFailure(*exc.args)
        failure.__cause__ = exc.__cause__
        return failure
    # A gaierror's numbers are of another kind.
    number = exc.errno if isinstance(exc, OSError) and not isinstance(exc, socket.gaierror) else None
    failure = DialFailure(Phase.RESOLVE, number, text_of(exc))
    failure.__cause__ = exc
    return failure
