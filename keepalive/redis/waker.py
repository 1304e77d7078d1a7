"""A task's sleep until it is woken with a result: anyio's events cost several times as much."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ("Waker", "wakers")


class Waker(Protocol):
    """Awaited once, by one task; woken at most once."""

    def set_result(self, value: Any, /) -> None:
        """Wake the task."""

    def done(self) -> bool:
        """Whether it was woken, or its task was cancelled."""

    def __await__(self) -> Generator[Any, Any, Any]:
        """Sleep."""


def wakers() -> Callable[[], Waker]:
    """Return what makes wakers in the running event loop."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_task():
            return _TrioWaker
    return asyncio.get_running_loop().create_future


class _TrioWaker:
    __slots__ = ("_done", "_task", "_value")

    def __init__(self) -> None:
        self._task: Any = None
        self._done = False
        self._value: Any = None

    def set_result(self, value: Any, /) -> None:
        import trio

        self._done, self._value = True, value
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    def done(self) -> bool:
        return self._done

    def __await__(self) -> Generator[Any, Any, Any]:
        import trio

        if not self._done:
            self._task = trio.lowlevel.current_task()
            yield from trio.lowlevel.wait_task_rescheduled(self._abort).__await__()  # noqa: ASYNC105  # awaited here
        return self._value

    def _abort(self, _raise_cancel: object) -> Any:
        import trio

        self._done = True
        return trio.lowlevel.Abort.SUCCEEDED
