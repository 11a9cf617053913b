"""What an update rule is: hyperparameters with their domains, states, coefficients and a reference."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from fastopt.declared import Declared, Interval, LearningRate

_RATE = Interval(0.0)


class State(float):
    """The first value of a state, and whether later ones have ``signed`` numbers or are never negative.

    A state of which nothing more is known than its first value is a plain float.
    """

    __slots__ = ("signed",)

    signed: bool

    def __new__(cls, first: float = 0.0, *, signed: bool = True) -> Self:
        made = super().__new__(cls, first)
        made.signed = signed
        return made

    def __repr__(self) -> str:
        return f"State({float(self)!r}, signed={self.signed})"


class Rule(Declared):
    """An update rule with its hyperparameters: a frozen value.

    A subclass declares its hyperparameters and gives ``kernel``, ``states``, :meth:`coefficients` and
    :meth:`reference`. Every rule has ``lr``, a number or a schedule (a callable from the step, counted from 1, to a
    number), and ``maximize``, which turns descent into ascent.
    """

    if TYPE_CHECKING:
        lr: LearningRate
    maximize: bool = False

    #: The largest error of the float32 kernel after 100 steps, in ulp of the largest value that the parameter has had;
    #: for gradients of ordinary size, and where rules go by signs, away from zero.
    ulp: ClassVar[int]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if callable(cls.__dict__.get("kernel")):  # in a class it would become a method
            cls.kernel = staticmethod(cls.__dict__["kernel"])  # type: ignore[method-assign]

    @property
    def kernel(self) -> Any:
        """What applies the rule: the name of a kernel, chosen by the flags, or a function of one's own for numba."""
        raise NotImplementedError(f"{type(self).__name__} declares no kernel")

    @property
    def states(self) -> Mapping[str, float]:
        """The buffers that the kernel keeps between steps, in its order, each with its first value.

        A :class:`State` says besides whether its numbers have signs; a float may have them.
        """
        raise NotImplementedError(f"{type(self).__name__} declares no states")

    def coefficients(self, step: int) -> dict[str, float]:
        """The numbers that the kernel needs for a step (counted from 1), by name, in the kernel's order.

        The first three are ``grad_scale``, ``l2`` and ``shrink``: see :meth:`common`.
        """
        raise NotImplementedError(f"{type(self).__name__} declares no coefficients")

    def reference(
        self, step: int, p: np.ndarray, g: np.ndarray, **state: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The new parameters and states after a step, by the formula of the paper, for float64 arrays."""
        raise NotImplementedError(f"{type(self).__name__} declares no reference")

    def rate(self, step: int) -> float:
        """The learning rate of a step (counted from 1). ValueError if a schedule gives no finite number >= 0."""
        lr = self.lr
        if callable(lr):
            return _RATE.parse(f"{type(self).__name__}: lr: the schedule's value at step {step}", lr(step))
        return lr

    def common(self, lr: float) -> dict[str, float]:
        """The coefficients that every kernel starts with.

        ``grad_scale`` multiplies the gradient (and is negative to maximize), ``l2`` adds coupled weight decay to it,
        and ``shrink`` multiplies the parameters for decoupled weight decay.
        """
        try:
            sign, coupled, decoupled = self._decays
        except AttributeError:
            sign, coupled, decoupled = self.__dict__["_decays"] = self._find_decays()
        return {"grad_scale": sign, "l2": coupled, "shrink": 1.0 - lr * decoupled}

    # Not a functools.cached_property: before Python 3.12 it has a lock, which an interrupt can leave locked.
    _decays: ClassVar[tuple[float, float, float]]

    def _find_decays(self) -> tuple[float, float, float]:
        """The sign of the gradient, coupled and decoupled weight decay: they are asked for in every step."""
        decay = getattr(self, "weight_decay", 0.0)
        sign = -1.0 if self.maximize else 1.0
        return (sign, 0.0, decay) if getattr(self, "decoupled_weight_decay", False) else (sign, decay, 0.0)

    def table(self, steps: int, dtype: DTypeLike = np.float64) -> np.ndarray:
        """The coefficients of the steps 1 to ``steps``, a row each: shape ``(steps, coefficients)``.

        ``dtype`` is that of the buffers. A row is what a kernel takes as its last argument.
        """
        return np.array([list(self.coefficients(step).values()) for step in range(1, steps + 1)], dtype)

    def decayed(self, lr: float, p: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What references start with: parameters and descent direction after weight decay of either kind."""
        decay: Any = getattr(self, "weight_decay", 0.0)
        if self.maximize:
            g = -g
        if decay == 0:  # 0 * p would be NaN for a parameter that is infinite
            return p, g
        if getattr(self, "decoupled_weight_decay", False):
            return p - lr * decay * p, g
        return p, g + decay * p
