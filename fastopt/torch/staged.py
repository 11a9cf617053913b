"""Parameters whose rule has a stage: what that reads and gives, in the order in which tensors lie in memory."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from fastopt.backend.program import Backend, Spans, Work, copy_row
from fastopt.matrices import staged
from fastopt.rows import Merged, consecutive, merged
from fastopt.rule import Rule
from fastopt.storages import noise
from fastopt.torch import memory
from fastopt.torch.batch import Part
from fastopt.torch.gradients import Gradients
from fastopt.torch.memory import Numbers
from fastopt.torch.rows import Row


class Staged:
    """Memory of a plan's own for what a stage gives, and the works that write it to the states."""

    def __init__(self, row: Row, stage: Any, seed: int) -> None:
        self._stage, self._dtype, self._seed = stage, row.computes, seed
        self._p, *states = row.kept.numbers
        self._states = dict(zip(row.kept.states, states, strict=True))
        #: What the kernel takes for the gradient: 1-D, in the order in which the parameter lies in memory.
        self.direction = np.empty(self._p.tensors[0].numel(), self._dtype)
        self._after = {name: np.empty(each.tensors[0].numel(), self._dtype) for name, each in self._states.items()}
        #: The same in the shapes that a stage gives.
        self._given = _in_order(self.direction, self._p.tensors[0])
        self._given_after = {
            name: _in_order(array, self._states[name].tensors[0]) for name, array in self._after.items()
        }
        #: Where these lie: the direction, then the states after the step.
        self.addresses = [array.ctypes.data for array in (self.direction, *self._after.values())]
        #: Those of the states are from number 1 on: they are streams by themselves.
        self._keys = np.zeros(1 + len(self._states), np.uint64)
        #: Of a sparse gradient that has rows: where they are in the parameter, their direction, and such works.
        self._few: tuple[Spans, np.ndarray, list[Work]] | None = None
        #: Each of them as it lies in memory in that dtype, where a plan keeps it, or None if it is stored otherwise.
        self._in_place = [(each, self._lying(each)) for each in (self._p, *states)]
        copy = copy_row(self._dtype)
        #: Their gradients are the states after the step.
        self.writes = [
            Work("blend", (each.stream(self._dtype), self._after[name]), copy, (), self._keys[pair : pair + 1])
            for pair, (name, each) in enumerate(self._states.items(), 1)
        ]

    def run(self, rule: Rule, step: int, gradient: Any, scale: float) -> None:
        """Takes a gradient, times ``scale``, through the stage. It writes to memory of the plan's own alone."""
        g = self._read(memory.numbers(memory.local(gradient)))
        if scale != 1.0:
            g = g * self._dtype.type(scale)
        self._refresh(step)
        p, *states = (self._read(each) if array is None else array for each, array in self._in_place)
        direction, after = staged(self._stage, rule, step, p, g, dict(zip(self._states, states, strict=True)))
        self._given[...] = direction
        for name, array in self._given_after.items():
            array[...] = after[name]

    @property
    def count(self) -> int:
        """How many rows, along its first axis, the parameter has."""
        return len(self._p.tensors[0])

    def run_rows(self, rule: Rule, step: int, few: Merged, scale: float) -> None:
        """The same for a gradient of which there are some rows."""
        self._few = None
        if not few.array.size:
            return
        self._refresh(step)
        shape, indices = self._p.tensors[0].shape[1:], few.indices
        width = math.prod(shape)
        values = few.array.reshape(-1, *shape)[few.spans.sources // width]
        g = values.astype(self._dtype) * self._dtype.type(scale)
        states = {name: self._rows(each, indices) for name, each in self._states.items()}
        direction, after = staged(self._stage, rule, step, self._rows(self._p, indices), g, states)
        writes = []
        for (name, each), write in zip(self._states.items(), self.writes, strict=True):
            streams = write.streams[0], self._flat(after[name])
            spans = consecutive(indices, math.prod(each.tensors[0].shape[1:]))
            writes.append(write._replace(streams=streams, spans=spans))
        self._few = consecutive(indices, width), self._flat(direction), writes

    def works_of_rows(self, work: Work) -> list[Work]:
        """What brings what the stage has given for some rows to the parameter, as the work would, and to the states."""
        if self._few is None:
            return []
        spans, direction, writes = self._few
        return [work._replace(streams=(work.streams[0], direction), spans=spans), *writes]

    def _rows(self, numbers: Numbers, indices: np.ndarray) -> np.ndarray:
        return numbers.rows(indices).astype(self._dtype, copy=False).reshape(-1, *numbers.tensors[0].shape[1:])

    def _flat(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array, self._dtype).reshape(-1)

    def _refresh(self, step: int) -> None:
        noise.fill_keys(self._keys, self._seed, step)

    def _lying(self, numbers: Numbers) -> np.ndarray | None:
        """The memory of numbers in the dtype in which kernels compute; None where they are stored otherwise."""
        stream = numbers.stream(self._dtype)
        return _in_order(stream, numbers.tensors[0]) if isinstance(stream, np.ndarray) else None

    def _read(self, numbers: Numbers) -> np.ndarray:
        """Numbers in that dtype: their memory, or a copy."""
        found = self._lying(numbers)
        if found is None:
            found = _in_order(numbers.decode().astype(self._dtype, copy=False), numbers.tensors[0])
        return found


class Stages:
    """The stages of a plan's rows, by their numbers."""

    def __init__(self, rows: Iterable[tuple[int, Staged]]) -> None:
        self._rows = dict(rows)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def works(self, works: Sequence[Work]) -> list[Work]:
        """The works where stages have taken the gradients, then those that write to states what stages give."""
        found = list(works)
        for row, each in self._rows.items():
            p, _ = found[row].streams
            found[row] = found[row]._replace(streams=(p, each.direction))
        return found + [work for each in self._rows.values() for work in each.writes]

    def addresses(self, gradients: np.ndarray) -> np.ndarray:
        """What these works read in place of gradients at these addresses."""
        found, writes = gradients.copy(), []
        for row, each in self._rows.items():
            found[row], *states = each.addresses if gradients[row] else [0] * len(each.addresses)
            writes += states
        return np.concatenate([found, np.array(writes, np.int64)])

    def run(self, rule: Rule, part: Part, gradients: Gradients, backend: Backend) -> None:
        """Runs the stage of some rows. The sign and the scale are for it: the kernel takes what it gives as it is."""
        scale, part.k[0] = float(part.k[0]), 1.0
        for row in part.rows:
            each, found = self._rows[row], gradients.sparse.get(row)
            if found is None:
                each.run(rule, part.step, gradients.tensors[row], scale)
            else:
                few = merged(found.indices, found.values, each.count, part.k.dtype, backend, gathered=False)
                each.run_rows(rule, part.step, few, scale)

    def works_of_rows(self, row: int, work: Work) -> list[Work]:
        """See :meth:`Staged.works_of_rows`."""
        return self._rows[row].works_of_rows(work)


def _in_order(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """A view of a 1-D array in the shape of a dense tensor whose elements lie in that order."""
    if tensor.is_contiguous():
        return array.reshape(tensor.shape)
    strides = [stride * array.itemsize for stride in tensor.stride()]
    return as_strided(array, tuple(tensor.shape), strides)
