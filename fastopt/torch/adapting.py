"""Rows whose coefficients follow from sums over each parameter, which are taken before the step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fastopt.backend.program import Backend, Work
from fastopt.rule import Rule
from fastopt.sizes import GRAIN_AWAKE
from fastopt.torch.batch import ALL, Batch, Part, refresh, scalars_after, scalars_before
from fastopt.torch.rows import Row


class AdaptingBatch(Batch):
    """The batch where each row has coefficients, and keys, of its own: see :attr:`fastopt.Rule.sums`."""

    def __init__(self, rows: list[Row], rule: Rule, seed: int, start: int) -> None:
        super().__init__(rows, rule, seed, start)
        _, measured = rule.rows(self.dtype)
        assert measured is not None
        #: The coefficients of the sum: those of a row, and of all of them.
        self._row = measured
        self._measured = np.empty((len(rows), self._row.array.size), self.dtype)
        self._sizes = np.array([row.param.numel() for row in rows], np.float64)
        #: Those of the sum over each row, once they are taken for a step.
        self.numbers = np.empty((len(rows), 0))
        #: Rows that make the same step: it, their scalars before it, and their coefficients before sums are taken.
        self._steps: list[tuple[Any, int, dict[str, Any], dict[str, float]]] = []
        self.k = np.empty((len(rows), self.k.shape[1]), self.dtype)
        self._key = self.keys[0]
        self._keys = np.empty((len(rows), 0 if self._key is None else self._key.size), np.uint64)

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.k[number], None if self._key is None else self._keys[number]

    def bind(self, backend: Backend, works: Sequence[Work], rule: Rule) -> None:
        assert rule.sums is not None
        pairs = zip(works, self._measured, strict=True)
        self._sums = backend.sums([work._replace(k=k) for work, k in pairs], rule.sums, GRAIN_AWAKE)

    def prepare(self, rule: Rule, scale: float, present: np.ndarray | None, addresses: np.ndarray) -> list[Part]:
        self._steps = []
        for chosen, scalars in self.distinct(present):
            step, before = self.step_after(scalars), scalars_before(rule, scalars, self.scalar_dtypes)
            values = rule.fill_measured(self._row, step, scale, before)
            self._measured[chosen] = self._row.array
            self._steps.append((chosen, step, before, values))
        self.numbers = self._sums.take(torch.get_num_threads(), addresses[self.start : self.stop])
        return []

    def adapt(self, rule: Rule, totals: tuple[float, ...]) -> None:
        """Works out the coefficients of each row from its sums, and the scalars after the step.

        ``totals`` are those of the sums over the rows of all batches.
        """
        for chosen, step, before, values in self._steps:
            after = scalars_after(rule, step, before, self.scalar_dtypes, totals if rule.totals else None)
            self.write(chosen, after)
            following = dict(zip(before, after[1:], strict=True))
            found = self.k[chosen]
            rule.fill_adapted(found, step, values, self._sizes[chosen], self.numbers[chosen], following)
            self.k[chosen] = found
            if self._key is not None:
                refresh(self._key, self.seed, step)
                self._keys[chosen] = self._key
        self.even = bool(self._steps) and self._steps[0][0] is ALL
