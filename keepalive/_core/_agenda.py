"""Points in time, soonest first, with O(log n) entry and O(1) withdrawal.

A record carries its own ``due`` time; an entry in the heap counts only while it says the same. A
withdrawn entry thus costs nothing until it surfaces, and when stale entries outnumber the live ones
the heap is rebuilt, so a million cancelled requests leave nothing behind.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ._types import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator


class Due(Protocol):
    """A record that can stand in an agenda; `due` is `NEVER` while it does not."""

    due: float


R = TypeVar("R", bound=Due)


class Agenda(Generic[R]):
    """The records that want to be looked at when their time comes."""

    __slots__ = ("_entries", "_heap", "_stale")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, R]] = []
        self._entries = 0  # breaks ties, so that records are never compared
        self._stale = 0

    def enter(self, record: R, when: float) -> None:
        """Set the record's time; an earlier entry of it is withdrawn."""
        self.withdraw(record)
        if when != NEVER:
            record.due = when
            self._entries += 1
            heappush(self._heap, (when, self._entries, record))

    def withdraw(self, record: R) -> None:
        """Forget the record's time, if it has one."""
        if record.due == NEVER:
            return
        record.due = NEVER
        self._stale += 1
        if self._stale > 64 and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].due == entry[0]]
            heapify(self._heap)
            self._stale = 0

    def next(self) -> float:
        """Return the earliest time, or `NEVER`."""
        while self._heap and self._heap[0][2].due != self._heap[0][0]:
            heappop(self._heap)
            self._stale -= 1
        return self._heap[0][0] if self._heap else NEVER

    def pop_due(self, now: float) -> Iterator[R]:
        """Yield the records whose time has come, each withdrawn; the caller may enter more meanwhile."""
        while self.next() <= now:
            record = heappop(self._heap)[2]
            record.due = NEVER
            yield record

    def __len__(self) -> int:
        """Return the number of heap entries, stale ones included (for memory tests)."""
        return len(self._heap)
