"""What a test may not leave behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from typing import TYPE_CHECKING, TypeAlias

import anyio.lowlevel
import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

Descriptors: TypeAlias = "frozenset[tuple[int, str]]"

_FOLDER = "/proc/self/fd"
_KINDS = ("socket:", "anon_inode:", "pipe:")
# Kept for the next use by anyio (asyncio) and by trio.
_IDLE_WORKERS = ("AnyIO worker thread", "Trio thread")


def descriptors() -> Descriptors:
    """List this process's sockets, pipes and pollers, after what is only garbage has been collected."""
    gc.collect()
    if not os.path.isdir(_FOLDER):
        return frozenset()
    found = set()
    for name in os.listdir(_FOLDER):
        try:
            target = os.readlink(f"{_FOLDER}/{name}")
        except FileNotFoundError:  # the listing's own descriptor
            continue
        if target.startswith(_KINDS):
            found.add((int(name), target))
    return frozenset(found)


def threads() -> frozenset[threading.Thread]:
    """List the threads that are not idle workers of a loop."""
    return frozenset(t for t in threading.enumerate() if not t.name.startswith(_IDLE_WORKERS))


def left_threads(before: Iterable[threading.Thread], patience: float = 2.0) -> list[threading.Thread]:
    """List the threads that were not there before and do not end by themselves."""
    new = threads().difference(before)
    for thread in new:
        thread.join(patience)
    return [thread for thread in new if thread.is_alive()]


class LoopWatch:
    """Compare a loop's tasks and timers at the end with those at the beginning."""

    def __init__(self) -> None:
        self._tasks = self._count_tasks()
        self._timers = self._list_timers()

    async def verdict(self) -> list[str]:
        """Name what is left, after a few turns for what is just ending."""
        left: list[str] = []
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
            left = self._left()
            if not left:
                break
        return left

    def _left(self) -> list[str]:
        if trio.lowlevel.in_trio_run():
            left = trio.lowlevel.current_statistics().tasks_living - self._tasks
            return [f"{left} trio tasks"] if left > 0 else []
        tasks = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        timers = [timer for timer in self._list_timers() if timer not in self._timers]
        return (tasks if len(tasks) > self._tasks else []) + [repr(timer) for timer in timers]

    @staticmethod
    def _count_tasks() -> int:
        if trio.lowlevel.in_trio_run():
            return trio.lowlevel.current_statistics().tasks_living
        return len(asyncio.all_tasks()) - 1

    @staticmethod
    def _list_timers() -> list[asyncio.TimerHandle]:
        """List the pending timers, on asyncio's own loop: neither trio nor uvloop shows them."""
        if trio.lowlevel.in_trio_run():
            return []
        scheduled: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled", [])
        return [timer for timer in scheduled if not timer.cancelled()]
