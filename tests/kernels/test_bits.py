"""The same bits from numba, serial and parallel, from C with every instruction set, from any number of threads and from
any split of the work; and those are the bits of plain IEEE arithmetic in the order that a kernel is written in."""

import itertools
import math
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pytest
from cases import bits, by_kind, cases, easy, every_kernel, hard, short
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.backend.choice import select
from fastopt.backend.program import Work, run
from fastopt.rule import Rule
from fastopt.sizes import BLOCK, GRAIN

pytestmark = pytest.mark.compiled

KERNELS = every_kernel()
DTYPES = ("float32", "float64")
LARGE = 262_147  # worth four threads, and no multiple of anything


class Engine(NamedTuple):
    """A way to run a kernel."""

    backend: str
    threads: int
    isa: str = ""
    always_parallel: bool = False

    def __str__(self) -> str:
        return "-".join(filter(None, [self.backend, self.isa, str(self.threads), "parallel" * self.always_parallel]))


def engines() -> list[Engine]:
    """Every way to run a kernel here."""
    found = []
    available = fastopt.backends()
    if available["numba"]:
        found += [Engine("numba", threads) for threads in (1, 2, 4)]
        found += [Engine("numba", threads, always_parallel=True) for threads in (2, 4)]
    if available["c"]:
        from fastopt.backend import c

        found += [Engine("c", threads, isa) for isa in c.isas() for threads in (1, 2, 4)]
    return found


ENGINES = engines()
#: The first and the last of each backend: serial with the least instruction set, and four threads with the best one.
CORNERS = [
    corner
    for _, found in itertools.groupby(ENGINES, lambda engine: engine.backend)
    for corner in itemgetter(0, -1)(list(found))
]
#: Those without numba's parallel kernels, which take longest to compile: their loops' bodies are the serial ones'.
SERIAL = [corner for corner in CORNERS if not corner.always_parallel]


@contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Has fastopt use the engine's instruction set and, if asked, numba's parallel kernels for any size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTOPT_ISA", engine.isa)
        if engine.always_parallel:
            from fastopt.backend import numba

            patch.setattr(numba, "PARALLEL_SIZE", 0)
        yield


#: What rules leave at 0 or 1, and optax's formulas do not.
OF_OTHER_FORMULAS = {"eps_root": 0.01, "correction": 1.3}


def coefficients(rule: Rule, step: int, dtype: str) -> np.ndarray:
    """The coefficients of a step, with a scale and both kinds of decay: a kernel has to be right for those, too."""
    k = rule.table(step, dtype)[-1]
    if k.size > 3:
        k[:3] = 0.7, 0.05, 0.97  # grad_scale, l2, shrink
    for place, name in enumerate(rule.coefficients(step)):
        k[place] = OF_OTHER_FORMULAS.get(name, k[place])
    return k


def data(rng: np.random.Generator, rule: Rule, size: int, dtype: str) -> list[np.ndarray]:
    """Parameters, gradient and states: half of them ordinary, where states keep their signs, half of them hard."""
    return buffers_with(rng, len(rule.states), size, dtype)


def buffers_with(rng: np.random.Generator, states: int, size: int, dtype: str) -> list[np.ndarray]:
    """:func:`data` for so many states."""
    buffers = [easy(rng, size, dtype), easy(rng, size, dtype)]
    buffers += [abs(easy(rng, size, dtype)) for _ in range(states)]
    difficult = rng.random(size) < 0.5
    return [np.where(difficult, hard(rng, size, dtype), buffer) for buffer in buffers]


def stepped(
    engine: Engine, rule: Rule, start: Sequence[np.ndarray], parts: Sequence[slice], steps: int
) -> list[np.ndarray]:
    """The buffers after some steps of the parts of them."""
    buffers = [buffer.copy() for buffer in start]
    k = coefficients(rule, 1, buffers[0].dtype.name)
    with using(engine):
        backend, _ = select(engine.backend)
        works = [Work(rule.kernel, tuple(buffer[part] for buffer in buffers), k) for part in parts]
        for step in range(1, steps + 1):
            k[:] = coefficients(rule, step, k.dtype.name)
            if step <= 2:  # the first step of some rules leaves out a term
                program = backend.bind(works, engine.threads)
            run(program)
    return buffers


def assert_same(computed: Sequence[np.ndarray], expected: Sequence[np.ndarray], what: object) -> None:
    """The same bits, but for those of NaN, and the same codes."""
    for index, (mine, other) in enumerate(zip(computed, expected, strict=True)):
        if mine.dtype == other.dtype and mine.tobytes() == other.tobytes():
            continue
        here, there = (bits(each) if each.dtype.kind == "f" else each for each in (mine, other))
        different = np.flatnonzero(here != there)
        if different.size:
            i = different[0]
            pytest.fail(f"{what}: buffer {index}[{i}] is {mine[i]!r}, not {other[i]!r}; {different.size} differ")


