"""What a step reads and writes: worked out once, and used again for as long as it holds."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from itertools import chain
from operator import attrgetter, is_, itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fastopt.backend.choice import select
from fastopt.backend.program import Follower, Program, Sums, Work, array_at, run
from fastopt.encoded import native, of_array
from fastopt.rows import Merged, check_rows, merged
from fastopt.rule import Row as Coefficients
from fastopt.rule import Rule
from fastopt.sizes import GRAIN_AWAKE
from fastopt.storage import Stream
from fastopt.storages import noise
from fastopt.torch import clipping, memory
from fastopt.torch.rows import Kind, Row, Survey
from fastopt.torch.staged import Staged
from fastopt.torch.states import Watch
from fastopt.totals import total

# All parameters are looked at in every step, since anybody may replace them, their gradients and their states. These
# functions of C are mapped over lists: a loop in Python would cost several times as much.
_gradient, _nbytes, _members = attrgetter("grad"), attrgetter("nbytes"), itemgetter("params")
_dtype = attrgetter("dtype")
_stride, _address = Tensor.stride, Tensor.data_ptr


#: Two arrays of one dtype and size: to the first from the second.
Copy = tuple[np.ndarray, np.ndarray]

# For the kernel "blend": nothing of what was there, and all of what is copied.
_COPY = {dtype: np.array([0.0, 1.0], dtype) for dtype in memory.DTYPES.values()}


class Stale(Exception):
    """A gradient came that is not as planned. The new plan expects it, or hands its parameter to torch's optimizer."""


class Gradients(NamedTuple):
    """The gradients of a plan's rows in the parameters' layout, their addresses, and which there are (None: all).

    Sparse ones are in ``sparse``, by the number of the row, and have no address.
    """

    tensors: Sequence[Tensor | None]
    addresses: np.ndarray
    present: np.ndarray | None
    sparse: Mapping[int, Merged] = MappingProxyType({})


_NO_GRADIENTS = Gradients((), np.empty(0, np.int64), None)


class PlannedKernel(NamedTuple):
    """A kernel that steps run: for parameters of which group and dtype, how many of them, with how many elements.

    ``storages`` says how the parameters (``"params"``), their master and their states are stored, by their names.
    """

    group: int
    kernel: str
    dtype: str
    parameters: int
    elements: int
    storages: Mapping[str, str]

    def __str__(self) -> str:
        counts = f"{self.parameters} parameters, {self.elements} elements of {self.dtype}"
        if {*self.storages.values()} != {self.dtype}:
            counts += "; " + ", ".join(f"{name} in {storage}" for name, storage in self.storages.items())
        return f"param_groups[{self.group}]: {self.kernel} ({counts})"


class _Column:
    """One of the numbers beside the states, for rows that have it in one dtype: read before a step, written with it."""

    def __init__(self, pieces: list[np.ndarray]) -> None:
        size, self.dtype = sum(piece.size for piece in pieces), pieces[0].dtype
        #: The numbers as they will be after the step.
        self.update = np.empty(size, self.dtype)
        #: The numbers as they are: where they lie, or a copy where their memory has several pieces.
        self.values = pieces[0] if len(pieces) == 1 else np.empty(size, self.dtype)
        ends = np.cumsum([piece.size for piece in pieces])[:-1]
        #: What is to be copied before and with a step, as pairs of arrays: to the first from the second.
        self.writes: list[Copy] = list(zip(pieces, np.split(self.update, ends), strict=True))
        self.reads: list[Copy] = []
        if len(pieces) > 1:
            self.reads = list(zip(np.split(self.values, ends), pieces, strict=True))


def _tensors(numbers: Sequence[Tensor | float], dtype: np.dtype) -> list[Tensor]:
    """The numbers as 0-d tensors. New ones lie side by side in memory, each with a storage of its own."""
    new = np.array([number for number in numbers if not isinstance(number, Tensor)], dtype)
    made = (torch.from_numpy(new[place : place + 1].reshape(())) for place in range(new.size))
    return [number if isinstance(number, Tensor) else next(made) for number in numbers]


