"""The command line: python -m benchmarks."""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import contenders, workloads
from benchmarks.report import environment, show_environment, show_result, show_verdicts, write_json
from benchmarks.results import WorkloadResult, judge
from benchmarks.run_rounds import Plan, run_plan, split_cores
from benchmarks.start_servers import find_nginx, servers

if TYPE_CHECKING:
    from benchmarks.orders import Site
    from benchmarks.workloads import Workload


def build_parser() -> argparse.ArgumentParser:
    names = ", ".join(workload.name for workload in workloads.WORKLOADS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure keepalive side by side with its peers and with the floors nobody can go below.",
        epilog=f"Workloads: {names}. Contenders: {', '.join(entry.id for entry in contenders.ENTRIES)}.",
    )
    add = parser.add_argument
    add("workloads", nargs="*", metavar="workload", help="what to measure (default: the manager's own; all)")
    help_contenders = "who takes part: aiohttp, or aiohttp:uvloop for one loop only"
    add("--contenders", nargs="+", default=[], metavar="NAME", help=help_contenders)
    add("--rounds", type=int, help="rounds of each workload (default: 5, 3 or 2, as it says)")
    add("--quick", action="store_true", help="one short round of each, to see that all works")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--plot", type=Path, metavar="DIR", help="draw an SVG for each workload there")
    help_server = "what to exchange with (default: nginx where it is installed)"
    add("--server", choices=("auto", "nginx", "bundled"), default="auto", help=help_server)
    add("--list", action="store_true", help="say who can take part here, and stop")
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib")
    if args.server == "nginx" and find_nginx() is None:
        parser.error("nginx is not installed (Debian: nginx-light)")
    try:
        entries, chosen = contenders.choose(args.contenders), workloads.choose(args.workloads)
    except ValueError as error:
        parser.error(str(error))
    args.plan = Plan(chosen, entries, args.rounds, args.quick)
    return args


def measure(console: Console, plan: Plan, site: Site, core: int | None) -> list[WorkloadResult]:
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
    with servers(server_core, args.server) as site:
        about = environment(site, pinned=core is not None)
        show_environment(console, about)
        results = measure(console, args.plan, site, core)
    for result in results:
        show_result(console, result)
    verdicts = judge(results)
    show_verdicts(console, verdicts)
    if args.json:
        write_json(args.json, about, results, verdicts)
    if args.plot:
        from benchmarks.plots import draw

        for path in draw(results, args.plot, about):
            console.print(f"drawn: {path}")
    parts = ", ".join(f"{result.workload.name} {result.seconds:.0f}" for result in results)
    console.print(f"\nTook {time.monotonic() - start:.0f} s ({parts}).")
    return 1 if any(row.failure for result in results for row in result.rows) else 0
