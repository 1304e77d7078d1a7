"""When connections expire: the ancestor's formula, at exact times. Pure.

With n connections, one that was quiet for ``min_expire + (max_expire - min_expire) / n`` seconds goes: the
more there are, the sooner. The limit is the same for all, so the first to go is always the one that has been
quiet longest, and only that one needs a timer. A connection's entry says when it was last active *as far as
is known here*; it is corrected when it comes up, so that activity itself costs one assignment.

Connections with something pending stand apart: they go after `max_pending` quiet seconds only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from keepalive.base.timer_queue import Due, TimerQueue

if TYPE_CHECKING:
    from collections.abc import Iterator


class Mortal(Due, Protocol):
    """What can expire."""

    last: float
    """When it was last active."""
    spared: bool
    """Whether it stands with those that had something pending when their time had come."""

    @property
    def pending(self) -> bool:
        """Whether bytes, or transactions, wait on it."""


M = TypeVar("M", bound=Mortal)


class Expiry(Generic[M]):
    """Who expires when."""

    def __init__(self, min_expire: float, max_expire: float, max_pending: float) -> None:
        self._min = min_expire
        self._span = max_expire - min_expire
        self._max_pending = max_pending
        self._quiet: TimerQueue[M] = TimerQueue()
        self._spared: TimerQueue[M] = TimerQueue()
        self.count = 0
        """How many connections there are; the formula's n."""

    @property
    def limit(self) -> float:
        """Seconds of quiet that a connection may have now."""
        return self._min + self._span / max(1, self.count)

    def add(self, one: M) -> None:
        """Watch a connection; `last` must be set."""
        self.count += 1
        one.spared = False
        self._quiet.enter(one, one.last)

    def remove(self, one: M) -> None:
        """Watch it no more."""
        self.count -= 1
        (self._spared if one.spared else self._quiet).withdraw(one)

    def settled(self, one: M) -> None:
        """Note that nothing is pending any more on one that was spared."""
        self._spared.withdraw(one)
        one.spared = False
        self._quiet.enter(one, one.last)

    def next(self) -> float:
        """Return when `due` may find something, or `NEVER`."""
        return min(self._quiet.next() + self.limit, self._spared.next() + self._max_pending)

    def due(self, now: float) -> Iterator[M]:
        """Yield those whose time has come, by the limit as it is at the beginning; remove each at once."""
        limit, hard = self.limit, max(self.limit, self._max_pending)
        for one in self._surfacing(self._quiet, now, limit):
            if not one.pending:
                self._quiet.enter(one, one.last)  # where `remove` finds it
                yield one
            elif one.last + hard > now:
                one.spared = True
                self._spared.enter(one, one.last)
            else:
                self._quiet.enter(one, one.last)
                yield one
        for one in self._surfacing(self._spared, now, hard):
            self._spared.enter(one, one.last)
            yield one

    def _surfacing(self, agenda: TimerQueue[M], now: float, limit: float) -> Iterator[M]:
        while (when := agenda.next()) + limit <= now:
            for one in agenda.pop_due(when):
                if one.last + limit > now:
                    agenda.enter(one, one.last)  # it was active meanwhile
                else:
                    yield one
                break
