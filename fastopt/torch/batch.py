"""The rows of a plan that share a rule: their coefficients, and the numbers that they keep beside their states."""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastopt.backend.program import Backend, Work, array_at
from fastopt.rule import Row as Coefficients
from fastopt.rule import Rule
from fastopt.storages import noise
from fastopt.torch import memory
from fastopt.torch.explanation import storages
from fastopt.torch.rows import Row

#: Two arrays of one dtype and size: to the first from the second.
Copy = tuple[np.ndarray, np.ndarray]

#: All rows of a batch.
ALL = slice(None)


class Part(NamedTuple):
    """Rows that make the same step, by their numbers in the plan: its number, its coefficients and keys.

    ``moved`` says that the latter are in other arrays than in the step before.
    """

    rows: Any
    step: int
    k: np.ndarray
    keys: np.ndarray | None
    moved: bool


class Column:
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
    addresses = list(map(Tensor.data_ptr, numbers))
    starts = [place for place, address in enumerate(addresses) if address != addresses[place - 1] + dtype.itemsize]
    starts = sorted({0, *starts})
    return [
        array_at(addresses[start], stop - start, dtype)
        for start, stop in zip(starts, [*starts[1:], len(addresses)], strict=True)
    ]


class Batch:
    """The rows from ``start`` to ``stop``: those of one group and one set of dtypes, which share a rule."""

    def __init__(self, rows: list[Row], rule: Rule, seed: int, start: int) -> None:
        self.group, self.start, self.stop = rows[0].group, start, start + len(rows)
        self.dtype: Any = rows[0].computes
        #: The dtype of the parameters, and how they and what belongs to them are stored, in words.
        self.stored = memory.STORED[rows[0].param.dtype].name
        self.storages, self.stage = storages(rows), rule.stage
        #: Whether the gradients have fewer bits than what kernels compute in.
        self.narrow = rows[0].gradient.itemsize < self.dtype.itemsize
        self.columns: list[Column] = []
        self._made: list[dict[str, Tensor]] = [{} for _ in rows]
        for name, dtype in zip(rows[0].scalars, map(memory.DTYPES.get, rows[0].dtypes), strict=True):
            assert dtype is not None
            numbers = [row.scalars[name] for row in rows]
            if not rows[0].counted:
                self.columns.append(Column([np.array(numbers, dtype)]))
                continue
            tensors = _tensors(numbers, dtype)
            self.columns.append(Column(_pieces(tensors, dtype)))
            for made, tensor in zip(self._made, tensors, strict=True):
                made[name] = tensor
        for made, row in zip(self._made, rows, strict=True):
            made |= row.kept.tensors
        self.scalar_dtypes = [column.dtype for column in self.columns]
        coefficients, _ = rule.rows(self.dtype)
        #: The coefficients of the step: one set of them where all rows make the same step.
        self.k = coefficients.array[np.newaxis]
        self._rows = [coefficients]
        self._numbers = np.arange(self.start, self.stop)
        #: The keys of stochastic rounding, for each set of coefficients, and what they are made from.
        self.seed = seed
        stochastic = any(numbers.stochastic for row in rows for numbers in row.kept.numbers)
        pairs = 1 + len(rows[0].kept.numbers) // 2  # of streams, of which the gradient is one, too
        self.keys = [np.empty(pairs, np.uint64) if stochastic else None]
        #: Whether the step before had the same scalars in all rows, and so left them the same.
        self.even = False

    def hand_over(self) -> list[dict[str, Tensor]]:
        """What the state dicts of the rows are to hold, once: whoever takes it keeps it alive."""
        made, self._made = self._made, []
        return made

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The coefficients and keys of the row of that number, counted from ``start``, in a step that is even."""
        return self.k[0], self.keys[0]

    def bind(self, backend: Backend, works: Sequence[Work], rule: Rule) -> None:
        """What there is to be done before the first step, where these are the works of the rows."""

    def prepare(self, rule: Rule, scale: float, present: np.ndarray | None, addresses: np.ndarray) -> list[Part]:
        """Works out the coefficients of the step, and the scalars after it, for the rows that are present (None: all).

        ``scale`` is what gradients are multiplied by, ``addresses`` is where they lie. What it gives are the rows whose
        coefficients have moved, or for whose stage they are. ValueError if a dtype cannot hold one of them.
        """
        distinct = self.distinct(present)
        moved = not self.even
        if moved and distinct:
            self.k = np.empty((len(distinct), self.k.shape[1]), self.dtype)
            self._rows = [Coefficients(k) for k in self.k]
            self.keys = [None if keys is None else np.empty_like(keys) for keys in [self.keys[0]] * len(distinct)]
        parts = []
        for number, (chosen, scalars) in enumerate(distinct):
            after = self._fill(self._rows[number], rule, scale, scalars)
            refresh(self.keys[number], self.seed, after[0])
            self.write(chosen, after)
            parts.append(Part(self._numbers[chosen], int(after[0]), self.k[number], self.keys[number], moved))
        self.even = bool(distinct) and distinct[0][0] is ALL
        return parts if moved or self.stage is not None else []

    def _fill(self, row: Coefficients, rule: Rule, scale: float, scalars: list[float]) -> list[float]:
        """Fills in the coefficients of the step that follows these scalars, and returns the scalars after it.

        ``scale`` is what gradients are multiplied by.
        """
        step = self.step_after(scalars)
        if len(scalars) == 1:
            rule.fill(row, step, scale)
            return [step]
        before = scalars_before(rule, scalars, self.scalar_dtypes)
        with np.errstate(all="ignore"):
            rule.fill(row, step, scale, before)
        return scalars_after(rule, step, before, self.scalar_dtypes)

    def step_after(self, scalars: Sequence[float]) -> int:
        """The step that follows these scalars. ValueError if they are of no step."""
        count = scalars[0]
        if not 0 <= count < inf:
            raise ValueError(f"param_groups[{self.group}]: a state has {count} for 'step', which must be a number >= 0")
        return int(count) + 1

    def distinct(self, present: np.ndarray | None) -> list[tuple[Any, list[float]]]:
        """The rows that are present, counted from ``start``, by the scalars that they share; ``ALL`` if all are.

        The batch stays ``even`` if they have those that the step before has given to all of them. Scalars of no row
        change with the step, unless that is said afterwards.
        """
        columns = self.columns
        if self.even and present is None and all(each.values.tobytes() == each.update.tobytes() for each in columns):
            return [(ALL, [column.values.item(0) for column in columns])]
        self.even = False
        for column in columns:
            column.update[:] = column.values
        rows = np.arange(self.stop - self.start) if present is None else np.flatnonzero(present)
        if not rows.size:
            return []
        scalars = np.stack([column.values[rows] for column in columns], axis=1, dtype=np.float64)
        distinct, which = np.unique(scalars, axis=0, return_inverse=True)
        if len(distinct) == 1 and rows.size == self.stop - self.start:
            return [(ALL, distinct[0].tolist())]
        return [(rows[which.reshape(-1) == number], numbers.tolist()) for number, numbers in enumerate(distinct)]

    def write(self, chosen: Any, scalars: Sequence[float]) -> None:
        """Says what the scalars of some rows, counted from ``start``, will be after the step."""
        for column, value in zip(self.columns, scalars, strict=True):
            column.update[chosen] = value


def refresh(keys: np.ndarray | None, seed: int, step: float) -> None:
    """Fills in the keys of stochastic rounding, if there are some, for a step."""
    if keys is not None:
        noise.fill_keys(keys, seed, int(step))


def scalars_before(rule: Rule, scalars: list[float], dtypes: list[np.dtype]) -> dict[str, Any]:
    """The rule's scalars, by name, each in its dtype: as rules compute with them.

    So they are rounded as torch rounds them, which computes with 0-d tensors in their own dtypes.
    """
    pairs = zip(rule.torch_scalars, dtypes[1:], scalars[1:], strict=True)
    return {name: dtype.type(number) for name, dtype, number in pairs}


def scalars_after(
    rule: Rule, step: int, before: dict[str, Any], dtypes: list[np.dtype], totals: tuple[float, ...] | None = None
) -> list[float]:
    """All scalars after a step, which follow from those before it, and from the ``totals`` of sums if they are given.

    What a rule makes anew, a Python number, becomes a tensor of torch's default dtype first.
    """
    if not before:
        return [step]
    with np.errstate(all="ignore"):
        default = memory.default_dtype().type
        following = rule.advance(step, **before) if totals is None else rule.advance(step, totals=totals, **before)
        after = [
            number if isinstance(number, np.floating) else dtype.type(default(number))
            for number, dtype in zip(following.values(), dtypes[1:], strict=True)
        ]
    return [step, *after]
