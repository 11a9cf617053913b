"""What a step reads and writes: worked out once, and used again for as long as it holds."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import numpy as np
from torch import Tensor
from torch.autograd.graph import increment_version

from fastopt.backend.choice import select
from fastopt.backend.program import Call, Follower, Program, Sums, Work, copy_row, joined, run
from fastopt.encoded import native, of_array
from fastopt.rows import Rows, merged
from fastopt.rule import Rule
from fastopt.sizes import GRAIN_AWAKE
from fastopt.storage import Stream
from fastopt.torch import clipping, memory
from fastopt.torch.adapting import AdaptingBatch
from fastopt.torch.ascent import Ascent
from fastopt.torch.batch import Batch
from fastopt.torch.explanation import PlannedKernel
from fastopt.torch.gradients import Gradients, Reader, works_of_rows
from fastopt.torch.lookahead import Strides, Striding
from fastopt.torch.rows import Kind, Row, Survey
from fastopt.torch.staged import Staged, Stages
from fastopt.torch.states import Watch
from fastopt.totals import total

# All parameters are looked at in every step, since anybody may replace them and their states. These functions of C are
# mapped over lists: a loop in Python would cost several times as much.
_members, _address = itemgetter("params"), Tensor.data_ptr


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
        rows, self._batches = _batched(found.rows, rules, kinds)
        self._adapting = [batch for batch in self._batches if isinstance(batch, AdaptingBatch)]
        columns = [column for batch in self._batches for column in batch.columns]
        works = [
            _work(row, rules[batch.group].kernel, batch, number)
            for batch in self._batches
            for number, row in enumerate(rows[batch.start : batch.stop])
        ]
        self._stages = Stages(
            (number, Staged(rows[number], batch.stage, batch.seed))
            for batch in self._batches
            if batch.stage is not None
            for number in range(batch.start, batch.stop)
        )
        #: What runs the kernels, and why.
        self.backend, self.backend_reason = select(own_kernel=any(not isinstance(work.kernel, str) for work in works))
        # The numbers beside the states are written in the same program, so that no interrupt can come in between.
        writes = [Work("blend", copy, copy_row(column.dtype)) for column in columns for copy in column.writes]
        reads = [Work("blend", copy, copy_row(column.dtype)) for column in columns for copy in column.reads]
        self._table = self.backend.table(self._stages.works(works), writes, GRAIN_AWAKE)
        self._works = works
        striding = [
            Striding(number, rows[number], works[number], batch.seed, *ahead)
            for batch in self._batches
            if (ahead := kinds[batch.group].options.lookahead) is not None
            for number in range(batch.start, batch.stop)
        ]
        self._strides = Strides(striding, self.backend) if striding else None
        self._squares: Sums | None = None  # of the gradients, once they are asked for
        for batch in self._batches:
            batch.bind(self.backend, works[batch.start : batch.stop], rules[batch.group])
        self._reads = self.backend.bind(reads, 1) if reads else Program([], ())
        #: The works of the rows whose gradients are sparse. The table leaves them out: what they read is elsewhere.
        self._sparse = {number: works[number] for number, row in enumerate(rows) if row.sparse}
        #: What reads the gradients of the rows.
        self.gradients = Reader(rows)

        self._kernels = [work.kernel for work in works]
        #: The parameters that kernels step.
        self.params = [row.param for row in rows]
        self._ascent: Ascent | None = None  # once it is asked for
        self._versioned = [p for p in self.params if not p.is_inference()]
        distributed = any(map(memory.is_distributed, self.params))
        # No method of the plan, or the watch would hold it, and all that it knows would wait for the garbage collector.
        self._locals = _locals if distributed else _themselves
        self._addresses = list(map(_address, self._locals(self.params)))

        filled = chain.from_iterable(batch.hand_over() for batch in self._batches)
        #: What the first step that nothing refuses puts into the user's state, which stays as it is until then.
        self._entries = [(row.param, row.entry, own) for row, own in zip(rows, filled, strict=True) if row.entry or own]
        self._state = state
        self._watch: Watch | None = None

    def holds(self, groups: Sequence[Any], state: Any) -> bool:
        """Whether parameters, states and their memory are still what they were."""
        try:
            return (
                _same(self._members, list(chain.from_iterable(map(_members, groups))))
                and self._addresses == list(map(_address, self._locals(self.params)))
                and self._watch is not None
                and self._watch.holds(state)
                and not any(p.grad is not None for p in self._waiting)
            )
        except (AttributeError, KeyError, RuntimeError, TypeError):  # something is no tensor with memory any more
            return False

    def prepare(self, rules: Sequence[Rule], gradients: Gradients, narrow: float = 1.0, wide: float = 1.0) -> None:
        """Works out the coefficients of the step. ValueError if a dtype cannot hold one of them.

        Gradients that have fewer bits than what kernels compute in are still to be multiplied by ``narrow``, and the
        others by ``wide``.
        """
        if self._reads.calls:
            run(self._reads)
        present = gradients.present
        for batch in self._batches:
            which = None if present is None else present[batch.start : batch.stop]
            rule, scale = rules[batch.group], narrow if batch.narrow else wide
            for part in batch.prepare(rule, scale, which, gradients.addresses):
                if part.moved:
                    self._use(part.rows, part.k, part.keys)
                if batch.stage is not None:
                    self._stages.run(rule, part, gradients, self.backend)
        if self._adapting:
            totals = total([batch.numbers for batch in self._adapting if rules[batch.group].totals])
            for batch in self._adapting:
                batch.adapt(rules[batch.group], totals)

    def divided(self, gradients: Gradients, divisor: float) -> Gradients:
        """Quotients, in memory of their own, of the gradients that have as many bits as kernels compute in."""
        wide = (range(batch.start, batch.stop) for batch in self._batches if not batch.narrow)
        return gradients.divided(chain.from_iterable(wide), divisor)

    def squares(self, gradients: Gradients, threads: int) -> float:
        """The sum of the squares of the gradients: of DTensors, in all processes."""
        if not self.params:
            return 0.0
        if self._squares is None:
            ones = {dtype: np.ones(1, dtype) for dtype in memory.DTYPES.values()}
            works = [work._replace(k=ones[work.k.dtype], followers=()) for work in self._works]
            self._squares = self.backend.sums(works, "sum_squares", GRAIN_AWAKE)
        squares = self._squares.take(threads, gradients.addresses)[:, 0]
        for row, found in gradients.sparse.items():
            count, computes = self.params[row].shape[0], self._sparse[row].k.dtype
            once = merged(found.indices, found.values, count, computes, self.backend, gathered=False)
            values = of_array(once.array, once.array.dtype)
            squares[row] = self.backend.bind_sum_squares([values], threads)(1.0)
        return clipping.total(squares, self.params)

    def prepare_estimates(self, rules: Sequence[Rule], gradients: Gradients) -> None:
        """Works out the coefficients of an update of the Hessian: the numbers beside the states stay as they are."""
        self.prepare([rule.estimator() for rule in rules], gradients)
        for batch in self._batches:
            for column in batch.columns:
                column.update[:] = column.values

    def ascend(self, rules: Sequence[Rule], gradients: Gradients, size: float, threads: int, *then: Call) -> None:
        """Moves parameters as they are by ``size`` times their gradients: up, where rules do not maximize."""
        if self._ascent is None:
            self._ascent = Ascent(self._batches, self.params, self._works, self.backend)
        moves = self._ascent.programs(rules, gradients, size, threads) if size else []  # no 0 times an infinity
        self._changed(gradients)
        run(joined([Program([*then], ()), *moves]))

    def run(self, gradients: Gradients, threads: int) -> None:
        """One step of the kernels, with the coefficients that were prepared."""
        if not self.params:
            self._watch = self._watch or Watch(self._state, [], [], self._locals)
            return
        works = self._works_of_rows(gradients.sparse) if gradients.sparse else []
        self._changed(gradients)
        addresses = self._stages.addresses(gradients.addresses) if self._stages else gradients.addresses
        program = self._table.bind(addresses, threads)
        if works:
            program = joined([program, self.backend.bind(works, threads)])
        if self._strides is not None:
            counts = [batch.columns[0] for batch in self._batches]
            before, after = [each.values for each in counts], [each.update for each in counts]
            strides = self._strides.programs(np.concatenate(before), np.concatenate(after), threads)
            program = joined([program, *strides])
        if self._watch is None:
            self._adopt(program)
        else:
            run(program)

    def _changed(self, gradients: Gradients) -> None:
        """Has torch know that parameters change: those that have a gradient."""
        changed = self._versioned
        if gradients.present is not None:
            pairs = zip(self.params, gradients.tensors, strict=True)
            changed = [p for p, gradient in pairs if gradient is not None and not p.is_inference()]
        increment_version(changed)

    def _adopt(self, program: Program) -> None:
        """The first step, which the state of the user has its entries from."""
        for p, entry, _ in self._entries:
            self._state[p] = entry
        run(joined([Program([(entry.update, own) for _, entry, own in self._entries], ()), program]))
        entries = [entry for _, entry, _ in self._entries]
        written = list(chain.from_iterable(own.values() for _, _, own in self._entries))
        self._entries = []  # so that nobody but the state and those who look after it hold them
        self._watch = Watch(self._state, entries, written, self._locals)

    def _works_of_rows(self, sparse: Mapping[int, Rows]) -> list[Work]:
        works = []
        for number, found in sparse.items():
            work = self._sparse[number]
            if number in self._stages:
                works += self._stages.works_of_rows(number, work)
                continue
            works += works_of_rows(work, found, self.params[number].shape[0], self.backend)
        return works

    def _use(self, rows: np.ndarray, k: np.ndarray, keys: np.ndarray | None) -> None:
        """Has the works of these rows read their coefficients, and keys, from these arrays."""
        self._table.use(rows, k, keys)
        if self._sparse:
            for row in self._sparse.keys() & set(rows.tolist()):
                self._sparse[row] = self._sparse[row]._replace(k=k, keys=keys)

    @property
    def looks(self) -> int:
        """How many steps have looked whether anybody had changed the states."""
        return 0 if self._watch is None else self._watch.looks

    def kernels(self) -> tuple[PlannedKernel, ...]:
        """The kernels that steps run, in order."""
        found = []
        for batch in self._batches:
            kernel, params = self._kernels[batch.start], self._locals(self.params[batch.start : batch.stop])
            name = kernel if isinstance(kernel, str) else f"{kernel.__module__}.{kernel.__qualname__}"
            elements = sum(map(Tensor.numel, params))
            found.append(PlannedKernel(batch.group, name, batch.stored, len(params), elements, batch.storages))
        return tuple(found)


def _batched(found: Iterable[Row], rules: Sequence[Rule], kinds: Sequence[Kind]) -> tuple[list[Row], list[Batch]]:
    """The rows in the order of their batches, and these: those of a group and a set of dtypes are one."""
    parts: dict[tuple, list[Row]] = {}
    for row in found:
        key = row.group, row.param.dtype, row.gradient, row.sparse, row.counted, row.dtypes
        parts.setdefault(key, []).append(row)
    batches: list[Batch] = []
    for part in parts.values():
        group, start = part[0].group, batches[-1].stop if batches else 0
        made = Batch if rules[group].sums is None else AdaptingBatch
        batches.append(made(part, rules[group], kinds[group].options.seed, start))
    return list(chain.from_iterable(parts.values())), batches


def _work(row: Row, kernel: Any, batch: Batch, number: int) -> Work:
    """What the kernel does with a row, the one of that number in its batch."""
    p, *states = (numbers.stream(batch.dtype) for numbers in row.kept.numbers)
    if batch.stage is not None:  # which has them for itself
        states = []
    followers = () if row.kept.copy is None else (Follower(row.kept.copy.stream(batch.dtype)),)
    k, keys = batch.row(number)
    return Work(kernel, (p, _gradient_like(row), *states), k, followers, keys)


def _gradient_like(row: Row) -> np.ndarray | Stream:
    """What stands for a gradient where only its dtype and size matter: one number, as often as there are elements."""
    storage, size = memory.STORED[row.gradient], memory.local(row.param).numel()
    parts = tuple(np.ndarray(size, part.dtype, np.zeros(1, part.dtype), strides=(0,)) for part in storage.parts)
    return native(Stream(storage, parts, size), row.computes)


def _locals(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors whose memory is this process's."""
    return list(map(memory.local, tensors))


def _themselves(tensors: list[Tensor]) -> list[Tensor]:
    return tensors


def _same(before: Sequence[Any], now: Sequence[Any]) -> bool:
    return len(before) == len(now) and all(map(is_, before, now))
