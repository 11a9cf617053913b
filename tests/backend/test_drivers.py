"""numba's loops over many spans and over tiles: the bits of the kernel alone and of C for sizes around lines, tiles and
blocks, on any number of threads. Tables that a step changes in place. What is refused before anything is written."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from cases import by_kernel
from test_bits import CORNERS, DTYPES, Engine, assert_same, coefficients, data, using

from fastopt.backend.choice import select
from fastopt.backend.program import Follower, Program, Work, run
from fastopt.errors import BackendError
from fastopt.sizes import BLOCK, LINE, TILE
from fastopt.storage import Stream
from fastopt.storages import STORAGES

pytest.importorskip("numba", exc_type=ImportError)

from fastopt.backend import numba as engine
from fastopt.backend.program import OtherTerms
from fastopt.backend.versions import watched
from fastopt.kernels import KERNELS

pytestmark = pytest.mark.compiled

RULES = by_kernel()
FEW = ("sgd", "adam", "rmsprop_centered")
SIZES = [1, 0, *(size + more for size in (LINE // 4, TILE, 2 * TILE, BLOCK) for more in (-1, 0, 1)), 3 * TILE + 17]
#: On threads a share ends within a span, or where one does.
WAYS = [Engine("numba", 1), *(Engine("numba", threads, always_parallel=True) for threads in (2, 3, 4))]
WAYS += [corner for corner in CORNERS if corner.backend == "c"]
L2 = 1

#: The buffers of each span: parameters, gradient, states.
Spans = list[list[np.ndarray]]


def spans(kernel: str, dtype: str) -> Spans:
    """A span of each size."""
    rng = np.random.default_rng(1)
    return [data(rng, RULES[kernel], size, dtype) for size in SIZES]


def copied(buffers: Spans) -> Spans:
    return [[array.copy() for array in each] for each in buffers]


def flat(buffers: Spans) -> list[np.ndarray]:
    return [array for each in buffers for array in each]


def works(kernel: str, buffers: Spans, k: np.ndarray, *, tiled: bool) -> tuple[list[Work], list[np.ndarray]]:
    """The works of all spans, and the copies that follow their parameters: those are what makes numba go by tiles."""
    copies = [np.zeros_like(each[0]) for each in buffers] if tiled else []
    followers = [(Follower(copy),) for copy in copies] or [()] * len(buffers)
    return [Work(kernel, tuple(each), k, then) for each, then in zip(buffers, followers, strict=True)], copies


def bind(way: Engine, found: Sequence[Work]) -> Program:
    with using(way):
        return select(way.backend)[0].bind(found, way.threads)


def alone(kernel: str, start: Spans, k: np.ndarray) -> Spans:
    """After the kernel has run over each span in a program of its own, which calls it and no driver."""
    buffers = copied(start)
    for each in buffers:
        program = bind(WAYS[0], [Work(kernel, tuple(each), k)])
        assert [len(arguments) for _, *arguments in program.calls] == [len(each) + 1]
        run(program)
    return buffers


#: Every kernel, and every loop in either dtype: the loops do not ask which kernel or dtype they have the address of.
LOOPS = [(kernel, DTYPES[number % len(DTYPES)], False) for number, kernel in enumerate(RULES)]
LOOPS += [(kernel, dtype, True) for kernel in FEW for dtype in DTYPES]


@pytest.mark.parametrize(
    ("kernel", "dtype", "tiled"), LOOPS, ids=lambda value: {False: "spans", True: "tiles"}.get(value, value)
)
def test_every_size_in_one_call(kernel, dtype, tiled):
    start, k = spans(kernel, dtype), coefficients(RULES[kernel], 2, dtype)
    expected = alone(kernel, start, k)
    for way in WAYS:
        buffers = copied(start)
        found, copies = works(kernel, buffers, k, tiled=tiled)
        program = bind(way, found)
        assert len(program.calls) == 1
        run(program)
        assert_same(flat(buffers), flat(expected), way)
        assert_same(copies, [p for p, *_ in expected] if tiled else [], way)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("tiled", [False, True], ids=["spans", "tiles"])
@pytest.mark.parametrize("backend", ["numba", *({"c"} & {way.backend for way in WAYS})])
def test_a_table_is_changed_in_place(backend, tiled, threads, monkeypatch):
    """Gradients elsewhere, missing ones, other rows, rows that lose terms: the bits of works that are bound anew."""
    monkeypatch.setattr(engine, "PARALLEL_SIZE", 0)
    rng, rule = np.random.default_rng(2), RULES["adam"]
    buffers, k = spans("adam", "float32"), coefficients(rule, 1, "float32")
    expected = copied(buffers)
    found, _ = works("adam", buffers, k, tiled=tiled)
    ends, numbers = [np.zeros(3, np.float32) for _ in range(2)], np.arange(3, dtype=np.float32)
    then = [Work("blend", (end, numbers), np.array([1.0, 1.0], np.float32)) for end in ends]
    table = select(backend)[0].table(found, then)
    programs, rows = [], [k] * len(found)
    for step in range(1, 9):
        k[:] = coefficients(rule, step, "float32")
        if step == 3:
            k[L2] = 0.0
        if step == 5:
            own = coefficients(rule, 2, "float32")
            table.use(np.array([3, 8]), own)
            rows[3] = rows[8] = own
        if step == 7:
            own = coefficients(rule, 2, "float32")
            own[L2] = 0.0
            table.use(slice(0, None), own)
            rows = [own] * len(found)
        if step == 8:
            last = own.copy()
            table.use(slice(0, None), last)
            rows = [last] * len(found)
            own[:] = 0.0  # no kernel reads it any more
        gradients = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
        there = rng.random(len(SIZES)) < (1.0 if step % 2 else 0.6)
        addresses = [gradient.ctypes.data * bool(kept) for gradient, kept in zip(gradients, there, strict=True)]
        program = table.bind(np.array(addresses, np.int64), threads)
        run(program)
        programs.append(program)
        for each, gradient, row, kept in zip(expected, gradients, rows, there, strict=True):
            if kept:
                run(bind(WAYS[0], [Work("adam", (each[0], gradient, *each[2:]), row)]))
        for mine, right in zip(buffers, expected, strict=True):
            assert_same([mine[0], *mine[2:]], [right[0], *right[2:]], f"step {step}")
        assert all(end.tolist() == [0, step, 2 * step] for end in ends)
    made = [a is not b for a, b in itertools.pairwise(programs)]
    assert made == [step in (3, 4, 7) and backend == "numba" for step in range(2, 9)]


@pytest.mark.parametrize("way", WAYS[:2], ids=str)
@pytest.mark.parametrize("tiled", [False, True], ids=["spans", "tiles"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", FEW)
def test_rows_of_other_terms_are_refused_before_anything_is_written(kernel, dtype, tiled, way):
    """Whichever of the calls would meet them: that of the first kernel looks at the rows of all."""
    start = spans(kernel, dtype)
    for place in (L2, *watched(KERNELS[kernel]).others):
        k, other = coefficients(RULES[kernel], 1, dtype), np.array([0.5, 0.5], dtype)
        buffers, ends = copied(start), [np.ones(5, dtype) for _ in range(2)]
        found, copies = works(kernel, buffers, k, tiled=tiled)
        program = bind(way, [*(Work("blend", (end, np.ones(5, dtype)), other) for end in ends), *found])
        assert len(program.calls) == 2
        k[place] = 0
        with pytest.raises(OtherTerms):
            run(program)
        assert not (program.lock and program.lock.locked())
        assert_same(flat(buffers), flat(start), place)
        assert not any(copy.any() for copy in copies) and all((end == 1).all() for end in ends)


def test_a_kernel_that_there_is_not_is_refused():
    array, k = np.ones(3), np.ones(4)
    for kernel in ("adm", None):
        for followers in ((), (Follower(np.ones(3)),)):
            with pytest.raises(BackendError, match=f"has no kernel {kernel!r}"):
                engine.backend().bind([Work(kernel, (array, array), k, followers)], 1)


def test_scratch_memory_is_a_threads_own():
    """Each share has lines of its own, from the start of one on."""
    codes = np.zeros(5 * TILE, np.uint16)
    stream = Stream(STORAGES["bfloat16"], (codes,), codes.size)
    program = bind(WAYS[3], [Work("sgd", (stream, stream), np.ones(4))])
    *_, scratch, _ = program.calls[0]
    assert len(scratch) == 4 and scratch.strides[0] % LINE == 0 and scratch.ctypes.data % LINE == 0
