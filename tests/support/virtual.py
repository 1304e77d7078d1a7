"""The old names of `keepalive.testing`'s virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from keepalive.testing import jump, run_in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("jump", "run")

T = TypeVar("T")


def run(backend: str, main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run an async function in virtual time."""
    return run_in_virtual_time(main, *args, backend=backend)
