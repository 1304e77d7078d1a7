"""The keys that want room for one more connection, in the order of arrival of their requests.

A key stands in line under the number of its oldest request that no attempt stands for. The line is a
heap; a key's entry counts only while the key still claims that number. Entries that do not are dropped
when they come to the front, or all at once when they are many.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import HostState


class Line:
    """Who is next to get room, over all keys."""

    __slots__ = ("_heap", "claims")

    def __init__(self) -> None:
        self._heap: list[tuple[int, HostState]] = []
        self.claims = 0

    def claim(self, host: HostState, number: int) -> None:
        """Let a key stand in line under this number, another than before; 0 takes it out."""
        self.claims += (number > 0) - (host.claim > 0)
        host.claim = number
        if number:
            heappush(self._heap, (number, host))
        if len(self._heap) > 64 + 2 * self.claims:
            self._heap = [(number, host) for number, host in set(self._heap) if host.claim == number]
            heapify(self._heap)

    def first(self) -> HostState | None:
        """Return the key whose request has waited longest."""
        heap = self._heap
        while heap:
            number, host = heap[0]
            if host.claim == number:
                return host
            heappop(heap)
        return None

    def __len__(self) -> int:
        """Return the number of heap entries, stale ones included (for memory tests)."""
        return len(self._heap)
