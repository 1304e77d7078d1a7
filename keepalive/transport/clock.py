"""The clock of real loops."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# CLOCK_MONOTONIC stands still while the machine sleeps; peers and their timeouts do not. An idle
# connection must not look young after a night in a closed laptop.
real_clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
