"""How a step runs: the gradient, its norm, the rows of coefficients, and the commit that nothing interrupts."""

import math
from collections.abc import Callable, Mapping
from operator import setitem
from typing import Any, NamedTuple

import numpy as np

from fastopt.backend.process import process
from fastopt.backend.program import Backend, Call, Program, Work, run
from fastopt.buffers import FlatBuffer
from fastopt.gradients import Apart, Flat, check_flat, check_mapping, worth_reading_in_place
from fastopt.state import MICRO_STEP, STEP, OptimizerState

_SMALLER, _LARGER = 2.0**-600, 2.0**600  # the square of no float64 number overflows, or underflows, when scaled so
_ROUGH = 2.0**-960  # a sum of squares below this may consist of numbers that have lost bits to underflow
_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_
_ALL = slice(None)


class Reading:
    """A gradient, and the programs that read it: each is bound when it is first needed.

    It ``lasts`` if it is read from the memory of one object of the user's, and need not be looked at in every step.
    """

    __slots__ = ("add", "add_up", "gradient", "lasts", "scale", "sum_squares", "update")

    def __init__(self, gradient: Flat | Apart, lasts: bool) -> None:
        self.gradient, self.lasts = gradient, lasts
        self.update: Program | None = None
        self.add: Program | None = None
        self.add_up: Program | None = None
        self.sum_squares: Callable[[float], float] | None = None
        #: By what the gradient is multiplied when it is added to others: SGD's coefficients, for a step of minus one.
        self.scale = np.array([1.0, 0.0, 1.0, -1.0], gradient.state.dtype)


class PlannedKernel(NamedTuple):
    """A kernel that steps run: for which group, over how many parameters and elements, in how many runs of memory."""

    group: str
    kernel: str
    parameters: int
    elements: int
    runs: int

    def __str__(self) -> str:
        counts = f"{self.parameters} parameters, {self.elements} elements, {self.runs} runs of memory"
        return f"{self.group!r}: {self.kernel} ({counts})"


class Explanation(NamedTuple):
    """What steps run, where and why; as text, a line for each kernel.

    ``backend`` runs ``kernels``, in order, on at most ``threads`` threads; ``reason`` says why that backend was taken.
    ``frozen`` are the patterns of the groups that steps leave out.
    """

    backend: str
    reason: str
    threads: int
    kernels: tuple[PlannedKernel, ...]
    frozen: tuple[str, ...]

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"up to {self.threads} threads"
        frozen = [f"{pattern!r}: frozen" for pattern in self.frozen]
        return "\n".join([f"{self.backend}, {threads}: {self.reason}", *map(str, self.kernels), *frozen])


class Norm(NamedTuple):
    """A gradient's norm times ``unit``, a power of two: a norm may be beyond the numbers that a float can hold."""

    scaled: float
    unit: float

    @property
    def value(self) -> float:
        """The norm: infinite where it is too large for a float, or the gradient is not finite."""
        return self.scaled / self.unit

    @property
    def finite(self) -> bool:
        """Whether every number of the gradient is finite."""
        return math.isfinite(self.scaled)

    def clip(self, max_norm: float) -> float:
        """By what a gradient is multiplied, so that its norm is at most ``max_norm``."""
        norm = self.value
        if norm + _CLIP_EPS <= max_norm:
            return 1.0
        if math.isinf(norm):
            return max_norm * self.unit / self.scaled
        return max_norm / (norm + _CLIP_EPS)


