"""Loops whose time tests move, as backends of the test plugin."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import trio
from trio.testing import MockClock

from tests.support.waiting import turns

REAL_UNIT = 0.01
"""On uvloop, which knows no time but the real one, a test's second is this short."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still unless a test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


_ASYNCIO = pytest.param(("asyncio", {"loop_factory": VirtualLoop}), id="asyncio-virtual")
_TRIO = pytest.param(("trio", {"clock": MockClock()}), id="trio-virtual")
_UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")

timed = pytest.mark.parametrize("anyio_backend", [_ASYNCIO, _UVLOOP, _TRIO])
"""For tests about time: virtual on asyncio and trio, short on uvloop."""
virtual = pytest.mark.parametrize("anyio_backend", [_ASYNCIO, _TRIO])
"""For tests about long or exact times."""
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