def interpreted(kernel: str):
    """The kernel's Python function, run by the interpreter on NumPy's scalars: one correctly rounded operation each."""
    pytest.importorskip("numba", exc_type=ImportError)
    from fastopt.kernels import KERNELS

    return interpreted_function(KERNELS[kernel])


def interpreted_function(compiled):
    """As :func:`interpreted`, of any function for numba."""
    function = compiled.py_func
    plain = {"prange": range, "sqrt": np.sqrt, "to_fixed_tuple": lambda k, n: tuple(k)}
    called = {
        name: each.py_func
        for name in function.__code__.co_names
        if (each := function.__globals__.get(name)) and hasattr(each, "py_func")
    }
    return types.FunctionType(function.__code__, function.__globals__ | called | plain)


def every_size() -> tuple[list[slice], int]:
    """Parts of every size around the widths of vectors, unaligned and with gaps that nobody may touch."""
    parts, start = [], 1
    for size in [*range(71), 127, 128, 129, 255, 257]:
        parts.append(slice(start, start + size))
        start += size + 1 + size % 3
    return parts, start


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_size_and_alignment(kernel, dtype):
    parts, size = every_size()
    rule = KERNELS[kernel]
    start = data(np.random.default_rng(1), rule, size, dtype)
    expected = [buffer.copy() for buffer in start]
    plain = interpreted(kernel)
    with np.errstate(all="ignore"):
        for step in (1, 2):
            for part in parts:
                plain(*(buffer[part] for buffer in expected), coefficients(rule, step, dtype))
    for engine in ENGINES:
        assert_same(stepped(engine, rule, start, parts, 2), expected, engine)


@cache
def large(states: int, dtype: str) -> list[np.ndarray]:
    return buffers_with(np.random.default_rng(2), states, LARGE + 1, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_number_of_threads(kernel, dtype):
    rule = KERNELS[kernel]
    start = large(len(rule.states), dtype)
    whole = [slice(1, LARGE + 1)]
    expected = stepped(ENGINES[0], rule, start, whole, 2)
    for engine in CORNERS if dtype == "float64" else ENGINES[1:]:
        assert_same(stepped(engine, rule, start, whole, 2), expected, engine)
    parts = [slice(1, 100_000), slice(100_000, 100_003), slice(100_003, LARGE + 1)]
    for engine in (CORNERS[1], CORNERS[-1]):
        assert_same(stepped(engine, rule, start, parts, 2), expected, f"{engine} in three parts")


def test_four_threads_are_used():
    """Else the tests of threads would show nothing."""
    assert 4 * GRAIN <= LARGE
    if any(engine.backend == "numba" for engine in ENGINES):
        from fastopt.backend import numba

        assert numba.PARALLEL_SIZE <= LARGE
        assert numba.numba.config.NUMBA_NUM_THREADS == 4


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(KERNELS)),
    st.sampled_from(DTYPES),
    st.sampled_from(ENGINES),
    st.sets(st.integers(0, LARGE), max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_any_split(kernel, dtype, engine, cuts, seed):
    rule = KERNELS[kernel]
    start = data(np.random.default_rng(seed), rule, LARGE, dtype)
    bounds = [0, *sorted(cuts), LARGE]
    parts = list(itertools.starmap(slice, itertools.pairwise(bounds)))
    expected = stepped(ENGINES[0], rule, start, [slice(0, LARGE)], 2)
    assert_same(stepped(engine, rule, start, parts, 2), expected, engine)


# Through the optimizer: groups, clipping and the scale of the loss.


def descended(
    engine: Engine, rules: dict[str, Rule], dtype: str, rows: int = 31, **options
) -> tuple[list[np.ndarray], list[float]]:
    """Parameters and states after four steps, and the norms that the steps reported."""
    rng = np.random.default_rng(3)
    shapes = {"a.w": (rows, 157), "a.b": (157,), "b.w": (157, 13), "b.b": (13,), "c": (), "d": (0, 3)}
    params = fastopt.FlatBuffer({name: rng.standard_normal(shape) for name, shape in shapes.items()}, dtype=dtype)
    grads = params.zeros_like()
    norms = []
    with using(engine):
        optimizer = fastopt.Optimizer(params, rules, backend=engine.backend, threads=engine.threads)
        for _ in range(4):
            grads.flat[:] = 1024 * rng.standard_normal(grads.flat.size)
            norms.append(optimizer.step(grads, grad_scale=1 / 1024, **options).grad_norm)
    assert optimizer.backend == engine.backend
    return [params.flat, *(state.flat for state in optimizer.state.values())], norms


@pytest.mark.parametrize("dtype", DTYPES)
@by_kind(cases())
def test_every_rule_through_the_optimizer(rules, dtype):
    for rule in rules:
        expected, norms = descended(ENGINES[0], {"*": rule}, dtype, max_norm=0.5)
        assert len(set(norms)) == 4
        for engine in SERIAL[1:]:
            buffers, others = descended(engine, {"*": rule}, dtype, max_norm=0.5)
            assert_same(buffers, expected, f"{short(rule)} on {engine}")
            assert others == norms


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_groups(dtype):
    rules = {"*.b": fastopt.Momentum(), "b.*": fastopt.AMSGrad(), "c": fastopt.Lion(), "*": fastopt.AdamW()}
    expected, norms = descended(ENGINES[0], rules, dtype, rows=1801, max_norm=0.5)
    for engine in ENGINES[1:]:
        buffers, others = descended(engine, rules, dtype, rows=1801, max_norm=0.5)
        assert_same(buffers, expected, engine)
        assert others == norms


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_do_not_depend_on_their_groups(dtype):
    together, _ = descended(ENGINES[0], {"*": fastopt.Adam()}, dtype)
    apart, _ = descended(ENGINES[0], {"a.*": fastopt.Adam(), "*.b": fastopt.Adam(), "*": fastopt.Adam()}, dtype)
    assert_same(apart[:1], together[:1], "in groups")


# The norm


def sum_squares(engine: Engine, gradients: Sequence[np.ndarray], scale: float) -> float:
    with using(engine):
        backend, _ = select(engine.backend)
        return backend.bind_sum_squares(gradients, engine.threads)(scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 1001, BLOCK - 1, BLOCK, BLOCK + 1, LARGE])
