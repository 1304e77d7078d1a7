"""Files that are read again when they have changed."""

from __future__ import annotations

import errno
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
MOST_COMPLAINTS = 10
"""So many wrong lines of a file are told of; a list of 100,000 has more than anybody wants to read."""


class File:
    """A file on disk: whether it has changed, and what is in it.

    :param clock: seconds, monotonic
    :param look_every: seconds between two looks
    """

    def __init__(
        self, path: str, clock: Callable[[], float] = time.monotonic, look_every: float = LOOK_EVERY
    ) -> None:
        self._path = path
        self._clock = clock
        self._look_every = look_every
        self._look_at = -1e9
        self._seen: tuple[int, ...] = ()

    def edition(self) -> tuple[int, ...]:
        """Return what tells this state of the file from others; looks at most once in `look_every`."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + self._look_every
            try:
                found = os.stat(self._path)
            except OSError:
                self._seen = ()
            else:
                self._seen = found.st_ino, found.st_size, found.st_mtime_ns
        return self._seen

    def read(self) -> bytes:
        """Return what is in it; nothing if it cannot be read.

        :raises OSError: there is no descriptor free: that says nothing about the file
        """
        try:
            with open(self._path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                raise
            logger.warning("%s cannot be read: %s", self._path, exc.strerror)
            return b""

    def complaints(self) -> Callable[[int, str], None]:
        """Return a function to complain with of wrong lines."""
        count = 0

        def complain(number: int, why: str) -> None:
            nonlocal count
            count += 1
            if count <= MOST_COMPLAINTS:
                logger.warning("%s, line %d is skipped: %s", self._path, number, why)
            elif count == MOST_COMPLAINTS + 1:
                logger.warning("%s has more wrong lines, which are skipped too", self._path)

        return complain


class Watched(File, Generic[T]):
    """What a small text file says, kept up to date by a look at its inode, size and time of change.

    A file that is not there reads as an empty one. `parse` gets the text and a function to complain with.
    """

    def __init__(
        self,
        path: str,
        parse: Callable[[str, Callable[[int, str], None]], T],
        clock: Callable[[], float] = time.monotonic,
        look_every: float = LOOK_EVERY,
    ) -> None:
        super().__init__(path, clock, look_every)
        self._parse = parse
        self._of: tuple[int, ...] | None = None
        self._value: T | None = None

    def value(self) -> T:
        """Return what the file says. Blocks as long as the file system takes.

        :raises OSError: there is no descriptor free to read it with
        """
        edition = self.edition()
        if self._value is None or edition != self._of:
            text = self.read().decode("utf-8", "replace").replace("\r\n", "\n")
            self._value, self._of = self._parse(text, self.complaints()), edition
        return self._value
