"""Points in time, soonest first, with O(log n) entry and O(1) withdrawal.

A record keeps the entry it has in the heap. To withdraw it empties the entry: what is left keeps
nothing alive, costs nothing until it surfaces, and when such remains outnumber the live entries the
heap is rebuilt. So a million cancelled requests leave nothing behind.

Alternative refused: to tell live entries by the time that the record says it is due. A record entered
again for the same time brings its stale entries back to life, and their count is wrong from then on.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .types import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator

# [time, number, record or None]; the number breaks ties, so that records are never compared.
Entry = list[Any]


class Due(Protocol):
    """A record that can stand in a timer queue."""

    timer: Entry | None


R = TypeVar("R", bound=Due)


class TimerQueue(Generic[R]):
    """The records that want to be looked at when their time comes."""

    __slots__ = ("_entries", "_heap", "_withdrawn")

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._entries = 0
        self._withdrawn = 0

    def enter(self, record: R, when: float) -> None:
        """Set the record's time; an earlier entry of it is withdrawn."""
        self.withdraw(record)
        if when != NEVER:
            self._entries += 1
            record.timer = entry = [when, self._entries, record]
            heappush(self._heap, entry)

    def withdraw(self, record: R) -> None:
        """Forget the record's time, if it has one."""
        entry = record.timer
        if entry is None:
            return
        record.timer = entry[2] = None
        self._withdrawn += 1
        self._clean()

    def next(self) -> float:
        """Return the earliest time, or `NEVER`."""
        heap = self._heap
        while heap and heap[0][2] is None:
            heappop(heap)
            self._withdrawn -= 1
        return heap[0][0] if heap else NEVER

    def pop_due(self, now: float) -> Iterator[R]:
        """Yield the records whose time has come, each withdrawn; the caller may enter more meanwhile."""
        while self.next() <= now:
            record: R = heappop(self._heap)[2]
            record.timer = None
            yield record
        self._clean()

    def _clean(self) -> None:
        if self._withdrawn > 64 and self._withdrawn * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapify(self._heap)
            self._withdrawn = 0

    def __len__(self) -> int:
        """Return the number of heap entries, withdrawn ones included (for memory tests)."""
        return len(self._heap)
