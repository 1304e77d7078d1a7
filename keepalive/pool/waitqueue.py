"""The waiting requests of one key.

Theory. The queue is one line in order of arrival, and its first `k` members are *covered*, where
`k` is the number of attempts under way for the key: each attempt stands for one request, though not
for a particular one (late binding). Two questions must be answered in O(1): who is the oldest that
may take a *used* connection (a `fresh` request may not), and who is the oldest that no attempt
stands for (the key's claim to the next free place). So the line is kept in two lanes, plain and
fresh, each cut into its covered and its uncovered part; arrival numbers merge them again.

Alternatives refused. A deque with lazily deleted members needs a scan past cancelled ones and keeps
them alive; a plain dict's first element costs O(holes) after deletions at its front.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import takewhile
from typing import Any, Final, Generic, Protocol, TypeVar


class Queued(Protocol):
    """A request as far as the queue looks at it."""

    id: int
    fresh: bool
    covered: bool


W = TypeVar("W", bound=Queued)


class _Lane(Generic[W]):
    __slots__ = ("covered", "uncovered")

    def __init__(self) -> None:
        self.covered: OrderedDict[W, None] = OrderedDict()
        self.uncovered: OrderedDict[W, None] = OrderedDict()


_NO_LANE: Final[_Lane[Any]] = _Lane()


def _older(a: OrderedDict[W, None], b: OrderedDict[W, None]) -> W | None:
    """Return the older one of two lines' first."""
    if a and b:
        return min(next(iter(a)), next(iter(b)), key=_number)
    return next(iter(a or b), None)


def _newer(a: OrderedDict[W, None], b: OrderedDict[W, None]) -> W | None:
    """Return the newer one of two lines' last."""
    if a and b:
        return max(next(reversed(a)), next(reversed(b)), key=_number)
    return next(reversed(a or b), None)


def _number(waiter: Queued) -> int:
    return waiter.id


class WaitQueue(Generic[W]):
    """First come, first served, with the covered part in front.

    :ivar mixed: whether there were `fresh` requests beside plain ones
    """

    __slots__ = ("_fresh", "_plain", "covered", "mixed", "waiting")

    def __init__(self) -> None:
        self._plain: _Lane[W] = _Lane()
        self._fresh: _Lane[W] = _NO_LANE  # most queues never see a fresh request
        self.mixed = False
        self.waiting = 0
        self.covered = 0

    def append(self, waiter: W) -> None:
        """Enter a new request at the end."""
        lane = self._own_fresh_lane() if waiter.fresh else self._plain
        lane.uncovered[waiter] = None
        waiter.covered = False
        self.waiting += 1

    def put_back(self, waiter: W) -> None:
        """Enter a request again that had been served: it takes its old place.

        It was the oldest of its lane when it was served, so only others that were put back
        before can stand ahead of it, and the walk is past these.
        """
        lane = self._own_fresh_lane() if waiter.fresh else self._plain
        newest = _newer(self._plain.covered, self._fresh.covered)
        waiter.covered = newest is not None and newest.id > waiter.id
        line = lane.covered if waiter.covered else lane.uncovered
        ahead = list(takewhile(lambda other: other.id < waiter.id, line))
        for member in (waiter, *reversed(ahead)):
            line[member] = None
            line.move_to_end(member, last=False)
        self.waiting += 1
        self.covered += waiter.covered

    def _own_fresh_lane(self) -> _Lane[W]:
        if self._fresh is _NO_LANE:
            self._fresh = _Lane()
            self.mixed = True
        return self._fresh

    def remove(self, waiter: W) -> None:
        """Take a request out, wherever it stands."""
        lane = self._fresh if waiter.fresh else self._plain
        if waiter.covered:
            del lane.covered[waiter]
            self.covered -= 1
        else:
            del lane.uncovered[waiter]
        self.waiting -= 1

    def oldest(self) -> W | None:
        """Return the request that came first."""
        if self.covered:
            return _older(self._plain.covered, self._fresh.covered)
        return _older(self._plain.uncovered, self._fresh.uncovered)

    def oldest_plain(self) -> W | None:
        """Return the oldest request that may take a used connection."""
        return next(iter(self._plain.covered or self._plain.uncovered), None)

    def oldest_uncovered(self) -> W | None:
        """Return the oldest request that no attempt stands for."""
        return _older(self._plain.uncovered, self._fresh.uncovered)

    @property
    def plain_uncovered(self) -> bool:
        """Whether a request that may take a used connection has nothing that stands for it."""
        return bool(self._plain.uncovered)

    def balance(self, attempts: int) -> list[W]:
        """Cover exactly the first `attempts` requests; return those for which that is a change.

        Amortised O(1).
        """
        changed: list[W] = []
        while self.covered < attempts and self.covered < self.waiting:
            waiter = self.oldest_uncovered()
            assert waiter is not None, "waiting exceeds covered, so an uncovered one exists"
            lane = self._fresh if waiter.fresh else self._plain
            del lane.uncovered[waiter]
            lane.covered[waiter] = None
            waiter.covered = True
            self.covered += 1
            changed.append(waiter)
        while self.covered > attempts:
            last = _newer(self._plain.covered, self._fresh.covered)
            assert last is not None, "somebody is covered"
            lane = self._fresh if last.fresh else self._plain
            del lane.covered[last]
            lane.uncovered[last] = None
            lane.uncovered.move_to_end(last, last=False)
            last.covered = False
            self.covered -= 1
            changed.append(last)
        return changed

    def snapshot(self) -> list[W]:
        """Return all members, oldest first (for shutdown and for tests)."""
        lanes = (self._plain.covered, self._plain.uncovered, self._fresh.covered, self._fresh.uncovered)
        return sorted((waiter for lane in lanes for waiter in lane), key=_number)
