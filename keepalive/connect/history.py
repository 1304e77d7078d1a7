"""Which addresses failed lately: they are tried last for a while. No clock in here, time is an argument."""

from __future__ import annotations

from collections import OrderedDict

FORGET_AFTER = 60.0
"""Seconds for which an address that failed is tried after all others."""
MOST = 1024
"""So many are remembered; the oldest failure is forgotten first."""


class Failures:
    """The (address, port) pairs of one manager that failed lately."""

    def __init__(self, forget_after: float = FORGET_AFTER, most: int = MOST) -> None:
        self._forget_after = forget_after
        self._most = most
        self._until: OrderedDict[tuple[str, int], float] = OrderedDict()  # the oldest failure first

    def note(self, address: str, port: int, now: float) -> None:
        """Note that it failed, or did not answer while a later one did."""
        self._until[address, port] = now + self._forget_after
        self._until.move_to_end((address, port))
        while len(self._until) > self._most:
            self._until.popitem(last=False)

    def clear(self, address: str, port: int) -> None:
        """Note that it works."""
        self._until.pop((address, port), None)

    def clear_all(self) -> None:
        """Forget all failures."""
        self._until.clear()

    def suspect(self, address: str, port: int, now: float) -> bool:
        """Say whether it failed lately."""
        until = self._until.get((address, port))
        if until is None:
            return False
        if until > now:
            return True
        del self._until[address, port]
        return False

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._until)
