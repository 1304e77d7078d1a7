"""Which event loop runs here."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .runtime import Runtime


def current_runtime() -> Runtime:
    """Return a runtime for the running event loop. RuntimeError if there is none."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_task():
            from .trio_runtime import TrioRuntime

            return TrioRuntime()
    from .asyncio_runtime import AsyncioRuntime

    return AsyncioRuntime(asyncio.get_running_loop())