def test_norm(size, dtype):
    rng = np.random.default_rng(4)
    gradient = easy(rng, size + 1, dtype)[1:]
    expected = sum_squares(ENGINES[0], [gradient], 0.37)
    for engine in ENGINES:
        assert sum_squares(engine, [gradient], 0.37) == expected, engine
    squares = [(0.37 * x) ** 2 for x in gradient.astype(np.float64).tolist()]
    # 1 rounding of a square, and one for each addition on the longest way to the sum: lane, fold, blocks
    roundings = 1 + min(size, BLOCK) / 32 + 5 + size / BLOCK
    assert expected == pytest.approx(math.fsum(squares), rel=(2 + roundings) * 2**-53, abs=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_several_gradients(dtype):
    rng = np.random.default_rng(5)
    gradients = [easy(rng, size, dtype) for size in (5, 0, 100_003, 1, 40_000, 16384, 77)]
    expected = sum_squares(ENGINES[0], gradients, 1.0)
    for engine in ENGINES:
        assert sum_squares(engine, gradients, 1.0) == expected, engine
    exact = math.fsum(x * x for gradient in gradients for x in gradient.astype(np.float64).tolist())
    assert expected == pytest.approx(exact, rel=600 * 2**-53)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [100, LARGE])
def test_norm_of_hard_gradients(size, dtype):
    rng = np.random.default_rng(6)
    for gradient in (hard(rng, size, dtype), np.nan_to_num(hard(rng, size, dtype), posinf=1.0, neginf=1.0)):
        expected = np.array(sum_squares(ENGINES[0], [gradient], 1.0))
        for engine in ENGINES:
            assert bits(np.array(sum_squares(engine, [gradient], 1.0))) == bits(expected), engine


def test_norm_of_gradients_whose_squares_overflow():
    gradient = np.random.default_rng(7).standard_normal(LARGE) * 1e200
    exact = math.hypot(*(gradient / 1e200).tolist()) * 1e200
    results = []
    for engine in ENGINES:
        params = np.zeros(LARGE)
        with using(engine):
            optimizer = fastopt.Optimizer(params, fastopt.SGD(lr=1.0), backend=engine.backend, threads=engine.threads)
            report = optimizer.step(gradient, max_norm=3.0)
        assert report.grad_norm == pytest.approx(exact, rel=1e-13)
        assert np.linalg.norm(params) == pytest.approx(3.0, rel=1e-13)
        results.append((report.grad_norm, params))
    for engine, (norm, params) in zip(ENGINES, results, strict=True):
        assert norm == results[0][0], engine
        assert_same([params], [results[0][1]], engine)
