"""The numba backend: kernels compiled on first use and cached on disk."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numba
import numpy as np

from fastopt.backend import drivers
from fastopt.backend.compile import Way, driver, learn, region, specialize, sum_driver, with_threads
from fastopt.backend.process import process
from fastopt.backend.program import Call, OtherTerms, Program, Work, only_gradient, run
from fastopt.backend.tables import (
    GRADIENT,
    Table,
    address,
    array_of,
    reads,
    size_of,
    span_table,
    sum_table,
    tile_table,
    way_of,
)
from fastopt.backend.versions import Terms, look, places, terms
from fastopt.buffers import aligned_empty, name_of
from fastopt.errors import BackendError
from fastopt.kernels import KERNELS
from fastopt.sizes import BLOCK, GRAIN
from fastopt.storage import Stream
from fastopt.sums import SUMS, Sum

#: Elements from which on a parallel region is worth its cost: two threads.
PARALLEL_SIZE = 2 * GRAIN


class NumbaBackend:
    """Runs the kernels of ``fastopt/kernels/``, in parallel or, for small spans and in forked children, serially."""

    name = "numba"

    def bind(self, works: Sequence[Work], threads: int) -> Program:
        return bound(works, threads).program

    def table(self, works: Sequence[Work], then: Sequence[Work] = (), grain: int = 0) -> "NumbaTable":
        return NumbaTable(works, then)

    def sums(self, works: Sequence[Work], name: str, grain: int = 0) -> "NumbaSums":
        return NumbaSums(works, name)

    def bind_sum_squares(self, gradients: Sequence[np.ndarray | Stream], threads: int) -> Callable[[float], float]:
        one, scales, works = np.ones(1, np.float32), np.ones(1), []
        for gradient in gradients:
            name = gradient.storage.name if isinstance(gradient, Stream) else name_of(gradient.dtype)
            works.append(only_gradient(gradient, scales if name == "float64" else one))
        runs = [list(each) for _, each in groupby(works, key=lambda work: work.k.dtype)]
        batches = [_SumBatch(SUMS["sum_squares"], run[0].k.dtype, run, np.arange(len(run))) for run in runs]

        def total(scale: float) -> float:
            scales[:] = scale
            total = 0.0
            for batch in batches:
                batch.run(threads)
                for partial in batch.partials[:, 0].tolist():
                    # squares of float32 numbers neither overflow nor vanish, and the scale may be no such number
                    total += partial if batch.dtype.itemsize == 8 else partial * scale * scale
            return total

        return total


class NumbaSums:
    """Tables of works over each of which a sum is taken, one for each dtype that works compute in."""

    def __init__(self, works: Sequence[Work], name: str) -> None:
        self._works, self._width = list(works), len(SUMS[name].numbers)
        dtypes = [work.k.dtype for work in works]
        self._batches = [
            _SumBatch(SUMS[name], dtype, works, np.array([number for number, of in enumerate(dtypes) if of == dtype]))
            for dtype in dict.fromkeys(dtypes)
        ]

    def use(self, rows: slice | np.ndarray, k: np.ndarray) -> None:
        chosen = np.zeros(len(self._works), bool)
        chosen[rows] = True
        for batch in self._batches:
            batch.table[chosen[batch.which], drivers.K] = address(k)

    def take(self, threads: int, gradients: np.ndarray | None = None) -> np.ndarray:
        numbers = np.empty((len(self._works), self._width))
        for batch in self._batches:
            if gradients is not None:
                batch.read(gradients)
            batch.run(threads)
            numbers[batch.which] = batch.numbers
        return numbers


class _SumBatch:
    """The works that compute in one dtype, by their numbers ``which``, as the loop of a sum takes them."""

    def __init__(self, wanted: Sum, dtype: np.dtype, works: Sequence[Work], which: np.ndarray) -> None:
        self._wanted, self.dtype, self.which = wanted, dtype, which
        self._keeps = [works[number] for number in which]
        self.table = sum_table(self._keeps, wanted.first, len(wanted.streams))
        self._sizes = self.table[:, drivers.SIZE].copy()
        self._size = int(self._sizes.sum())
        self.starts = np.cumsum([0, *-(-self._sizes // BLOCK)], dtype=np.int64)
        self.partials = np.empty((self.starts[-1], len(wanted.numbers)))
        self.numbers = np.empty((which.size, len(wanted.numbers)))
        #: For how many threads and in which process the program is bound.
        self._bound_for: tuple = ()
        self._program = Program([], ())
        self._gradient = drivers.ENTRIES + drivers.ENTRY * (GRADIENT - wanted.first) + drivers.FIRST
        learn((self.table, self.starts, self.partials))

    def read(self, gradients: np.ndarray) -> None:
        """Has works read their gradients at these addresses; one at 0 adds up nothing."""
        self.table[:, self._gradient] = gradients[self.which]
        self.table[:, drivers.SIZE] = self._sizes * (gradients[self.which] != 0)

    def run(self, threads: int) -> None:
        """Fills in the numbers, and those of every block."""
        wanted = threads, process.forks
        if wanted != self._bound_for:
            self._program, self._bound_for = self._bind(threads), wanted
        run(self._program)

    def _bind(self, threads: int) -> Program:
        shares = max(1, min(useful_threads(self._size, threads), len(self.partials)))
        words = drivers.scratch_words(len(self._wanted.streams))
        scratch = aligned_empty(shares * words, np.dtype(np.int64)).reshape(shares, words)
        loop = sum_driver(self._wanted.name, self.dtype, shares > 1)
        calls: list[Call] = [(loop, self.table, self.starts, self.partials, self.numbers, scratch)]
        return Program(with_threads(threads, calls), (), region) if shares > 1 else Program(calls, ())


class Bound(NamedTuple):
    """Works made ready: their program, the terms that each one's row leaves, and what :func:`look` has to look at.

    ``tables`` come with the numbers of their works.
    """

    program: Program
    terms: list[Terms | None]
    places: np.ndarray
    tables: list[tuple[Table, np.ndarray]]


def bound(works: Sequence[Work], threads: int, *, tables: bool = False) -> Bound:
    """Makes works ready. Those of one kernel, dtype and version get a table if that is faster or asked for."""
    watched = _Watched()
    versions = list(map(watched.terms, works))
    batches: dict[tuple, list[int]] = {}
    for number, (work, version) in enumerate(zip(works, versions, strict=True)):
        key = declared(work.kernel), work.k.dtype, version, len(work.streams), way_of(work), work.spans is not None
        batches.setdefault(key, []).append(number)
    places = watched.places()
    driven: list[Call] = []
    single: list[Call] = []
    made: list[tuple[Table, np.ndarray]] = []
    parallel = False
    for (kernel, dtype, version, streams, way, parted), numbers in batches.items():
        batch = [works[number] for number in numbers]
        if way is not Way.IN_PLACE or parted or tables or (version and len(batch) > 1):
            shares = useful_threads(sum(map(size_of, batch)), threads)
            loop, function = driver(kernel, dtype, streams, shares > 1, version, way)
            table = (tile_table if way in (Way.TILES, Way.MIXED) else span_table)(batch, shares)
            # The first loop looks at the rows of all.
            watches = places[:0] if driven else places
            driven.append((loop, table.rows, table.bounds, watches, *table.scratch, function))
            made.append((table, np.array(numbers)))
            parallel |= shares > 1
            continue
        for work in batch:
            buffers = *map(writable, map(array_of, work.streams)), work.k
            worth = worth_threads(size_of(work), threads)
            signature = (numba.from_dtype(dtype)[::1],) * len(buffers)
            calls = [(specialize(kernel, dtype, signature, worth, version), *buffers)]
            single += with_threads(threads, calls) if worth else calls
            parallel |= worth
    calls = [*driven, *single]
    if not driven and not watched.looked_at_by(calls):
        calls.insert(0, (looking(places), places))
    learn(each for _, *arguments in calls for each in arguments if isinstance(each, np.ndarray))
    return Bound(Program(calls, (list(works),), region if parallel else None), versions, places, made)


def looking(places: np.ndarray) -> Any:
    """The compiled function :func:`look`."""
    return specialize(look, places.dtype, (numba.typeof(places),), False)


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
            self._rows[row] = work.k, terms(declared(work.kernel), work.k)
        return self._rows[row][1]

    def places(self) -> np.ndarray:
        """What :func:`look` has to look at."""
        return places((KERNELS[name], k) for (name, _), (k, _) in self._rows.items())

    def looked_at_by(self, calls: list[Call]) -> bool:
        """Whether the first of these calls, of a version of a kernel, refuses any row that is not as it was."""
        rows = list(self._rows.values())
        return not rows or (len(rows) == 1 and calls[0][-1] is rows[0][0])


class NumbaTable:
    """Tables that a step changes in place. Works are bound again where a row needs another version of its kernel."""

    def __init__(self, works: Sequence[Work], then: Sequence[Work]) -> None:
        self._works, self._count = [*works, *then], len(works)
        #: What works read in a step: the addresses of their gradients, rows of coefficients and keys.
        self._read = np.array(list(map(reads, self._works)), np.int64).reshape(-1, 3)
        #: For how many threads and in which process works are bound.
        self._bound_for: tuple = ()
        self._bound = bound((), 1)
        #: Whether works have got other rows since they were bound.
        self._used = False

    def use(self, rows: slice | np.ndarray, k: np.ndarray, keys: np.ndarray | None = None) -> None:
        self._used = True
        for number in np.arange(self._count)[rows]:
            self._works[number] = self._works[number]._replace(k=k, keys=keys)
            self._read[number] = reads(self._works[number])

    def bind(self, gradients: np.ndarray, threads: int) -> Program:
        self._read[: self._count, 0] = gradients
        wanted = threads, process.forks
        if wanted != self._bound_for or self._needs_other_versions():
            self._bound_for = ()
            self._bound = bound(self._works, threads, tables=True)
            self._bound_for, self._used = wanted, False
        for table, numbers in self._bound.tables:
            table.read(self._read[numbers])
        return self._bound.program

    def _needs_other_versions(self) -> bool:
        """Whether rows leave other terms than when works were bound; if not, has the program look at those of now."""
        if not self._used:
            try:
                looking(self._bound.places)(self._bound.places)
            except OtherTerms:
                return True
            return False
        watched = _Watched()
        if list(map(watched.terms, self._works)) != self._bound.terms:
            return True
        calls, places = self._bound.program.calls, watched.places()
        loop, table, bounds, _, *scratch = calls[0]
        calls[0] = loop, table, bounds, places, *scratch
        self._bound, self._used = self._bound._replace(places=places), False
        return False


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
