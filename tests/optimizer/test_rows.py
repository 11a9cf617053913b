"""``Rows`` in place of dense gradients: the bits of a dense step where the rows are, and nothing else is touched."""

import numpy as np
import pytest
from cases import by_kernel
from harness import snapshot
from test_interrupts import interrupted_at

import fastopt
from fastopt import LAMB, SGD, AdamW, FlatBuffer, Lion, NAdam, Optimizer, Rows, schedules
from fastopt.declared import LearningRate

SHAPES = {"before": (3,), "table": (40, 7), "after": (5, 2)}
WHERE = np.array([39, 3, 17, 0, 4])
#: numba compiles a loop for each kernel: what spans are is the same for all of them.
FEW = ("adam", "madgrad")
STORED = [
    ("float32", {}),
    ("float64", {"ema_decay": 0.5}),
    ("float32", {"state_dtype": "bfloat16", "copy": "float16"}),
    ("bfloat16", {"ema_decay": 0.9}),
    ("bfloat16", {"master": "split", "state_dtype": "float16"}),
    ("float16", {"master": "float32", "ema_decay": 0.9}),
]


def buffer(seed, dtype="float32", shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return FlatBuffer({name: rng.standard_normal(shape) for name, shape in shapes.items()}, dtype=dtype)


def both(seed, dtype="float32", shapes=SHAPES, where=WHERE):
    """One gradient twice: with rows, and dense."""
    dense = buffer(seed, dtype, shapes)
    values = dense["table"][where]
    dense["table"] = 0
    dense["table"][where] = values
    return dict(dense) | {"table": Rows(where, values)}, dense


def halved(rows):
    """The same rows, of which the first two come twice: in halves."""
    values = rows.values.copy()
    values[:2] /= 2
    return Rows(np.append(rows.indices, rows.indices[:2]), np.concatenate([values, values[:2]]))


def tables(optimizer):
    """All that is kept of the table."""
    found = {"params": optimizer.params["table"], "ema": optimizer.ema, "copy": optimizer.copy}
    found |= {"master": optimizer.master, **optimizer.state}
    arrays = {name: each if name == "params" else each["table"] for name, each in found.items() if each is not None}
    return {name: np.array(array) for name, array in arrays.items()}


def check(by_rows, dense, before, where=WHERE):
    """The rows have the bits of the dense step, and the others those that they had."""
    here = np.isin(np.arange(len(before["params"])), where)
    there = tables(dense)
    for name, array in tables(by_rows).items():
        assert array[here].tobytes() == there[name][here].tobytes(), name
        if name != "ema":
            assert array[~here].tobytes() == before[name][~here].tobytes(), name
    for name in SHAPES.keys() - {"table"}:
        assert by_rows.params[name].tobytes() == dense.params[name].tobytes()
    assert by_rows.counts == dense.counts


@pytest.mark.parametrize("kernel", [name for name, rule in by_kernel().items() if rule.sums is None])
@pytest.mark.parametrize(("dtype", "options"), STORED[:3], ids=str)
def test_every_rule_has_the_bits_of_a_dense_step(kernel, dtype, options, backend):
    if backend == "numba" and kernel not in FEW:
        pytest.skip("numba's loop is the same for all kernels")
    rule = by_kernel()[kernel]
    if options.get("state_dtype") and not rule.states:
        pytest.skip("the rule keeps no states")
    optimizers = [Optimizer(buffer(0, dtype), rule, backend=backend, **options) for _ in range(2)]
    if rule.starts_from_parameters:
        rows, dense = both(4, dtype)
        with pytest.raises(ValueError, match="'table'.* must be an array, not Rows: .* in the first step"):
            optimizers[0].step(rows)
        for optimizer in optimizers:
            optimizer.step(dense)
    before = tables(optimizers[0])
    for seed in range(1, 4):
        for optimizer, gradient in zip(optimizers, both(seed, dtype), strict=True):
            optimizer.step(gradient)
    check(*optimizers, before)


def stepped_alike(rules, dtype, gradients, **options) -> list[Optimizer]:
    """Two optimizers after steps by rows and by dense gradients, which must have the same bits."""
    optimizers = [Optimizer(buffer(0, dtype), rules, **options) for _ in range(2)]
    before = tables(optimizers[0])
    for seed in range(1, 4):
        for optimizer, gradient in zip(optimizers, both(seed, gradients), strict=True):
            optimizer.step(gradient, grad_scale=0.5)
    check(*optimizers, before)
    return optimizers


@pytest.mark.parametrize(("dtype", "options"), STORED, ids=str)
@pytest.mark.parametrize("gradients", ["float32", "float64", "bfloat16", "float16"])
def test_every_storage_has_the_bits_of_a_dense_step(dtype, options, gradients, backend):
    rules = {"table": AdamW(lr=schedules.Linear(lr=0.1, steps=9), weight_decay=0.1), "*": NAdam()}
    stepped_alike(rules, dtype, gradients, backend=backend, **options)


@pytest.mark.parametrize("rule", [rule() for rule in fastopt.RULES.values() if rule.rowwise], ids=str)
@pytest.mark.parametrize(("dtype", "options"), STORED, ids=str)
@pytest.mark.parametrize("gradients", ["float32", "bfloat16"])
def test_stages_that_go_by_rows_have_the_bits_of_a_dense_step(rule, dtype, options, gradients, backend):
    rules = {"table": rule.replace(lr=schedules.Linear(lr=0.1, steps=9), weight_decay=0.1), "*": rule}
    optimizers = stepped_alike(rules, dtype, gradients, backend=backend, **options)
    optimizers[0].step({**buffer(7, gradients), "table": Rows(np.empty(0, int), np.zeros((0, 7), np.float32))})
    optimizers[1].step({**buffer(7, gradients), "table": np.zeros((40, 7), np.float32)})
    assert optimizers[0].state["sum"]["table"].tobytes() == optimizers[1].state["sum"]["table"].tobytes()
    twice = [Rows([3, 1, 3], np.ones((3, 7), np.float32)), Rows([1, 3], np.float32([[1.0] * 7, [2.0] * 7]))]
    optimizer, other = (Optimizer(buffer(0), rule, backend=backend) for _ in twice)
    optimizer.step(dict(buffer(1)) | {"table": twice[0]})
    other.step(dict(buffer(1)) | {"table": twice[1]})
    assert snapshot(optimizer) == snapshot(other)


def test_both_backends_have_the_same_bits_on_any_number_of_threads(backends):
    """Of many rows and few long ones, some of them twice, with what follows, and a norm."""
    found = set()
    shapes = {"table": (6000, 24), "wide": (4, 70_000)}
    for backend in backends:
        for threads in (1, 2, 3):
            optimizer = Optimizer(
                buffer(0, "float32", shapes), AdamW(), backend=backend, threads=threads, ema_decay=0.9
            )
            rng = np.random.default_rng(5)
            for _ in range(2):
                values = rng.standard_normal((9000, 24)).astype("float32")
                table = Rows(rng.integers(0, 6000, 9000), values)
                wide = Rows([3, 1, 3], rng.standard_normal((3, 70_000)).astype("float32"))
                norm = optimizer.step({"table": table, "wide": wide}, max_norm=1.0).grad_norm
            found.add((norm, optimizer.flat.tobytes(), optimizer.ema.flat.tobytes()))
    assert len(found) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("index", [np.int64, np.int32, np.uint8])
def test_rows_that_come_twice_are_added_in_order(dtype, index, backend):
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 9, 300).astype(index)
    values = (rng.standard_normal((300, 7)) * 10.0 ** rng.integers(-3, 4, (300, 1))).astype(buffer(0, dtype).dtype)
    exact = values.astype(max(values.dtype, np.dtype("float32"), key=lambda each: each.itemsize))
    total = np.zeros((40, 7), exact.dtype)
    for index, row in zip(indices, exact, strict=True):
        total[index] += row
    optimizers = [Optimizer(buffer(0, shapes={"table": (40, 7)}), SGD(lr=1.0), backend=backend) for _ in range(2)]
    optimizers[0].step({"table": Rows(indices, values)})
    optimizers[1].step({"table": total})
    assert optimizers[0].flat.tobytes() == optimizers[1].flat.tobytes()


