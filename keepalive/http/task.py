"""A task that outlives the call that starts it: what anyio has no word for."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def caller() -> Callable[[Callable[[], object]], object]:
    """Return what calls something soon in the loop that runs here, from any thread.

    It raises RuntimeError if that loop has ended.
    """
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_task():
            return trio.lowlevel.current_trio_token().run_sync_soon
    return asyncio.get_running_loop().call_soon_threadsafe


class Task:
    """Runs `func` beside its caller, with the caller's context variables.

    :param func: must raise nothing but the loop's cancellation
    :param gone: called when it has ended, also if it was cancelled before its first step
    """

    __slots__ = ("_cancel", "_soon")

    _cancel: Callable[[], object]
    _soon: Callable[[Callable[[], object]], object]

    def __init__(self, func: Callable[[], Coroutine[Any, Any, None]], gone: Callable[[], None]) -> None:
        if "trio" in sys.modules:
            import trio

            if trio.lowlevel.in_trio_task():
                self._in_trio(func, gone)
                return
        loop = asyncio.get_running_loop()
        task = loop.create_task(func(), name="keepalive upload")
        task.add_done_callback(lambda _: gone())
        self._cancel, self._soon = task.cancel, loop.call_soon_threadsafe

    def _in_trio(self, func: Callable[[], Coroutine[Any, Any, None]], gone: Callable[[], None]) -> None:
        from contextvars import copy_context

        import trio

        scope = trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    await func()
            finally:
                gone()

        trio.lowlevel.spawn_system_task(run, name="keepalive upload", context=copy_context())
        self._cancel, self._soon = scope.cancel, trio.lowlevel.current_trio_token().run_sync_soon

    def cancel(self) -> None:
        """End it; harmless when it has ended."""
        self._cancel()

    def call_soon(self, func: Callable[[], object]) -> None:
        """Call in its loop soon, from any thread. Raises RuntimeError if the loop has ended."""
        self._soon(func)