def _pieces(numbers: Sequence[Tensor], dtype: np.dtype) -> list[np.ndarray]:
    """The memory of tensors of one element, which stay alive: an array for each run of addresses without a gap."""
    addresses = list(map(_address, numbers))
    starts = [place for place, address in enumerate(addresses) if address != addresses[place - 1] + dtype.itemsize]
    starts = sorted({0, *starts})
    return [
        array_at(addresses[start], stop - start, dtype)
        for start, stop in zip(starts, [*starts[1:], len(addresses)], strict=True)
    ]


class _Batch:
    """The rows from ``start`` to ``stop``: those of one group and one set of dtypes, which share a rule."""

    def __init__(self, rows: list[Row], rule: Rule, seed: int, start: int) -> None:
        self.group, self.start, self.stop = rows[0].group, start, start + len(rows)
        self.dtype: Any = rows[0].computes
        #: The dtype of the parameters, and how they and what belongs to them are stored, in words.
        self.stored = memory.STORED[rows[0].param.dtype].name
        self.storages, self.stage = _storages(rows), rule.stage
        #: Whether the gradients have fewer bits than what kernels compute in.
        self.narrow = rows[0].gradient.itemsize < self.dtype.itemsize
        self.columns: list[_Column] = []
        for name, dtype in zip(rows[0].scalars, map(memory.DTYPES.get, rows[0].dtypes), strict=True):
            assert dtype is not None
            numbers = [row.scalars[name] for row in rows]
            if not rows[0].counted:
                self.columns.append(_Column([np.array(numbers, dtype)]))
                continue
            tensors = _tensors(numbers, dtype)
            self.columns.append(_Column(_pieces(tensors, dtype)))
            for row, tensor in zip(rows, tensors, strict=True):
                row.entry[name] = tensor
        for row in rows:
            row.entry.update(row.kept.tensors)
        self.scalar_dtypes = [column.dtype for column in self.columns]
        #: The coefficients of the step: one set of them where all rows make the same step.
        self.k = np.empty((1, len(rule.coefficients(1))), self.dtype)
        self.first = Coefficients(self.k[0])
        #: The keys of stochastic rounding, for each set of coefficients, and what they are made from.
        self.seed = seed
        stochastic = any(numbers.stochastic for row in rows for numbers in row.kept.numbers)
        pairs = 1 + len(rows[0].kept.numbers) // 2  # of streams, of which the gradient is one, too
        self.keys = [np.empty(pairs, np.uint64) if stochastic else None]
        #: Whether the step before had the same scalars in all rows, and so left them the same.
        self.even = False
        #: Where a sum is taken over each parameter: its coefficients and its keys, a row for each, as ``k`` has, too.
        self.measured = np.empty((0, 0), self.dtype)
        self.sizes = np.array([row.param.numel() for row in rows], np.float64)
        self.sums: Sums | None = None
        if rule.sums is not None:
            values = rule.coefficients(1)
            self.measured = np.empty((len(rows), len(rule.measured(1, values))), self.dtype)
            self.k = np.empty((len(rows), len(values)), self.dtype)
            self.keys = [*np.empty((len(rows), pairs), np.uint64)] if stochastic else [None] * len(rows)

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The coefficients and keys of the row of that number, counted from ``start``, in a step that is even."""
        number = number if self.measured.size else 0
        return self.k[number], self.keys[number]

    def goes_on(self) -> bool:
        """Whether all rows have the scalars that the step before has given them."""
        return self.even and all(column.values.tobytes() == column.update.tobytes() for column in self.columns)


class _Measured(NamedTuple):
    """The sums of a batch, which have a row for each parameter, and its rows by the scalars that they share."""

    batch: _Batch
    rule: Rule
    scale: float
    distinct: list[tuple[np.ndarray, list[float]]]
    sums: np.ndarray


class Plan:
    """The parameters that kernels step, those that torch's own optimizer steps, and those that wait for a gradient."""

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        state: MutableMapping[Tensor, Any],
        rules: Sequence[Rule],
        kinds: list[Kind],
        found: Survey,
    ) -> None:
        self.others = found.others
        self._members = list(chain.from_iterable(map(_members, groups)))
        #: What the plan depends on in the rules. All else is looked at in every step.
        self.kinds = kinds
        self._waiting = found.waiting
        parts: dict[tuple, list[Row]] = {}
        for row in found.rows:
            key = row.group, row.param.dtype, row.gradient, row.sparse, row.counted, row.dtypes
            parts.setdefault(key, []).append(row)
        rows = list(chain.from_iterable(parts.values()))
        self._batches: list[_Batch] = []
        for part in parts.values():
            start = self._batches[-1].stop if self._batches else 0
            group = part[0].group
            self._batches.append(_Batch(part, rules[group], kinds[group].options.seed, start))
        columns = [column for batch in self._batches for column in batch.columns]
        works: list[Work] = []
        #: Those of the rows whose rule has a stage, by their numbers.
        self._staged: dict[int, Staged] = {}
        for batch in self._batches:
            kernel = rules[batch.group].kernel
            for number, row in enumerate(rows[batch.start : batch.stop]):
                p, *states = (numbers.stream(batch.dtype) for numbers in row.kept.numbers)
                copy = row.kept.copy
                followers = () if copy is None else (Follower(copy.stream(batch.dtype)),)
                k, keys = batch.row(number)
                if batch.stage is not None:
                    self._staged[len(works)], states = Staged(row, batch.stage, batch.seed), []
                works.append(Work(kernel, (p, _gradient_like(row), *states), k, followers, keys))
        #: What runs the kernels, and why.
        self.backend, self.backend_reason = select(own_kernel=any(not isinstance(work.kernel, str) for work in works))
        # The numbers beside the states are written in the same program, so that no interrupt can come in between.
        writes = [Work("blend", copy, _COPY[column.dtype]) for column in columns for copy in column.writes]
        reads = [Work("blend", copy, _COPY[column.dtype]) for column in columns for copy in column.reads]
        self._table = self.backend.table(self._after_stages(works), writes, GRAIN_AWAKE)
        self._works = works
        self._squares: Sums | None = None  # of the gradients, once they are asked for
        for batch in self._batches:
            sums = rules[batch.group].sums
            if sums is not None:
                pairs = zip(works[batch.start : batch.stop], batch.measured, strict=True)
                batch.sums = self.backend.sums([work._replace(k=k) for work, k in pairs], sums, GRAIN_AWAKE)
        self._reads = self.backend.bind(reads, 1) if reads else Program([], ())
        #: The works of the rows whose gradients are sparse. The table leaves them out: what they read is elsewhere.
        self._sparse = {number: works[number] for number, row in enumerate(rows) if row.sparse}
        #: How many gradients of the last step lay in another order than their parameters, and were copied.
        self.copied = 0

        self._kernels = [work.kernel for work in works]
        self._params = [row.param for row in rows]
        #: The parameters whose gradients have fewer bits than what kernels compute in.
        self.narrow = [p for batch in self._batches if batch.narrow for p in self._params[batch.start : batch.stop]]
        self._versioned = [p for p in self._params if not p.is_inference()]
        self._distributed = any(map(memory.is_distributed, self._params))
        params = self._locals(self._params)
        self._addresses = list(map(_address, params))
        self._layouts, self._sizes = list(map(_stride, params)), list(map(_nbytes, params))
        self._strides = self._layouts.copy()  # of the gradients
        self._dtypes = [row.gradient for row in rows]  # of the gradients
        self._gradient_sizes = [p.numel() * row.gradient.itemsize for row, p in zip(rows, params, strict=True)]
        #: Whether the number of bytes tells the dtype of a gradient.
        self._distinct = memory.DTYPES.keys() >= {*self._dtypes}

        kept = [row for row in rows if row.entry]
        for row in kept:
            state[row.param] = row.entry
        names = [[*row.kept.tensors, *(row.scalars if row.counted else ())] for row in kept]
        written = [row.entry[name] for row, own in zip(kept, names, strict=True) for name in own]
        entries = [row.entry for row in kept]
        self._watch = Watch(state, entries, written, self._locals)

    def _locals(self, tensors: list[Tensor]) -> list[Tensor]:
        return list(map(memory.local, tensors)) if self._distributed else tensors

    def holds(self, groups: Sequence[Any], state: Any) -> bool:
        """Whether parameters, states and their memory are still what they were."""
        try:
            return (
                _same(self._members, list(chain.from_iterable(map(_members, groups))))
                and self._addresses == list(map(_address, self._locals(self._params)))
                and self._watch.holds(state)
                and not any(p.grad is not None for p in self._waiting)
            )
        except (AttributeError, KeyError, RuntimeError, TypeError):  # something is no tensor with memory any more
            return False

    def prepare(self, rules: Sequence[Rule], gradients: Gradients, narrow: float = 1.0, wide: float = 1.0) -> None:
        """Works out the coefficients of the step. ValueError if a dtype cannot hold one of them.

        Gradients of the parameters in ``narrow`` are still to be multiplied by a number, and so are the others.
        """
        if self._reads.calls:
            run(self._reads.calls, self._reads.lock)
        present = gradients.present
        measured: list[_Measured] = []
        for batch in self._batches:
            part = None if present is None else present[batch.start : batch.stop]
            rule, scale = rules[batch.group], narrow if batch.narrow else wide
            if batch.sums is None:
                self._prepare(batch, rule, part, scale, gradients)
            else:
                measured.append(self._measure(batch, rule, part, scale, gradients))
        totals = total([each.sums for each in measured if each.rule.totals])
        for each in measured:
            _adapt(each, totals)

    def squares(self, gradients: Gradients, threads: int) -> float:
        """The sum of the squares of the gradients: of DTensors, in all processes."""
        if not self._params:
            return 0.0
        if self._squares is None:
            ones = {dtype: np.ones(1, dtype) for dtype in memory.DTYPES.values()}
            works = [work._replace(k=ones[work.k.dtype], followers=(), keys=None) for work in self._works]
            self._squares = self.backend.sums(works, "sum_squares", GRAIN_AWAKE)
        squares = self._squares.take(threads, gradients.addresses)[:, 0]
        for row, found in gradients.sparse.items():
            values = of_array(found.array, found.array.dtype)
            squares[row] = self.backend.bind_sum_squares([values], threads)(1.0)
        return clipping.total(squares, self._params)

    def prepare_estimates(self, rules: Sequence[Rule], gradients: Gradients) -> None:
        """Works out the coefficients of an update of the Hessian: the numbers beside the states stay as they are."""
        self.prepare([rule.estimator() for rule in rules], gradients)
        for batch in self._batches:
            for column in batch.columns:
                column.update[:] = column.values

    def run(self, gradients: Gradients, threads: int) -> None:
        """One step of the kernels, with the coefficients that were prepared."""
        if not self._params:
            return
        stepped = self._versioned
        if gradients.present is not None:
            pairs = zip(self._params, gradients.tensors, strict=True)
            stepped = [p for p, gradient in pairs if gradient is not None and not p.is_inference()]
        increment_version(stepped)
        addresses = self._with_stages(gradients.addresses) if self._staged else gradients.addresses
        program = self._table.bind(addresses, threads)
        if gradients.sparse:
            of_rows = self.backend.bind(self._works_of_rows(gradients.sparse), threads)
            program = Program([*program.calls, *of_rows.calls], (program, of_rows), program.lock or of_rows.lock)
        run(program.calls, program.lock)

    def _works_of_rows(self, sparse: Mapping[int, Merged]) -> list[Work]:
        works = []
        for number, found in sparse.items():
            work = self._sparse[number]
            if found.array.size:
                p, _, *states = work.streams
                values = of_array(found.array, work.k.dtype)
                works.append(work._replace(streams=(p, values, *states), spans=found.spans))
        return works

    def _after_stages(self, works: Sequence[Work]) -> list[Work]:
        """The works where stages have taken the gradients, then those that write to states what stages give."""
        found = list(works)
        for row, staged in self._staged.items():
            p, _ = found[row].streams
            found[row] = found[row]._replace(streams=(p, staged.direction))
        return found + [work for staged in self._staged.values() for work in staged.writes]

    def _with_stages(self, addresses: np.ndarray) -> np.ndarray:
        """What these works read in place of gradients at these addresses."""
        found, writes = addresses.copy(), []
        for row, staged in self._staged.items():
            found[row], *states = staged.addresses if addresses[row] else [0] * len(staged.addresses)
            writes += states
        return np.concatenate([found, np.array(writes, np.int64)])

    def gradients(self) -> Gradients:
        """The gradients of the rows. Raises :class:`Stale` if kernels cannot read one of them.

        A parameter that got another layout in the same memory is found here, too: its gradient has the new layout.
        """
        if not self._params:
            return _NO_GRADIENTS
        self.copied = 0
        gradients: list[Any] = list(map(_gradient, self._params))
        if not (self._distributed or self._sparse) and memory.PLAIN.issuperset(map(type, gradients)):
            try:
                addresses = np.fromiter(map(_address, gradients), np.int64, len(gradients))
                if (
                    self._gradient_sizes == list(map(_nbytes, gradients))
                    and self._strides == list(map(_stride, gradients))
                    and (self._distinct or self._dtypes == list(map(_dtype, gradients)))
                ):
                    return Gradients(gradients, addresses, None)
            except RuntimeError:  # a gradient without memory: a sparse one
                pass
        sparse = dict[int, Merged]()
        addresses = np.zeros(len(gradients), np.int64)
        with torch.no_grad():
            for row, (gradient, p) in enumerate(zip(gradients, self._params, strict=True)):
                if gradient is None:
                    continue
                if row in self._sparse:
                    sparse[row] = self._rows(row, gradient, p)
                else:
                    gradients[row] = self._readable(row, memory.local_gradient(gradient, p), memory.local(p))
                    addresses[row] = gradients[row].data_ptr()
        present = np.array([gradient is not None for gradient in gradients])
        return Gradients(gradients, addresses, None if present.all() else present, sparse)

    def _rows(self, row: int, gradient: Tensor, param: Tensor) -> Merged:
        """The rows of a sparse gradient. ValueError if the parameter has no such ones."""
        sparse = memory.is_sparse(gradient) and gradient.dtype == self._dtypes[row]
        if not sparse or param.nbytes != self._sizes[row] or memory.rows_obstacle(gradient, param):
            raise Stale
        found, shape = memory.rows(gradient), tuple(param.shape)
        check_rows(f"a gradient of a parameter of the shape {shape}", found, shape)
        computes = self._sparse[row].k.dtype
        return merged(found.indices, found.values, shape[0], computes, self.backend, gathered=False)

    def _readable(self, row: int, gradient: Tensor, param: Tensor) -> Tensor:
        """The gradient, or a copy of it where its elements lie in another order than the parameter's."""
        unchanged = param.nbytes == self._sizes[row] and param.stride() == self._layouts[row]
        if not unchanged or gradient.dtype != self._dtypes[row] or memory.gradient_obstacle(gradient, param):
            raise Stale
        if not memory.same_layout(gradient, param):
            self.copied += 1
            return memory.like(param, gradient)
        self._strides[row] = gradient.stride()  # dimensions of size 1 may have any stride
        return gradient

    def _prepare(
        self, batch: _Batch, rule: Rule, present: np.ndarray | None, scale: float, gradients: Gradients
    ) -> None:
        """Works out the coefficients of a batch, and its scalars after the step."""
        columns = batch.columns
        if present is None and batch.goes_on():
            before = [column.values.item(0) for column in columns]
            after = _fill(batch.first, rule, scale, before, batch.scalar_dtypes)
            _refresh(batch.keys[0], batch.seed, after[0])
            for column, value in zip(columns, after, strict=True):
                column.update[:] = value
            if batch.stage is not None:
                self._stage(rule, int(after[0]), batch.k[0], range(batch.start, batch.stop), gradients)
            return
        batch.even = False
        distinct = _distinct(batch, present)
        if not distinct:
            return
        batch.k = np.empty((len(distinct), batch.k.shape[1]), batch.dtype)
        batch.first = Coefficients(batch.k[0])
        batch.keys = [None if keys is None else np.empty_like(keys) for keys in [batch.keys[0]] * len(distinct)]
        for number, (chosen, scalars) in enumerate(distinct):
            after = _fill(Coefficients(batch.k[number]), rule, scale, scalars, batch.scalar_dtypes)
            _refresh(batch.keys[number], batch.seed, after[0])
            for column, value in zip(columns, after, strict=True):
                column.update[chosen] = value
            self._use(batch.start + chosen, batch.k[number], batch.keys[number])
            if batch.stage is not None:
                self._stage(rule, int(after[0]), batch.k[number], batch.start + chosen, gradients)
            batch.even = len(chosen) == batch.stop - batch.start

    def _use(self, rows: np.ndarray, k: np.ndarray, keys: np.ndarray | None) -> None:
        """Has the works of these rows read their coefficients, and keys, from these arrays."""
        self._table.use(rows, k, keys)
        if self._sparse:
            for row in self._sparse.keys() & set(rows.tolist()):
                self._sparse[row] = self._sparse[row]._replace(k=k, keys=keys)

    def _measure(
        self, batch: _Batch, rule: Rule, present: np.ndarray | None, scale: float, gradients: Gradients
    ) -> _Measured:
        """Takes the sums over the parameters of a batch, which coefficients of their own follow from."""
        assert batch.sums is not None
        distinct = _distinct(batch, present)
        for chosen, scalars in distinct:
            row = Coefficients(batch.measured[chosen[0]])
            step, before, _ = _scalars(rule, scalars, batch.scalar_dtypes)
            with np.errstate(all="ignore"):
                rule.fill_measured(row, step, scale, before)
            batch.measured[chosen] = row.array
        sums = batch.sums.take(torch.get_num_threads(), gradients.addresses[batch.start : batch.stop])
        return _Measured(batch, rule, scale, distinct, sums)

    def _stage(self, rule: Rule, step: int, k: np.ndarray, rows: Iterable[int], gradients: Gradients) -> None:
        """Runs the stage of some rows. The sign and the scale are for it: the kernel takes what it gives as it is."""
        scale, k[0] = float(k[0]), 1.0
        for row in rows:
            self._staged[row].run(rule, step, gradients.tensors[row], scale)

    @property
    def looks(self) -> int:
        """How many steps have looked whether anybody had changed the states."""
        return self._watch.looks

    def kernels(self) -> tuple[PlannedKernel, ...]:
        """The kernels that steps run, in order."""
        found = []
        for batch in self._batches:
            kernel, params = self._kernels[batch.start], self._locals(self._params[batch.start : batch.stop])
            name = kernel if isinstance(kernel, str) else f"{kernel.__module__}.{kernel.__qualname__}"
            elements = sum(map(Tensor.numel, params))
            found.append(PlannedKernel(batch.group, name, batch.stored, len(params), elements, batch.storages))
        return tuple(found)


