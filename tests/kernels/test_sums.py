"""Sums over each parameter: the same bits from both backends, every instruction set and number of threads, and those
are the bits of their definition; and the rules that need them, parameter by parameter."""

import ast
import inspect
import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from cases import bits, easy, hard, short
from harness import random_buffer
from test_bits import CORNERS, ENGINES, Engine, assert_same, interpreted_function, using

import fastopt
from fastopt.backend.choice import select
from fastopt.backend.program import Work
from fastopt.rule import Rule
from fastopt.sizes import BLOCK, LANES, TILE

pytest.importorskip("numba", exc_type=ImportError)
from fastopt.sums import SUMS

pytestmark = pytest.mark.compiled

FORMS = [form for rule in fastopt.RULES.values() for form in rule.forms() if form.sums]
RULES = list({(form.kernel, form.sums): form for form in FORMS}.values())
BY_SUM = {rule.sums: rule for rule in RULES}
APART = [rule for rule in RULES if not rule.totals]
STORED = [{"state_dtype": "8bit"}, {"state_dtype": "bfloat16"}, {"copy": "float16"}]
SIZES = (0, 1, LANES - 1, LANES + 1, TILE - 1, TILE + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5, 7)


def kernel_of(name: str) -> str:
    return BY_SUM[name].kernel if name in BY_SUM else "sgd"


def works(name: str, dtype: str, sizes: Sequence[int], *, difficult: bool = False) -> list[Work]:
    """Works of these sizes, all parts of the same buffers, that have an element more at either end.

    In turn with the coefficients of a rule, with none that is zero, and with terms missing.
    """
    rng = np.random.default_rng(8)
    states = len(BY_SUM[name].states) if name in BY_SUM else 0
    size = sum(sizes) + 2
    buffers = [easy(rng, size, dtype), easy(rng, size, dtype), *(abs(easy(rng, size, dtype)) for _ in range(states))]
    if difficult:
        buffers = [np.where(rng.random(size) < 0.01, hard(rng, size, dtype), buffer) for buffer in buffers]
    if name in BY_SUM:
        rule = BY_SUM[name]
        k = np.array([*rule.measured(3, rule.coefficients(3)).values()], dtype)
    else:
        k = np.array([0.37], dtype)
    ends = [1, *(1 + end for end in itertools.accumulate(sizes))]
    places = [slice(start, stop) for start, stop in itertools.pairwise(ends)]
    every, some = np.where(k == 0, k.dtype.type(0.25), k), k.copy()
    some[1:5:2] = 0
    rows = itertools.cycle((k, every, some))
    return [Work(kernel_of(name), tuple(buffer[place] for buffer in buffers), next(rows)) for place in places]


def taken(engine: Engine, name: str, found: list[Work]) -> np.ndarray:
    with using(engine):
        return select(engine.backend)[0].sums(found, name).take(engine.threads)


