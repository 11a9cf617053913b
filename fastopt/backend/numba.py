"""The numba backend: kernels compiled on first use and cached on disk."""

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from fastopt.backend.compile import driver, learn, region, specialize, squares_driver, with_threads
from fastopt.backend.process import process
from fastopt.backend.program import Call, Program, Work, array_at, run
from fastopt.backend.tables import array_of, is_tiled, size_of, span_table, squares_table, tile_table
from fastopt.backend.versions import Terms, look, places, terms
from fastopt.errors import BackendError
from fastopt.kernels import KERNELS
from fastopt.sizes import BLOCK, GRAIN
from fastopt.storage import Stream
from fastopt.sums.sum_squares import sum_squares

#: Elements from which on a parallel region is worth its cost: two threads.
PARALLEL_SIZE = 2 * GRAIN


class NumbaBackend:
    """Runs the kernels of ``fastopt/kernels/``, in parallel or, for small spans and in forked children, serially."""

    name = "numba"

    def bind(self, works: Sequence[Work], threads: int) -> Program:
        watched = _Watched()
        batches: dict[tuple, list[Work]] = {}
        for work in works:
            kernel = declared(work.kernel)
            left = watched.terms(work)
            key = kernel, work.k.dtype, left, len(work.streams), is_tiled(work)
            batches.setdefault(key, []).append(work)
        driven: list[Call] = []
        single: list[Call] = []
        parallel = False
        for (kernel, dtype, left, streams, tiled), batch in batches.items():
            if tiled or (left and len(batch) > 1):
                shares = useful_threads(sum(map(size_of, batch)), threads)
                loop = driver(kernel, dtype, streams, shares > 1, left, tiled=tiled)
                table = tile_table(batch, shares) if tiled else span_table(batch, shares)
                # The first loop looks at the rows of all.
                driven.append((loop, table.rows, table.bounds, watched.places(not driven), *table.scratch))
                parallel |= shares > 1
                continue
            for work in batch:
                buffers = *map(writable, map(array_of, work.streams)), work.k
                worth = worth_threads(size_of(work), threads)
                signature = (numba.from_dtype(dtype)[::1],) * len(buffers)
                calls = [(specialize(kernel, dtype, signature, worth, left), *buffers)]
                single += with_threads(threads, calls) if worth else calls
                parallel |= worth
        calls = [*driven, *single]
        if not driven and not watched.looked_at_by(calls):
            places = watched.places()
            calls.insert(0, (specialize(look, places.dtype, (numba.typeof(places),), False), places))
        learn(each for _, *arguments in calls for each in arguments if isinstance(each, np.ndarray))
        return Program(calls, (list(works),), region if parallel else None)

    def table(self, works: Sequence[Work], then: Sequence[Work] = (), grain: int = 0) -> "NumbaTable":
        return NumbaTable(self, works, then)

    def bind_sum_squares(self, gradients: Sequence[np.ndarray | Stream], threads: int) -> Callable[[float], float]:
        bound: list[tuple] = []
        parallel = False
        for gradient in gradients:
            partials = np.zeros(-(-gradient.size // BLOCK))
            worth = worth_threads(gradient.size, threads)
            parallel |= worth
            if isinstance(gradient, Stream) and gradient.storage.name not in ("float32", "float64"):
                stream, *scratch = squares_table(gradient, min(useful_threads(gradient.size, threads), partials.size))
                bound.append((squares_driver(worth), stream, partials, *scratch))
                continue
            array = writable(array_of(gradient))
            signature = (numba.typeof(array), numba.float64, numba.typeof(partials))
            bound.append((specialize(sum_squares, array.dtype, signature, worth), array, partials))

        def total(scale: float, keeps: Any = gradients) -> float:
            calls: list[Call] = [(function, source, scale, *others) for function, source, *others in bound]
            if parallel:
                run(with_threads(threads, calls), region)
            else:
                run(calls)
            total = 0.0
            for _, _, partials, *_ in bound:
                for partial in partials.tolist():
                    total += partial
            return total

        return total


class _Watched:
    """The rows of a program whose kernels have versions, with the terms that each leaves."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], tuple[np.ndarray, Terms]] = {}

    def terms(self, work: Work) -> Terms | None:
        """The terms that a work's row leaves, or None: a kernel of the user's own has no versions."""
        if not isinstance(work.kernel, str):
            return None
        row = work.kernel, id(work.k)
        if row not in self._rows:
            self._rows[row] = work.k, terms(KERNELS[work.kernel], work.k)
        return self._rows[row][1]

    def places(self, wanted: bool = True) -> np.ndarray:
        """What :func:`look` has to look at."""
        return places((KERNELS[name], k) for (name, _), (k, _) in self._rows.items() if wanted)

    def looked_at_by(self, calls: list[Call]) -> bool:
        """Whether the first of these calls, of a version of a kernel, refuses any row that is not as it was."""
        return not self._rows or (len(self._rows) == 1 and any(calls[0][-1] is k for k, _ in self._rows.values()))


class NumbaTable:
    """Works that are bound anew at every step."""

    def __init__(self, backend: NumbaBackend, works: Sequence[Work], then: Sequence[Work]) -> None:
        self._backend, self._works, self._then = backend, list(works), list(then)

    def use(self, rows: slice | np.ndarray, k: np.ndarray, keys: np.ndarray | None = None) -> None:
        for row in np.arange(len(self._works))[rows]:
            self._works[row] = self._works[row]._replace(k=k, keys=keys)

    def bind(self, gradients: np.ndarray, threads: int) -> Program:
        works = []
        for work, address in zip(self._works, gradients.tolist(), strict=True):
            p, g, *states = work.streams
            if address and p.size:
                array = array_at(address, g.size, array_of(g).dtype)
                g = g._replace(parts=(array,)) if isinstance(g, Stream) else array
                works.append(work._replace(streams=(p, g, *states)))
        return self._backend.bind([*works, *self._then], threads)


def worth_threads(size: int, threads: int) -> bool:
    """Whether to use the parallel kernel. numba's thread pools do not survive a fork."""
    return size >= PARALLEL_SIZE and threads > 1 and not process.forks


def useful_threads(size: int, threads: int) -> int:
    """How many threads are worth it for so many elements in all."""
    return min(threads, numba.config.NUMBA_NUM_THREADS) if worth_threads(size, threads) else 1


def writable(array: np.ndarray) -> np.ndarray:
    """The same memory without the read-only flag: numba would compile a kernel of its own for read-only gradients."""
    if array.flags.writeable:
        return array
    return np.asarray(_Alias(array))


class _Alias:
    def __init__(self, array: np.ndarray) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = array.__array_interface__ | {"data": (address, False)}
        self.array = array  # numpy keeps this object, hence the memory, alive


def declared(kernel: Any) -> Any:
    """A kernel, given by name or as a function for numba, as that function."""
    function = KERNELS.get(kernel) if isinstance(kernel, str) else kernel
    if not callable(function):
        raise BackendError(f"the numba backend has no kernel {kernel!r}")
    return function


def describe() -> tuple[str, str, dict[str, str]]:
    """Version, reason and details, for :func:`fastopt.backends`."""
    details = {"threads": str(numba.config.NUMBA_NUM_THREADS), "cache": numba.config.CACHE_DIR or "__pycache__"}
    return numba.__version__, "numba is installed", details


def backend() -> NumbaBackend:
    """The numba backend."""
    return NumbaBackend()
