"""What was measured: every round's figures, and the medians, spreads and ratios made of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.workloads import GOALS, Goal, Workload

if TYPE_CHECKING:
    from benchmarks.spec import Figures


@dataclass
class Row:
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
class Sheet:
    """All contenders of one workload, and why the others are not there."""

    workload: Workload
    points: tuple[int, ...]
    rows: list[Row] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def row(self, contender: str) -> Row | None:
        return next((row for row in self.rows if row.id == contender), None)

    def floor(self, point: int) -> tuple[str, float] | None:
        for contender in self.workload.floors:
            row = self.row(contender)
            value = row.median("time", point) if row else None
            if row and value is not None:
                return row.label, value
        return None

    def ratio(self, row: Row, point: int) -> float | None:
        value, floor = row.median("time", point), self.floor(point)
        return value / floor[1] if value is not None and floor else None

    def metric(self, contender: str, name: str, point: int) -> float | None:
        row = self.row(contender)
        return row.median(name, point) if row else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "workload": self.workload.name,
            "what": self.workload.what,
            "unit": self.workload.unit,
            "floors": {str(point): floor[0] for point in self.points if (floor := self.floor(point))},
            "contenders": {row.id: self._row_to_dict(row) for row in self.rows},
            "absent": self.absent,
        }

    def _row_to_dict(self, row: Row) -> dict[str, Any]:
        points: dict[str, dict[str, Any]] = {}
        for point in self.points:
            metrics = sorted({name for figures in row.rounds for name in figures.get(point, {})})
            points[str(point)] = {name: _summary(row.values(name, point)) for name in metrics}
            if metrics:
                points[str(point)]["ratio"] = self.ratio(row, point)
        return {"points": points, "note": row.note, "failure": row.failure}


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


@dataclass(frozen=True)
class Verdict:
    met: bool
    text: str


def judge(sheets: list[Sheet]) -> list[Verdict]:
    """Hold the figures against the goals; a goal whose figures are missing is left out."""
    verdicts: list[Verdict] = []
    for goal in GOALS:
        for sheet in sheets:
            if sheet.workload.name == goal.workload:
                for contender in goal.contenders:
                    points = (sheet.points[-1],) if goal.growth else sheet.points
                    verdicts += [v for point in points if (v := _judge(goal, sheet, contender, point))]
    return verdicts


def _reach(goal: Goal, sheet: Sheet, contender: str, point: int) -> float | None:
    value = sheet.metric(contender, goal.metric, point)
    if goal.growth and value is not None:
        first = sheet.metric(contender, goal.metric, sheet.points[0])
        return value / first if first else None
    return value


def _judge(goal: Goal, sheet: Sheet, contender: str, point: int) -> Verdict | None:
    value = _reach(goal, sheet, contender, point)
    others = [other for name in goal.of if (other := _reach(goal, sheet, name, point)) is not None]
    if value is None or (goal.of and not others):
        return None
    limit = goal.factor * (min(others) if others else 1.0)
    where = f" at {point:,}" if point and len(sheet.points) > 1 and not goal.growth else ""
    aim = goal.text or f"at most {goal.factor:g} x {' or '.join(goal.of)}"
    if goal.growth:
        aim = goal.text or f"growth no steeper than {' or '.join(goal.of)}"
        where = f", {sheet.points[0]:,} to {sheet.points[-1]:,}"
    # Growth is a quotient of two medians on a noisy machine: a tenth is no verdict.
    met = value <= limit * (1.1 if goal.growth else 1.0)
    got = f"x {value / min(others):.2f}" if others else f"{value:.4g}"
    return Verdict(
        met, f"{sheet.workload.name}{where}: {contender}: {aim}: {got} ({value:.4g} against {limit:.4g})"
    )