def _adapt(measured: _Measured, totals: tuple[float, ...]) -> None:
    """Works out the coefficients of each parameter of a batch from its sums, and the scalars after the step."""
    batch, rule, scale, distinct, sums = measured
    for chosen, scalars in distinct:
        step, before, after = _scalars(rule, scalars, batch.scalar_dtypes, totals if rule.totals else None)
        for column, value in zip(batch.columns, after, strict=True):
            column.update[chosen] = value
        found = np.empty((len(chosen), batch.k.shape[1]), batch.dtype)
        numbers = dict(zip(rule.torch_scalars, after[1:], strict=True))
        with np.errstate(all="ignore"):
            rule.fill_adapted(found, step, scale, before, batch.sizes[chosen], sums[chosen], numbers)
        batch.k[chosen] = found
        for number in chosen:
            _refresh(batch.keys[number], batch.seed, step)


def _distinct(batch: _Batch, present: np.ndarray | None) -> list[tuple[np.ndarray, list[float]]]:
    """The rows of a batch that are present, by the scalars that they share; those of no row change with the step."""
    for column in batch.columns:
        column.update[:] = column.values
    rows = np.arange(batch.stop - batch.start) if present is None else np.flatnonzero(present)
    if not rows.size:
        return []
    scalars = np.stack([column.values[rows] for column in batch.columns], axis=1, dtype=np.float64)
    distinct, which = np.unique(scalars, axis=0, return_inverse=True)
    return [(rows[which.reshape(-1) == number], numbers.tolist()) for number, numbers in enumerate(distinct)]


