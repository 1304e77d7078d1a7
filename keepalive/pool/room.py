"""The keys that wait for room for one more connection, in the order of arrival of their requests.

Theory. A key waits under the number of its oldest request that no attempt stands for, its `position`. The
line is a heap; a key's entry counts only while the key still has that position. Entries that do not are
dropped when they come to the front, or all at once when they are many.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import KeyState


class RoomQueue:
    """Who is next to get room, over all keys.

    :ivar waiting: how many keys wait
    """

    __slots__ = ("_heap", "waiting")

    def __init__(self) -> None:
        self._heap: list[tuple[int, KeyState]] = []
        self.waiting = 0

    def place(self, per_key: KeyState, position: int) -> None:
        """Let a key wait at this position, another than before; 0 takes it out."""
        self.waiting += (position > 0) - (per_key.position > 0)
        per_key.position = position
        if position:
            heappush(self._heap, (position, per_key))
        if len(self._heap) > 64 + 2 * self.waiting:
            self._heap = [(at, key) for at, key in set(self._heap) if key.position == at]
            heapify(self._heap)

    def first(self) -> KeyState | None:
        """Return the key whose request has waited longest."""
        heap = self._heap
        while heap:
            position, per_key = heap[0]
            if per_key.position == position:
                return per_key
            heappop(heap)
        return None

    def positions(self) -> list[int]:
        """Return the positions of the heap's entries, stale ones included (for tests)."""
        return [position for position, _ in self._heap]

    def __len__(self) -> int:
        """Return the number of heap entries, stale ones included (for memory tests)."""
        return len(self._heap)
