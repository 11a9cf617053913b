"""numba's versions of a kernel: the right one for every row, chosen before anything is written."""

import sys

import numpy as np
import pytest
from cases import by_kernel
from test_bits import DTYPES, SERIAL, assert_same, coefficients, data, using
from test_terms import guarded

import fastopt

pytest.importorskip("numba", exc_type=ImportError)

from fastopt.backend import numba as engine
from fastopt.backend.choice import select
from fastopt.backend.program import OtherTerms, Work, run
from fastopt.backend.versions import Terms, terms, watched
from fastopt.kernels import KERNELS
from fastopt.kernels.blend import blend

RULES = by_kernel()
L2 = 1


def test_what_rows_leave():
    row = np.array([1, 0, 1, 0.1], np.float32)
    assert terms(KERNELS["sgd"], row) is Terms.NO_L2
    row[L2] = -0.0
    assert terms(KERNELS["sgd"], row) is Terms.NO_L2
    row[L2] = 0.1
    assert terms(KERNELS["sgd"], row) is Terms.ALL
    row[0] = 0  # grad_scale stands in no term
    assert terms(KERNELS["sgd"], row) is Terms.ALL
    row[3] = 0
    assert terms(KERNELS["sgd"], row) is Terms.SOME
    assert terms(blend, np.array([0.5, 0.5])) is Terms.ALL
    assert terms(blend, np.array([0.0, 1.0])) is Terms.SOME


@pytest.mark.parametrize("kernel", RULES)
def test_what_is_watched(kernel):
    names, (l2, others) = list(RULES[kernel].coefficients(1)), watched(KERNELS[kernel])
    assert l2 == L2 == names.index("l2")
    assert ["l2", *(names[place] for place in others)] == [name for name in names if name in guarded(kernel)]


def program(kernel: str, buffers: list[np.ndarray], k: np.ndarray, form: str):
    """The kernel's program: alone, after another kernel, after an own one, on threads, or on fewer than there are."""
    other, own = (np.ones(3, k.dtype) for _ in range(2))
    row = np.array([1, 0, 1, 0.5], k.dtype)

    def add(p, g, k):
        for i in range(p.size):
            p[i] = p[i] + g[i]

    works = [Work(kernel, tuple(buffers), k)]
    if form == "after another":
        works.insert(0, Work("sgd", (other, np.ones_like(other)), row))
    if form == "after an own one":
        works.insert(0, Work(add, (own, np.ones_like(own)), row))
    with pytest.MonkeyPatch.context() as patch:
        if form.startswith("on"):
            patch.setattr(engine, "PARALLEL_SIZE", 0)
        return engine.backend().bind(works, 2 if form == "on fewer threads" else 4), (other, own)


FORMS = ["alone", "after another", "after an own one", "on threads", "on fewer threads"]
SEVERAL = ["sgd", "lion", "adam", "asgd", "rmsprop_centered_momentum"]
#: Each kernel in each form, and in both dtypes.
PROGRAMS = [
    (kernel, DTYPES[(place + number) % 2], form)
    for place, kernel in enumerate(SEVERAL)
    for number, form in enumerate(FORMS)
]


@pytest.mark.parametrize(("kernel", "dtype", "form"), PROGRAMS)
def test_a_row_that_a_program_is_not_for_is_refused_before_anything_is_written(kernel, dtype, form):
    rule = RULES[kernel]
    buffers = data(np.random.default_rng(1), rule, 300, dtype)
    before = [buffer.copy() for buffer in buffers]
    k = coefficients(rule, 1, dtype)
    for place in (L2, *watched(KERNELS[kernel]).others):
        for first in (k[place], 0):
            row = k.copy()
            row[place] = first
            bound, others = program(kernel, buffers, row, form)
            row[place] = k[place] if first == 0 else -0.0
            threads = engine.numba.get_num_threads()
            with pytest.raises(OtherTerms):
                run(bound)
            assert engine.numba.get_num_threads() == threads
            assert not (bound.lock and bound.lock.locked())
            assert_same(buffers, before, place)
            assert all((other == 1).all() for other in others)


