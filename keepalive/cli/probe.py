"""``keepalive probe``: which ports of which hosts answer, how fast, and with what first line."""

from __future__ import annotations

import errno
import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from keepalive.multi import MultiClient, StreamFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from keepalive.multi import Peer

    from .ports import Span

LONGEST = 256
"""Bytes of a first line; whatever is longer is cut."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What was asked for on the command line."""

    spans: Sequence[Span]
    concurrency: int
    timeout: float
    wait: float
    send: bytes


@dataclass(slots=True)
class Found:
    """A port that accepted a connection; times are in seconds."""

    host: str
    port: int
    connected: float
    answered: float | None = None
    line: str | None = None


class Probe:
    """One run of the command; its numbers are good at any moment, so also after an interruption."""

    def __init__(self, errand: Errand) -> None:
        self.wanted = sum(map(len, errand.spans))
        self.found: list[Found] = []
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.seconds = 0.0
        self._errand = errand
        self._lost: set[str] = set()  # hosts without an address
        self._left = self._all()
        self._running = 0
        self._client: MultiClient | None = None
        self._advance: Callable[[], None] = lambda: None

    @property
    def done(self) -> int:
        """How many ports have been dealt with."""
        return self.counts.total()

    def _all(self) -> Iterator[tuple[str, int]]:
        for span in self._errand.spans:
            for port in span:
                if span.host in self._lost:
                    self.counts["not tried"] += 1
                else:
                    yield span.host, port

    async def run(self) -> None:
        """Try all ports, with a progress bar if somebody watches."""
        errand, console = self._errand, Console(stderr=True)
        columns = (TextColumn("probe"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        started = time.perf_counter()
        with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as bars:
            bar = bars.add_task("", total=self.wanted)
            self._advance = lambda: bars.update(bar, completed=self.done)
            self._over = anyio.Event()
            async with MultiClient(
                on_success=self._connected,
                on_input=self._heard,
                on_failure=self._refused,
                on_timeout=self._silent,
                on_disconnected=self._next,
                filter=StreamFilter,
                connect_timeout=errand.timeout,
                input_timeout=errand.wait,
                max_connecting=errand.concurrency,
            ) as self._client:
                try:
                    for _ in range(errand.concurrency):
                        self._start()
                    if self._running:
                        await self._over.wait()
                finally:
                    self.seconds = time.perf_counter() - started
                    self._left = iter(())

    # -- callbacks ----------------------------------------------------------------------------------

    def _start(self) -> None:
        target = next(self._left, None)
        if target is not None:
            assert self._client is not None, "it is running"
            self._running += 1
            self._client.connect(*target, heap={"since": time.perf_counter()})

    def _connected(self, peer: Peer) -> None:
        peer.heap["found"] = Found(peer.addr, peer.port, time.perf_counter() - peer.heap["since"])
        self.found.append(peer.heap["found"])
        self.counts["open"] += 1
        if self._errand.send:
            peer.send(self._errand.send)

    def _heard(self, peer: Peer, data: bytes) -> None:
        found: Found = peer.heap["found"]
        if found.answered is None:
            found.answered = time.perf_counter() - peer.heap["since"]
        said: bytes = peer.heap.get("said", b"") + data
        peer.heap["said"] = said
        line, end, _ = said.lstrip(b"\r\n").partition(b"\n")
        found.line = line[:LONGEST].rstrip(b"\r").decode("utf-8", "backslashreplace")
        if end or len(said) >= LONGEST:
            peer.close()

    def _refused(self, peer: Peer, operation: str, number: int, text: str) -> None:
        if operation == "resolve":
            self._lost.add(peer.addr)
        if operation == "connect" and number == errno.ECONNREFUSED:
            self.counts["refused"] += 1
            return
        self.counts["failed"] += 1
        where = peer.addr if operation == "resolve" else f"{peer.addr}, port {peer.port}"
        self.errors[f"{where}: {operation}: {text}"] += 1

    def _silent(self, peer: Peer) -> None:
        if "found" not in peer.heap:
            self.counts["no answer"] += 1

    def _next(self, peer: Peer) -> None:
        self._running -= 1
        self._start()
        self._advance()
        if not self._running:
            self._over.set()

    # -- the result ---------------------------------------------------------------------------------

    def error_lines(self) -> list[str]:
        """Give one line for each kind of failure."""
        return [f"{what} ({n} times)" if n > 1 else what for what, n in self.errors.most_common()]

    def as_json(self) -> str:
        """Give the result as one JSON object; times are in seconds."""
        result: dict[str, Any] = {
            "ports": self.wanted,
            "counts": {name: self.counts[name] for name in _COUNTS},
            "open": [
                {
                    "host": found.host,
                    "port": found.port,
                    "connected": round(found.connected, 6),
                    "answered": None if found.answered is None else round(found.answered, 6),
                    "line": found.line,
                }
                for found in self._sorted()
            ],
            "errors": [{"error": what, "count": n} for what, n in self.errors.most_common()],
            "seconds": round(self.seconds, 6),
        }
        return json.dumps(result, indent=2)

    def print_table(self) -> None:
        """Tell the result to people."""
        console = Console(highlight=False)
        if self.found:
            table = Table(box=None, padding=(0, 2), pad_edge=False)
            table.add_column("host")
            table.add_column("port", justify="right")
            table.add_column("connected, ms", justify="right")
            table.add_column("first answer, ms", justify="right")
            table.add_column("first line")
            for found in self._sorted():
                answered = "" if found.answered is None else f"{found.answered * 1000:.1f}"
                line = (
                    "" if found.line is None else "".join(c if c.isprintable() else "." for c in found.line)
                )
                connected = f"{found.connected * 1000:.1f}"
                table.add_row(found.host, str(found.port), connected, answered, escape(line))
            console.print(table)
        counts = ", ".join(f"{self.counts[name]} {name}" for name in _COUNTS if self.counts[name])
        console.print(f"{self.wanted} ports: {counts or 'none tried'}; {self.seconds:.2f} s", soft_wrap=True)

    def _sorted(self) -> list[Found]:
        order = {span.host: n for n, span in reversed(list(enumerate(self._errand.spans)))}
        return sorted(self.found, key=lambda found: (order[found.host], found.port))


_COUNTS = ("open", "refused", "no answer", "failed", "not tried")
