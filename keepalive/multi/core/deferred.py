"""What is put off until no user code is running. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effects import Effects


class Deferred:
    """Calls to be made in the next turn of the loop, in order."""

    __slots__ = ("_asked", "_calls", "_effects")

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._asked = False  # `run` will be called

    def add(self, what: Callable[..., object], *args: Any) -> None:
        """Have something called when no user code is running, with the time then as its last argument."""
        self._calls.append((what, args))
        if not self._asked:
            self._asked = True
            self._effects.call_soon()

    def run(self, now: float) -> None:
        """Make the calls; what is added meanwhile is for the next time, so that others have their turn."""
        calls = self._calls
        try:
            for _ in range(len(calls)):
                what, args = calls.popleft()
                what(*args, now)
        finally:
            self._asked = bool(calls)
            if calls:
                self._effects.call_soon()

    def clear(self) -> None:
        """Forget them."""
        self._calls.clear()

    def __len__(self) -> int:
        return len(self._calls)