def test_the_order_of_rows_of_a_huge_table(monkeypatch):
    """Where an index and a place do not fit one number."""
    from fastopt.backend.choice import select
    from fastopt.rows import merged

    backend, _ = select("auto")
    indices, values = np.array([2**61, 5, 2**61, 0]), np.arange(4, dtype="float32").reshape(4, 1)
    found = merged(indices, values, 2**62, np.dtype("float32"), backend, gathered=False)
    assert found.indices.tolist() == [0, 5, 2**61]
    assert found.array.tolist() == [3, 1, 2]


def test_the_average_of_other_rows_moves(backend):
    rule = {"table": SGD(lr=0.5), "*": SGD()}  # to which gradients of zero are nothing
    optimizers = [Optimizer(buffer(0), rule, backend=backend, ema_decay=0.75) for _ in range(2)]
    for optimizer in optimizers:
        optimizer.ema.flat[:] = 1
    for seed, where in enumerate([WHERE, np.arange(40), WHERE[:0], np.array([5])]):
        for twice in (False, True):
            rows, dense = both(seed, where=where)
            rows |= {"table": halved(rows["table"])} if twice else {}
            optimizers[0].step(rows)
            optimizers[1].step(dense)
    assert optimizers[0].flat.tobytes() == optimizers[1].flat.tobytes()
    assert optimizers[0].ema.flat.tobytes() == optimizers[1].ema.flat.tobytes()


