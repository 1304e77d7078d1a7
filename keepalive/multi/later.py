"""What is put off until no user code is running. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .types import Hands


class Later:
    """Calls to be made in the next turn of the loop, in order."""

    __slots__ = ("_asked", "_calls", "_hands")

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._asked = False  # the hands will have it run

    def add(self, what: Callable[..., object], *args: Any) -> None:
        """Have something done when no user code is running."""
        self._calls.append((what, args))
        if not self._asked:
            self._asked = True
            self._hands.soon()

    def run(self) -> None:
        """Make the calls; what is added meanwhile is for the next time, so that others have their turn."""
        calls = self._calls
        try:
            for _ in range(len(calls)):
                what, args = calls.popleft()
                what(*args)
        finally:
            self._asked = bool(calls)
            if calls:
                self._hands.soon()

    def clear(self) -> None:
        """Forget them."""
        self._calls.clear()

    def __len__(self) -> int:
        return len(self._calls)
