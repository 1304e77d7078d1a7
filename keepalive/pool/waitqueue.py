"""The waiting requests of one key.

Theory. The queue is one line in order of arrival, and its first `k` members are *covered*, where
`k` is the number of attempts under way for the key: each attempt stands for one request, though not
for a particular one (late binding). Two questions must be answered in O(1): who is the oldest that
may take a *used* connection (a `fresh` request may not), and who is the oldest that no attempt
stands for (the key's claim to the next free place). So the line is kept in two lanes, plain and
fresh, each cut into its covered and its bare part; arrival numbers merge them again.

Alternatives refused. A deque with lazily deleted members needs a scan past cancelled ones and keeps
them alive; a plain dict's first element costs O(holes) after deletions at its front.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import takewhile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .records import Waiter


class _Lane:
    __slots__ = ("bare", "covered")

    def __init__(self) -> None:
        self.covered: OrderedDict[Waiter, None] = OrderedDict()
        self.bare: OrderedDict[Waiter, None] = OrderedDict()


_NO_LANE: Final = _Lane()


def _older(a: OrderedDict[Waiter, None], b: OrderedDict[Waiter, None]) -> Waiter | None:
    """Return the older one of two lines' first."""
    if a and b:
        return min(next(iter(a)), next(iter(b)), key=_number)
    return next(iter(a or b), None)


def _newer(a: OrderedDict[Waiter, None], b: OrderedDict[Waiter, None]) -> Waiter | None:
    """Return the newer one of two lines' last."""
    if a and b:
        return max(next(reversed(a)), next(reversed(b)), key=_number)
    return next(reversed(a or b), None)


def _number(waiter: Waiter) -> int:
    return waiter.id


class WaitQueue:
    """First come, first served, with the covered part in front."""

    __slots__ = ("_fresh", "_plain", "covered", "waiting")

    def __init__(self) -> None:
        self._plain = _Lane()
        self._fresh = _NO_LANE  # most queues never see a fresh request
        self.waiting = 0
        self.covered = 0

    def append(self, waiter: Waiter) -> None:
        """Enter a new request at the end."""
        lane = self._own_fresh_lane() if waiter.fresh else self._plain
        lane.bare[waiter] = None
        waiter.covered = False
        self.waiting += 1

    def put_back(self, waiter: Waiter) -> None:
        """Enter a request again that had been served: it takes its old place.

        It was the oldest of its lane when it was served, so only others that were put back
        before can stand ahead of it, and the walk is past these.
        """
        lane = self._own_fresh_lane() if waiter.fresh else self._plain
        newest = _newer(self._plain.covered, self._fresh.covered)
        waiter.covered = newest is not None and newest.id > waiter.id
        line = lane.covered if waiter.covered else lane.bare
        ahead = list(takewhile(lambda other: other.id < waiter.id, line))
        for member in (waiter, *reversed(ahead)):
            line[member] = None
            line.move_to_end(member, last=False)
        self.waiting += 1
        self.covered += waiter.covered

    def _own_fresh_lane(self) -> _Lane:
        if self._fresh is _NO_LANE:
            self._fresh = _Lane()
        return self._fresh

    def pop_plain(self) -> Waiter | None:
        """Take out the oldest request, if all are plain and no attempt stands for any of them."""
        if self._fresh is not _NO_LANE or self.covered:
            return None
        self.waiting -= 1
        return self._plain.bare.popitem(last=False)[0]

    def remove(self, waiter: Waiter) -> None:
        """Take a request out, wherever it stands."""
        lane = self._fresh if waiter.fresh else self._plain
        if waiter.covered:
            del lane.covered[waiter]
            self.covered -= 1
        else:
            del lane.bare[waiter]
        self.waiting -= 1

    def oldest(self) -> Waiter | None:
        """Return the request that came first."""
        if self.covered:
            return _older(self._plain.covered, self._fresh.covered)
        return _older(self._plain.bare, self._fresh.bare)

    def oldest_plain(self) -> Waiter | None:
        """Return the oldest request that may take a used connection."""
        return next(iter(self._plain.covered or self._plain.bare), None)

    def oldest_bare(self) -> Waiter | None:
        """Return the oldest request that no attempt stands for."""
        return _older(self._plain.bare, self._fresh.bare)

    def balance(self, attempts: int) -> list[Waiter]:
        """Cover exactly the first `attempts` requests; return those for which that is a change.

        Amortised O(1).
        """
        changed: list[Waiter] = []
        while self.covered < attempts and self.covered < self.waiting:
            waiter = self.oldest_bare()
            assert waiter is not None, "waiting exceeds covered, so a bare one exists"
            lane = self._fresh if waiter.fresh else self._plain
            del lane.bare[waiter]
            lane.covered[waiter] = None
            waiter.covered = True
            self.covered += 1
            changed.append(waiter)
        while self.covered > attempts:
            last = _newer(self._plain.covered, self._fresh.covered)
            assert last is not None, "somebody is covered"
            lane = self._fresh if last.fresh else self._plain
            del lane.covered[last]
            lane.bare[last] = None
            lane.bare.move_to_end(last, last=False)
            last.covered = False
            self.covered -= 1
            changed.append(last)
        return changed

    def snapshot(self) -> list[Waiter]:
        """Return all members, oldest first (for shutdown and for tests)."""
        lanes = (self._plain.covered, self._plain.bare, self._fresh.covered, self._fresh.bare)
        return sorted((waiter for lane in lanes for waiter in lane), key=_number)