def test_norms_are_those_of_the_sums(backend):
    optimizers = [Optimizer(buffer(0), Lion(), backend=backend) for _ in range(2)]
    rows, dense = both(1)
    rows["table"] = Rows(np.tile(WHERE, 2), np.tile(rows["table"].values / 2, (2, 1)))
    before = snapshot(optimizers[0])
    for options in ({"max_norm": 0.1}, {"nonfinite": "skip"}, {"max_norm": 1e9, "grad_scale": 3.0}):
        one, other = (each.step(grads, **options) for each, grads in zip(optimizers, (rows, dense), strict=True))
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-6)
    assert snapshot(optimizers[0]) != before
    before = snapshot(optimizers[0])
    rows["table"].values[3, 2] = np.inf
    assert optimizers[0].step(rows, nonfinite="skip").skipped
    with pytest.raises(fastopt.NonFiniteGradientError):
        optimizers[0].step(rows, nonfinite="raise")
    assert snapshot(optimizers[0]) == before


def test_what_needs_no_row(backend):
    """No rows, rows without elements, single elements, rows of more dimensions, rows of what is frozen."""
    shapes = {"none": (3, 0), "vector": (6,), "cube": (2, 3, 4), "frozen": (2, 2)}
    optimizer = Optimizer(buffer(0, shapes=shapes), {"frozen": SGD(), "*": SGD(lr=1.0)}, backend=backend)
    optimizer.freeze("frozen")
    before = {name: array.copy() for name, array in optimizer.params.items()}
    ones = np.ones(4, "float32")
    grads = {
        "none": Rows([2, 2], np.ones((2, 0), "float32")),
        "vector": Rows([5, 0, 5, 1], ones),
        "cube": Rows(np.array([1], np.uint64), np.full((1, 3, 4), 2.0)),
        "frozen": Rows([0], np.ones((1, 2), "float32")),
    }
    assert optimizer.step(grads) == (1, None, False)
    np.testing.assert_array_equal(before["vector"] - optimizer.params["vector"], np.float32([1, 1, 0, 0, 0, 2]), 1e-6)
    np.testing.assert_allclose(before["cube"] - optimizer.params["cube"], [np.zeros((3, 4)), np.full((3, 4), 2)], 1e-5)
    np.testing.assert_array_equal(before["frozen"], optimizer.params["frozen"])
    empty = {name: Rows(np.empty(0, int), np.empty((0, *shape[1:]))) for name, shape in shapes.items()}
    before = optimizer.flat.tobytes()
    assert optimizer.step(empty, max_norm=1.0) == (2, 0.0, False)
    assert optimizer.flat.tobytes() == before