@pytest.mark.parametrize(("zero", "dtype"), [(0.0, "float32"), (-0.0, "float64")])
@pytest.mark.parametrize("kernel", RULES)
def test_without_coupled_decay_the_bits_are_those_of_c(kernel, dtype, zero):
    """The term that is not there is the coefficient: minus zero may be added."""
    rule = RULES[kernel]
    start = data(np.random.default_rng(2), rule, 300, dtype)
    k = coefficients(rule, 1, dtype)
    k[L2] = zero
    found = []
    for corner in SERIAL:
        buffers = [buffer.copy() for buffer in start]
        with using(corner):
            bound = select(corner.backend)[0].bind([Work(kernel, tuple(buffers), k)], corner.threads)
        run(bound)
        found.append(buffers)
    for buffers in found[1:]:
        assert_same(buffers, found[0], SERIAL)


def restless(step: int) -> float:
    """A learning rate that is zero in some steps."""
    return 0.0 if step % 5 in (2, 3) else 0.1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_whose_rows_get_and_lose_zeros(dtype, threads, monkeypatch):
    """Learning rates of zero, the first steps of RAdam, coupled decay that comes and goes."""
    rules = {"a": fastopt.RAdam(lr=0.1), "b": fastopt.Momentum(lr=restless, weight_decay=0.1)}
    rules |= {"*": fastopt.AdamW(lr=restless)}
    if threads > 1:
        monkeypatch.setattr(engine, "PARALLEL_SIZE", 0)
    looks = []
    for backend in [name for name in ("numba", "c") if fastopt.backends()[name]]:
        rng = np.random.default_rng(3)
        params = fastopt.FlatBuffer({name: rng.standard_normal(40) for name in "abcd"}, dtype=dtype)
        optimizer = fastopt.Optimizer(params, rules, backend=backend, threads=threads, ema_decay=0.9)
        alone = fastopt.Optimizer(params["c"].copy(), fastopt.AdamW(lr=restless), backend=backend, threads=threads)
        gradient = params.copy()
        look = []
        for step in range(20):
            if step % 7 == 3:
                optimizer.groups["b"].rule = fastopt.Momentum(lr=0.1, weight_decay=0.1 * (step % 2))
            gradient.flat[:] = rng.standard_normal(gradient.flat.size)
            optimizer.step(gradient)
            alone.step(gradient["c"].copy() if step % 2 else gradient["c"])
            look += [params.flat.tobytes(), optimizer.ema.flat.tobytes(), alone.flat.tobytes()]
        assert optimizer.step_count == alone.step_count == 20
        looks.append(look)
    assert all(look == looks[0] for look in looks)


def test_a_version_is_compiled_when_a_row_needs_it():
    from fastopt.backend.compile import dispatchers

    def versions():
        return {key[-1] for key in dispatchers if key[0] is KERNELS["asgd"] and key[1] == np.float64 and not key[2]}

    dispatchers.clear()
    optimizer = fastopt.Optimizer(np.ones(3), fastopt.ASGD(weight_decay=0.0), backend="numba")
    optimizer.step(np.ones(3))
    assert versions() == {Terms.NO_L2}
    optimizer.lr = 0.0
    optimizer.step(np.ones(3))
    assert versions() == {Terms.NO_L2, Terms.SOME}


def test_refusals_keep_nothing_alive():
    buffers = [np.ones(10) for _ in range(2)]
    k = np.array([1, 0, 1, 0.1])
    bound = engine.backend().bind([Work("sgd", tuple(buffers), k)], 1)
    k[3] = 0
    before = [sys.getrefcount(array) for array in (*buffers, k)]
    for _ in range(100):
        with pytest.raises(OtherTerms):
            run(bound)
    assert [sys.getrefcount(array) for array in (*buffers, k)] == before
