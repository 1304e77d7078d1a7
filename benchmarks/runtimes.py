"""The event loops, behind the four calls a workload needs.

Thinner than anyio on purpose: what the harness itself spends shows in figures of a few microseconds.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Job = Callable[[], Coroutine[Any, Any, None]]


class Waiter(Protocol):
    """What a task sleeps on: a future, or trio's own way."""

    def set_result(self, value: Any, /) -> None: ...
    def __await__(self) -> Any: ...


class Runtime(Protocol):
    name: str

    def pause(self) -> Awaitable[None]: ...
    def sleep(self, seconds: float, /) -> Awaitable[None]: ...
    def waiter(self) -> Waiter: ...
    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T: ...
    async def together(self, job: Job, count: int) -> None: ...


class AsyncioRuntime:
    def __init__(self, name: str) -> None:
        self.name = name

    async def pause(self) -> None:
        await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def waiter(self) -> Waiter:
        return asyncio.get_running_loop().create_future()

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if self.name == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main())

    async def together(self, job: Job, count: int) -> None:
        # Not a TaskGroup: its bookkeeping per task is a third of what a waiter costs.
        create = asyncio.get_running_loop().create_task
        tasks = [create(job()) for _ in range(count)]
        for task in tasks:
            await task


class TrioRuntime:
    name = "trio"

    def __init__(self) -> None:
        import trio

        self.pause: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.sleep: Callable[[float], Awaitable[None]] = trio.sleep
        self.waiter: Callable[[], Waiter] = _TrioWaiter

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        import trio

        return trio.run(main)

    async def together(self, job: Job, count: int) -> None:
        import trio

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(job)


class _TrioWaiter:
    __slots__ = ("task",)

    def __init__(self) -> None:
        import trio

        self.task = trio.lowlevel.current_task()

    def set_result(self, value: Any) -> None:
        import outcome
        import trio

        trio.lowlevel.reschedule(self.task, outcome.Value(value))

    def __await__(self) -> Any:
        import trio

        return trio.lowlevel.wait_task_rescheduled(self._abort).__await__()  # noqa: ASYNC105  # the caller awaits it

    def _abort(self, _raise_cancel: object) -> Any:
        import trio

        return trio.lowlevel.Abort.FAILED


def make_runtime(name: str) -> Runtime:
    return TrioRuntime() if name == "trio" else AsyncioRuntime(name)


def settle() -> None:
    """Start each measurement from the same state of the collector."""
    gc.collect()
