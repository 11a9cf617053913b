"""Rows whose coefficients follow from sums over each parameter, which are taken before the step."""

from collections.abc import Sequence

import numpy as np
import torch

from fastopt.backend.program import Backend, Work
from fastopt.rule import Row as Coefficients
from fastopt.rule import Rule
from fastopt.sizes import GRAIN_AWAKE
from fastopt.torch.batch import Batch, Part, refresh, scalars_of
from fastopt.torch.rows import Row


class AdaptingBatch(Batch):
    """The batch where each row has coefficients, and keys, of its own: see :attr:`fastopt.Rule.sums`."""

    def __init__(self, rows: list[Row], rule: Rule, seed: int, start: int) -> None:
        super().__init__(rows, rule, seed, start)
        values = rule.coefficients(1)
        #: The coefficients of the sum.
        self._measured = np.empty((len(rows), len(rule.measured(1, values))), self.dtype)
        self._sizes = np.array([row.param.numel() for row in rows], np.float64)
        #: Those of the sum over each row, once they are taken for a step.
        self.numbers = np.empty((len(rows), 0))
        self._scale = 1.0
        self._distinct: list[tuple[np.ndarray, list[float]]] = []
        self.k = np.empty((len(rows), len(values)), self.dtype)
        first = self.keys[0]
        self.keys = [None if first is None else np.empty_like(first) for _ in rows]

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.k[number], self.keys[number]

    def bind(self, backend: Backend, works: Sequence[Work], rule: Rule) -> None:
        assert rule.sums is not None
        pairs = zip(works, self._measured, strict=True)
        self._sums = backend.sums([work._replace(k=k) for work, k in pairs], rule.sums, GRAIN_AWAKE)

    def prepare(self, rule: Rule, scale: float, present: np.ndarray | None, addresses: np.ndarray) -> list[Part]:
        self._scale, self._distinct = scale, self.distinct(present)
        for chosen, scalars in self._distinct:
            row = Coefficients(self._measured[chosen[0]])
            step, before, _ = scalars_of(rule, scalars, self.scalar_dtypes)
            with np.errstate(all="ignore"):
                rule.fill_measured(row, step, scale, before)
            self._measured[chosen] = row.array
        self.numbers = self._sums.take(torch.get_num_threads(), addresses[self.start : self.stop])
        return []

    def adapt(self, rule: Rule, totals: tuple[float, ...]) -> None:
        """Works out the coefficients of each row from its sums, and the scalars after the step.

        ``totals`` are those of the sums over the rows of all batches.
        """
        for chosen, scalars in self._distinct:
            step, before, after = scalars_of(rule, scalars, self.scalar_dtypes, totals if rule.totals else None)
            for column, value in zip(self.columns, after, strict=True):
                column.update[chosen] = value
            found = np.empty((len(chosen), self.k.shape[1]), self.dtype)
            following = dict(zip(rule.torch_scalars, after[1:], strict=True))
            with np.errstate(all="ignore"):
                rule.fill_adapted(
                    found, step, self._scale, before, self._sizes[chosen], self.numbers[chosen], following
                )
            self.k[chosen] = found
            for number in chosen:
                refresh(self.keys[number], self.seed, step)
