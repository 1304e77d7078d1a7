"""A member of a fleet that a Redis or Valkey server keeps in step."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import anyio

from keepalive import FleetError, Key
from keepalive.abc import Fleet

from .core.member import Member
from .core.states import Do, State, Usage
from .core.words import Terms
from .limits import Limits, checked_limit
from .names import checked_name
from .script import answer, arguments
from .stats import FleetKeyStats, FleetStats
from .store import checked_url, first_of, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keepalive.abc import Places

    from .core.words import Call
    from .store import Store

__all__ = ("RedisFleet",)

logger = logging.getLogger("keepalive")

PATIENCE = 2.0
"""Seconds at least that the first call may take: a slow begin is no reason not to begin."""
FALLBACKS = ("share", "none", "local")
# Time that passes while the machine sleeps counts, where the system tells it.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class RedisFleet(Fleet):
    """Limits over all managers of a fleet; give one of its own to each ``ConnectionManager(fleet=...)``.

    A member leases places from the store in blocks and gives them out itself: a reused connection costs no
    call. It renews all of its leases by one call per interval, and closes in time what it could not renew.
    See the guide on fleets for what that guarantees.

    :param url: ``redis://``, ``rediss://``, ``unix://``; or ``redis+cluster://``, ``rediss+cluster://`` for a
        cluster
    :param name: the fleet's; all members that share the limits have the same
    :param max_per_host: the most connections of a key in the whole fleet; None for no limit; or a mapping
        from a host, "host:port", a scheme, (scheme, host), (scheme, host, port) or "*" for all others
    :param max_open: the most connections of the whole fleet; None for no limit
    :param fallback: what counts while the store is away and the leases have ended: "share" (what it held, up
        to the limit divided by the members known last), "none", or "local" (the manager's own limits alone,
        which the fleet's limits do not bound)
    :param weight: this member's part where places are short, from 1 to 1000, relative to others
    :param interval: seconds between two renewals, > 0
    :param lease: seconds that a lease lasts, at least twice the interval; all members should have the same
    :param fallback_for: seconds for which a share counts after the lease; by default twice the lease. For so
        long the share of a member that died is kept back
    :raises TypeError, ValueError: an argument is wrong; the message names it
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        max_per_host: int | Mapping[Any, int | None] | None = None,
        max_open: int | None = None,
        fallback: str = "share",
        weight: int = 1,
        interval: float = 5.0,
        lease: float | None = None,
        fallback_for: float | None = None,
    ) -> None:
        self._url = checked_url(url)
        self._name = checked_name(name)
        self._limits = Limits(max_per_host)
        if fallback not in FALLBACKS:
            msg = f"fallback must be one of {', '.join(map(repr, FALLBACKS))}, not {fallback!r}"
            raise ValueError(msg)
        if isinstance(weight, bool) or not isinstance(weight, int):
            msg = f"weight must be a whole number, not {weight!r}"
            raise TypeError(msg)
        if not 1 <= weight <= 1000:
            msg = f"weight must be from 1 to 1000, not {weight!r}"
            raise ValueError(msg)
        every = _checked_seconds("interval", interval)
        lasts = 3 * every if lease is None else _checked_seconds("lease", lease)
        if lasts < 2 * every:
            msg = f"lease must be at least twice the interval of {every:g} s, not {lease!r}"
            raise ValueError(msg)
        self._terms = Terms(
            every,
            lasts,
            fallback,
            2 * lasts if fallback_for is None else _checked_seconds("fallback_for", fallback_for),
            checked_limit("max_open", max_open),
            weight,
        )
        self._names: dict[str, Key] = {}  # by the text under which the store knows a key
        self._member = Member(secrets.token_hex(8), self._terms, self._usage)
        self._label = f"{socket.gethostname()}:{os.getpid()}"
        self._places: Places | None = None
        self._calls = self._failures = 0
        self._failure: str | None = None
        self._queue: list[Call] = []
        self._wake = anyio.Event()
        self._stopping = False
        self._differs: set[str] = set()

    # -- its life -------------------------------------------------------------------------------------

    async def run(self, places: Places, joined: Callable[[], None]) -> None:
        """Take part, for a manager; see `Fleet`."""
        if self._places is not None:
            msg = "a RedisFleet is for one manager: give each its own"
            raise FleetError(msg)
        self._places = places
        timeout = max(0.05, min(self._terms.interval, self._terms.lease / 4))
        await self._join(max(timeout, PATIENCE))
        joined()
        while not self._stopping:
            # The client is made anew after whatever ended it.
            try:
                await self._serve(timeout)
            except Exception as error:  # or a group of them
                self._log_failure(first_of(error))
            if not self._stopping:
                await self._rest(timeout)

    async def _join(self, timeout: float) -> None:
        """Make the first call: what is wrong from the beginning is told at once."""
        try:
            async with opened(self._url, self._name, timeout) as store:
                self._do(self._member.join)
                await self._call(store, self._queue.pop(0), patient=False)
        except Exception as error:  # the client's tasks raise groups
            first = first_of(error)
            if isinstance(first, FleetError):
                raise first from first.__cause__
            msg = f"the fleet {self._name!r} cannot begin: {first}"
            raise FleetError(msg) from first

    async def _serve(self, timeout: float) -> None:
        """Carry the member's calls to the store, and its word back, until the end."""
        async with opened(self._url, self._name, timeout) as store, anyio.create_task_group() as tasks:
            tasks.start_soon(store.listen, self._member.name, self._told)
            tasks.start_soon(self._keep_time)
            while not self._stopping:
                while self._queue:
                    await self._call(store, self._queue.pop(0))
                if not self._stopping:
                    await self._wake.wait()
            with anyio.move_on_after(timeout, shield=True):
                await self._leave(store)
            tasks.cancel_scope.cancel()

    async def _leave(self, store: Store) -> None:
        call = self._member.leave(_now())
        if call is not None:
            try:
                await store.run(*arguments(call, self._label))
            except (FleetError, OSError) as error:
                logger.info("the fleet %r: places were not given back: %s", self._name, error)

    async def _rest(self, timeout: float) -> None:
        """Wait a little before the client is made anew; time goes on meanwhile."""
        while self._queue:
            call = self._queue.pop(0)
            self._do(partial(self._member.failed, call.seq))
        with anyio.move_on_after(timeout / 4):
            await self._keep_time()

    async def _keep_time(self) -> None:
        """Let the member do what is due, when it is due."""
        while not self._stopping:
            self._wake = anyio.Event() if self._wake.is_set() else self._wake
            seconds = self._member.due - _now()
            if seconds <= 0:
                self._do(self._member.tick)
                seconds = max(0.001, self._member.due - _now())
            with anyio.move_on_after(seconds if seconds < inf else None):
                await self._wake.wait()

    def stop(self) -> None:
        """Give everything back; see `Fleet`."""
        self._stopping = True
        self._wake.set()

    # -- calls ----------------------------------------------------------------------------------------

    async def _call(self, store: Store, call: Call, *, patient: bool = True) -> None:
        """Make a call, and give the member its answer."""
        self._calls += 1
        try:
            reply = answer(await store.run(*arguments(call, self._label)))
        except (FleetError, OSError, ValueError) as error:
            self._failures += 1
            if not patient:
                raise
            self._log_failure(error)
            self._do(lambda now: self._member.failed(call.seq, now))
            return
        if self._failure is not None:
            self._failure = None
            logger.info("the fleet %r: the store answers again", self._name)
        self._do(lambda now: self._member.answered(call.seq, reply, now))

    def _log_failure(self, error: BaseException) -> None:
        """Log why the store is away, once."""
        text = str(error)
        if self._failure is None:
            logger.warning("the fleet %r: %s; what is held counts until its lease ends", self._name, text)
        self._failure = text

    # -- the member -----------------------------------------------------------------------------------

    def _do(self, do: Callable[[float], object]) -> None:
        """Give the member an input, and carry out what it wants, in its order."""
        do(_now())
        effects, places = self._member.effects, self._places
        while effects:
            effect, what, detail = effects.popleft()
            if effect is Do.SEND:
                self._queue.append(what)
            elif effect is Do.NEWS:
                self._tell(what, detail)
            elif places is not None and effect is Do.PLACES:
                places.set_places(self._names[what], detail)
            elif places is not None and effect is Do.CUT:
                places.cut(self._names[what], detail)
        self._wake.set()

    def _usage(self, name: str) -> Usage:
        assert self._places is not None, "a member that asks has joined"
        return Usage(*self._places.usage(self._names[name]))

    def _tell(self, what: str, detail: Any) -> None:
        """Log what the member has to say."""
        if what == "limits":
            name, own, lowest = detail
            if name not in self._differs:
                self._differs.add(name)
                logger.warning(
                    "the fleet %r: the limit of %s is %g here and %g elsewhere; the lowest counts",
                    self._name,
                    name,
                    own,
                    lowest,
                )
        elif what == "fallback":
            note = "this manager's own limits, not the fleet's" if detail == "local" else "what it held"
            logger.warning("the fleet %r: the lease has ended; %s counts now: %s", self._name, detail, note)
        elif what == "lapsed":
            logger.error(
                "the fleet %r: the lease has ended; no connections until the store answers", self._name
            )

    def _told(self, name: str) -> None:
        self._do(lambda now: self._member.told(name, now))

    # -- what the manager says ------------------------------------------------------------------------

    def wanted(self, key: Key) -> None:
        """Take note that a request waits for a place; see `Fleet`."""
        name = str(key)
        self._names[name] = key
        self._do(lambda now: self._member.wanted(name, self._limits.of(key), now))

    def freed(self, key: Key) -> None:
        """Take note that a key has come down to its places; see `Fleet`."""
        self._do(lambda now: self._member.freed(str(key), now))

    def waits_for(self, key: Key) -> str:
        """Say what a request of this key waits for."""
        member = self._member
        holding = member.keys.get(str(key))
        if self._failure is not None and member.state is not State.LEASED:
            return f"the fleet's store is away ({self._failure})"
        left = member.quiet_until - _now()
        if left > 0:
            return (
                f"the fleet's store is new or was restarted, and grants nothing new for another {left:.1f} s"
            )
        if holding is None or holding.known == inf:
            return f"waits for a place of the fleet, which has {member.members} members"
        return (
            f"waits for a place of the fleet: {holding.total} of {holding.known:g} held by "
            f"{member.members} members"
        )

    def stats(self) -> FleetStats:
        """Return a frozen snapshot of this member. O(keys)."""
        member, now = self._member, _now()
        keys = {
            self._names[name]: FleetKeyStats(
                holding.held,
                None if holding.places == inf else int(holding.places),
                holding.total,
                None if holding.known == inf else int(holding.known),
                holding.contended,
            )
            for name, holding in member.keys.items()
        }
        return FleetStats(
            member.state.value,
            self._terms.fallback,
            member.members,
            member.fence,
            None if member.ends in (inf, -inf) else max(0.0, member.ends - now),
            max(0.0, member.quiet_until - now),
            self._calls,
            self._failures,
            sum(key.held for key in keys.values()),
            keys,
        )

    def __repr__(self) -> str:
        return f"<RedisFleet {self._name!r}: {self._member.state.value}, {self._member.members} members>"


def _checked_seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"{name} must be a number of seconds, not {value!r}"
        raise TypeError(msg)
    if not 0 < value < 1e9:
        msg = f"{name} must be more than 0 and less than 1e9 seconds, not {value!r}"
        raise ValueError(msg)
    return float(value)