def test_values_are_read_where_they_lie_or_copied(backend):
    """Strided ones, and those that share memory with what the step writes."""
    optimizers = [Optimizer(buffer(0), SGD(lr=0.5), backend=backend) for _ in range(2)]
    zero = {"before": np.zeros(3), "after": np.zeros((5, 2))}
    own = optimizers[0].params["table"]
    optimizers[0].step(zero | {"table": Rows(np.arange(40), own[::-1])})
    optimizers[1].step(zero | {"table": optimizers[1].params["table"][::-1].copy()})
    assert optimizers[0].flat.tobytes() == optimizers[1].flat.tobytes()
    optimizers[0].step(zero | {"table": Rows(np.arange(1, 40), own[:-1])})
    optimizers[1].step(zero | {"table": np.vstack([np.zeros((1, 7), "float32"), optimizers[1].params["table"][:-1]])})
    assert optimizers[0].flat.tobytes() == optimizers[1].flat.tobytes()


ROW = np.ones((2, 7), "float32")


@pytest.mark.parametrize(
    ("indices", "values", "error", "message"),
    [
        ([0.0, 1.0], ROW, TypeError, "indices must be whole numbers, not float64"),
        ([True, False], ROW, TypeError, "indices must be whole numbers, not bool"),
        ([], ROW[:0], TypeError, "indices must be whole numbers, not float64"),
        ("ab", ROW, TypeError, "indices must be whole numbers, not <U2"),
        (None, ROW, TypeError, "indices must be whole numbers, not object"),
        ([[0, 1]], ROW, ValueError, r"indices must be one-dimensional, not of shape \(1, 2\)"),
        (np.ma.array([0, 1]), ROW, TypeError, "indices must be a plain array, not a masked one"),
        ([0, 1], ROW.tolist(), TypeError, "values must be an array of float32 or .* not list"),
        ([0, 1], ROW.astype(int), TypeError, "values must be an array of float32 or .* not int64"),
        ([0, 1], np.ma.array(ROW), TypeError, "values must be a plain array, not a masked one"),
        ([0, 1], np.float32([[1]])[0, 0, ...], ValueError, "values must have at least one dimension"),
        ([0], ROW, ValueError, "values must have 1 rows, one for each index, not 2"),
    ],
)
def test_what_are_no_rows(indices, values, error, message):
    with pytest.raises(error, match=message):
        Rows(indices, values)


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([0, 40], ROW, r"grads\['table'\]: indices must be from 0 to 39, not 40"),
        ([-1, 4], ROW, r"grads\['table'\]: indices must be from 0 to 39, not -1"),
        (np.array([2**64 - 1, 0], np.uint64), ROW, "indices must be from 0 to 39, not 18446744073709551615"),
        ([0, 1], ROW[:, 1:], r"grads\['table'\]: values must have the shape \(2, 7\), not \(2, 6\)"),
    ],
)
def test_rows_that_do_not_fit(indices, values, message, backend):
    optimizer = Optimizer(buffer(0), AdamW(), backend=backend)
    rows, _ = both(1)
    optimizer.step(rows)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.step(rows | {"table": Rows(indices, values)})
    assert snapshot(optimizer) == before
    optimizer.step(rows)


