"""What goes to the terminal, or into a pipe: nothing of a stranger's that a terminal would act on."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from keepalive import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import ProgressColumn

_ENDLESS = 100_000  # cells; nobody folds lines in a pipe


class _Whole(io.FileIO):
    """A file that is written to without a buffer, but wholly.

    The kernel may take a write in part, as when the process is stopped amid it; Python would lose the rest.
    """

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        done = 0
        while done < view.nbytes:
            taken = super().write(view[done:])
            if taken is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            done += taken
        return done


def prepare_streams() -> None:
    """Make standard output and error take any text, and take it whole."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            raw = _Whole(stream.fileno(), "w", closefd=False)
            # Names and answers hold what its encoding may not. Nothing stays behind to fail anew at the exit.
            stream = io.TextIOWrapper(raw, stream.encoding, "backslashreplace", write_through=True)
            setattr(sys, name, stream)


def console() -> Console:
    """Return a console for tables; in a pipe it folds nothing."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _ENDLESS)


def progress(title: str, *more: ProgressColumn) -> Progress:
    """Return bars for whoever watches; they are gone in the end."""
    terminal = Console(stderr=True)
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), *more
    return Progress(*columns, console=terminal, transient=True, disable=not terminal.is_interactive)


def complain(text: str) -> None:
    """Tell an error."""
    note(f"Error: {text}")


def note(text: str) -> None:
    """Say something beside the result."""
    click.echo(printable(text), err=True)


def records(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: frozenset[int]) -> list[str]:
    """Set records in columns, a line for each.

    The last column is the one that may be long: on a terminal it is cut to what fits, and if next to nothing
    fits, goes onto a line of its own. No other column is ever cut or folded.

    :param right: which columns are set to the right
    """
    rows = [head, *rows]
    widths = [max(cell_len(row[n]) for row in rows) for n in range(len(head) - 1)]
    room = shutil.get_terminal_size().columns - sum(widths) - 2 * len(widths)
    lines = []
    for row in rows:
        cells = [
            _padded(cell, width, n in right)
            for n, (cell, width) in enumerate(zip(row[:-1], widths, strict=True))
        ]
        left, last = "  ".join(cells), row[-1]
        if not sys.stdout.isatty():
            lines.append(f"{left}  {last}".rstrip())
        elif room >= _ENOUGH:
            lines.append(f"{left}  {_cut(last, room)}".rstrip())
        else:
            lines.append(left.rstrip())
            if last and row is not head:
                lines.append(f"  {_cut(last, max(_ENOUGH, room + len(left)))}")
    return lines


_ENOUGH = 12


def _padded(cell: str, width: int, right: bool) -> str:
    blanks = " " * (width - cell_len(cell))
    return blanks + cell if right else cell + blanks


def _cut(text: str, room: int) -> str:
    return text if cell_len(text) <= room else f"{set_cell_size(text, room - 3).rstrip()}..."
