"""The command line: python -m benchmarks."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import contenders, workloads
from benchmarks.report import environment, show_environment, show_sheet, show_verdicts, write_json
from benchmarks.results import Sheet, judge
from benchmarks.schedule import Plan, run_plan, split_cores
from benchmarks.server import servers

if TYPE_CHECKING:
    from benchmarks.spec import Site
    from benchmarks.workloads import Workload


def parse(argv: list[str] | None) -> argparse.Namespace:
    names = ", ".join(workload.name for workload in workloads.WORKLOADS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure keepalive side by side with its peers and with the floors nobody can go below.",
        epilog=f"Workloads: {names}. Contenders: {', '.join(entry.id for entry in contenders.ENTRIES)}.",
    )
    parser.add_argument(
        "workloads", nargs="*", metavar="workload", help="what to measure (default: everything)"
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        default=[],
        metavar="NAME",
        help="who takes part: aiohttp, or aiohttp:uvloop for one loop only",
    )
    parser.add_argument("--rounds", type=int, help="rounds of each workload (default: 5, 3 or 2, as it says)")
    parser.add_argument("--quick", action="store_true", help="one short round of each, to see that all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw an SVG for each workload there")
    parser.add_argument("--list", action="store_true", help="say who can take part here, and stop")
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        args.plan = Plan(
            workloads.choose(args.workloads), contenders.choose(args.contenders), args.rounds, args.quick
        )
    except ValueError as error:
        parser.error(str(error))
    return args


def measure(console: Console, plan: Plan, site: Site, core: int | None) -> list[Sheet]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=plan.steps())
        started: set[str] = set()

        def on_step(workload: Workload, label: str) -> None:
            if started:
                progress.advance(bar)
            started.add(workload.name)
            progress.update(bar, description=f"{workload.name:<13}{label:<36}")

        return run_plan(plan, site, core, on_step)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    console = Console(width=None if Console().is_terminal else 130)
    if args.list:
        for entry in contenders.ENTRIES:
            console.print(f"{entry.id:34}{entry.missing() or 'can take part'}")
        return 0
    start = time.monotonic()
    server_core, core = split_cores()
    with servers(server_core) as site:
        about = environment(site, pinned=core is not None)
        show_environment(console, about)
        sheets = measure(console, args.plan, site, core)
    for sheet in sheets:
        show_sheet(console, sheet)
    verdicts = judge(sheets)
    show_verdicts(console, verdicts)
    if args.json:
        write_json(args.json, about, sheets, verdicts)
    if args.plot:
        from benchmarks.plots import draw

        for path in draw(sheets, args.plot, about):
            console.print(f"drawn: {path}")
    console.print(f"\nTook {time.monotonic() - start:.0f} s.")
    return 1 if any(row.failure for sheet in sheets for row in sheet.rows) else 0
