"""The picture of a bench: throughput over size for each rule, with the limit drawn in."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fastopt.backend.choice import NAMES
from fastopt.bench.report import caches, human_size, processor
from fastopt.bench.session import Result
from fastopt.pictures import COLOURS, FAINT, INK, legend_columns, logarithmic, picture, quiet

GREY = "#77777f"
MARKERS = "oDs^vPX"
OURS: dict[str, Any] = {"linewidth": 2.0, "markersize": 4.5, "linestyle": "-", "zorder": 3}
THEIRS: dict[str, Any] = {"linewidth": 1.2, "markersize": 3.5, "linestyle": (0, (4, 1.5)), "zorder": 2}


def draw(path: Path, results: Sequence[Result]) -> None:
    """Writes the picture: a panel for each rule, or bars for each rule if there is only one size."""
    engines = list(dict.fromkeys(result.engine for result in results))
    looks = {
        engine: {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        for index, engine in enumerate(engines)
    }
    single = len({result.size for result in results}) == 1
    with picture(path) as figure:
        (_bars if single else _panels)(figure, results, looks)


def _groups(results: Sequence[Result]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.rule, []).append(result)
    return groups


def _title(results: Sequence[Result], what: str) -> str:
    first = results[0]
    return f"{what}   {processor()}, {first.threads} thread{'s' * (first.threads > 1)}, {first.dtype}"


def _limit(results: Sequence[Result]) -> dict[int, float]:
    """The limit's throughput by size, as the fastest process had it: GB/s."""
    found: dict[int, float] = {}
    for result in results:
        if result.limit_seconds is not None:
            limit = result.gigabytes_per_second * result.seconds / result.limit_seconds
            found[result.size] = max(limit, found.get(result.size, 0.0))
    return found


def _panels(figure: Figure, results: Sequence[Result], looks: dict[str, dict]) -> None:
    groups = _groups(results)
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure.set_size_inches(max(4.4 * columns, 6.4), 3.1 * rows + 1.0)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (rule, members) in zip(grid.flat, groups.items(), strict=False):
        _panel(axes, rule, members, looks)
    for axes in list(grid.flat)[len(groups) :]:
        axes.set_visible(False)
    shown = [result.gigabytes_per_second for result in results]
    shown += [value for members in groups.values() for value in _limit(members).values()]
    grid[0, 0].set_ylim(max(min(shown) * 0.6, max(shown) * 1e-4), max(shown) * 2.0)
    for index in range(columns):
        last = (len(groups) - 1 - index) // columns
        grid[last, index].tick_params(labelbottom=True)
        grid[last, index].set_xlabel("parameters", color=INK, fontsize=9)
    for row in grid[:, 0]:
        row.set_ylabel("GB/s", color=INK, fontsize=9)
    _legend(figure, grid[0, 0])
    figure.suptitle(_title(results, "Throughput of a step"), x=0.01, ha="left", fontsize=12, color=INK)


def _panel(axes: Axes, rule: str, results: list[Result], looks: dict[str, dict]) -> None:
    quiet(axes, rule)
    axes.set_xscale("log")
    limit = _limit(results)
    if limit:
        sizes = sorted(limit)
        axes.fill_between(sizes, [limit[size] for size in sizes], 1e-9, color=FAINT, alpha=0.35, linewidth=0)
        axes.plot(sizes, [limit[size] for size in sizes], color=GREY, linewidth=1.2, label="limit")
    for engine, look in looks.items():
        points = sorted((each.size, each.gigabytes_per_second) for each in results if each.engine == engine)
        if points:
            axes.plot(*zip(*points, strict=True), **look, **(OURS if engine in NAMES else THEIRS), label=engine)
    logarithmic(axes)
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_size(round(value))))
    _mark_caches(axes, results)


def _mark_caches(axes: Axes, results: list[Result]) -> None:
    """Where the buffers of a step begin to be larger than a cache."""
    first = results[0]
    moved = first.gigabytes_per_second * 1e9 * first.seconds / first.size
    itemsize = 8 if first.dtype == "float64" else 4
    held = (moved / itemsize + 1) / 2 * itemsize  # bytes held for a parameter, from those moved
    low, high = axes.get_xlim()
    for name, size in caches().items():
        if low < size / held < high:
            axes.axvline(size / held, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            axes.text(
                size / held,
                1.0,
                f"{name} ",
                ha="right",
                va="top",
                fontsize=8,
                color=GREY,
                transform=axes.get_xaxis_transform(),
            )


def _bars(figure: Figure, results: Sequence[Result], looks: dict[str, dict]) -> None:
    groups = _groups(results)
    height = 0.8 / len(looks)
    figure.set_size_inches(9.0, 1.3 + len(groups) * max(0.36, 0.17 * len(looks)))
    axes = figure.subplots()
    quiet(axes, "")
    axes.grid(visible=False, axis="y")
    seen = set()
    for row, members in enumerate(groups.values()):
        for index, (engine, look) in enumerate(looks.items()):
            for each in (each for each in members if each.engine == engine):
                axes.barh(
                    row - 0.4 + (index + 0.5) * height,
                    each.gigabytes_per_second,
                    height * 0.86,
                    color=look["color"],
                    label=None if engine in seen else engine,
                )
                seen.add(engine)
        for limit in _limit(members).values():
            axes.plot(
                [limit, limit],
                [row - 0.46, row + 0.46],
                color=INK,
                linewidth=1.6,
                label=None if "limit" in seen else "limit",
            )
            seen.add("limit")
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.set_xlabel("GB/s", color=INK, fontsize=9)
    _legend(figure, axes)
    what = f"Throughput of a step of {human_size(results[0].size)} parameters"
    figure.suptitle(_title(results, what), x=0.01, ha="left", fontsize=12, color=INK)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = legend_columns(labels, figure.get_figwidth(), 9)
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)
