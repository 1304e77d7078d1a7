"""Waiting for what nothing announces, on every loop and in virtual time too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE = 8.0
"""Seconds after which a test that still waits has failed."""


async def turns(count: int = 20) -> None:
    """Let all that can run now run."""
    for _ in range(count):
        await checkpoint()


async def until(holds: Callable[[], bool], patience: float = 2 * PATIENCE) -> None:
    """Turn the loop until something has happened, in it, in another thread or in the kernel."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, "not reached in time"
        await turns()
        time.sleep(0.0005)  # other threads need the interpreter; the loop's time may stand still


async def until_equal(read: Callable[[], T], wanted: T) -> None:
    """Turn the loop until something has reached a value."""
    await until(lambda: read() == wanted)
