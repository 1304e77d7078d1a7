"""Draws the figures: dots on a log axis or bars on a linear one, lines for the series; SVG for the README."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.contenders import find
from benchmarks.contenders.contender import Program, load
from benchmarks.contenders.empty_pools import DictOfDeques, FuturesPool, IdleTransports
from benchmarks.contenders.keepalive_manager import Keepalive
from benchmarks.contenders.raw_sockets import AnyioStream, AsyncioProtocol, BlockingSocket, LoopSocketCalls
from benchmarks.report import number, times

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import ContenderResult, WorkloadResult

INK, SOFT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
OWN, FLOOR, PEER, OTHER = "#00796b", "#9aa5b1", "#d9822b", "#5c6bc0"
FLOORS = (
    DictOfDeques,
    FuturesPool,
    IdleTransports,
    BlockingSocket,
    LoopSocketCalls,
    AsyncioProtocol,
    AnyioStream,
)
FAMILIES = (
    (OWN, "keepalive"),
    (PEER, "Python pools"),
    (OTHER, "other languages"),
    (FLOOR, "floors, no pool"),
)
DASHES = {"asyncio": "-", "uvloop": (0, (5, 2)), "trio": (0, (1, 1.5)), "": "-"}
MARKERS = {"asyncio": "o", "uvloop": "s", "trio": "^", "": "D"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "svg.hashsalt": "keepalive",
}


# Lines of one colour would be hard to tell apart.
SHADES = {"asyncio-connection-pool": "#b08d00", "httpcore2": "#b5402a", "POE Keepalive": "#8e6bbf"}


def colour(row: ContenderResult) -> str:
    kind = find(row.id).kind
    if issubclass(kind, Keepalive):
        return OWN
    if issubclass(kind, Program):
        return OTHER
    return FLOOR if issubclass(kind, FLOORS) else PEER


def draw(results: list[WorkloadResult], folder: Path, about: dict[str, Any]) -> list[Path]:
    """Write one SVG for each workload that was measured; give their paths."""
    matplotlib = load("matplotlib")
    matplotlib.use("svg")
    plt = load("matplotlib.pyplot")
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with plt.rc_context(STYLE):
        for result in results:
            rows = [row for row in result.rows if row.last("time") is not None]
            if not rows:
                continue
            figure = _figure(plt, result, rows)
            paths.append(_save(plt, figure, folder / f"{result.workload.name}.svg", about))
            if memory := [row for row in rows if row.last("bytes")]:
                path = folder / f"{result.workload.name}-memory.svg"
                paths.append(_save(plt, _memory(plt, result, memory), path, about))
    return paths


def _figure(plt: Any, result: WorkloadResult, rows: list[ContenderResult]) -> Any:
    if result.workload.labels:
        return _groups(plt, result, rows)
    return _lines(plt, result, rows) if len(result.points) > 1 else _ranks(plt, result, rows)


def _save(plt: Any, figure: Any, path: Path, about: dict[str, Any]) -> Path:
    foot = f"Python {about['python']}, {about['server'].split(',')[0]}, {about['cpu']}"
    figure.text(0.01, 0.008, foot, fontsize=7, color=SOFT, ha="left", va="bottom")
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)
    return path


def _title(axes: Any, result: WorkloadResult) -> None:
    axes.set_title(result.workload.title, loc="left", fontsize=13, fontweight="bold", pad=24)
    axes.text(0, 1.02, result.workload.what, transform=axes.transAxes, fontsize=9, color=SOFT, va="bottom")


def _families(axes: Any, rows: list[ContenderResult]) -> None:
    here = {colour(row) for row in rows}
    handles = [
        axes.plot([], [], marker="s", linestyle="", color=shade, label=label)[0]
        for shade, label in FAMILIES
        if shade in here
    ]
    axes.legend(handles=handles, loc="upper right", frameon=True, edgecolor=GRID, fontsize=8.5)


def _rank_axes(plt: Any, rows: list[ContenderResult]) -> tuple[Any, Any]:
    height = 1.5 + 0.3 * len(rows)
    figure, axes = plt.subplots(figsize=(9, height))
    figure.subplots_adjust(left=0.285, right=0.97, top=1 - 0.62 / height, bottom=0.62 / height)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=9.5)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        if colour(row) == OWN:
            tick.set_fontweight("bold")
            tick.set_color(OWN)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    return figure, axes


def _ranks(plt: Any, result: WorkloadResult, rows: list[ContenderResult]) -> Any:
    """One line per contender, the quickest on top."""
    point = result.points[0]
    rows = sorted(rows, key=lambda row: row.last("time") or 0.0)
    figure, axes = _rank_axes(plt, rows)
    greatest = max(max(row.values("time", point)) for row in rows)
    least = min(min(row.values("time", point)) for row in rows)
    for place, row in enumerate(rows):
        _mark(axes, result, row, place, left=least / 2 if result.workload.log else None)
    axis = f"{result.workload.unit}, median of {_count(rows)} rounds, whiskers from least to greatest"
    if result.workload.log:
        axes.set_xscale("log")
        axes.set_xlim(least / 2, greatest * 6)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axis += " (log scale)"
    else:
        axes.set_xlim(0, greatest * 1.28)
    if floor := result.floor(point):
        axes.axvline(floor[1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.5)
        axis += f"; dashed, \u00d71: {floor[0]}"
    axes.set_xlabel(axis, fontsize=8.5)
    _title(axes, result)
    _families(axes, rows)
    return figure


def _mark(axes: Any, result: WorkloadResult, row: ContenderResult, place: int, left: float | None) -> None:
    """Draw one contender: a bar from zero, or, as a log axis has no zero, a dot on a thin line."""
    values = row.values("time", result.points[0])
    middle = row.median("time", result.points[0]) or 0.0
    if left is None:
        axes.barh(place, middle, height=0.62, color=colour(row))
    else:
        axes.hlines(place, left, middle, color=colour(row), linewidth=1.2, alpha=0.35)
        axes.plot(middle, place, "o", color=colour(row), markersize=8)
    spread = [[middle - min(values)], [max(values) - middle]]
    axes.errorbar(middle, place, xerr=spread, color=INK, linewidth=1, capsize=2.5, fmt="none")
    text = _value_text(result, row, result.points[0])
    place_of_text = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (max(values), place), fontsize=8.5, **place_of_text)


def _value_text(result: WorkloadResult, row: ContenderResult, point: int) -> str:
    ratio = result.ratio(row, point)
    text = f"{number(row.median('time', point) or 0.0)} {result.workload.unit}"
    if ratio:
        text += f"  \u00d7{times(ratio)}"
    if starved := row.last("starved"):
        text += f"  ({starved:.0f} of 64 tasks starved)"
    return text


def _count(rows: list[ContenderResult]) -> int:
    return max(len(row.rounds) for row in rows)


def _lines(plt: Any, result: WorkloadResult, rows: list[ContenderResult]) -> Any:
    """One line per contender over the points, both axes logarithmic; the spread is a band."""
    figure, axes = plt.subplots(figsize=(9, 5))
    figure.subplots_adjust(left=0.08, right=0.65, top=0.86, bottom=0.13)
    for row in sorted(rows, key=lambda row: -(row.last("time") or 0.0)):
        _line(axes, result, row)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(result.points, [f"{point:,}" for point in result.points])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlabel(result.workload.axis)
    axes.set_ylabel(f"{result.workload.unit} (log scale)")
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=8,
        title=f"rightmost point, {result.workload.unit}",
        title_fontsize=8,
    )
    _title(axes, result)
    return figure


def _line(axes: Any, result: WorkloadResult, row: ContenderResult) -> None:
    points = [point for point in result.points if row.values("time", point)]
    spread = [row.values("time", point) for point in points]
    entry = find(row.id)
    loop, shade = entry.loop, SHADES.get(entry.kind.name, colour(row))
    axes.fill_between(points, [*map(min, spread)], [*map(max, spread)], color=shade, alpha=0.15, linewidth=0)
    axes.plot(
        points,
        [row.median("time", point) for point in points],
        linestyle=DASHES[loop],
        linewidth=2.6 if shade == OWN else 1.5,
        marker=MARKERS[loop],
        markersize=5,
        color=shade,
        zorder=3 if shade == OWN else 2,
        label=f"{row.label}  {number(row.last('time') or 0.0)}",
    )


def _groups(plt: Any, result: WorkloadResult, rows: list[ContenderResult]) -> Any:
    """One line per contender, a mark for each point: the first one is the darkest."""
    points = result.points
    rows = sorted(rows, key=lambda row: row.median("time", points[0]) or 0.0)
    figure, axes = _rank_axes(plt, rows)
    for place, row in enumerate(rows):
        for shift, point in enumerate(points):
            values = row.values("time", point)
            if not values:
                continue
            height = place + (shift - (len(points) - 1) / 2) * 0.25
            middle = row.median("time", point) or 0.0
            axes.barh(height, middle, height=0.22, color=colour(row), alpha=1 - shift * 0.3)
            spread = [[middle - min(values)], [max(values) - middle]]
            axes.errorbar(middle, height, xerr=spread, color=INK, linewidth=0.7, fmt="none")
    shades = ", ".join(result.workload.labels)
    axes.set_xlabel(
        f"{result.workload.unit}, median of {_count(rows)} rounds; from dark to light: {shades}",
        fontsize=8.5,
    )
    _title(axes, result)
    _families(axes, rows)
    return figure


def _memory(plt: Any, result: WorkloadResult, rows: list[ContenderResult]) -> Any:
    rows = sorted(rows, key=lambda row: row.last("bytes") or 0.0)
    figure, axes = _rank_axes(plt, rows)
    for place, row in enumerate(rows):
        size = (row.last("bytes") or 0.0) / 1024
        axes.barh(place, size, height=0.62, color=colour(row))
        axes.annotate(
            f"{size:.1f} KB", (size, place), (6, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_xlim(0, 1.2 * max((row.last("bytes") or 0.0) / 1024 for row in rows))
    axes.set_xlabel("KB of the process's memory, the kernel's part not counted", fontsize=8.5)
    axes.set_title("Memory per idle connection", loc="left", fontsize=13, fontweight="bold")
    _families(axes, rows)
    return figure
