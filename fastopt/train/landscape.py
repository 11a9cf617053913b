"""Paths of optimizers over classic surfaces, as one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from rich.console import Console
from rich.table import Table

import fastopt
from fastopt import specs
from fastopt.errors import InputError
from fastopt.pictures import INK, folded, legend_columns, line_style, picture
from fastopt.train.loop import Backend

DEFAULT = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "lion")
MAX_OPTIMIZERS = 8
WIDTHS = (4.0, 1.6)  # the first path is the widest, so that paths that coincide can all be seen
LONGEST_STEP = 1 / 20  # of the picture's diagonal; what is longer is a leap
RATES = tuple(float(rate) for rate in np.geomspace(1e-4, 1.0, 17))
GROUND = LinearSegmentedColormap.from_list("ground", ("#46618c", "#7d9bbb", "#b4c9d8", "#dfe8ec", "#f8f9f7"))


@dataclass(frozen=True)
class Surface:
    """A function of two variables, its gradient, where paths start and where they should end.

    ``value`` takes x and y, arrays of any one shape; ``gradient`` two floats. ``limits`` are those of x and y
    in the picture. ``marks`` are its minima; ``saddle``, if there is one, is marked too.
    """

    name: str
    formula: str
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    gradient: Callable[[float, float], tuple[float, float]]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    limits: tuple[tuple[float, float], tuple[float, float]]
    steps: int
    saddle: tuple[float, float] | None = None

    @property
    def lowest(self) -> float:
        return float(self.value(*map(np.array, self.minima[0])))


def _double_well(x, y):
    return x**2 + (y**2 - 1) ** 2 / 2


def _double_well_gradient(x, y):
    return 2 * x, 2 * y * (y**2 - 1)


def _beale(x, y):
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _beale_gradient(x, y):
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    along_x = 2 * a * (y - 1) + 2 * b * (y**2 - 1) + 2 * c * (y**3 - 1)
    return along_x, 2 * x * (a + 2 * b * y + 3 * c * y**2)


def _rosenbrock(x, y):
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _rosenbrock_gradient(x, y):
    return -2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)


RAVINE_ANGLE = np.deg2rad(25)


def _ravine_axes(x, y):
    c, s = np.cos(RAVINE_ANGLE), np.sin(RAVINE_ANGLE)
    return c * x + s * y, c * y - s * x


def _ravine(x, y):
    along, across = _ravine_axes(x, y)
    return along**2 / 2 + 50 * across**2


def _ravine_gradient(x, y):
    along, across = _ravine_axes(x, y)
    c, s = np.cos(RAVINE_ANGLE), np.sin(RAVINE_ANGLE)
    return c * along - 100 * s * across, s * along + 100 * c * across


SURFACES = (
    Surface(
        "Saddle between two wells",
        "x² + (y² - 1)²/2",
        _double_well,
        _double_well_gradient,
        start=(-1.6, 0.01),
        minima=((0.0, 1.0), (0.0, -1.0)),
        limits=((-2.0, 1.4), (-1.45, 1.6)),
        steps=200,
        saddle=(0.0, 0.0),
    ),
    Surface(
        "Beale",
        "(1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²",
        _beale,
        _beale_gradient,
        start=(0.8, 1.6),
        minima=((3.0, 0.5),),
        limits=((-0.4, 4.2), (-1.0, 2.0)),
        steps=600,
    ),
    Surface(
        "Rosenbrock",
        "(1 - x)² + 100(y - x²)²",
        _rosenbrock,
        _rosenbrock_gradient,
        start=(-1.2, 1.0),
        minima=((1.0, 1.0),),
        limits=((-1.7, 1.6), (-0.5, 1.8)),
        steps=2000,
    ),
    Surface(
        "Narrow ravine",
        "u²/2 + 50v², turned by 25°",
        _ravine,
        _ravine_gradient,
        start=(-3.2, -0.7),
        minima=((0.0, 0.0),),
        limits=((-3.8, 1.2), (-2.0, 1.0)),
        steps=300,
    ),
)


@dataclass(frozen=True)
class Trace:
    """Where an optimizer went at the rate ``lr``: ``points`` (steps + 1, 2) float64 from the start on.

    ``height`` is that of the last point above the surface's minimum.
    """

    optimizer: str
    lr: float
    points: np.ndarray
    height: float


def walk(surface: Surface, rule: fastopt.Rule, steps: int, backend: Backend = "auto") -> np.ndarray:
    """The points (steps + 1, 2) float64 of a real fastopt.Optimizer; fewer once one is no longer finite."""
    point, gradient = np.array(surface.start), np.zeros(2)
    optimizer = fastopt.Optimizer(point, rule, backend=backend)
    points = np.empty((steps + 1, 2))
    points[0] = point
    for step in range(1, steps + 1):
        gradient[:] = surface.gradient(float(point[0]), float(point[1]))
        optimizer.step(gradient)
        if not np.all(np.abs(point) < 1e6):
            return points[:step]
        points[step] = point
    return points


def search(surface: Surface, rule: fastopt.Rule, backend: Backend = "auto") -> tuple[float, np.ndarray]:
    """The rate of ``RATES`` with the best path, and that path.

    Best is the lowest mean logarithm of the height above the minimum, over all steps. Paths inside the
    picture and without leaps, which the eye can follow, come before any with leaps, and those before any
    that leave it.
    """
    walks = [(lr, walk(surface, rule.replace(lr=lr), surface.steps, backend)) for lr in RATES]
    return min(walks, key=lambda found: _cost(surface, found[1]))


def _cost(surface: Surface, points: np.ndarray) -> tuple[bool, bool, float]:
    lower, upper = np.array(surface.limits).T
    whole = len(points) == surface.steps + 1
    inside = whole and bool(np.all((points >= lower) & (points <= upper)))
    lengths = np.hypot(*np.diff(points, axis=0).T)
    leaps = np.count_nonzero(lengths > LONGEST_STEP * np.hypot(*(upper - lower)))
    return not inside, bool(leaps), float(np.mean(np.log10(_heights(surface, points) + 1e-9)))


def paths(optimizers: Sequence[str], backend: Backend = "auto") -> dict[str, list[Trace]]:
    """The traces of each optimizer, in order, by the name of the surface.

    An optimizer whose text gives ``lr`` uses it; for any other it is searched. Raises InputError.
    """
    if len(optimizers) > MAX_OPTIMIZERS:
        raise InputError("optimizer", f"got {len(optimizers)}; allowed: up to {MAX_OPTIMIZERS}")
    rules: dict[str, fastopt.Rule] = {}
    searched: set[tuple[fastopt.Rule, bool]] = set()
    for text in optimizers:
        rule = specs.rule(text)
        if (rule, _gives_lr(text)) in searched:
            raise InputError("optimizer", f"got {text!r} twice, be it in other words; allowed: each once")
        rules[text] = rule
        searched.add((rule, _gives_lr(text)))
    return {
        surface.name: [_trace(surface, text, rule, backend) for text, rule in rules.items()] for surface in SURFACES
    }


def _trace(surface: Surface, text: str, rule: fastopt.Rule, backend: Backend) -> Trace:
    if _gives_lr(text):
        lr, points = rule.rate(1), walk(surface, rule, surface.steps, backend)
    else:
        lr, points = search(surface, rule, backend)
    return Trace(text, lr, points, float(_heights(surface, points)[-1]))


def _gives_lr(text: str) -> bool:
    return "lr" in specs.split(text, "optimizer")[1]


def _heights(surface: Surface, points: np.ndarray) -> np.ndarray:
    return surface.value(points[:, 0], points[:, 1]) - surface.lowest


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
        raise InputError("out", f"{path} cannot be written: {error.strerror}; allowed: a new file") from None


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


def check_file(path: Path) -> None:
    """Raises InputError for "out" unless a PNG can be written to ``path``."""
    if path.suffix.lower() != ".png":
        raise InputError("out", f"got {path}; allowed: a name that ends in .png")
    if not path.parent.is_dir():
        raise InputError("out", f"got {path}; allowed: a file in a folder that is there")


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
