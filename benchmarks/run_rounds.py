"""Runs the measurements: A B C, A B C, each in a fresh process, until all rounds are done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.contenders.contender import Program
from benchmarks.orders import Figures, Order, Site, figures_from_json
from benchmarks.results import ContenderResult, WorkloadResult
from benchmarks.start_servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.contenders import Entry
    from benchmarks.workloads import Workload

LONGEST = 90.0
LACKING = {
    "tls_port": "no certificate can be made: trustme is not installed",
    "proxy_port": "tinyproxy is not installed",
    "dns_port": "dnsmasq is not installed",
}
RAISED = re.compile(r"[A-Za-z_.]+(Error|Exception|Interrupt|Stream)\b(:|$)")


@dataclass(frozen=True)
class Plan:
    workloads: list[Workload]
    entries: list[Entry]
    rounds: int | None
    quick: bool

    def rounds_of(self, workload: Workload) -> int:
        if self.rounds is not None:
            return self.rounds
        return 1 if self.quick else workload.rounds

    def points_of(self, workload: Workload) -> tuple[int, ...]:
        return workload.quick_points if self.quick else workload.points

    def players(self, workload: Workload) -> list[Entry]:
        return [entry for entry in self.entries if workload.name in entry.kind.plays]

    def steps(self) -> int:
        return sum(self.rounds_of(workload) * len(self.players(workload)) for workload in self.workloads)


def split_cores() -> tuple[int | None, int | None]:
    """Give the server's core and the contenders'; None where there is only one, or no way to say it."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[-1]) if len(cores) > 1 else (None, None)


def run_plan(
    plan: Plan, site: Site, core: int | None, on_step: Callable[[Workload, str], None]
) -> list[WorkloadResult]:
    absent = {entry: reason for entry in plan.entries if (reason := entry.missing() or _build(entry))}
    results: list[WorkloadResult] = []
    for workload in plan.workloads:
        start = time.monotonic()
        result = WorkloadResult(workload, plan.points_of(workload))
        results.append(result)
        _say_absent(result, plan, absent)
        players = [entry for entry in plan.players(workload) if entry not in absent]
        if missing := [LACKING[port] for port in workload.needs if not getattr(site, port)]:
            result.absent["all"] = "; ".join(missing)
            players = []
        for entry in players:
            result.rows.append(
                ContenderResult(entry.id, entry.label, entry.kind.remarks.get(workload.name, ""))
            )
        for _ in range(plan.rounds_of(workload)):
            for entry, row in zip(players, result.rows, strict=True):
                on_step(workload, entry.label)
                if not row.failure:
                    _measure(_order(plan, workload, entry, site, core), entry, row)
        result.seconds = time.monotonic() - start
    return results


def _say_absent(result: WorkloadResult, plan: Plan, absent: dict[Entry, str]) -> None:
    for entry in plan.entries:
        plays = result.workload.name in entry.kind.plays
        if plays and entry in absent:
            result.absent[entry.label] = absent[entry]
        elif not plays and (why := entry.kind.remarks.get(result.workload.name)):
            result.absent[entry.label] = why


def _build(entry: Entry) -> str | None:
    if issubclass(entry.kind, Program):
        try:
            entry.kind.build()
        except subprocess.CalledProcessError as error:
            return f"does not build: {error.stderr.strip().splitlines()[-1]}"
    return None


def _order(plan: Plan, workload: Workload, entry: Entry, site: Site, core: int | None) -> Order:
    budget = workload.budget / 3 if plan.quick else workload.budget
    patience = 1.0 if plan.quick else 4.0
    return Order(workload.name, entry.id, budget, plan.points_of(workload), patience, core, site)


def _measure(order: Order, entry: Entry, row: ContenderResult) -> None:
    """Have a fresh process carry the order out; what goes wrong is the row's failure, and said."""
    try:
        row.rounds.append(_spawn(order, entry))
    except subprocess.TimeoutExpired:
        row.failure = f"not done after {LONGEST:.0f} s"
    except subprocess.CalledProcessError as error:
        row.failure = _cause(error.stderr) or f"ended with status {error.returncode}"
    except ValueError as error:
        row.failure = str(error)


def _cause(errors: str) -> str:
    """Find the line that names the first exception: what follows it was caused by it, or holds it."""
    lines = [line.strip(" |+-") for line in errors.splitlines()]
    named = [line for line in lines if RAISED.match(line)]
    return (named or [line for line in lines if line] or [""])[0]


def _spawn(order: Order, entry: Entry) -> Figures:
    if issubclass(entry.kind, Program):
        argv, parse = entry.kind.command(order), entry.kind.parse
    else:
        argv, parse = [sys.executable, "-m", "benchmarks.measurement_process", order.to_json()], _last_line

    def pin() -> None:
        if order.core is not None:
            os.sched_setaffinity(0, {order.core})

    done = subprocess.run(
        argv, cwd=ROOT, check=True, capture_output=True, text=True, timeout=LONGEST, stdin=subprocess.DEVNULL,
        preexec_fn=pin,
    )  # fmt: skip
    return parse(done.stdout)


def _last_line(output: str) -> Figures:
    return figures_from_json(output.splitlines()[-1])