def added(contributions: np.ndarray) -> float:
    """The sum of what elements contribute, in the order that is promised."""
    total = 0.0
    for start in range(0, contributions.size, BLOCK):
        block = contributions[start : start + BLOCK]
        lanes = np.zeros(-(-block.size // LANES) * LANES)
        lanes[: block.size] = block
        sums = np.zeros(LANES)
        for row in lanes.reshape(-1, LANES):
            sums = sums + row
        while sums.size > 1:
            sums = sums[: sums.size // 2] + sums[sums.size // 2 :]
        total += float(sums[0])
    return total


def defined(name: str, work: Work) -> list[float]:
    """The numbers of a sum by its Python function, run by the interpreter, and that order of additions."""
    wanted = SUMS[name]
    streams = work.streams[wanted.first : wanted.first + len(wanted.streams)]
    contributions = [np.zeros(streams[0].size) for _ in wanted.numbers]
    with np.errstate(all="ignore"):
        interpreted_function(wanted.loop)(*streams, work.k, *contributions)
        return list(map(added, contributions))


@pytest.mark.parametrize("name", SUMS)
def test_both_languages_and_rules_agree_on_what_a_sum_reads(name, backends):
    code = ast.parse(inspect.getsource(SUMS[name].loop.py_func))
    (unpacking,) = (
        node for node in ast.walk(code) if isinstance(node, ast.Assign) and "to_fixed_tuple" in ast.unparse(node.value)
    )
    coefficients = tuple(each.id for each in unpacking.targets[0].elts)
    if name in BY_SUM:
        rule = BY_SUM[name]
        assert tuple(rule.measured(2, rule.coefficients(2))) == coefficients
        assert len(SUMS[name].streams) <= 2 + len(rule.states)
    if "c" in backends:
        from fastopt.backend import c

        assert c.sums() == {
            other: (wanted.streams, c.sums()[other][1], wanted.numbers) for other, wanted in SUMS.items()
        }
        assert c.sums()[name][1] == coefficients


def test_every_sum_is_a_rules_or_the_norms():
    assert set(SUMS) == {*BY_SUM, "sum_squares"}


@pytest.mark.parametrize("difficult", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SUMS)
def test_the_bits_of_a_sum(name, dtype, difficult):
    found = works(name, dtype, SIZES, difficult=difficult)
    expected = taken(ENGINES[0], name, found)
    for engine in ENGINES[1:]:
        assert_same([taken(engine, name, found)], [expected], engine)
    few = [number for number, work in enumerate(found) if work.streams[0].size in (*SIZES[:6], BLOCK + 1)]
    defining = np.array([defined(name, found[number]) for number in few])
    assert_same([expected[few]], [defining], "by definition")


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_many_parameters_are_those_of_each(name):
    found = works(name, "float32", [3 * number % 7 for number in range(300)])
    for engine in CORNERS:
        together = taken(engine, name, found)
        assert_same([together], [np.concatenate([taken(engine, name, [work]) for work in found])], engine)


def test_gradients_that_lie_elsewhere(backends):
    found = works("sum_squares", "float32", (5, BLOCK + 3, 0, 70))
    others = [np.arange(work.streams[1].size, dtype=np.float32) for work in found]
    addresses = np.array([array.ctypes.data for array in others], np.int64)
    for backend in backends:
        sums = select(backend)[0].sums(found, "sum_squares")
        before = sums.take(2)
        moved = [work._replace(streams=(work.streams[0], array)) for work, array in zip(found, others, strict=True)]
        expected = select(backend)[0].sums(moved, "sum_squares").take(1)
        assert_same([sums.take(2, addresses)], [expected], backend)
        absent = sums.take(2, np.where(np.arange(4) == 1, 0, addresses))
        assert absent[1] == 0 and absent[3] == expected[3]
        k = np.zeros(1, np.float32)
        sums.use(np.array([3]), k)
        assert sums.take(1, addresses)[3] == 0 and sums.take(1, addresses)[1] == expected[1] != before[1]


# The rules


SHAPES = {
    "before": (3,),
    "a": (TILE - 5, 17),
    "scalar": (),
    "empty": (0, 4),
    "zero": (40,),
    "frozen": (300,),
    "b": (33,),
    **{f"small{number}": (number % 5,) for number in range(300)},
}


def trained(engine: Engine, rule: Rule, dtype: str = "float32", names: Sequence[str] = (*SHAPES,), **options):
    """The parameters and states, by name, after three steps; of ``zero`` neither parameters nor gradient are else."""
    params = fastopt.FlatBuffer({name: _values(name, 0) for name in names}, dtype=dtype)
    grads = params.zeros_like()
    rules = {"frozen": fastopt.SGD(), "*": rule} if "frozen" in names else rule
    with using(engine):
        optimizer = fastopt.Optimizer(params, rules, backend=engine.backend, threads=engine.threads, **options)
        if "frozen" in names:
            optimizer.freeze("frozen")
        for step in range(1, 4):
            for name in names:
                grads[name][...] = _values(name, step)
            optimizer.step(grads)
    return params, optimizer


@cache
def _values(name: str, step: int) -> np.ndarray:
    if name == "zero":
        return np.zeros(SHAPES[name])
    return np.random.default_rng([step, *name.encode()]).standard_normal(SHAPES[name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_many_parameters_have_the_same_bits_everywhere(rule, dtype):
    expected, optimizer = trained(ENGINES[0], rule, dtype)
    states = [optimizer.state[name].flat for name in rule.states]
    for engine in CORNERS[1:]:
        params, other = trained(engine, rule, dtype)
        assert_same([params.flat, *(other.state[name].flat for name in rule.states)], [expected.flat, *states], engine)


@pytest.mark.parametrize("rule", APART, ids=short)
def test_a_parameter_steps_as_if_it_were_alone(rule):
    together, _ = trained(CORNERS[-1], rule)
    for name in ("a", "scalar", "empty", "zero", "b", "small7"):
        alone, _ = trained(CORNERS[-1], rule, names=(name,))
        assert_same([together[name].reshape(-1)], [alone[name].reshape(-1)], name)
    assert_same([together["frozen"]], [_values("frozen", 0).astype(np.float32)], "frozen")
    assert np.isfinite(together.flat).all()


@pytest.mark.parametrize(
    "options", [{"state_dtype": "8bit"}, {"state_dtype": "bfloat16"}, {"copy": "float16"}], ids=str
)
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_sums_read_what_the_kernel_reads(rule, options):
    expected, _ = trained(ENGINES[0], rule, **options)
    for engine in CORNERS[1:]:
        assert_same([trained(engine, rule, **options)[0].flat], [expected.flat], engine)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_a_gradient_that_is_not_finite_spoils_its_parameter_alone(rule, value):
    found = []
    for engine in CORNERS:
        params = fastopt.FlatBuffer({"w": np.ones(5), "b": np.ones(3)}, dtype="float32")
        grads = params.zeros_like()
        grads.flat[:] = 0.5
        grads["w"][2] = value
        with using(engine):
            optimizer = fastopt.Optimizer(params, rule, backend=engine.backend)
            assert optimizer.step(grads, nonfinite="skip").skipped and (params.flat == 1).all()
            optimizer.step(grads)
            optimizer.step(grads)
        assert np.isfinite(params["b"]).all()
        states = [optimizer.state[name]["w"][2] for name in rule.states]
        assert not np.isfinite([params["w"][2], *states]).all(), "it would not be seen"
        found.append(params.flat)
    for engine, other in zip(CORNERS, found, strict=True):
        assert (bits(other) == bits(found[0])).all(), engine


# Totals

TOTALS = [rule.replace(d0=1e-2, growth_rate=1.5) for rule in RULES if rule.totals]


def distances(optimizer: fastopt.Optimizer) -> list[dict[str, float]]:
    return [dict(group.scalars) for group in optimizer.groups.values() if group.rule.totals]


@pytest.mark.parametrize("rule", TOTALS, ids=short)
def test_the_division_into_groups_and_the_order_of_parameters_do_not_show(rule):
    names = [name for name in SHAPES if name != "frozen"]
    found = []
    for order in (names, names[::-1]):
        for rules in (rule, {"a": rule, "small*": rule.replace(eps=rule.eps), "*": rule}):
            params = fastopt.FlatBuffer({name: _values(name, 0) for name in order}, dtype="float32")
            optimizer = fastopt.Optimizer(params, rules)
            for _ in range(4):
                optimizer.step({name: params[name].copy() for name in order})
            (numbers,) = {tuple(each.values()) for each in distances(optimizer)}
            found.append((numbers, b"".join(params[name].tobytes() for name in names)))
    assert found.count(found[0]) == 4
    assert found[0][0][0] > rule.d0


@pytest.mark.parametrize("rule", TOTALS, ids=short)
def test_totals_are_over_the_groups_that_a_step_updates(rule, backend):
    params = random_buffer(0, "float64")
    optimizer = fastopt.Optimizer(params, {"first.*": rule, "scale": fastopt.SGD(), "*": rule}, backend=backend)
    optimizer.freeze("first.*")
    rng = np.random.default_rng(1)
    alone = {name: params[name].copy() for name in params if name not in ("first.weight", "first.bias", "scale")}
    alone = fastopt.FlatBuffer(alone, dtype="float64")
    other = fastopt.Optimizer(alone, rule, backend=backend)
    for _ in range(3):
        grads = {name: rng.standard_normal(array.shape) for name, array in params.items()}
        optimizer.step(grads)
        other.step({name: grads[name] for name in alone})
    frozen, stepped = distances(optimizer)
    assert [stepped] == distances(other) and frozen == dict(rule.scalars) != stepped
    optimizer.thaw("first.*")
    optimizer.step({name: rng.standard_normal(array.shape) for name, array in params.items()})
    assert distances(optimizer)[0] not in (frozen, distances(optimizer)[1])


@pytest.mark.parametrize("rule", TOTALS, ids=short)
def test_totals_that_are_not_finite_leave_running_numbers(rule, backend):
    p = np.ones(5)
    optimizer = fastopt.Optimizer(p, rule, backend=backend)
    for _ in range(3):
        optimizer.step(p.copy())
    before = distances(optimizer)
    optimizer.step(np.array([1.0, np.nan, 1.0, 1.0, 1.0]))
    assert distances(optimizer) == before
    optimizer.step(np.zeros(5), nonfinite="skip")
    assert distances(optimizer) == before and np.isfinite(p[[0, 2, 3, 4]]).all()


@pytest.mark.parametrize("rule", TOTALS, ids=short)
def test_running_numbers_wait_while_there_is_no_gradient(rule, backend):
    optimizer = fastopt.Optimizer(np.ones(5), rule, backend=backend)
    optimizer.step(np.zeros(5))
    assert distances(optimizer) == [dict(rule.scalars)]
