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

    from benchmarks.results import Row, Sheet, Verdict
    from benchmarks.spec import Site

BUSY = 0.7
PACKAGES = (
    "keepalive-manager", "anyio", "uvloop", "trio",
    "aiohttp", "httpcore2", "httpx2", "asyncio-connection-pool", "redis", "hiredis", "coredis",
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


def show_sheet(console: Console, sheet: Sheet) -> None:
    series = len(sheet.points) > 1
    unit = sheet.workload.unit
    title = f"{sheet.workload.title} ({sheet.workload.name}), {unit}"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("contender")
    if series:
        for point in sheet.points:
            table.add_column(f"{sheet.workload.axis} = {point:,}", justify="right")
    else:
        for heading in ("median", "min - max", "x floor"):
            table.add_column(heading, justify="right")
    for _, heading, _, _ in sheet.workload.extras:
        table.add_column(heading, justify="right")
    for row in sorted(sheet.rows, key=lambda row: row.last("time") or 0.0 if not series else 0.0):
        style = "bold green" if row.id.startswith("keepalive") else None
        table.add_row(
            *_series(sheet, row) if series else _single(sheet, row), *_extras(sheet, row), style=style
        )
    console.print()
    console.print(table)
    console.print(f"  {escape(sheet.workload.what)}")
    if series:
        console.print("  [dim]median, and times the floor[/]")
    _show_notes(console, sheet)


def _single(sheet: Sheet, row: Row) -> list[str]:
    values = row.values("time", sheet.points[0])
    if not values:
        return [row.label, "failed" if row.failure else "-", "", ""]
    ratio = sheet.ratio(row, sheet.points[0])
    spread = f"{number(min(values))} - {number(max(values))}"
    middle = row.median("time", sheet.points[0])
    return [row.label, number(middle or 0.0), spread, times(ratio) if ratio else ""]


def _series(sheet: Sheet, row: Row) -> list[str]:
    cells = [row.label]
    for point in sheet.points:
        middle, ratio = row.median("time", point), sheet.ratio(row, point)
        cells.append(
            "-" if middle is None else f"{number(middle)}" + (f" [dim]x{times(ratio)}[/]" if ratio else "")
        )
    return cells


def _extras(sheet: Sheet, row: Row) -> list[str]:
    cells = []
    for metric, _, divisor, digits in sheet.workload.extras:
        value = row.last(metric)
        cells.append("" if value is None else f"{value / divisor:,.{digits}f}")
    return cells


def _show_notes(console: Console, sheet: Sheet) -> None:
    said: dict[str, list[str]] = {}
    for row in sheet.rows:
        if row.note:
            said.setdefault(row.note, []).append(row.label)
    for note, labels in said.items():
        console.print(f"  [dim]{', '.join(labels)}: {escape(note)}[/]")
    for row in sheet.rows:
        if row.failure:
            console.print(f"  [red]{row.label} failed: {escape(row.failure)}[/]")
    for label, why in sheet.absent.items():
        console.print(f"  [yellow]{label} is not here: {escape(why)}[/]")
    cut = [row.label for row in sheet.rows if row.rounds and row.median("time", sheet.points[-1]) is None]
    if len(sheet.points) > 1 and cut:
        console.print(f"  [yellow]-: it would have taken too long, or cannot ({', '.join(cut)})[/]")


def show_verdicts(console: Console, verdicts: list[Verdict]) -> None:
    if not verdicts:
        return
    met = sum(verdict.met for verdict in verdicts)
    console.print(f"\n[bold]Goals: {met} of {len(verdicts)} met[/]")
    for verdict in verdicts:
        mark = "[green]met   [/]" if verdict.met else "[red]missed[/]"
        console.print(f"  {mark} {escape(verdict.text)}")


def write_json(path: Path, about: dict[str, Any], sheets: list[Sheet], verdicts: list[Verdict]) -> None:
    record = {
        "environment": about,
        "workloads": [sheet.to_dict() for sheet in sheets],
        "goals": [{"met": verdict.met, "text": verdict.text} for verdict in verdicts],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
