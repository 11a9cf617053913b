"""Where optimizers go on a surface, and at which rate they go best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import fastopt
from fastopt import specs
from fastopt.backend.choice import BackendChoice
from fastopt.landscape.surfaces import SURFACES, Surface

DEFAULT = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "lion")
MAX_OPTIMIZERS = 8
LONGEST_STEP = 1 / 20  # of the picture's diagonal; what is longer is a leap
RATES = tuple(float(rate) for rate in np.geomspace(1e-4, 1.0, 17))


@dataclass(frozen=True)
class Trace:
    """Where an optimizer went at the rate ``lr``: ``points`` (steps + 1, 2) float64 from the start on.

    ``height`` is that of the last point above the surface's minimum.
    """

    optimizer: str
    lr: float
    points: np.ndarray
    height: float


def walk(surface: Surface, rule: fastopt.Rule, steps: int, backend: BackendChoice = "auto") -> np.ndarray:
    """The points (steps + 1, 2) float64 of a real fastopt.Optimizer; fewer once one is no longer finite.

    Raises InputError if there can be no such optimizer.
    """
    point, gradient = np.array(surface.start), np.zeros(2)
    try:
        optimizer = fastopt.Optimizer(point, rule, backend=backend)
    except (fastopt.BackendError, ValueError) as error:
        raise specs.refused(error) from None
    points = np.empty((steps + 1, 2))
    points[0] = point
    for step in range(1, steps + 1):
        gradient[:] = surface.gradient(float(point[0]), float(point[1]))
        optimizer.step(gradient)
        if not np.all(np.abs(point) < 1e6):
            return points[:step]
        points[step] = point
    return points


def search(surface: Surface, rule: fastopt.Rule, backend: BackendChoice = "auto") -> tuple[float, np.ndarray]:
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


def paths(optimizers: Sequence[str], backend: BackendChoice = "auto") -> dict[str, list[Trace]]:
    """The traces of each optimizer, in order, by the name of the surface.

    An optimizer whose text gives ``lr`` uses it; for any other it is searched. Raises InputError.
    """
    found = specs.distinct(optimizers, MAX_OPTIMIZERS, lambda text: (specs.rule_of_any_shape(text), _gives_lr(text)))
    return {
        surface.name: [_trace(surface, text, rule, backend) for text, (rule, _) in found.items()]
        for surface in SURFACES
    }


def _trace(surface: Surface, text: str, rule: fastopt.Rule, backend: BackendChoice) -> Trace:
    if _gives_lr(text):
        lr, points = rule.rate(1), walk(surface, rule, surface.steps, backend)
    else:
        lr, points = search(surface, rule, backend)
    return Trace(text, lr, points, float(_heights(surface, points)[-1]))


def _gives_lr(text: str) -> bool:
    return "lr" in specs.split(text, "optimizer")[1]


def _heights(surface: Surface, points: np.ndarray) -> np.ndarray:
    return surface.value(points[:, 0], points[:, 1]) - surface.lowest
