"""The way from a step's tensors to the kernels: one call of the C library, or numba's program where it is chosen."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from fastopt.backend.choice import select
from fastopt.backend.program import Work, run
from fastopt.errors import BackendError
from fastopt.sizes import GRAIN_AWAKE
from fastopt.torch.memory import DTYPES, flat


class Run(NamedTuple):
    """The rows from ``start`` to ``stop``, which share a kernel, by name or as a numba function, and a dtype."""

    kernel: Any
    dtype: np.dtype
    start: int
    stop: int


#: Two arrays of one dtype and size: to the first from the second.
Copy = tuple[np.ndarray, np.ndarray]


class Engine(Protocol):
    """Steps rows, each of them a parameter with its gradient and states, and copies the numbers beside the states."""

    #: How many tensors that share the storage of a buffer it holds.
    aliases: int

    def use(self, rows: slice | np.ndarray, k: np.ndarray) -> None:
        """Has these rows read their coefficients from ``k``, which the caller keeps alive."""

    def read(self) -> None:
        """Makes the copies that come before a step."""

    def step(self, gradients: Sequence[Tensor | None], addresses: np.ndarray, threads: int) -> None:
        """Runs every row that has a gradient. ``addresses`` are the gradients', int64, 0 where there is none."""


def engine(
    runs: Sequence[Run], buffers: Sequence[Sequence[Tensor]], reads: Sequence[Copy], writes: Sequence[Copy]
) -> Engine:
    """The engine for these rows. ``buffers`` holds each row's parameter and states, dense and of one layout.

    Every step ends with the copies ``writes``: in the same call, so that no interrupt can come in between. The caller
    keeps the memory of buffers and copies alive.
    """
    backend, _ = select()
    if backend.name == "c" and all(isinstance(part.kernel, str) for part in runs):
        return _OneCall(runs, buffers, reads, writes)
    return _NumbaProgram(runs, buffers, reads, writes)


# SGD's kernel as an assignment, p = 0 p - (-1) g: grad_scale, l2, shrink, step_size.
_ASSIGN = {dtype: np.array([1.0, 0.0, 0.0, -1.0], dtype) for dtype in DTYPES.values()}


def _works(copies: Sequence[Copy]) -> list[Work]:
    return [Work("sgd", copy, _ASSIGN[copy[0].dtype]) for copy in copies]


class _OneCall:
    """A table of spans for ``fastopt_step``. A step changes in place what differs from the step before."""

    aliases = 0

    def __init__(
        self,
        runs: Sequence[Run],
        buffers: Sequence[Sequence[Tensor]],
        reads: Sequence[Copy],
        writes: Sequence[Copy],
    ) -> None:
        from fastopt.backend.c import DTYPES as NUMBERS
        from fastopt.backend.c import CBackend, describe_error, ffi, isa, kernel_index, lib

        index = partial(kernel_index, instead="set FASTOPT_BACKEND=numba")
        table = np.zeros(len(buffers) + len(writes), _layout(ffi.typeof("fastopt_span")))
        rows, copies = table[: len(buffers)], table[len(buffers) :]
        for part in runs:
            spans = rows[part.start : part.stop]
            spans["kernel"], spans["dtype"] = index(part.kernel), NUMBERS[part.dtype]
        for span, parts in zip(rows, buffers, strict=True):
            first, *states = (part.data_ptr() for part in parts)
            span["length"] = parts[0].numel()
            streams = span["streams"][: 2 + len(states)]
            streams["storage"], streams["parts"][:, 0] = span["dtype"], (first, 0, *states)
        for span, (to, source) in zip(copies, writes, strict=True):
            span["kernel"], span["dtype"] = index("sgd"), NUMBERS[to.dtype]
            span["length"], span["coefficients"] = to.size, _ASSIGN[to.dtype].ctypes.data
            streams = span["streams"][:2]
            streams["storage"], streams["parts"][:, 0] = span["dtype"], (to.ctypes.data, source.ctypes.data)

        self._coefficients, self._lengths = rows["coefficients"], rows["length"]
        self._gradients = rows["streams"]["parts"][:, 1, 0]
        self._sizes = self._lengths.copy()
        self._whole = True  # whether every row had a gradient in the step before
        spans = ffi.from_buffer("fastopt_span[]", table)
        self._call = ffi.new("fastopt_call *", (spans, len(table), 1, isa(), GRAIN_AWAKE))
        self._keeps = table, reads, writes
        self._step, self._describe_error = lib.fastopt_step, describe_error
        self._reads = CBackend().bind(_works(reads), 1) if reads else None

    def read(self) -> None:
        if self._reads:
            run(self._reads.calls)

    def use(self, rows: slice | np.ndarray, k: np.ndarray) -> None:
        self._coefficients[rows] = k.ctypes.data

    def step(self, gradients: Sequence[Tensor | None], addresses: np.ndarray, threads: int) -> None:
        self._gradients[:] = addresses
        whole = bool(addresses.all())
        if not (whole and self._whole):
            np.multiply(self._sizes, addresses != 0, out=self._lengths)
        self._whole = whole
        self._call.threads = threads
        code = self._step(self._call)
        if code:
            raise BackendError(f"the step was refused: {self._describe_error(code)}")


def _layout(kind: Any) -> np.dtype:
    """A type of C as a NumPy dtype; pointers as int64."""
    if kind.kind == "array":
        return np.dtype((_layout(kind.item), kind.length))
    if kind.kind != "struct":
        return np.dtype("i4" if kind.cname == "int32_t" else "i8")
    fields = dict(kind.fields)
    return np.dtype(
        {
            "names": list(fields),
            "formats": [_layout(field.type) for field in fields.values()],
            "offsets": [field.offset for field in fields.values()],
        }
    )


class _NumbaProgram:
    """A program of numba's kernels, bound anew at every step, since gradients come in new memory."""

    aliases = 1

    def __init__(
        self,
        runs: Sequence[Run],
        buffers: Sequence[Sequence[Tensor]],
        reads: Sequence[Copy],
        writes: Sequence[Copy],
    ) -> None:
        self._backend = select("numba")[0]
        self._kernels = [part.kernel for part in runs for _ in range(part.start, part.stop)]
        self._arrays = [[flat(part) for part in parts] for parts in buffers]
        self._k: list[Any] = [None] * len(buffers)
        self._reads, self._writes = (self._backend.bind(_works(copies), 1) for copies in (reads, writes))

    def read(self) -> None:
        run(self._reads.calls)

    def use(self, rows: slice | np.ndarray, k: np.ndarray) -> None:
        for row in np.arange(len(self._k))[rows]:
            self._k[row] = k

    def step(self, gradients: Sequence[Tensor | None], addresses: np.ndarray, threads: int) -> None:
        works = [
            Work(kernel, (p, flat(gradient), *states), k)
            for kernel, (p, *states), gradient, k in zip(self._kernels, self._arrays, gradients, self._k, strict=True)
            if gradient is not None and p.size
        ]
        program = self._backend.bind(works, threads)
        run([*program.calls, *self._writes.calls], program.lock)