class StepPlan:
    """What steps have in common, as long as they update the same groups, in the same process.

    Whatever it writes before a commit is its own: an error or an interrupt leaves the state as it was.
    """

    def __init__(self, state: OptimizerState, backend: Backend, threads: int) -> None:
        self.state, self.backend, self.threads = state, backend, threads
        self.forks = process.forks
        self.groups = [group for group in state.groups.values() if not group.frozen]
        self.names = [name for group in self.groups for name in group.names]
        #: The counts after the step that is being made.
        self.counts = state.counts.copy()
        #: What follows an update, besides the moving average.
        self._finish: list[Call] = [(setitem, state.counts, _ALL, self.counts)]
        self._finish += [call for group in self.groups for call in group.finish]
        self._average = self._bind_average()
        #: Where the last of the gradients that are accumulated is added to the others, to be that of an update.
        self._total = np.empty(0, state.dtype)
        if state.accumulated is not None:
            self._finish.append((setitem, state.accumulated.flat, _ALL, 0))
            self._total = FlatBuffer.empty(state.layout, state.dtype).flat
        self._sum = Reading(Flat(state, self._total), lasts=False)
        #: Where mappings are copied to that are not read in place.
        self._staging: tuple[FlatBuffer, Reading] | None = None

    # Take: which memory a gradient is in

    def read(self, grads: Any, *, measured: bool) -> Reading:
        """The programs that read a gradient; ``measured`` says that its norm will be asked for.

        TypeError or ValueError, which name ``grads`` or its member, if it is none.
        """
        if not isinstance(grads, Mapping) or isinstance(grads, FlatBuffer):
            return Reading(check_flat(grads, self.state), lasts=True)
        arrays = check_mapping(grads, self.state, self.names)
        if not measured and worth_reading_in_place(arrays, self.state):
            return Reading(Apart(self.state, arrays), lasts=False)
        if self._staging is None:
            buffer = FlatBuffer.empty(self.state.layout, self.state.dtype)
            self._staging = buffer, Reading(Flat(self.state, buffer.flat), lasts=False)
        buffer, reading = self._staging
        for name, staged in buffer.items():
            staged[...] = arrays.get(name, 0)
        return reading

    # Measure

    def norm(self, reading: Reading, scale: float) -> "Norm":
        """The 2-norm of the gradient times ``scale``."""
        if reading.sum_squares is None:
            gradients = [piece.array for piece in reading.gradient.pieces(self.names)]
            reading.sum_squares = self.backend.bind_sum_squares(gradients, self.threads)
        total, unit = reading.sum_squares(1.0), 1.0
        if not math.isfinite(total):
            unit = _SMALLER
        elif total < _ROUGH and self.state.dtype.itemsize == 8:
            unit = _LARGER
        if unit != 1.0:
            total = reading.sum_squares(unit)
        return Norm(abs(scale) * math.sqrt(total), unit)

    # Accumulate

    def add(self, reading: Reading, scale: float) -> None:
        """Adds a gradient, times ``scale``, to the accumulated ones: a commit of its own."""
        add = reading.add or self._bind_add(reading)
        reading.scale[0] = scale
        counts = self.state.counts
        run([*add.calls, (setitem, counts, MICRO_STEP, counts[MICRO_STEP] + 1)], add.lock)

    def add_up(self, reading: Reading, scale: float) -> Reading:
        """The sum of the accumulated gradients and this one, times ``scale``, in memory of the plan's own."""
        add = reading.add_up or self._bind_add_up(reading)
        reading.scale[0] = scale
        run(add.calls, add.lock)
        return self._sum

    # Rows

    def fill(self, scale: float) -> int:
        """Fills the rows of coefficients and the counts of the next step, for gradients to be multiplied by ``scale``.

        Returns the step's number, counted from 1.
        """
        counts = self.counts
        counts[_ALL] = self.state.counts
        counts[MICRO_STEP] = 0
        for group in self.groups:
            counts[group.index] += 1
            group.prepare(counts[group.index], scale)
        counts[STEP] += 1
        return counts[STEP]

    # Commit

    def bind_update(self, reading: Reading) -> Program:
        """The program that updates parameters, states, counts and averages by the gradient: the commit of a step."""
        state, works = self.state, []
        for group in self.groups:
            kernel, states = group.rule.kernel, [state.states[name] for name in group.rule.states]
            for piece in reading.gradient.pieces(group.names):
                buffers = [state.flat[piece.place], piece.array]
                for buffer in states:
                    start = buffer.layout.places[piece.first].start
                    buffers.append(buffer.flat[start : start + piece.array.size])
                works.append(Work(kernel, tuple(buffers), group.k))
        update, average = self._bind(works), self._average
        lock = update.lock or average.lock
        reading.update = Program([*update.calls, *average.calls, *self._finish], (update, average), lock)
        return reading.update

    def _bind(self, works: list[Work]) -> Program:
        return self.backend.bind(works, self.threads)

    def _bind_average(self) -> Program:
        """SGD's kernel, with the parameters as its gradient."""
        state = self.state
        if state.ema is None or state.ema_decay is None:
            return Program([], ())
        k = np.array([state.ema_decay - 1.0, 0.0, state.ema_decay, 1.0], state.dtype)
        return self._bind([Work("sgd", (state.ema.flat, state.flat), k)])

    def _bind_add(self, reading: Reading) -> Program:
        assert self.state.accumulated is not None
        reading.add = self._adding(reading, self.state.accumulated.flat)
        return reading.add

    def _bind_add_up(self, reading: Reading) -> Program:
        assert self.state.accumulated is not None
        add = self._adding(reading, self._total)
        copy = setitem, self._total, _ALL, self.state.accumulated.flat
        reading.add_up = Program([copy, *add.calls], add.keeps, add.lock)
        return reading.add_up

    def _adding(self, reading: Reading, array: np.ndarray) -> Program:
        """SGD's kernel, for a step of minus one."""
        pieces = reading.gradient.whole
        return self._bind([Work("sgd", (array[piece.place], piece.array), reading.scale) for piece in pieces])

    # Explain

    def kernels(self) -> tuple[PlannedKernel, ...]:
        """The kernels that steps run, in order, but for what follows them."""
        layout, found = self.state.layout, []
        for group in self.groups:
            kernel = group.rule.kernel
            name = kernel if isinstance(kernel, str) else f"{kernel.__module__}.{kernel.__qualname__}"
            elements = sum(math.prod(layout.shapes[each]) for each in group.names)
            runs = len(layout.runs(group.names))
            found.append(PlannedKernel(group.pattern, name, len(group.names), elements, runs))
        return tuple(found)
