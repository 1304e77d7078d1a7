"""``keepalive get``: what it does and how it tells the result."""

from __future__ import annotations

import json
import math
import ssl
import time
from typing import TYPE_CHECKING, Any

from rich.progress import TextColumn, TimeElapsedColumn
from rich.table import Table

from keepalive import ConnectionManager, http

from . import screen
from .fetch import Fetcher, GetOptions, Tally, better_scheme
from .proxies import ProxyRoutes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keepalive import Stats

_LOOKS = 4  # at wrong schemes; who has more of them has seen enough
_PERCENTILES = (50, 90, 99)


class Get:
    """One run of the command; its numbers are good at any moment, so also after an interruption.

    :raises ValueError, ImportError: what the environment says of proxies; see `ProxyRoutes`
    """

    def __init__(self, options: GetOptions) -> None:
        self.tally = Tally(wanted=options.times * len(options.urls))
        self.stats: Stats | None = None
        self.seconds = 0.0
        self.notes: list[str] = []
        self._options = options
        context = ssl.create_default_context()
        if options.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._routes = ProxyRoutes(context)

    async def run(self) -> None:
        """Fetch everything, with a progress bar if somebody watches."""
        options, started = self._options, time.perf_counter()
        with screen.progress("GET", TimeElapsedColumn(), TextColumn("{task.fields[note]}")) as progress:
            bar = progress.add_task("", total=self.tally.wanted, note="")
            async with ConnectionManager(
                max_per_host=options.per_host,
                max_open=max(128, options.concurrency),
                connectors=self._routes.connectors,
            ) as manager:
                fetcher = Fetcher(manager, self._routes, options, self.tally)

                def advance() -> None:
                    failed = self.tally.errors.total()
                    note = f"[red]{failed} failed[/]" if failed else ""
                    progress.update(bar, completed=self.tally.done, note=note)

                try:
                    await fetcher.run(min(options.concurrency, self.tally.wanted), advance)
                finally:
                    self.seconds = time.perf_counter() - started
                    self.stats = manager.stats()
            await self._look_at_schemes()

    async def _look_at_schemes(self) -> None:
        """See whether what failed has failed for its scheme; each port once."""
        places = {at[1:3]: at for at in map(http.parse_url, self.tally.doubtful)}
        for target in [*places.values()][:_LOOKS]:
            note = await better_scheme(target)
            if note is not None:
                self.notes.append(note)

    def error_lines(self) -> list[str]:
        """Give one line for each kind of failure."""
        tally = self.tally
        lines = [f"{what} ({n} times)" if n > 1 else what for what, n in tally.errors.most_common()]
        if tally.given_up:
            lines.append(f"{tally.given_up} requests were not tried, since those before them failed in a row")
        return lines

    def as_json(self) -> str:
        """Give the result as one JSON object; times are in seconds."""
        tally = self.tally
        result: dict[str, Any] = {
            "requests": tally.wanted,
            "answered": len(tally.latencies),
            "failed": tally.errors.total(),
            "not_tried": tally.wanted - len(tally.latencies) - tally.errors.total(),
            "statuses": {str(status): n for status, n in sorted(tally.statuses.items())},
            "errors": [{"error": what, "count": n} for what, n in tally.errors.most_common()],
            "handshakes_saved": {"tcp": tally.saved_tcp, "tls": tally.saved_tls},
            "retried": tally.retried,
            "bytes": tally.size,
            "seconds": round(self.seconds, 6),
            "latency": {name: round(value, 6) for name, value in percentiles(tally.latencies).items()},
        }
        if self.stats is not None:
            result["connections"] = {
                "opened": self.stats.opened,
                "reused_immediate": self.stats.immediate,
                "reused_deferred": self.stats.deferred,
            }
        return json.dumps(result, indent=2)

    def print_table(self) -> None:
        """Tell the result to people."""
        tally, answered = self.tally, len(self.tally.latencies)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        statuses = "  ".join(f"{status}: {n}" for status, n in sorted(tally.statuses.items()))
        table.add_row("Statuses", statuses or "none")
        if tally.errors:
            table.add_row("Failed", str(tally.errors.total()))
        if self.stats is not None:
            reused = f"{self.stats.immediate} times immediate, {self.stats.deferred} deferred"
            table.add_row("Connections", f"{self.stats.opened} opened, reused {reused}")
        if answered:
            saved = f"TCP {tally.saved_tcp} of {answered}"
            if any(http.parse_url(url).scheme == "https" for url in self._options.urls):
                saved += f", TLS {tally.saved_tls}"
            table.add_row("Handshakes saved", saved)
            if tally.retried:
                table.add_row("Retried", f"{tally.retried} (the server had just closed the connection)")
            table.add_row("Time", f"{self.seconds:.2f} s, {answered / self.seconds:.0f} requests/s")
            table.add_row("Body bytes", f"{tally.size:,}")
            shown = (f"{name} {value * 1000:.1f}" for name, value in percentiles(tally.latencies).items())
            table.add_row("Latency, ms", "  ".join(shown))
        screen.console().print(table)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Give p50, p90, p99 (by nearest rank) and the maximum; nothing of nothing."""
    if not values:
        return {}
    ranked = sorted(values)
    found = {f"p{p}": ranked[math.ceil(p / 100 * len(ranked)) - 1] for p in _PERCENTILES}
    return {**found, "max": ranked[-1]}
