"""Classic functions of two variables that optimizers find hard."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Surface:
    """A function of two variables, its gradient, where paths start and where they should end.

    ``value`` takes x and y, arrays of any one shape; ``gradient`` two floats. ``limits`` are those of x and y
    in the picture. ``minima`` are marked; ``saddle``, if there is one, too.
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
