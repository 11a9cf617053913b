"""What moves parameters, as they are, along their gradients: see :meth:`fastopt.torch.optimizer.Optimizer.ascend`."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fastopt.backend.program import Backend, Program, Work
from fastopt.rule import Rule
from fastopt.sizes import GRAIN_AWAKE
from fastopt.torch import memory
from fastopt.torch.batch import Batch
from fastopt.torch.gradients import Gradients, works_of_rows


class Ascent:
    """The works of a plan's rows whose ``p`` and gradients are those of ``works``, ready to run with any size."""

    def __init__(
        self, batches: Sequence[Batch], params: Sequence[Tensor], works: Sequence[Work], backend: Backend
    ) -> None:
        self._batches, self._params, self._backend = batches, params, backend
        self._coefficients = [np.array([1.0, 0.0], batch.dtype) for batch in batches]
        self._works = [
            Work("blend", (memory.numbers(params[row]).stream(batch.dtype), works[row].streams[1]), k)
            for batch, k in zip(batches, self._coefficients, strict=True)
            for row in range(batch.start, batch.stop)
        ]
        self._table = backend.table(self._works, (), GRAIN_AWAKE)

    def programs(self, rules: Sequence[Rule], gradients: Gradients, size: float, threads: int) -> list[Program]:
        """What moves parameters by ``size`` times their gradients: up, where rules do not maximize."""
        for batch, k in zip(self._batches, self._coefficients, strict=True):
            k[1] = -size if rules[batch.group].maximize else size
        few = [
            work
            for row, found in gradients.sparse.items()
            for work in works_of_rows(self._works[row], found, self._params[row].shape[0], self._backend)
        ]
        return [self._table.bind(gradients.addresses, threads), self._backend.bind(few, threads)]
