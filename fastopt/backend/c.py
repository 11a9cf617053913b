"""The C backend: all spans of a step are one call of the compiled library."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from fastopt._c import ffi, lib
from fastopt.backend.process import process
from fastopt.backend.program import Call, Program, Work, only_gradient
from fastopt.errors import BackendError, nearest
from fastopt.storage import Stream
from fastopt.storages import NUMBERS

#: The number of a dtype, which is also that of the storage of its arrays.
DTYPES = {np.dtype(np.float32): lib.FASTOPT_FLOAT32, np.dtype(np.float64): lib.FASTOPT_FLOAT64}


class CBackend:
    """Runs the kernels of ``csrc/`` through cffi, with the best instruction set or the one of ``FASTOPT_ISA``."""

    name = "c"

    def bind(self, works: Sequence[Work], threads: int) -> Program:
        spans, kept = _spans(works)
        call = ffi.new("fastopt_call *", (spans, len(works), _useful(threads), isa()))
        if all(work.spans is None for work in works):
            return _program((lib.fastopt_step, call), spans, *kept)
        runs, more = _runs(works)
        return _program((lib.fastopt_step_runs, call, runs), spans, *kept, *more)

    def table(self, works: Sequence[Work], then: Sequence[Work] = (), grain: int = 0) -> "CTable":
        return CTable(works, then, grain)

    def sums(self, works: Sequence[Work], name: str, grain: int = 0) -> "CSums":
        return CSums(works, name, grain)

    def bind_sum_squares(self, gradients: Sequence[np.ndarray | Stream], threads: int) -> Callable[[float], float]:
        k = np.zeros(1)
        spans, kept = _spans([only_gradient(gradient, k) for gradient in gradients])
        call = ffi.new("fastopt_call *", (spans, len(gradients), _useful(threads), isa()))
        partials = ffi.new("double[]", lib.fastopt_blocks(call))
        total = ffi.new("double *")
        keeps = spans, kept

        def sum_squares(scale: float, keeps: Any = keeps) -> float:
            code = lib.fastopt_sum_squares(call, scale, partials, total)
            if code:
                raise BackendError(f"the norm could not be computed: {describe_error(code)}")
            return total[0]

        return sum_squares


class CTable:
    """A table of spans, of which a step changes in place what differs from the step before."""

    def __init__(self, works: Sequence[Work], then: Sequence[Work], grain: int) -> None:
        count = len(works)
        spans, kept = _spans([*works, *then])
        self._lengths = _column(spans, "length")[:count]
        self._coefficients = _column(spans, "coefficients")[:count]
        self._keys = _column(spans, "keys")[:count]
        self._gradients = _column(spans, "streams", 1, "parts", 0)[:count]
        self._sizes = self._lengths.copy()
        self._whole = True  # whether every work had a gradient in the step before
        self._call = ffi.new("fastopt_call *", (spans, count + len(then), 1, isa(), grain))
        self._program = _program((lib.fastopt_step, self._call), spans, *kept)

    def use(self, rows: slice | np.ndarray, k: np.ndarray, keys: np.ndarray | None = None) -> None:
        self._coefficients[rows] = k.ctypes.data
        self._keys[rows] = 0 if keys is None else keys.ctypes.data

    def bind(self, gradients: np.ndarray, threads: int) -> Program:
        self._gradients[:] = gradients
        self._whole = _leave_out(gradients, self._sizes, self._lengths, self._whole)
        self._call.threads = _useful(threads)
        return self._program


class CSums:
    """A table of spans over each of which a sum is taken."""

    def __init__(self, works: Sequence[Work], name: str, grain: int) -> None:
        spans, kept = _spans([work._replace(followers=()) for work in works])
        self._keeps = spans, kept
        self._sum = lib.fastopt_find_sum(name.encode())
        self._lengths, self._coefficients, self._gradients = (
            _column(spans, *field)[: len(works)]
            for field in (("length",), ("coefficients",), ("streams", 1, "parts", 0))
        )
        self._sizes = self._lengths.copy()
        self._whole = True  # whether every work had a gradient when sums were taken before
        self._call = ffi.new("fastopt_call *", (spans, len(works), 1, isa(), grain))
        self._width = lib.fastopt_sum_at(self._sum).number_count
        self._partials = ffi.new("double[]", lib.fastopt_blocks(self._call) * self._width)

    def use(self, rows: slice | np.ndarray, k: np.ndarray) -> None:
        self._coefficients[rows] = k.ctypes.data

    def take(self, threads: int, gradients: np.ndarray | None = None) -> np.ndarray:
        if gradients is not None:
            self._gradients[:] = gradients
            self._whole = _leave_out(gradients, self._sizes, self._lengths, self._whole)
        self._call.threads = _useful(threads)
        numbers = np.empty((self._lengths.size, self._width))
        code = lib.fastopt_measure(self._call, self._sum, self._partials, ffi.cast("double *", numbers.ctypes.data))
        if code:
            raise BackendError(f"sums could not be taken: {describe_error(code)}")
        return numbers


def _leave_out(gradients: np.ndarray, sizes: np.ndarray, lengths: np.ndarray, whole_before: bool) -> bool:
    """Has works whose gradient is nowhere, at the address zero, do nothing. Whether there is none of these."""
    whole = np.count_nonzero(gradients) == gradients.size  # all() takes several times as long
    if not (whole and whole_before):
        np.multiply(sizes, gradients != 0, out=lengths)
    return whole


def _program(call: Call, *keeps: Any) -> Program:
    return Program([call], keeps, describe=describe_error)


def _spans(works: Sequence[Work]) -> tuple[Any, list]:
    """The table of spans of the works, and what must be kept alive with it."""
    spans = ffi.new("fastopt_span[]", max(len(works), 1))
    kept: list = [list(works)]
    for span, work in zip(spans, works, strict=False):
        span.kernel = kernel_index(work.kernel)
        span.dtype = DTYPES[work.k.dtype]
        span.length = work.streams[0].size
        span.coefficients = _address(work.k)
        for stream, numbers in zip(span.streams, work.streams, strict=False):
            _fill(stream, numbers)
        if work.followers:
            followers = ffi.new("fastopt_follower[]", len(work.followers))
            for follower, (numbers, k) in zip(followers, work.followers, strict=True):
                _fill(follower.stream, numbers)
                follower.coefficients = ffi.NULL if k is None else _address(k)
            span.followers, span.follower_count = followers, len(work.followers)
            kept.append(followers)
        if work.keys is not None:
            span.keys = ffi.cast("uint64_t *", work.keys.ctypes.data)
    return spans, kept


def _runs(works: Sequence[Work]) -> tuple[Any, list]:
    """Those elements of each work that it is about, and what must be kept alive with them."""
    runs = ffi.new("fastopt_runs[]", len(works))
    kept: list = []
    for each, work in zip(runs, works, strict=True):
        if work.spans is not None:
            found = np.stack(work.spans, axis=1)
            each.runs, each.count = ffi.cast("fastopt_run *", found.ctypes.data), len(found)
            kept.append(found)
    return runs, kept


def _column(spans: Any, *field: str | int) -> np.ndarray:
    """A field of 8 bytes of every span, as an array."""
    offset, stride = ffi.offsetof("fastopt_span", *field), ffi.sizeof("fastopt_span")
    return np.ndarray(len(spans), np.int64, ffi.buffer(spans), offset, (stride,))


def _fill(stream: Any, numbers: np.ndarray | Stream) -> None:
    if isinstance(numbers, Stream):
        stream.storage, stream.stochastic = NUMBERS[numbers.storage.name], numbers.stochastic
        parts: tuple[np.ndarray, ...] = numbers.parts
    else:
        stream.storage, parts = DTYPES[numbers.dtype], (numbers,)
    for index, part in enumerate(parts):
        stream.parts[index] = _address(part)


def _address(array: np.ndarray) -> Any:
    return ffi.cast("void *", array.__array_interface__["data"][0])  # array.ctypes takes longer


def _useful(threads: int) -> int:
    """One thread in a forked child, where a borrowed pool has lost its own; else as many as were asked for."""
    return 1 if process.forks else min(threads, 2**31 - 1)


def describe_error(code: int) -> str:
    """What an error code of the library means."""
    return _text(lib.fastopt_error(code))


def _text(chars: Any) -> str:
    return ffi.string(chars).decode()


@cache
def kernel_index(name: Any) -> int:
    """A kernel's number in the library. BackendError, which says what to do instead, if it has no such kernel."""
    index = lib.fastopt_find(name.encode()) if isinstance(name, str) else -1
    if index < 0:
        raise BackendError(f"the C backend has no kernel {name!r}: use backend='numba', or set FASTOPT_BACKEND=numba")
    return index


