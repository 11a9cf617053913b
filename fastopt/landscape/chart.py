"""The paths as a picture and as a table."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from rich.console import Console
from rich.table import Table

from fastopt.errors import InputError
from fastopt.landscape.paths import Trace
from fastopt.landscape.surfaces import SURFACES, Surface
from fastopt.pictures import INK, folded, legend_columns, line_style, picture

WIDTHS = (4.0, 1.6)  # the first path is the widest, so that paths that coincide can all be seen
GROUND = LinearSegmentedColormap.from_list("ground", ("#46618c", "#7d9bbb", "#b4c9d8", "#dfe8ec", "#f8f9f7"))


def show(traces: dict[str, list[Trace]], console: Console | None = None) -> None:
    """Print rate, steps and last height above the minimum of every path as a table."""
    console = console or Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 140)
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, justify in (("surface", "left"), ("optimizer", "left"), ("lr", "right"), ("steps", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("height above the minimum", justify="right")
    for name, found in traces.items():
        for place, trace in enumerate(found):
            cells = (trace.optimizer, f"{trace.lr:.3g}", str(len(trace.points) - 1), f"{trace.height:.2e}")
            table.add_row("" if place else name, *cells)
    console.print(table, soft_wrap=True)


def draw(path: Path, traces: dict[str, list[Trace]]) -> None:
    """Draw every surface with its paths into the PNG ``path``. Raises InputError for "out"."""
    try:
        with picture(path) as figure:
            _draw(figure, traces)
    except OSError as error:
        raise InputError("out", f"must be a file that can be written, not {path}: {error.strerror}") from None


def _draw(figure: Figure, traces: dict[str, list[Trace]]) -> None:
    figure.set_size_inches(13, 10.6)
    for axes, surface in zip(figure.subplots(2, 2).flat, SURFACES, strict=True):
        _ground(axes, surface)
        found = traces[surface.name]
        for number, (trace, width) in enumerate(zip(found, np.linspace(*WIDTHS, len(found)), strict=True)):
            _path(axes, trace, number, width)
        _marks(axes, surface)
    handles = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=legend_columns(list(handles), 13, 11),
        frameon=False,
        fontsize=11,
        labelcolor=INK,
        handlelength=2.4,
        columnspacing=2.2,
    )


def _ground(axes: Axes, surface: Surface) -> None:
    """Filled contours at heights of equal ratio, dark where it is low."""
    (left, right), (bottom, top) = surface.limits
    x, y = np.meshgrid(np.linspace(left, right, 400), np.linspace(bottom, top, 400))
    height = np.maximum(surface.value(x, y) - surface.lowest, 1e-12)
    low, high = np.quantile(height, 0.002), height.max()
    levels = np.geomspace(low, high * 1.001, 18)
    depth = np.log(np.maximum(height, low * 1.0001))
    axes.contourf(x, y, depth, levels=np.log(levels), cmap=GROUND)
    axes.contour(x, y, depth, levels=np.log(levels), colors="white", linewidths=0.5, alpha=0.7, linestyles="solid")
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_title(surface.name, loc="left", fontsize=13, fontweight="bold", color=INK, pad=8)
    axes.set_title(surface.formula, loc="right", fontsize=9, color="#6b6b76", pad=8)
    axes.tick_params(labelsize=8, colors="#6b6b76", length=0)
    axes.spines[:].set_visible(False)


def _path(axes: Axes, trace: Trace, number: int, width: float) -> None:
    style = line_style(number)
    halo = [withStroke(linewidth=width + 0.4, foreground="white")]
    x, y = trace.points.T
    axes.plot(x, y, linewidth=width, label=folded(trace.optimizer), path_effects=halo, zorder=3, **style)
    axes.plot(x[-1], y[-1], "o", markersize=width + 3.5, color=style["color"], markeredgecolor="white", zorder=4)


def _marks(axes: Axes, surface: Surface) -> None:
    edge: dict[str, Any] = {"markeredgecolor": INK, "linestyle": "none", "zorder": 5}
    axes.plot(*surface.start, "o", markersize=10, color="white", markeredgewidth=1.8, label="start", **edge)
    x, y = zip(*surface.minima, strict=True)
    axes.plot(x, y, "*", markersize=19, color="#F0E442", markeredgewidth=1.1, label="minimum", **edge)
    if surface.saddle is not None:
        outline = [withStroke(linewidth=3.5, foreground="white")]
        axes.plot(
            *surface.saddle,
            "X",
            markersize=10,
            color="white",
            markeredgewidth=1.3,
            label="saddle point",
            path_effects=outline,
            **edge,
        )
