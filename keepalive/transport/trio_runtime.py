"""trio.

System tasks, not a nursery in the manager's block: an exception that leaves the block then leaves it
as it is, in no group, and the manager is still left only when all of its tasks have ended.
"""

from __future__ import annotations

import logging
from math import inf
from threading import get_ident
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import Abort, current_task, reschedule, wait_task_rescheduled

from .clock import real_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from .runtime import Cancellable, Parking


def guarded(callback: Callable[[], None]) -> None:
    """Call back. An exception is logged: out of a system task it would end the whole trio run."""
    try:
        callback()
    except Exception:
        logging.getLogger("keepalive").exception("in %r", callback)


try:
    # Private, for questions asked at each request, to which the public answers take five times as long.
    from trio._core import _run

    _context: Any = _run.GLOBAL_RUN_CONTEXT if hasattr(_run.CancelStatus, "effectively_cancelled") else None
except (ImportError, AttributeError):  # another trio
    _context = None


def _cancel_met() -> bool:
    if _context is None:
        return trio.current_effective_deadline() == -inf
    cancelled: bool = _context.task._cancel_status.effectively_cancelled
    return cancelled


class _Parking:
    # Defaults of the class, not set by an `__init__`, which would double the cost of making one.
    _done = False
    _task: trio.lowlevel.Task | None = None

    def done(self) -> bool:
        return self._done

    def set_result(self, result: None, /) -> None:
        self._done = True
        if self._task is not None:
            task, self._task = self._task, None
            reschedule(task)

    def _abort(self, _: object) -> Abort:
        self._done = True
        self._task = None
        return Abort.SUCCEEDED

    def __await__(self) -> Generator[Any, Any, None]:
        if not self._done:
            self._task = current_task()
            yield from wait_task_rescheduled(self._abort).__await__()  # noqa: ASYNC105  # awaited here


class _Timer:
    def __init__(self, runtime: TrioRuntime, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._scope = trio.CancelScope()
        self._due = trio.CancelScope()
        runtime._start(self._run, self._scope, lambda: None, "keepalive timer")

    async def _run(self) -> None:
        while True:
            with self._due:
                await trio.sleep_forever()
            if self._due.cancelled_caught:
                self._due = trio.CancelScope()
                guarded(self._ring)

    def move(self, delay: float) -> None:
        self._due.deadline = trio.current_time() + delay

    def cancel(self) -> None:
        self._scope.cancel()


class TrioRuntime:
    """One trio run."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._runner = None if _context is None else _context.runner
        # Any clock but trio's own is a virtual one, made for tests: all times must then follow it.
        virtual = type(trio.lowlevel.current_clock()).__name__ != "SystemClock"
        self.clock: Callable[[], float] = trio.current_time if virtual else real_clock
        self.park: Callable[[], Parking] = _Parking
        self.cancel_met: Callable[[], bool] = _cancel_met
        self.thread = get_ident()
        self._tasks = 0
        self._ended = trio.Event()

    def _start(
        self,
        func: Callable[[], Coroutine[Any, Any, None]],
        scope: trio.CancelScope,
        done: Callable[[], object],
        name: str,
    ) -> None:
        async def run() -> None:
            try:
                with scope:
                    await func()
            finally:
                self._tasks -= 1
                done()
                if not self._tasks:
                    self._ended.set()

        self._tasks += 1
        trio.lowlevel.spawn_system_task(run, name=name)

    def spawn(
        self, func: Callable[[], Coroutine[Any, Any, None]], done: Callable[[], object], name: str
    ) -> Cancellable:
        """Start a task; see `Runtime`."""
        scope = trio.CancelScope()
        self._start(func, scope, done, name)
        return scope

    def timer(self, ring: Callable[[], None]) -> _Timer:
        """Return an alarm; see `Runtime`."""
        return _Timer(self, ring)

    def watch(self, fd: int, ready: Callable[[], None]) -> Cancellable:
        """Watch a descriptor; see `Runtime`."""
        scope = trio.CancelScope()

        async def run() -> None:
            # trio looks at the descriptor before it looks at cancellation, but whoever cancels a watch
            # closes the descriptor next: cancelled before a step, the watch must not take that step, nor
            # act on a readiness that came just before.
            while not scope.cancel_called:
                await trio.lowlevel.wait_readable(fd)
                if not scope.cancel_called:
                    guarded(ready)

        self._start(run, scope, lambda: None, "keepalive watch")
        return scope

    def call_soon_threadsafe(self, func: Callable[[], None]) -> None:
        """Call in the loop soon; see `Runtime`."""
        self._token.run_sync_soon(func)

    def running(self) -> bool:
        """Say whether it is this trio run that runs in the calling thread."""
        if self._runner is not None:
            return getattr(_context, "runner", None) is self._runner
        try:
            return trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return False

    async def aclose(self) -> None:
        """Wait until all tasks of this runtime have ended."""
        while self._tasks:
            if self._ended.is_set():
                self._ended = trio.Event()  # else another closer waits for the same one
            await self._ended.wait()
