"""Loops whose time stands still until a test moves it: exact times without waiting for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import trio.testing

from tests.manager.tools import turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class StillLoop(asyncio.SelectorEventLoop):
    """An asyncio loop with a time of its own."""

    now = 1000.0

    def time(self) -> float:
        """Return the virtual time."""
        return self.now


async def jump(seconds: float) -> None:
    """Move the time on, and let all that is due happen."""
    if trio.lowlevel.in_trio_run():
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)
    else:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StillLoop)
        loop.now += seconds
    await turns(10)


def run(backend: str, main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run an async function in virtual time."""
    if backend == "trio":
        return anyio.run(main, *args, backend="trio", backend_options={"clock": trio.testing.MockClock()})
    return anyio.run(main, *args, backend="asyncio", backend_options={"loop_factory": StillLoop})
