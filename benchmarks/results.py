"""What was measured: every round's figures, and the medians, spreads and ratios made of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.goals import GOALS, Goal

if TYPE_CHECKING:
    from benchmarks.orders import Figures
    from benchmarks.workloads import Workload


@dataclass
class ContenderResult:
    """One contender in one workload."""

    id: str
    label: str
    note: str = ""
    failure: str = ""
    rounds: list[Figures] = field(default_factory=list)

    def values(self, metric: str, point: int) -> list[float]:
        return [figures[point][metric] for figures in self.rounds if metric in figures.get(point, {})]

    def median(self, metric: str, point: int) -> float | None:
        values = self.values(metric, point)
        return statistics.median(values) if values else None

    def last(self, metric: str) -> float | None:
        """Give a metric at the greatest point it was measured at."""
        points = sorted({point for figures in self.rounds for point in figures}, reverse=True)
        found = (self.median(metric, point) for point in points)
        return next((value for value in found if value is not None), None)


@dataclass
class WorkloadResult:
    """All contenders of one workload, and why the others are not there."""

    workload: Workload
    points: tuple[int, ...]
    rows: list[ContenderResult] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def row(self, contender: str) -> ContenderResult | None:
        return next((row for row in self.rows if row.id == contender), None)

    def floor(self, point: int) -> tuple[str, float] | None:
        for contender in self.workload.floors:
            row = self.row(contender)
            value = row.median("time", point) if row else None
            if row and value is not None:
                return row.label, value
        return None

    def ratio(self, row: ContenderResult, point: int) -> float | None:
        """Say how many times the floor's time a row took at a point."""
        for contender in self.workload.floors:
            floor = self.row(contender)
            if floor and floor.values("time", point):
                return versus(row, floor, "time", point)
        return None

    def to_dict(self) -> dict[str, Any]:
        return {
            "workload": self.workload.name,
            "what": self.workload.what,
            "unit": self.workload.unit,
            "floors": {str(point): floor[0] for point in self.points if (floor := self.floor(point))},
            "contenders": {row.id: self._row_to_dict(row) for row in self.rows},
            "absent": self.absent,
        }

    def _row_to_dict(self, row: ContenderResult) -> dict[str, Any]:
        points: dict[str, dict[str, Any]] = {}
        for point in self.points:
            metrics = sorted({name for figures in row.rounds for name in figures.get(point, {})})
            points[str(point)] = {name: _summary(row.values(name, point)) for name in metrics}
            if metrics:
                points[str(point)]["ratio"] = self.ratio(row, point)
        return {"points": points, "note": row.note, "failure": row.failure}


def versus(row: ContenderResult, other: ContenderResult, metric: str, point: int) -> float | None:
    """Divide round by round, then take the median: what slows a whole round down does not count."""
    mine, theirs = row.values(metric, point), other.values(metric, point)
    return _quotient(mine, theirs) if mine and theirs else None


def _quotient(mine: list[float], theirs: list[float]) -> float:
    if len(mine) == len(theirs):
        return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
    return statistics.median(mine) / statistics.median(theirs)


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


@dataclass(frozen=True)
class Verdict:
    met: bool
    text: str


def judge(results: list[WorkloadResult]) -> list[Verdict]:
    """Hold the figures against the goals; a goal whose figures are missing is left out."""
    verdicts: list[Verdict] = []
    for goal in GOALS:
        for result in results:
            rows = [result.row(contender) for contender in goal.contenders]
            if result.workload.name == goal.workload:
                verdicts += [verdict for row in rows if row and (verdict := _judge(goal, result, row))]
    return verdicts


def _judge(goal: Goal, result: WorkloadResult, row: ContenderResult) -> Verdict | None:
    """Judge a goal by the point where it is missed by most, or met by least."""
    if goal.growth:
        return _judge_growth(goal, result, row)
    points = goal.points or result.points[goal.own_first :]
    found = [judged for point in points if (judged := _judge_point(goal, result, row, point))]
    if not found:
        return None
    value, point, against = max(found)
    where = f" at {result.workload.label(point)}" if len(result.points) > 1 else ""
    aim = goal.text or f"at most {goal.factor:g} x"
    return Verdict(value <= goal.factor, f"{goal.workload}: {row.label}: {aim}: {against}{where}")


def _judge_point(
    goal: Goal, result: WorkloadResult, row: ContenderResult, point: int
) -> tuple[float, int, str] | None:
    value = row.median(goal.metric, point)
    if value is None:
        return None
    if goal.own_first:
        before = row.values(goal.metric, result.points[0])
        if not before:
            return None
        ratio = _quotient(row.values(goal.metric, point), before)
        return ratio, point, f"{value:.4g} is x {ratio:.2f} of {statistics.median(before):.4g}"
    if not goal.of:
        return value, point, f"{value:,.4g}"
    others = [other for name in goal.of if (other := result.row(name)) and other.values(goal.metric, point)]
    if not others:
        return None
    if goal.of_sum:
        if len(others) < len(goal.of):
            return None
        both = [
            sum(values)
            for values in zip(*(other.values(goal.metric, point) for other in others), strict=False)
        ]
        ratio = _quotient(row.values(goal.metric, point), both)
        return ratio, point, f"{value:.4g} is x {ratio:.2f} of their {statistics.median(both):.4g}"
    best = min(others, key=lambda other: other.median(goal.metric, point) or 0.0)
    ratio = versus(row, best, goal.metric, point) or 0.0
    return (
        ratio,
        point,
        f"{value:.4g} is x {ratio:.2f} of {best.label}'s {best.median(goal.metric, point):.4g}",
    )


def _judge_growth(goal: Goal, result: WorkloadResult, row: ContenderResult) -> Verdict | None:
    first, last = result.points[0], result.points[-1]

    def growth(row: ContenderResult) -> float | None:
        before, after = row.median(goal.metric, first), row.median(goal.metric, last)
        return after / before if before and after else None

    floor = result.row(goal.of[0])
    own, least = growth(row), growth(floor) if floor else None
    if own is None or least is None or floor is None:
        return None
    aim = f"from {first:,} to {last:,} no steeper than {floor.label}"
    # A quotient of two medians on a noisy machine: a tenth is no verdict.
    return Verdict(
        own <= 1.1 * least, f"{goal.workload}: {row.label}: {aim}: x {own:.2f} against x {least:.2f}"
    )
