"""The gradients of a plan's parameters: where kernels read them, if they are as planned."""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastopt.backend.program import Backend, Work
from fastopt.encoded import of_array
from fastopt.rows import Rows, check_rows, divided
from fastopt.torch import memory
from fastopt.torch.rows import Row

# All gradients are looked at in every step, since anybody may replace them. These functions of C are mapped over lists:
# a loop in Python would cost several times as much.
_gradient, _nbytes, _dtype = attrgetter("grad"), attrgetter("nbytes"), attrgetter("dtype")
_stride, _address = Tensor.stride, Tensor.data_ptr


class Stale(Exception):
    """A gradient came that is not as planned. The new plan expects it, or hands its parameter to torch's optimizer."""


class Gradients(NamedTuple):
    """The gradients of a plan's rows in the parameters' layout, their addresses, and which there are (None: all).

    Sparse ones are in ``sparse``, by the number of the row, and have no address. Their rows may come twice.
    """

    tensors: Sequence[Tensor | None]
    addresses: np.ndarray
    present: np.ndarray | None
    sparse: Mapping[int, Rows] = MappingProxyType({})

    def divided(self, rows: Iterable[int], divisor: float) -> "Gradients":
        """The same, but of these rows the quotients, in memory of their own."""
        tensors, addresses, sparse = list(self.tensors), self.addresses.copy(), dict(self.sparse)
        for row in rows:
            gradient = tensors[row]
            if row in sparse:
                sparse[row] = Rows(sparse[row].indices, sparse[row].values / divisor)
            elif gradient is not None:
                tensors[row] = quotient = gradient.detach() / divisor
                addresses[row] = quotient.data_ptr()
        return self._replace(tensors=tensors, addresses=addresses, sparse=sparse)


def works_of_rows(work: Work, found: Rows, count: int, backend: Backend) -> list[Work]:
    """A work for those rows of its parameter, which has ``count`` of them, that a sparse gradient has."""
    p, _, *states = work.streams
    parts = divided(found.indices, found.values, count, work.k.dtype, backend)
    return [
        work._replace(streams=(p, of_array(part.array, work.k.dtype), *states), spans=part.spans)
        for part in parts
        if part.indices.size and part.array.size
    ]


_NO_GRADIENTS = Gradients((), np.empty(0, np.int64), None)


class Reader:
    """Reads the gradients of a plan's rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._params = [row.param for row in rows]
        #: The rows whose gradients are expected to be sparse, by their number.
        self._sparse = {number for number, row in enumerate(rows) if row.sparse}
        self._distributed = any(map(memory.is_distributed, self._params))
        params = list(map(memory.local, self._params))
        self._layouts, self._sizes = list(map(_stride, params)), list(map(_nbytes, params))
        self._strides = self._layouts.copy()  # of the gradients
        self._dtypes = [row.gradient for row in rows]
        self._gradient_sizes = [p.numel() * row.gradient.itemsize for row, p in zip(rows, params, strict=True)]
        #: Whether the number of bytes tells the dtype of a gradient.
        self._distinct = memory.DTYPES.keys() >= {*self._dtypes}
        #: How many gradients of the last step lay in another order than their parameters, and were copied.
        self.copied = 0

    def read(self) -> Gradients:
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
        sparse = dict[int, Rows]()
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

    def _rows(self, row: int, gradient: Tensor, param: Tensor) -> Rows:
        """The rows of a sparse gradient. ValueError if the parameter has no such ones."""
        sparse = memory.is_sparse(gradient) and gradient.dtype == self._dtypes[row]
        if not sparse or param.nbytes != self._sizes[row] or memory.rows_obstacle(gradient, param):
            raise Stale
        found, shape = memory.rows(gradient), tuple(param.shape)
        check_rows(f"a gradient of a parameter of the shape {shape}", found, shape)
        return found

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
