"""asyncio, and uvloop, which speaks the same language."""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any
from weakref import ref

from .clock import real_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .runtime import Cancellable, Parking


try:
    # Private, for a question asked at each wake-up, to which the public answer takes 1.8 us.
    from anyio._backends import _asyncio as anyio_asyncio

    _weak_dict: Any = anyio_asyncio._task_states
    _task_states: Any = _weak_dict.data
except (ImportError, AttributeError):  # another anyio: `_cancel_met` then always says "maybe"
    _task_states = None


def _parking_of(loop: asyncio.AbstractEventLoop) -> Callable[[], Parking]:
    """Return what makes a future of this loop, without a Python frame where asyncio's own has one."""
    create = getattr(type(loop), "create_future", None)
    if create is asyncio.BaseEventLoop.create_future:
        return partial(asyncio.Future, loop=loop)
    return loop.create_future


def _cancel_met(loop: asyncio.AbstractEventLoop) -> bool:
    """Say whether a scope around the running task has been cancelled; anyio tells the task later."""
    if _task_states is None:
        return True
    task = asyncio.current_task(loop)
    state = None if task is None else _task_states.get(ref(task))
    scope = None if state is None else state.cancel_scope
    while scope is not None:
        if scope.cancel_called:
            return True
        scope = None if scope.shield else scope._parent_scope
    return False


class _Timer:
    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        # uvloop counts in whole milliseconds and rounds down; half of one more spares a futile ring.
        self._more = 0.0 if isinstance(loop, asyncio.BaseEventLoop) else 0.0005
        self._handle: asyncio.TimerHandle | None = None

    def move(self, delay: float) -> None:
        self.cancel()
        self._handle = self._loop.call_later(delay + self._more, self._ring, context=Context())

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class _Watch:
    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self._loop = loop
        self._fd = fd

    def cancel(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)


class AsyncioRuntime:
    """One asyncio or uvloop event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        own_time = (
            isinstance(loop, asyncio.BaseEventLoop) and type(loop).time is not asyncio.BaseEventLoop.time
        )
        # A loop with a time of its own has virtual time; the loop's timers and this clock must agree.
        self.clock: Callable[[], float] = loop.time if own_time else real_clock
        self.park: Callable[[], Parking] = _parking_of(loop)
        self.cancel_met: Callable[[], bool] = partial(_cancel_met, loop)
        self.thread = get_ident()
        # Not `asyncio.get_running_loop() is loop`: up to CPython 3.11 that makes a system call.
        self.running = loop.is_running

    def spawn(
        self, func: Callable[[], Coroutine[Any, Any, None]], done: Callable[[], object], name: str
    ) -> Cancellable:
        """Start a task; see `Runtime`."""
        coro = func()
        try:
            task = self._loop.create_task(coro, name=name, context=Context())
        except BaseException:
            coro.close()  # the loop has been closed, for example
            raise
        # A task cancelled before its first step never runs a line, its own `finally` included.
        task.add_done_callback(lambda _: done(), context=Context())
        return task

    def timer(self, ring: Callable[[], None]) -> _Timer:
        """Return an alarm; see `Runtime`."""
        return _Timer(self._loop, ring)

    def watch(self, fd: int, ready: Callable[[], None]) -> Cancellable:
        """Watch a descriptor; see `Runtime`."""
        Context().run(self._loop.add_reader, fd, ready)
        return _Watch(self._loop, fd)

    def call_soon_threadsafe(self, func: Callable[[], None]) -> None:
        """Call in the loop soon; see `Runtime`."""
        self._loop.call_soon_threadsafe(func, context=Context())

    async def aclose(self) -> None:
        """Return at once: handles and readers end where they are cancelled."""