def kernels() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The compiled kernels: the names of each one's states and coefficients, in order."""
    found = {}
    index = 0
    while (kernel := lib.fastopt_kernel_at(index)) != ffi.NULL:
        states, coefficients = _text(kernel.states), _text(kernel.coefficients)
        found[_text(kernel.name)] = (tuple(states.split(", ")) if states else (), tuple(coefficients.split(", ")))
        index += 1
    return found


def sums() -> dict[str, tuple[tuple[str, ...], ...]]:
    """The compiled sums: the names of each one's streams, coefficients and numbers, in order."""
    found = {}
    index = 0
    while (each := lib.fastopt_sum_at(index)) != ffi.NULL:
        names = (tuple(_text(names).split(", ")) for names in (each.streams, each.coefficients, each.numbers))
        found[_text(each.name)] = tuple(names)
        index += 1
    return found


def isas() -> list[str]:
    """The instruction sets that this build and this processor have, the best one last."""
    return [_text(lib.fastopt_isa_name(level)) for level in range(lib.fastopt_best_isa() + 1)]


def isa() -> int:
    """The instruction set to use: the best one, or the one of ``FASTOPT_ISA``."""
    name = os.environ.get("FASTOPT_ISA")
    if not name:
        return lib.fastopt_best_isa()
    names = isas()
    if name not in names:
        raise ValueError(f"FASTOPT_ISA: this processor has no instruction set {name!r}; {nearest(name, names)}")
    return names.index(name)


def _check() -> None:
    """BackendError if the library refuses every step: its compiler was told to compute something else."""
    code = lib.fastopt_step(ffi.new("fastopt_call *", (ffi.NULL, 0, 1, 0)))
    if code:
        raise BackendError(f"backend 'c' is not available: {describe_error(code)}")


def describe() -> tuple[str, str, dict[str, str]]:
    """Version, reason and details, for :func:`fastopt.backends`."""
    _check()
    abi = lib.fastopt_abi()
    details = {
        "instruction set": isas()[isa()],
        "instruction sets": ", ".join(isas()),
        "thread pool": _text(lib.fastopt_pool()),
    }
    return f"{abi // 1000}.{abi % 1000}", "compiled with this installation", details


def backend() -> CBackend:
    """The C backend. ValueError if ``FASTOPT_ISA`` asks for an instruction set that is not there, BackendError if the
    library cannot give the right bits."""
    _check()
    isa()
    return CBackend()