def _storages(rows: Sequence[Row]) -> dict[str, str]:
    """How the parameters of some rows, their masters and states are stored, by name, in words."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        kept = row.kept
        named = zip(("params" if kept.copy is None else "master", *kept.states), kept.numbers, strict=True)
        for name, numbers in (*(() if kept.copy is None else (("params", kept.copy),)), *named):
            words = f"{numbers.storage.name}, stochastic" if numbers.stochastic else numbers.storage.name
            found.setdefault(name, {})[words] = None
    return {name: " and ".join(words) for name, words in found.items()}


def _refresh(keys: np.ndarray | None, seed: int, step: float) -> None:
    """Fills in the keys of stochastic rounding, if there are some, for a step."""
    if keys is not None:
        noise.fill_keys(keys, seed, int(step))


def _gradient_like(row: Row) -> np.ndarray | Stream:
    """What stands for a gradient where only its dtype and size matter: one number, as often as there are elements."""
    storage, size = memory.STORED[row.gradient], memory.local(row.param).numel()
    parts = tuple(np.broadcast_to(np.zeros((), part.dtype), size) for part in storage.parts)
    return native(Stream(storage, parts, size), row.computes)


def _same(before: Sequence[Any], now: Sequence[Any]) -> bool:
    return len(before) == len(now) and all(map(is_, before, now))


def _fill(row: Coefficients, rule: Rule, scale: float, scalars: list[float], dtypes: list[np.dtype]) -> list[float]:
    """Fills in the coefficients of the step that follows these scalars, and returns the scalars after it.

    ``scale`` is what gradients are multiplied by.
    """
    step = int(scalars[0]) + 1
    if len(scalars) == 1:
        rule.fill(row, step, scale)
        return [step]
    step, before, after = _scalars(rule, scalars, dtypes)
    with np.errstate(all="ignore"):
        rule.fill(row, step, scale, before)
    return after


def _scalars(
    rule: Rule, scalars: list[float], dtypes: list[np.dtype], totals: tuple[float, ...] | None = None
) -> tuple[int, dict[str, Any], list[float]]:
    """The step that follows these scalars, the rule's scalars before it, and all of them after it.

    If ``totals`` of its sums are given, they follow from these.

    They are rounded as torch rounds them. It computes with 0-d tensors in their own dtypes, as NumPy does with its
    scalars, and what a rule makes anew, a Python number, becomes a tensor of torch's default dtype first.
    """
    step = int(scalars[0]) + 1
    with np.errstate(all="ignore"):
        pairs = zip(rule.torch_scalars, dtypes[1:], scalars[1:], strict=True)
        before = {name: dtype.type(number) for name, dtype, number in pairs}
        default = memory.default_dtype().type
        following = rule.advance(step, **before) if totals is None else rule.advance(step, totals=totals, **before)
        after = [
            number if isinstance(number, np.floating) else dtype.type(default(number))
            for number, dtype in zip(following.values(), dtypes[1:], strict=True)
        ]
    return step, before, [step, *after]
