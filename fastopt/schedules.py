"""Learning-rate schedules: frozen callables from the step, counted from 1, to a number.

Any callable will do as a rule's ``lr``; these are the usual ones, and checkpoints carry them.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from fastopt.declared import (
    Choice,
    ClosedUnitInterval,
    Declared,
    Interval,
    NonNegative,
    OpenUnitInterval,
    Positive,
    Whole,
    real,
)
from fastopt.errors import quoted

Steps = Annotated[int, Whole(1)]
StepsOrZero = Annotated[int, Whole(0)]
_RATE, _METRIC = Interval(0.0), Interval(-math.inf)
Direction = Annotated[str, Choice("min", "max")]


class Schedule(Declared):
    """A schedule that declares its numbers: calling it with a step gives the learning rate of that step."""

    def __call__(self, step: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} gives no learning rate")

    def progress(self) -> dict[str, Any]:
        """What a schedule has learnt from the run, for checkpoints; empty if it depends on the step alone."""
        return {}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Takes over what :meth:`progress` gave. TypeError or ValueError if it cannot be that."""
        if progress:
            raise ValueError(f"{type(self).__name__}: progress must be empty, not {quoted(progress)}")

    def adopting(self, other: Self) -> list[tuple]:
        """The calls, of functions implemented in C, by which it takes over the progress of a schedule of its kind."""
        return []

    def __reduce__(self) -> tuple:
        return *super().__reduce__(), self.progress()

    def __setstate__(self, progress: dict[str, Any]) -> None:
        self.resume(progress)


class Constant(Schedule):
    """``lr`` at every step."""

    lr: NonNegative

    def __call__(self, step: int) -> float:
        return self.lr


class Step(Schedule):
    """``lr``, multiplied by ``factor`` after every ``every`` steps."""

    lr: NonNegative
    every: Steps
    factor: Positive = 0.1

    def __call__(self, step: int) -> float:
        return self.lr * _power(self.factor, (step - 1) // self.every)


class Exponential(Schedule):
    """``lr``, multiplied by ``factor`` after each step."""

    lr: NonNegative
    factor: Positive

    def __call__(self, step: int) -> float:
        return self.lr * _power(self.factor, step - 1)


class _WarmedUp(Schedule):
    """``lr`` after a linear warm-up over ``warmup`` steps, then down to ``final`` at the step ``steps``."""

    lr: NonNegative
    steps: Steps
    warmup: StepsOrZero = 0
    final: NonNegative = 0.0

    def check(self) -> None:
        if self.warmup >= self.steps:
            raise ValueError(
                f"{type(self).__name__}: warmup must be less than steps, not {self.warmup} of {self.steps}"
            )

    def __call__(self, step: int) -> float:
        if step <= self.warmup:
            return self.lr * step / self.warmup
        return self.final + (self.lr - self.final) * self.shape(_fraction(step, max(self.warmup, 1), self.steps))

    def shape(self, done: float) -> float:
        """How much is left, from 1 to 0, when a fraction of the way is done."""
        raise NotImplementedError(f"{type(self).__name__} has no shape")


class Cosine(_WarmedUp):
    """Up to ``lr`` in a line over ``warmup`` steps, then down to ``final`` at the step ``steps`` by half a cosine.

    Loshchilov & Hutter, SGDR, ICLR 2017, arXiv:1608.03983, without restarts.
    """

    def shape(self, done: float) -> float:
        return (1 + math.cos(math.pi * done)) / 2


class Linear(_WarmedUp):
    """Up to ``lr`` in a line over ``warmup`` steps, then down to ``final`` at the step ``steps`` in another."""

    def shape(self, done: float) -> float:
        return 1 - done


class OneCycle(Schedule):
    """One cycle: from ``lr / start_divisor`` up to ``lr``, then down to ``lr / final_divisor``, both by half a cosine.

    Smith & Topin, 2017, arXiv:1708.07120; the peak comes at the step ``rise * steps``, as in
    ``torch.optim.lr_scheduler.OneCycleLR``.
    """

    lr: NonNegative
    steps: Steps
    rise: OpenUnitInterval = 0.3
    start_divisor: Positive = 25.0
    final_divisor: Positive = 250000.0

    def __call__(self, step: int) -> float:
        peak = max(1.0, self.rise * self.steps)
        if step < peak:
            low, left = self.lr / self.start_divisor, 1 - _fraction(step, 1, peak)
        else:
            low, left = self.lr / self.final_divisor, _fraction(step, peak, self.steps)
        return low + (self.lr - low) * (1 + math.cos(math.pi * left)) / 2


class Plateau(Schedule):
    """``lr``, multiplied by ``factor`` whenever a metric has not improved for more than ``patience`` observations.

    The run reports the metric with :meth:`observe`. An observation improves on the best one so far if it is better by
    the fraction ``threshold`` of it. The learning rate never falls below ``final``.
    """

    lr: NonNegative
    factor: ClosedUnitInterval = 0.1
    patience: StepsOrZero = 10
    mode: Direction = "min"
    threshold: NonNegative = 1e-4
    final: NonNegative = 0.0

    if TYPE_CHECKING:
        _progress: ClassVar[dict[str, Any]]

    def check(self) -> None:
        self.resume({"current": self.lr, "best": None, "waited": 0})

    def __call__(self, step: int) -> float:
        return self._progress["current"]

    def observe(self, metric: float) -> None:
        """Takes note of a metric; one that is not finite counts as no improvement."""
        metric = real("metric", metric)
        current, best, waited = self._progress["current"], self._progress["best"], self._progress["waited"]
        sign = 1 if self.mode == "min" else -1
        if math.isfinite(metric) and (best is None or sign * metric < sign * best - self.threshold * abs(best)):
            best, waited = float(metric), 0
        else:
            waited += 1
        if waited > self.patience:
            current, waited = max(current * self.factor, min(self.final, current)), 0
        self.resume({"current": current, "best": best, "waited": waited})

    def progress(self) -> dict[str, Any]:
        return dict(self._progress)

    def resume(self, progress: Mapping[str, Any]) -> None:
        if not isinstance(progress, Mapping) or set(progress) != {"current", "best", "waited"}:
            raise ValueError(f"Plateau: progress must have current, best and waited, not be {quoted(progress)}")
        best = progress["best"]
        self.__dict__["_progress"] = {
            "current": _RATE.parse("Plateau: progress: current", progress["current"]),
            "best": best if best is None else _METRIC.parse("Plateau: progress: best", best),
            "waited": Whole(0).parse("Plateau: progress: waited", progress["waited"]),
        }

    def adopting(self, other):
        return [(self.__dict__.update, {"_progress": other.progress()})]


def _power(factor: float, times: int) -> float:
    try:
        return factor**times
    except OverflowError:
        return math.inf


def _fraction(step: float, first: float, last: float) -> float:
    return min(max((step - first) / (last - first), 0.0), 1.0) if last > first else 1.0


#: The schedules by name, read-only.
SCHEDULES = MappingProxyType({s.__name__: s for s in (Constant, Step, Exponential, Cosine, OneCycle, Linear, Plateau)})
