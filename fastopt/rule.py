"""What an update rule is: hyperparameters with their domains, states, coefficients and a reference."""

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from struct import Struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from fastopt.declared import Declared, Flag, Interval, LearningRate
from fastopt.errors import quoted

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_RATE = Interval(0.0)
_NONE: Mapping[str, float] = MappingProxyType({})


class Row:
    """A row of coefficients: an array that kernels read, and ``pack``, which fills it with so many numbers.

    ``pack`` raises OverflowError for a number that the array's dtype cannot hold.
    """

    __slots__ = ("array", "pack")

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        packed = Struct(f"={array.size}{array.dtype.char}")  # "=": too large is an error
        self.pack = partial(packed.pack_into, memoryview(array).cast("B"), 0)


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


def is_signed(first: float) -> bool:
    """Whether a state that begins so may have negative numbers: what :class:`State` says, or else yes."""
    return first.signed if isinstance(first, State) else True


class Rule(Declared):
    """An update rule with its hyperparameters: a frozen value.

    A subclass declares its hyperparameters and gives ``kernel``, ``states``, :meth:`coefficients` and
    :meth:`reference`. Every rule has ``lr``, a number or a schedule (a callable from the step, counted from 1, to a
    number), and ``maximize``, which turns descent into ascent.
    """

    if TYPE_CHECKING:
        lr: LearningRate
    maximize: bool = False

    #: What is computed of whole matrices before the kernel runs, which takes its result for the gradient and works on
    #: no state: the name of a function in ``fastopt/matrices/``, or a function of one's own. None: there is nothing.
    stage: ClassVar[Any] = None

    #: Whether the stage takes each row, along the first axis, by itself, of the parameter and of every state: then it
    #: takes some rows, too, in an array of its own.
    rowwise: ClassVar[bool] = False

    #: The largest error of the float32 kernel after 100 steps, in ulp of the largest value that the parameter has had;
    #: for gradients of ordinary size, and where rules go by signs, away from zero. With :attr:`totals`, that of steps
    #: by the scalars that the kernel's steps have reached: in these, rounding errors grow from step to step.
    ulp: ClassVar[int]
    #: The same of states, where ``ulp`` is not larger: 25 come from the rounding of 0.999 to float32.
    state_ulp: ClassVar[int] = 64
    #: In place of both where there is a stage, whose sums have no fixed order: the largest error after 30 steps in
    #: float32, over the largest magnitude in the parameter or the state.
    tolerance: ClassVar[float]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("kernel", "stage"):
            if callable(cls.__dict__.get(name)):  # in a class it would become a method
                setattr(cls, name, staticmethod(cls.__dict__[name]))

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

    def state_shape(self, state: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of a state of a parameter that has the shape ``shape``; None if such a parameter does not keep it.

        It is the parameter's own for all states that a kernel works on.
        """
        return shape

    @property
    def kernel_states(self) -> Mapping[str, float]:
        """Those of the states that the kernel works on: all of them, or none where a stage does."""
        return self.states if self.stage is None else _NONE

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError, which names the parameter, if the rule is not for parameters of that shape."""

    @property
    def scalars(self) -> Mapping[str, float]:
        """The running numbers that the rule keeps between steps besides their count, with their first values."""
        return _NONE

    def advance(self, step: int, *args: Any, **scalars: Any) -> dict[str, float]:
        """The scalars after a step (counted from 1), given those before it.

        Of a rule with :attr:`totals`, ``totals`` has the numbers of the sum over all parameters. Without them, which no
        one knows who makes no steps, the scalars stay as they are.
        """
        return {}

    def scalars_after(self, steps: int) -> dict[str, float]:
        """The scalars after so many steps, had all of them been made with these hyperparameters."""
        scalars = dict(self.scalars)
        for step in range(1, steps + 1 if scalars else 1):
            scalars = self.advance(step, **scalars)
        return scalars

    def scalars_in_place_of(self, steps: int, scalars: Mapping[str, float]) -> dict[str, float]:
        """The scalars with which the rule takes another one's place, which had these after so many steps."""
        return dict(scalars)

    @property
    def torch_scalars(self) -> Mapping[str, float]:
        """The numbers that torch.optim keeps for each parameter besides their step, with their first values.

        Other than :attr:`scalars` where it keeps a number that follows from the step.
        """
        return self.scalars

    #: Those of them that are float64 there, whatever torch's default dtype is.
    torch_float64: ClassVar[tuple[str, ...]] = ()

    @property
    def torch_moves_all_rows(self) -> bool:
        """Whether torch.optim, given a sparse gradient, moves other rows than those that have one, too."""
        return False

    @property
    def sums(self) -> str | None:
        """The name of the sum, one of ``fastopt/sums/``, that is taken over each parameter before the kernel; or None.

        It is computed from what the kernel will read, and :meth:`adapted` makes each parameter's coefficients from it.
        """
        return None

    #: Whether the numbers of the sum are added up over all parameters that a step updates by a rule of the same class.
    #: :meth:`advance` makes the scalars after the step from these totals.
    totals: ClassVar[bool] = False

    def measured(self, step: int, values: Mapping[str, float], *args: Any, **scalars: Any) -> dict[str, float]:
        """The coefficients of the sum, by name, in its order; ``values`` are those of :meth:`coefficients`, scaled.

        Of a rule with :attr:`totals`, ``scalars`` are those before the step; without them they are the first ones.
        """
        raise NotImplementedError(f"{type(self).__name__} declares no coefficients of its sum")

    def adapted(self, step: int, values: Mapping[str, float], *args: Any, **scalars: Any) -> dict[str, Any]:
        """The coefficients that follow from the sum, by name; others are as in ``values``.

        These are those of :meth:`coefficients`, scaled. The arguments after them are how many elements each parameter
        has, and the numbers of the sum, in its order: arrays of float64 with one number for each parameter. So are the
        coefficients. A rule with :attr:`totals` is given the scalars after the step in their place.
        """
        raise NotImplementedError(f"{type(self).__name__} declares no coefficients that depend on its sum")

    #: Whether torch.optim keeps the step. If not, a parameter without states is about to make its first one.
    torch_step: ClassVar[bool] = True

    def coefficients(self, step: int, *args: Any, **scalars: Any) -> dict[str, float]:
        """The numbers that the kernel needs for a step (counted from 1), by name, in the kernel's order.

        The first three are ``grad_scale``, ``l2`` and ``shrink``: see :meth:`common`. ``scalars`` are those before the
        step; without them they are those after steps with the same hyperparameters.
        """
        raise NotImplementedError(f"{type(self).__name__} declares no coefficients")

    def estimator(self) -> "Rule":
        """The rule whose steps, by the same kernel, update nothing but an estimate of the Hessian.

        TypeError if the rule has none.
        """
        raise TypeError(f"update_hessian needs rules that estimate a Hessian, not {type(self).__name__}")

    #: Whether the first step gives a state the values of the parameters, so that it must be a step of all of them.
    starts_from_parameters: ClassVar[bool] = False

    #: Whether the rule has an average of the parameters: see :meth:`averaged`.
    averages: ClassVar[bool] = False

    def averaged(self, p: np.ndarray, states: Mapping[str, np.ndarray]) -> np.ndarray:
        """The average, with which the model is evaluated, where steps have left these parameters and states."""
        raise NotImplementedError(f"{type(self).__name__} declares no average")

    def remembered(self, shape: tuple[int, ...], dtype: "DTypeLike" = np.float64) -> dict[str, np.ndarray]:
        """What :meth:`reference` gives besides a parameter of that shape, as it is before the first step, by name.

        These are the states, and the scalars where they follow from :attr:`totals`.
        """
        shapes = {name: self.state_shape(name, shape) for name in self.states}
        states = {name: np.full(own, self.states[name], dtype) for name, own in shapes.items() if own is not None}
        scalars = self.scalars if self.totals else {}
        return states | {name: np.array(first, dtype) for name, first in scalars.items()}

    def reference(
        self, step: int, p: np.ndarray, g: np.ndarray, **state: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The new parameters and states after a step, by the formula of the paper, for float64 arrays.

        Where scalars follow from :attr:`totals` they are among the states: see :meth:`remembered`.
        """
        raise NotImplementedError(f"{type(self).__name__} declares no reference")

    def rate(self, step: int) -> float:
        """The learning rate of a step (counted from 1).

        TypeError or ValueError if a schedule gives no finite number >= 0.
        """
        lr = self.lr
        if type(lr) is float:  # the usual case, first: every step asks
            return lr
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

    def rows(self, dtype: np.dtype) -> tuple[Row, Row | None]:
        """Rows of zeros: one for the coefficients, and one for those of the rule's sum, if there is one; else None.

        ValueError if coefficients are too large even for Python.
        """
        try:
            values = self.coefficients(1)
            measured = self.measured(1, values) if self.sums else None
        except OverflowError:
            raise self._too_large(dtype, {}, 1) from None
        return Row(np.zeros(len(values), dtype)), None if measured is None else Row(np.zeros(len(measured), dtype))

    def fill(self, row: Row, step: int, scale: float = 1.0, scalars: Mapping[str, float] = _NONE) -> None:
        """Fills a row with the coefficients of a step, for gradients that are to be multiplied by ``scale``.

        ValueError, which names them, if there are coefficients that the row's dtype cannot hold.
        """
        values: dict[str, float] = {}
        try:
            values = self.coefficients(step, **scalars) if scalars else self.coefficients(step)  # faster so
            if scale != 1.0:
                values["grad_scale"] *= scale
            row.pack(*values.values())
        except OverflowError:
            raise self._too_large(row.array.dtype, values, step) from None

    @np.errstate(all="ignore")
    def fill_measured(
        self, row: Row, step: int, scale: float = 1.0, scalars: Mapping[str, float] = _NONE
    ) -> dict[str, float]:
        """As :meth:`fill`, with the coefficients of the rule's sum. Returns the ``values`` for :meth:`fill_adapted`."""
        found: dict[str, float] = {}
        try:
            values = self.scaled(step, scale, scalars)
            found = self.measured(step, values, **scalars) if self.totals else self.measured(step, values)
            row.pack(*found.values())
        except OverflowError:
            raise self._too_large(row.array.dtype, found, step) from None
        return values

    @np.errstate(all="ignore")
    def fill_adapted(
        self,
        rows: np.ndarray,
        step: int,
        values: Mapping[str, float],
        sizes: np.ndarray,
        sums: np.ndarray,
        after: Mapping[str, float] = _NONE,
    ) -> None:
        """Fills a row of coefficients for each parameter, whose size and sums have one, too; else as :meth:`fill`.

        ``values`` are those of :meth:`scaled`; ``after`` are the scalars after the step, for a rule with
        :attr:`totals`.
        """
        adapted = self.adapted(step, values, **after) if self.totals else self.adapted(step, values, sizes, *sums.T)
        adapted = {**values, **adapted}
        found = np.empty((len(adapted), 1 if self.totals else len(rows)))
        for place, value in enumerate(adapted.values()):
            found[place] = value
        largest = np.finfo(rows.dtype).max
        if not np.abs(found).max(initial=0.0) <= largest:  # or there are infinities, or NaN
            large = np.isfinite(found) & (np.abs(found) > largest)
            if large.any():
                first = dict(zip(adapted, found[:, large.any(axis=0).argmax()].tolist(), strict=True))
                raise self._too_large(rows.dtype, first, step)
        rows[...] = found.T

    def _too_large(self, dtype: np.dtype, values: Mapping[str, float], step: int) -> ValueError:
        """For the coefficients of a step, or what became of them until one was too large even for Python."""
        largest = float(np.finfo(dtype).max)
        large = {name: value for name, value in values.items() if abs(value) > largest}
        found = large or f"the coefficients of step {step}"
        return ValueError(f"{quoted(self)}: too large for {dtype.name}: {found}")

    def scaled(self, step: int, scale: float = 1.0, scalars: Mapping[str, float] = _NONE) -> dict[str, float]:
        """The numbers of :meth:`coefficients`, for gradients that are to be multiplied by ``scale``."""
        values = self.coefficients(step, **scalars)
        values["grad_scale"] *= scale
        return values

    def table(self, steps: int, dtype: "DTypeLike" = np.float64) -> np.ndarray:
        """The coefficients of the steps 1 to ``steps``, a row each: shape ``(steps, coefficients)``.

        ``dtype`` is that of the buffers, float32 or float64. A row is what a kernel takes as its last argument.
        ValueError if one of them is too large for it. Of rules that take sums it has what :meth:`adapted` starts from.
        """
        table = np.empty((steps, len(self.coefficients(1))), dtype)
        scalars = dict(self.scalars)
        for step, array in enumerate(table, 1):
            self.fill(Row(array), step, 1.0, scalars)
            scalars = self.advance(step, **scalars)
        return table

    @classmethod
    def forms(cls) -> list[Self]:
        """The rule with its defaults, then one instance for each other kernel that one or two fields choose.

        These are flags turned, and numbers that are zero by default and are 0.9 then.
        """
        other: dict[str, Any] = {}
        for name, field in cls.fields.items():
            if isinstance(field.domain, Flag):
                other[name] = not field.default
            elif isinstance(field.domain, Interval) and field.default == 0 and 0.9 in field.domain:
                other[name] = 0.9
        default = cls()  # type: ignore[call-arg]
        found = {default.kernel: default}
        for names in [*combinations(other, 1), *combinations(other, 2)]:
            try:
                made = cls(**{name: other[name] for name in names})
            except ValueError:  # fields that do not go together
                continue
            found.setdefault(made.kernel, made)
        return list(found.values())

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