def test_what_has_no_rows():
    with pytest.raises(TypeError, match=r"grads\['table'\] must be an array for LAMB, which needs all rows, not Rows"):
        Optimizer(buffer(0), LAMB()).step(both(1)[0])
    scalar = Optimizer(FlatBuffer({"s": np.ones(())}, dtype="float32"), SGD())
    with pytest.raises(ValueError, match=r"grads\['s'\] must be an array: a parameter without dimensions has no rows"):
        scalar.step({"s": Rows([0], np.ones(1))})
    with pytest.raises(TypeError, match="grads must be"):
        scalar.step(Rows([0], np.ones(1)))
    rows, _ = both(1)
    gathering = Optimizer(buffer(0), SGD(), accumulate=2)
    with pytest.raises(ValueError, match=r"grads\['table'\] must be an array, not Rows, while gradients are accumul"):
        gathering.step(rows)
    assert gathering.counts == [0, 0, 0]


def test_blocks_that_rows_share_are_refused(backend):
    shapes = {"table": (40, 256), "odd": (64, 100)}
    optimizers = [
        Optimizer(buffer(0, shapes=shapes), AdamW(), backend=backend, state_dtype="8bit", seed=3) for _ in range(2)
    ]
    before = tables(optimizers[0])
    for seed in range(1, 4):
        for optimizer, gradient in zip(optimizers, both(seed, shapes=shapes), strict=True):
            optimizer.step(gradient)
    here = np.isin(np.arange(40), WHERE)
    for name, array in tables(optimizers[0]).items():
        assert array[here].tobytes() == tables(optimizers[1])[name][here].tobytes()
        assert array[~here].tobytes() == before[name][~here].tobytes()
    rows, before = Rows([0], np.ones((1, 100), "float32")), optimizers[0].flat.tobytes()
    with pytest.raises(
        ValueError, match=r"grads\['odd'\] must be an array, not Rows: its state 'exp_avg' is stored in"
    ):
        optimizers[0].step({"table": np.zeros((40, 256)), "odd": rows})
    assert optimizers[0].flat.tobytes() == before


def test_a_kernel_of_ones_own():
    numba = pytest.importorskip("numba", exc_type=ImportError)
    from numba import prange

    @numba.njit(parallel=True, error_model="numpy")
    def halve(p, g, k):
        for i in prange(p.size):
            p[i] = k[3] * p[i] - k[0] * g[i]

    class Halving(fastopt.Rule):
        lr: LearningRate = 0.5
        kernel = halve
        states = {}

        def coefficients(self, step):
            return self.common(self.lr) | {"half": 0.5}

    optimizers = [Optimizer(buffer(0), Halving()) for _ in range(2)]
    before = tables(optimizers[0])
    for optimizer, gradient in zip(optimizers, both(1), strict=True):
        optimizer.step(gradient)
    check(*optimizers, before)


def test_an_interrupt_at_every_instruction(backend):
    """It takes effect before the step or after it."""
    given = [both(seed)[0] | {"table": Rows([3, 9, 3], np.full((3, 7), seed, "float32"))} for seed in range(3)]

    def made():
        optimizer = Optimizer(buffer(0), {"table": AdamW(), "*": SGD()}, backend=backend, ema_decay=0.9)
        optimizer.step(given[0], max_norm=1.0)
        return optimizer

    looks = [made() for _ in range(2)]
    looks[1].step(given[1], max_norm=1.0)
    before, after = map(snapshot, looks)
    number = 0
    optimizer = made()

    def step():
        optimizer.step(given[1], max_norm=1.0)

    while interrupted_at(number, step):
        found = snapshot(optimizer)
        assert found in (before, after)
        if found == after:
            optimizer = made()
        number += 41  # all of them take long
    assert snapshot(optimizer) == after
    assert number > 100
