"""The hosts file (hosts(5)): names with fixed addresses, asked before DNS."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import RunVar, checkpoint

from keepalive.base.addresses import is_literal
from keepalive.base.hostname import WrongName, ascii_name

from .files import LOOK_EVERY, File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Complain = Callable[[int, str], None]

SLICE = 8192
"""So many bytes are read in one go, about a millisecond's work; lists of blocked names have megabytes."""
PARTS = 256
"""So many small tables grow and go in less time, each, than a big one."""
LONGEST = 4096
"""Characters; further addresses of one name are not used."""


class Table:
    """Addresses by name."""

    def __init__(self) -> None:
        # Texts hold other texts only here, so the garbage collector need not look at them.
        self._parts: list[dict[str, str]] = [{} for _ in range(PARTS)]

    def get(self, name: str) -> tuple[str, ...]:
        """Return the addresses of a name in ASCII, lower case, without trailing dot; maybe none."""
        return tuple(self._parts[hash(name) % PARTS].get(name, "").split())

    def add(self, lines: list[str], first: int, complain: Complain) -> None:
        """Add lines, the first of which has a number. Wrong ones are skipped."""
        for number, line in enumerate(lines, first):
            words = line.partition("#")[0].split()
            if not words:
                continue
            address, *names = words
            if not is_literal(address):
                complain(number, f"{address[:100]!r} is no address")
            elif not names:
                complain(number, f"no name for {address}")
            for name in names if is_literal(address) else ():
                self._add(_plain(name), address)

    def _add(self, name: str, address: str) -> None:
        part = self._parts[hash(name) % PARTS]
        known = part.get(name)
        if known is None:
            part[name] = address
        elif len(known) < LONGEST and address not in known.split():
            part[name] = f"{known} {address}"

    def clear(self) -> Iterator[None]:
        """Forget all, a part with each step."""
        for part in self._parts:
            part.clear()
            yield


def parse(text: str, complain: Complain) -> Table:
    """Return what a hosts file says."""
    table = Table()
    table.add(text.split("\n"), 1, complain)
    return table


def parse_slowly(data: bytes, table: Table, complain: Complain) -> Iterator[None]:
    """Fill a table as `parse` does, a slice with each step."""
    start, number = 0, 1
    while start < len(data):
        end = data.find(b"\n", start + SLICE)
        end = len(data) if end < 0 else end + 1
        lines = data[start:end].decode("utf-8", "replace").split("\n")
        table.add(lines, number, complain)
        start, number = end, number + len(lines) - 1
        yield


def _plain(name: str) -> str:
    if not name.isascii():
        try:
            name = ascii_name(name)
        except WrongName:
            pass  # nobody can ask for it
    return name.lower().removesuffix(".")


class HostsFile(File):
    """A hosts file, kept up to date; one of any size, read without stopping the loop."""

    def __init__(self, path: str, look_every: float = LOOK_EVERY) -> None:
        super().__init__(path, look_every=look_every)
        self._of: tuple[int, ...] | None = None
        self._table = Table()
        self._reading: tuple[tuple[int, ...], Iterator[None]] | None = None
        self._lock = Lock()  # several event loops, in as many threads, may read at once
        self._turn: RunVar[anyio.Lock] = RunVar("keepalive turn to read the hosts file")

    async def addresses(self, name: str) -> tuple[str, ...]:
        """Return the addresses of a name. Switches tasks only while a big file is read.

        :raises OSError: there is no descriptor free to read it with
        """
        if self._of != self.edition() and (self._reading is not None or not self._step()):
            turn = self._turn.get(None)
            if turn is None:
                turn = anyio.Lock()
                self._turn.set(turn)
            async with turn:  # one task per loop reads on; the next goes on where a cancelled one was
                while not self._step():
                    await checkpoint()
        return self._table.get(name)

    def _step(self) -> bool:
        """Read on for a moment, and say whether all has been read."""
        if not self._lock.acquire(blocking=False):
            return False  # another loop's thread is at it
        try:
            edition = self.edition()
            if self._reading is None and self._of == edition:
                return True
            if self._reading is None or self._reading[0] != edition:
                data = self.read()
                if len(data) <= SLICE:
                    self._table = parse(data.decode("utf-8", "replace"), self.complaints())
                    self._of, self._reading = edition, None
                    return True
                self._reading = edition, self._read(edition, data)
            if next(self._reading[1], self) is self:
                self._reading = None
            return False
        finally:
            self._lock.release()

    def _read(self, edition: tuple[int, ...], data: bytes) -> Iterator[None]:
        table = Table()
        yield from parse_slowly(data, table, self.complaints())
        old, self._table, self._of = self._table, table, edition
        yield from old.clear()  # that takes its time, too
