"""``keepalive demo``: the same requests twice, with reuse and without, under the same limits."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from rich.progress import TextColumn
from rich.table import Table

from keepalive import ConnectionManager, Key, KeyStats, Reuse, http

from . import screen
from .origin import Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress

    from keepalive import Stats

    Progressed = Callable[[int, Stats], None]

HOSTS = 3
PER_HOST = 4
# Enough for every host's share: with less they would take connections from each other all the time.
IN_ALL = 12
AT_A_TIME = 24
SERVICE_TIME = (0.005, 0.015)
_HOST = "127.0.0.1"
_SEED = 2  # the same order of hosts in each run


@dataclass(slots=True)
class Result:
    """What one of the two passes came to."""

    stats: Stats
    seconds: float
    waited: int
    peaks: tuple[int, ...]
    peak: int
    accepted: int

    @property
    def within_limits(self) -> bool:
        """Whether the origin never saw more connections than allowed."""
        return max(self.peaks) <= PER_HOST and self.peak <= IN_ALL


async def send_all(
    origin: Origin, ports: Sequence[int], progress: Progressed, *, max_uses: int | None
) -> Result:
    """Send a request to each of ``ports`` through one manager.

    :param progress: called with the port and the manager's numbers after each answer
    """
    jobs, waited = iter(ports), 0
    origin.reset()
    started = time.perf_counter()
    async with ConnectionManager(max_per_host=PER_HOST, max_open=IN_ALL, max_uses=max_uses) as manager:
        client = http.Client(manager)

        async def work() -> None:
            nonlocal waited
            for port in jobs:
                waited += _is_full(manager.stats(), port)
                async with client.request("GET", f"http://{_HOST}:{port}/") as response:
                    await response.read()
                progress(port, manager.stats())

        async with anyio.create_task_group() as group:
            for _ in range(AT_A_TIME):
                group.start_soon(work)
        seconds, stats = time.perf_counter() - started, manager.stats()
    return Result(stats, seconds, waited, tuple(origin.peaks.values()), origin.peak, origin.accepted)


class Demo:
    """One run of the command."""

    def __init__(self, requests: int, setup_delay: float) -> None:
        self._requests = requests
        self._setup_delay = setup_delay
        self._reused: Result | None = None
        self._opened: Result | None = None

    async def run(self) -> None:
        """Send the requests with reuse and without, with live bars if somebody watches."""
        rng = random.Random(_SEED)
        origin = Origin(setup_delay=self._setup_delay, service_time=SERVICE_TIME, rng=rng)
        async with origin.serving(HOSTS):
            ports = rng.choices(origin.ports, k=self._requests)
            with screen.progress("{task.description}", TextColumn("{task.fields[note]}")) as bars:
                self._reused = await send_all(origin, ports, _bars_by_host(bars, ports), max_uses=None)
                # Opening each time is the same manager with connections that serve once.
                self._opened = await send_all(origin, ports, _bar_for_all(bars, ports), max_uses=1)

    def print_intro(self) -> None:
        """Say what will happen, and what of it is not real."""
        least, most = (f"{seconds * 1000:g}" for seconds in SERVICE_TIME)
        lines = [
            f"{self._requests} GETs, {AT_A_TIME} at a time, to {HOSTS} embedded origin servers on {_HOST}.",
            f"Limits: {PER_HOST} connections per host, {IN_ALL} in all. Answers take {least} to {most} ms.",
        ]
        if self._setup_delay:
            delay = f"{self._setup_delay * 1000:g} ms"
            lines += [
                "On loopback a new connection costs next to nothing. To stand for a network and its",
                f"handshakes, its first answer is held back for {delay} (--setup-delay).",
            ]
        screen.console().print("\n".join(lines), soft_wrap=True)

    def print_table(self) -> bool:
        """Tell the result; False if a limit was not kept."""
        reused, opened = self._reused, self._opened
        assert reused is not None, "printed before it ran"
        assert opened is not None, "printed before it ran"
        console = screen.console()
        table = Table(box=None, padding=(0, 2), pad_edge=False)
        table.add_column("")
        table.add_column("with reuse", justify="right")
        table.add_column("opening each time", justify="right")
        for name, of in _ROWS:
            table.add_row(name, of(reused), of(opened))
        console.print()
        console.print(table)
        console.print(f"\n{_saving(reused, opened)}")
        return reused.within_limits and opened.within_limits


_ROWS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("requests", lambda result: str(result.stats.requests)),
    ("connections opened", lambda result: str(result.accepted)),
    (f"reused, {Reuse.IMMEDIATE}", lambda result: str(result.stats.immediate)),
    (f"reused, {Reuse.DEFERRED}", lambda result: str(result.stats.deferred)),
    ("waited, since a limit was reached", lambda result: str(result.waited)),
    (f"peak per host, the origins say (limit {PER_HOST})", lambda result: " ".join(map(str, result.peaks))),
    (f"peak in all, the origins say (limit {IN_ALL})", lambda result: str(result.peak)),
    ("time", lambda result: f"{result.seconds:.2f} s"),
)


def _saving(reused: Result, opened: Result) -> str:
    """Say what reuse has saved; where nothing was reused, or chance was stronger, that there is nothing."""
    saved = opened.seconds - reused.seconds
    if not reused.stats.immediate + reused.stats.deferred:
        return "No time saved: no connection was used twice. Try more --requests."
    if saved <= 0:
        return "No time saved: with so few requests chance weighs more. Try more --requests."
    return f"Time saved: {saved:.2f} s of {opened.seconds:.2f} s ({saved / opened.seconds:.0%})."


def _is_full(stats: Stats, port: int) -> bool:
    """Say whether a request would find neither an idle connection nor room for a new one."""
    here = stats.keys.get(Key("http", _HOST, port, "http", _HOST, port), KeyStats())
    if here.idle:
        return False
    return here.open >= PER_HOST or (stats.open >= IN_ALL and not stats.idle)


def _note(stats: KeyStats) -> str:
    return f"open {stats.open:2}  idle {stats.idle:2}  waiting {stats.waiting:2}"


def _bars_by_host(bars: Progress, ports: Sequence[int]) -> Progressed:
    counts = Counter(ports)
    by_port = {port: bars.add_task(f"{_HOST}:{port}", total=counts[port], note="") for port in sorted(counts)}

    def advance(port: int, stats: Stats) -> None:
        bars.advance(by_port[port])
        for key, numbers in stats.keys.items():
            bars.update(by_port[key.port], note=_note(numbers))

    return advance


def _bar_for_all(bars: Progress, ports: Sequence[int]) -> Progressed:
    bar = bars.add_task("opening each time", total=len(ports), note="")

    def advance(_port: int, stats: Stats) -> None:
        bars.update(bar, advance=1, note=_note(stats))

    return advance
