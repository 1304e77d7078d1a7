"""What a forked child must do with its copies of its parent's managers."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any


class Forkable(Protocol):
    """Something whose copy in a forked child must be emptied."""

    def abandon(self) -> None:
        """Empty this copy, in the child."""


_living: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(thing: Forkable) -> None:
    """Have it abandoned in each child that is forked from now on."""
    _living.add(thing)


def forget(thing: Forkable) -> None:
    """Leave it alone from now on."""
    _living.discard(thing)


def _after_fork_in_child() -> None:
    for thing in list(_living):
        thing.abandon()
    _living.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
