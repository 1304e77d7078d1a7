"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.orders import Site
    from benchmarks.results import ContenderResult, Verdict, WorkloadResult

BUSY = 0.7
PACKAGES = (
    "keepalive-manager", "anyio", "uvloop", "trio",
    "aiohttp", "httpcore2", "httpx2", "asyncio-connection-pool", "redis", "hiredis", "coredis",
    "pycurl", "pyqwest", "pycares",
)  # fmt: skip


def number(value: float) -> str:
    """Three significant digits, and no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    for limit, digits in ((9.995, 1), (0.9995, 2), (0, 3)):
        if value >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 9.995 else number(ratio)


def environment(site: Site, pinned: bool) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            pass
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu,
        "server": site.server,
        "pinned": pinned,
        "load": round(os.getloadavg()[0], 2),
        "packages": versions,
    }


def show_environment(console: Console, about: dict[str, Any]) -> None:
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    console.print(
        f"[bold]Python {about['python']}[/] on {about['system']}, {escape(about['cpu'])}; {packages}"
    )
    console.print(f"Server: {escape(about['server'])}")
    if not about["pinned"]:
        console.print(
            "[yellow]Processes are not pinned: one core, or no way to pin here. Expect more noise.[/]"
        )

    if about["load"] > BUSY:
        console.print(
            f"[yellow]Others keep this machine busy (load {about['load']}): expect too high figures.[/]"
        )


def show_result(console: Console, result: WorkloadResult) -> None:
    series = len(result.points) > 1
    unit = result.workload.unit
    title = f"{result.workload.title} ({result.workload.name}), {unit}"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("contender")
    if series:
        for point in result.points:
            table.add_column(result.workload.label(point), justify="right")
    else:
        for heading in ("median", "min - max", "x floor"):
            table.add_column(heading, justify="right")
    for _, heading, _, _ in result.workload.extras:
        table.add_column(heading, justify="right")
    for row in sorted(result.rows, key=lambda row: row.last("time") or 0.0 if not series else 0.0):
        style = "bold green" if row.id.startswith("keepalive") else None
        table.add_row(
            *_series(result, row) if series else _single(result, row), *_extras(result, row), style=style
        )
    console.print()
    console.print(table)
    console.print(f"  {escape(result.workload.what)}")
    if series:
        console.print("  [dim]median, and times the floor[/]")
    _show_notes(console, result)


def _single(result: WorkloadResult, row: ContenderResult) -> list[str]:
    values = row.values("time", result.points[0])
    if not values:
        return [row.label, "failed" if row.failure else "-", "", ""]
    ratio = result.ratio(row, result.points[0])
    spread = f"{number(min(values))} - {number(max(values))}"
    middle = row.median("time", result.points[0])
    return [row.label, number(middle or 0.0), spread, times(ratio) if ratio else ""]


def _series(result: WorkloadResult, row: ContenderResult) -> list[str]:
    cells = [row.label]
    for point in result.points:
        middle, ratio = row.median("time", point), result.ratio(row, point)
        cells.append(
            "-" if middle is None else f"{number(middle)}" + (f" [dim]x{times(ratio)}[/]" if ratio else "")
        )
    return cells


def _extras(result: WorkloadResult, row: ContenderResult) -> list[str]:
    cells = []
    for metric, _, divisor, digits in result.workload.extras:
        value = row.last(metric)
        cells.append("" if value is None else f"{value / divisor:,.{digits}f}")
    return cells


def _show_notes(console: Console, result: WorkloadResult) -> None:
    said: dict[str, list[str]] = {}
    for row in result.rows:
        if row.note:
            said.setdefault(row.note, []).append(row.label)
    for note, labels in said.items():
        console.print(f"  [dim]{', '.join(labels)}: {escape(note)}[/]")
    for row in result.rows:
        if row.failure:
            console.print(f"  [red]{row.label} failed: {escape(row.failure)}[/]")
    for label, why in result.absent.items():
        console.print(f"  [yellow]{label} is not here: {escape(why)}[/]")
    cut = [row.label for row in result.rows if row.rounds and row.median("time", result.points[-1]) is None]
    if len(result.points) > 1 and cut:
        console.print(f"  [yellow]-: it would have taken too long, or cannot ({', '.join(cut)})[/]")


def show_verdicts(console: Console, verdicts: list[Verdict]) -> None:
    if not verdicts:
        return
    met = sum(verdict.met for verdict in verdicts)
    console.print(f"\n[bold]Goals: {met} of {len(verdicts)} met[/]")
    for verdict in verdicts:
        mark = "[green]met   [/]" if verdict.met else "[red]missed[/]"
        console.print(f"  {mark} {escape(verdict.text)}")


def write_json(
    path: Path, about: dict[str, Any], results: list[WorkloadResult], verdicts: list[Verdict]
) -> None:
    record = {
        "environment": about,
        "workloads": [result.to_dict() for result in results],
        "goals": [{"met": verdict.met, "text": verdict.text} for verdict in verdicts],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
