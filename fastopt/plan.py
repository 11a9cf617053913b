"""How a step runs: the gradient, its norm, the rows of coefficients, and the commit that nothing interrupts."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import setitem
from typing import Any, NamedTuple

import numpy as np

from fastopt.backend.process import process
from fastopt.backend.program import Backend, Call, Follower, OtherTerms, Program, Work, joined, run
from fastopt.buffers import FlatBuffer
from fastopt.encoded import between, block_of
from fastopt.gradients import Apart, Flat, check_flat, check_mapping, is_readable, worth_reading_in_place
from fastopt.groups import Group
from fastopt.norm import Norm
from fastopt.rows import Merged, Rows, divided, merged, others
from fastopt.state import MICRO_STEP, STEP, OptimizerState
from fastopt.storage import Stream
from fastopt.storages import noise

_SMALLER, _LARGER = 2.0**-600, 2.0**600  # the square of no float64 number overflows, or underflows, when scaled so
_ROUGH = 2.0**-960  # a sum of squares below this may consist of numbers that have lost bits to underflow
_LARGEST = float(np.finfo(np.float32).max)
_HUGE = _LARGEST**2  # the square of a norm as large
_ALL = slice(None)
_made = tuple.__new__  # Norm(...) takes twice as long


class Reading:
    """A gradient, and the programs that read it: each is bound when it is first needed.

    It ``lasts`` if it is read from the memory of one object of the user's, and need not be looked at in every step.
    """

    __slots__ = (
        "add",
        "add_up",
        "estimate",
        "gradient",
        "lasts",
        "measures",
        "scale",
        "stage",
        "staged",
        "stride",
        "sum_squares",
        "update",
    )

    def __init__(self, gradient: Flat | Apart, lasts: bool) -> None:
        self.gradient, self.lasts = gradient, lasts
        self.update: Program | None = None
        self.stride: Program | None = None  # in its place, where a stride of lookahead ends
        self.estimate: Program | None = None
        self.stage: Program | None = None
        self.add: Program | None = None
        self.add_up: Program | None = None
        self.sum_squares: Callable[[float], float] | None = None
        self.measures: list[Any] | None = None  # what a plan of another file takes of it
        self.staged: list[Any] | None = None  # and what that of stages makes of it
        #: For the kernel ``blend``, when the gradient is added to others: by what these and it are multiplied.
        self.scale = np.array([1.0, 1.0], gradient.state.dtype)


class PlannedKernel(NamedTuple):
    """A kernel that steps run: for which group, over how many parameters and elements, in how many runs of memory.

    ``storages`` says how the parameters (``"params"``), the states and what follows them are stored, by their names.
    """

    group: str
    kernel: str
    parameters: int
    elements: int
    runs: int
    storages: Mapping[str, str]

    def __str__(self) -> str:
        counts = f"{self.parameters} parameters, {self.elements} elements, {self.runs} runs of memory"
        if not {*self.storages.values()} <= {"float64"} and not {*self.storages.values()} <= {"float32"}:
            counts += "; " + ", ".join(f"{name} in {storage}" for name, storage in self.storages.items())
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
        #: The keys of stochastic rounding in the step that is being made; None if nothing is rounded so.
        self._keys: np.ndarray | None = None
        if state.rounds_stochastically:
            most = max((len(group.rule.kernel_states) for group in self.groups), default=0) + 2
            self._keys = np.zeros(-(-most // 2), np.uint64)
        self._average_k = np.array([state.ema_decay or 0.0, 1.0 - (state.ema_decay or 0.0)], state.dtype)
        self._finish += [call for group in self.groups for call in group.finish]
        self._average = self._bind_average()
        #: Where the last of the gradients that are accumulated is added to the others, to be that of an update.
        self._total = np.empty(0, state.dtype)
        if state.accumulated is not None:
            self._finish.append((setitem, state.accumulated.flat, _ALL, 0))
            self._total = FlatBuffer.empty(state.layout, state.dtype).flat
        self._sum = Reading(Flat(state, self._total), lasts=False)
        #: Where mappings are copied to that are not read in place: of which dtype it is, and its members.
        self._staging: tuple[np.dtype, dict[str, np.ndarray], Reading] | None = None

    # Take: which memory a gradient is in

    def read(self, grads: Any, *, measured: bool) -> Reading:
        """The programs that read a gradient; ``measured`` says that its norm will be asked for.

        TypeError or ValueError, which name ``grads`` or its member, if it is none.
        """
        if not isinstance(grads, Mapping) or isinstance(grads, FlatBuffer):
            return Reading(check_flat(grads, self.state), lasts=True)
        arrays, rows, dtypes = check_mapping(grads, self.state, self.names)
        if rows:
            return Reading(self._few(arrays, rows, measured), lasts=False)
        if not measured and worth_reading_in_place(arrays, self.state):
            return Reading(Apart(self.state, arrays), lasts=False)
        dtype = dtypes.pop() if len(dtypes) == 1 else self.state.dtype
        if self._staging is None or self._staging[0] != dtype:
            buffer = FlatBuffer.empty(self.state.layout, dtype)
            self._staging = dtype, dict(buffer), Reading(Flat(self.state, buffer.flat), lasts=False)
        _, members, reading = self._staging
        with np.errstate(all="ignore"):  # numbers of float64 may be beyond those of float32
            for name, staged in members.items():
                staged[...] = arrays.get(name, 0)
        return reading

    def _few(self, arrays: dict[str, np.ndarray], rows: dict[str, Rows], measured: bool) -> Apart:
        """A gradient of which some parameters have few rows: the others are read in place where that can be done."""
        self._check_rows(rows)
        state, written = self.state, [buffer for _, buffer in self.state.written()]
        staged = {name for group in self.groups if group.rule.stage is not None for name in group.names}

        def readable(array: np.ndarray) -> np.ndarray:
            return array if is_readable(array, written) else array.copy()

        def parts(name: str, given: Rows) -> tuple[Merged, ...]:
            count = state.layout.shapes[name][0]
            wanted = given.indices, readable(given.values), count, state.dtype, self.backend
            if measured or name in staged:  # by what reads a gradient's rows one after the other
                return (merged(*wanted, gathered=measured),)
            return divided(*wanted)

        found = {name: parts(name, given) for name, given in rows.items() if name in self.names}
        return Apart(state, {name: readable(array) for name, array in arrays.items()}, found)

    def _check_rows(self, names: Collection[str]) -> None:
        """TypeError or ValueError if steps cannot touch some rows of these parameters and leave others alone."""
        state = self.state
        for group in self.groups:
            for name in filter(names.__contains__, group.names) if group.adapted else ():
                rule = type(group.rule).__name__
                raise TypeError(f"grads[{name!r}] must be an array for {rule}, which needs all rows, not Rows")
        if state.accumulated is not None:
            name = next(iter(names))
            raise ValueError(
                f"grads[{name!r}] must be an array, not Rows, while gradients are accumulated, which makes them dense: "
                "give all rows of several gradients to one step, which adds them"
            )
        for group in self.groups:
            for name in filter(names.__contains__, group.names):
                if group.rule.stage is not None and not group.rule.rowwise:
                    raise ValueError(
                        f"grads[{name!r}] must be an array, not Rows: {type(group.rule).__name__} takes it as a whole"
                    )
                if group.rule.starts_from_parameters and not group.step:
                    raise ValueError(
                        f"grads[{name!r}] must be an array, not Rows: states of {type(group.rule).__name__} start as "
                        "the parameters are in the first step, so that one must be of all rows"
                    )
                for kept in group.rule.states:
                    block = block_of(state.states[kept], name)
                    if math.prod(state.states[kept].layout.shapes[name][1:]) % block:
                        raise ValueError(
                            f"grads[{name!r}] must be an array, not Rows: its state {kept!r} is stored in blocks of "
                            f"{block} elements, and a row has no whole number of them; in 'bfloat16' it could be"
                        )

    # Measure

    def norm(self, reading: Reading, scale: float) -> Norm:
        """The 2-norm of the gradient times ``scale``."""
        sum_squares = reading.sum_squares or self._bind_sum_squares(reading)
        total = sum_squares(1.0)
        if _ROUGH <= total < _HUGE:  # the usual case, first
            return _made(Norm, (math.sqrt(total) * abs(scale), 1.0))
        unit = 1.0
        if not math.isfinite(total):
            unit = _SMALLER
        elif total < _ROUGH and reading.gradient.itemsize == 8:
            unit = _LARGER
        if unit != 1.0:
            total = sum_squares(unit)
        norm = math.sqrt(total)
        if norm / unit > _LARGEST and reading.gradient.itemsize > self.state.dtype.itemsize:
            norm = math.inf  # kernels read float64 numbers as float32, and would read infinities
        return Norm(norm * abs(scale), unit)

    def _bind_sum_squares(self, reading: Reading) -> Callable[[float], float]:
        runs = self.state.layout.runs(self.names)
        gradients = [piece.measured() for piece in reading.gradient.pieces(runs)]
        reading.sum_squares = self.backend.bind_sum_squares(gradients, self.threads)
        return reading.sum_squares

    # Accumulate

    def add(self, reading: Reading, scale: float) -> None:
        """Adds a gradient, times ``scale``, to the accumulated ones: a commit of its own."""
        add = reading.add or self._bind_add(reading)
        reading.scale[1] = scale
        counts = self.state.counts
        self._run(add, lambda: self._bind_add(reading), (setitem, counts, MICRO_STEP, counts[MICRO_STEP] + 1))

    def add_up(self, reading: Reading, scale: float) -> Reading:
        """The sum of the accumulated gradients and this one, times ``scale``, in memory of the plan's own."""
        add = reading.add_up or self._bind_add_up(reading)
        reading.scale[1] = scale
        self._run(add, lambda: self._bind_add_up(reading))
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
            counts[group.index] = step = counts[group.index] + 1
            group.prepare(step, scale)
        counts[STEP] = step = counts[STEP] + 1
        if self._keys is not None:
            noise.fill_keys(self._keys, self.state.seed, step)
        return step

    # Hessian

    def estimate(self, reading: Reading, scale: float) -> None:
        """Updates the Hessian of every group by a gradient, times ``scale``: a commit of its own, and of nothing else.

        TypeError if there is a rule that has none.
        """
        for group in self.groups:
            group.prepare_estimate(scale)
        if self._keys is not None:  # those of the next step, which leaves the Hessian as it is
            noise.fill_keys(self._keys, self.state.seed, self.state.counts[STEP] + 1)
        self._run(reading.estimate or self._bind_estimate(reading), lambda: self._bind_estimate(reading))

    # Commit

    def commit(self, reading: Reading) -> None:
        """Updates parameters, states, counts, averages and copies by the gradient."""
        update = reading.update or self._bind_update(reading)
        try:  # as _run does, in every step
            run(update)
        except OtherTerms:
            update = self._bind_update(reading)
            run(update)

    def _run(self, program: Program, bind: Callable[[], Program], *then: Call) -> None:
        """Runs a program and what follows it, bound anew where its rows have got or lost terms."""
        try:
            run(program, *then)
        except OtherTerms:
            run(bind(), *then)

    def _bind_estimate(self, reading: Reading) -> Program:
        reading.estimate = self._bind(self._works(reading, followed=False))
        return reading.estimate

    def _bind_update(self, reading: Reading) -> Program:
        reading.update = self._update(self._works(reading, followed=True))
        return reading.update

    def _update(self, *stages: list[Work]) -> Program:
        """The program of a step that does these works on the parameters that it updates, one stage after the other."""
        return joined([*map(self._bind, stages), self._average], *self._finish)

    def _works(self, reading: Reading, *, followed: bool) -> list[Work]:
        """The kernels' works over a gradient, and what is written from the new parameters, if they are ``followed``."""
        return [work for group in self.groups for work in self._works_of(group, reading, followed=followed)]

    def _works_of(self, group: Group, reading: Reading, *, followed: bool) -> list[Work]:
        state, works = self.state, []
        kernel, states = group.rule.kernel, [state.states[name] for name in group.rule.states]
        for piece in reading.gradient.pieces(state.runs(group)):
            first, last = piece.first, piece.last
            kept = [between(buffer, first, last, state.dtype) for buffer in states]
            streams = state.numbers(first, last), piece.stream(state.dtype), *kept
            keys = self._keys if any(map(is_stochastic, streams)) else None
            followers = self._followers(first, last) if followed else ()
            k = group.adapted.rows[group.names.index(first)] if group.adapted else group.k
            works.append(Work(kernel, streams, k, followers, keys, piece.spans))
        if followed and state.ema is not None:
            for name in filter(reading.gradient.rows.__contains__, group.names):
                works += self._average_of_others(name, reading.gradient.rows[name], state.ema)
        return works

    def _average_of_others(self, name: str, parts: Sequence[Merged], ema: FlatBuffer) -> list[Work]:
        """The average of the rows that a step leaves as they are moves towards them."""
        state, shape = self.state, self.state.layout.shapes[name]
        width, indices = math.prod(shape[1:]), np.sort(np.concatenate([part.indices for part in parts]))
        spans = others(indices, width, shape[0] * width)
        streams = between(ema, name, name, state.dtype), only_read(state.numbers(name, name))
        return [Work("blend", streams, self._average_k, spans=spans)] if spans.starts.size else []

    def _followers(self, first: str, last: str) -> tuple[Follower, ...]:
        """What is written from the new parameters: those that the user has, where there is a master, copy, average."""
        state, found = self.state, []
        if state.precision.master == "float32":
            found.append(Follower(state.given(first, last)))
        if state.copy is not None:
            found.append(Follower(between(state.copy, first, last, state.dtype)))
        if state.ema is not None:
            found.append(Follower(between(state.ema, first, last, state.dtype), self._average_k))
        return tuple(found)

    def _bind(self, works: list[Work]) -> Program:
        return self.backend.bind(works, self.threads)

    def _bind_average(self) -> Program:
        """The average of those parameters that no step updates; that of the others follows it."""
        state = self.state
        if state.ema is None or state.ema_decay is None:
            return Program([], ())
        stepped = set(self.names)
        works = []
        for names in state.layout.runs([name for name in state.layout.shapes if name not in stepped]):
            first, last = names[0], names[-1]
            streams = between(state.ema, first, last, state.dtype), only_read(state.numbers(first, last))
            works.append(Work("blend", streams, self._average_k))
        return self._bind(works) if works else Program([], ())

    def _bind_add(self, reading: Reading) -> Program:
        assert self.state.accumulated is not None
        reading.add = self._adding(reading, self.state.accumulated.flat)
        return reading.add

    def _bind_add_up(self, reading: Reading) -> Program:
        assert self.state.accumulated is not None
        copy = Program([(setitem, self._total, _ALL, self.state.accumulated.flat)], ())
        reading.add_up = joined([copy, self._adding(reading, self._total)])
        return reading.add_up

    def _adding(self, reading: Reading, array: np.ndarray) -> Program:
        pieces, dtype = reading.gradient.whole, self.state.dtype
        return self._bind([Work("blend", (array[piece.place], piece.stream(dtype)), reading.scale) for piece in pieces])

    # Explain

    def kernels(self) -> tuple[PlannedKernel, ...]:
        """The kernels that steps run, in order, but for what follows them."""
        layout, found = self.state.layout, []
        for group in self.groups:
            kernel = group.rule.kernel
            name = kernel if isinstance(kernel, str) else f"{kernel.__module__}.{kernel.__qualname__}"
            elements = sum(math.prod(layout.shapes[each]) for each in group.names)
            runs = len(self.state.runs(group))
            stored = self.state.storages_of(group)
            found.append(PlannedKernel(group.pattern, name, len(group.names), elements, runs, stored))
        return tuple(found)


def is_stochastic(stream: np.ndarray | Stream) -> bool:
    """Whether what is written to a stream is rounded stochastically."""
    return isinstance(stream, Stream) and stream.stochastic


def only_read(stream: np.ndarray | Stream) -> np.ndarray | Stream:
    """A stream that takes the place of a gradient: nothing of it is rounded."""
    return stream._replace(stochastic=False) if isinstance(stream, Stream) else stream
