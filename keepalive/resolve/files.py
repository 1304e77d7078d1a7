"""Files that are read again when they have changed."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("keepalive")

T = TypeVar("T")

LOOK_EVERY = 1.0
"""Seconds between two looks at whether a file has changed."""


class Watched(Generic[T]):
    """What a small text file says, kept up to date by a look at its inode, size and time of change.

    A file that is not there reads as an empty one. `parse` gets the text and a function to complain with.

    :param clock: seconds, monotonic
    """

    def __init__(
        self,
        path: str,
        parse: Callable[[str, Callable[[int, str], None]], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._parse = parse
        self._clock = clock
        self._look_at = -1e9
        self._seen: tuple[int, ...] | None = None
        self._value: T | None = None

    def value(self) -> T:
        """Return what the file says. Blocks as long as the file system takes."""
        now = self._clock()
        if self._value is None or now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            seen = self._look()
            if self._value is None or seen != self._seen:
                self._seen = seen
                self._value = self._parse(self._read(), self._complain)
        return self._value

    def _look(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> str:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""
        except OSError as exc:
            logger.warning("%s cannot be read: %s", self._path, exc.strerror)
            return ""

    def _complain(self, number: int, why: str) -> None:
        logger.warning("%s, line %d is skipped: %s", self._path, number, why)
