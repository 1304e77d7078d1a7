"""Loops whose time tests move, as backends of the test plugin."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING

import anyio
import pytest
import trio
from trio.testing import MockClock

from tests.support.waiting import turns

if TYPE_CHECKING:
    from selectors import SelectorKey

REAL_UNIT = 0.01
"""On uvloop, which knows no time but the real one, a test's second is this short."""

REST = 0.05
"""When nothing has happened for so many real seconds, nothing will: other threads have their turn in it."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still unless a test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    """Waits as long as it is told to, but not in real time."""

    loop: BriskLoop

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(min(timeout, REST))
        if not found:
            self.loop.now += timeout
        return found


class BriskLoop(VirtualLoop):
    """An event loop whose time jumps to the next timer as soon as nothing else happens."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)


_ASYNCIO = pytest.param(("asyncio", {"loop_factory": VirtualLoop}), id="asyncio-virtual")
_TRIO = pytest.param(("trio", {"clock": MockClock()}), id="trio-virtual")
_UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")

timed = pytest.mark.parametrize("anyio_backend", [_ASYNCIO, _UVLOOP, _TRIO])
"""For tests about time: virtual on asyncio and trio, short on uvloop."""
virtual = pytest.mark.parametrize("anyio_backend", [_ASYNCIO, _TRIO])
"""For tests about long or exact times."""
brisk = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"loop_factory": BriskLoop}), id="asyncio-brisk"),
        _UVLOOP,
        pytest.param(("trio", {"clock": MockClock(autojump_threshold=REST)}), id="trio-brisk"),
    ],
)
"""For tests that wait: on asyncio and trio time jumps to what they wait for; on uvloop it is the real one."""
native = pytest.mark.parametrize("anyio_backend", [_ASYNCIO, _UVLOOP])
"""For tests about what only asyncio has."""


def unit() -> float:
    """Return what a test's second is on the running loop."""
    if trio.lowlevel.in_trio_run() or isinstance(asyncio.get_running_loop(), VirtualLoop):
        return 1.0
    return REAL_UNIT


def skip(seconds: float) -> None:
    """Move virtual time in the middle of a step: no timer has rung yet, as after the machine's sleep."""
    if trio.lowlevel.in_trio_run():
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        clock.jump(seconds)
    else:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.now += seconds


async def passing(seconds: float) -> None:
    """Let so many of the test's seconds pass, and what is due by then happen."""
    if unit() == 1.0:
        skip(seconds)
        await turns()
    else:
        await anyio.sleep(seconds * unit())
