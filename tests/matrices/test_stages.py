"""Rules with a stage: beside their references, in every storage, in checkpoints, and what errors leave behind."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from cases import STAGED, cases, short
from harness import snapshot

import fastopt
from fastopt import SGD, SOAP, Adafactor, AdamW, FlatBuffer, Muon, Optimizer, Rule
from fastopt.matrices import STAGES
from fastopt.matrices.muon import orthogonalized

STEPS = 30
#: Gradients of as many rows as columns: else a basis of SOAP's is not determined by its products.
SQUARE = {"a": (6, 6), "b": (9, 9)}
#: For rules that take them: what is no matrix, and what has no elements.
OTHERS = {"vector": (5,), "number": (), "tensor": (4, 2, 2), "empty": (0, 4)}
EVERY = [rule() for rule in STAGED.values()]


def shapes(rule: Rule) -> dict[str, tuple[int, ...]]:
    return SQUARE | ({} if type(rule) is Muon else OTHERS)


def gradients(shapes, count: int, dtype: str = "float32") -> list[FlatBuffer]:
    rng = np.random.default_rng(3)
    return [FlatBuffer({name: rng.standard_normal(each) for name, each in shapes.items()}, dtype) for _ in range(count)]


def start(rule, dtype: str = "float32", given=None, **options) -> Optimizer:
    rng = np.random.default_rng(4)
    given = shapes(rule) if given is None else given
    params = FlatBuffer({name: rng.standard_normal(shape) for name, shape in given.items()}, dtype)
    return Optimizer(params, rule, **options)


def held(optimizer: Optimizer) -> dict[str, Any]:
    """All that steps change; rules may differ."""
    return {name: value for name, value in snapshot(optimizer).items() if name != "groups"}


def assert_same(a: Optimizer, b: Optimizer) -> None:
    here, there = held(a), held(b)
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert value == there[name], name


def test_every_stage_has_its_rule():
    assert {rule.stage for rule in STAGED.values()} == set(STAGES)
    assert {stage.replace("_", "") for stage in STAGES} == {name.lower() for name in STAGED}


@pytest.mark.parametrize("rule", cases(STAGED), ids=short)
def test_a_rule_stays_near_its_reference(rule, backends):
    for dtype, limit in (("float32", rule.tolerance), ("float64", 1e-9)):
        if type(rule) is Adafactor and rule.eps[0] is None:  # which depends on the dtype
            rule = rule.replace(eps=(2.0**-23, rule.eps[1]))
        optimizers = [start(rule, dtype, backend=backend, threads=2) for backend in backends]
        first = optimizers[0].params
        exact = {name: (np.float64(array), rule.remembered(array.shape)) for name, array in first.items() if array.size}
        for step, grads in enumerate(gradients(shapes(rule), STEPS, dtype), 1):
            for name, (p, state) in exact.items():
                exact[name] = rule.reference(step, p, np.float64(grads[name]), **state)
            for optimizer in optimizers:
                optimizer.step(grads)
        for name, (p, state) in exact.items():
            assert abs(first[name] - p).max() <= limit * abs(p).max(), name
            for kind in state.keys() - {"Q_L", "Q_R"}:  # of eigenvectors the sign is open
                assert abs(optimizers[0].state[kind][name] - state[kind]).max() <= 10 * limit * abs(state[kind]).max()
        for other in optimizers[1:]:
            assert_same(optimizers[0], other)


@pytest.mark.parametrize("rule", EVERY, ids=short)
def test_states_have_the_shapes_that_the_rule_says(rule):
    optimizer = start(rule)
    for kind in rule.states:
        expected = {name: rule.state_shape(kind, shape) for name, shape in shapes(rule).items()}
        found = {name: array.shape for name, array in optimizer.state[kind].items()}
        assert found == {name: shape for name, shape in expected.items() if shape is not None}
    optimizer.step(gradients(shapes(rule), 1)[0])
    described = optimizer.state_dict()["state"]["a"]
    assert {kind: array.shape for kind, array in described.items()} == {
        kind: optimizer.state[kind]["a"].shape for kind in rule.states if "a" in optimizer.state[kind]
    }


@pytest.mark.parametrize("rule", EVERY, ids=short)
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {"state_dtype": "bfloat16", "ema_decay": 0.9}),
        ("bfloat16", {"state_dtype": "bfloat16", "rounding": "nearest"}),
        ("bfloat16", {"master": "split"}),
        ("bfloat16", {"master": "float32", "state_dtype": "8bit"}),
        ("float32", {"copy": "bfloat16", "accumulate": 2}),
    ],
    ids=str,
)
def test_storages_give_the_same_bits_on_both_backends_and_stay_near(rule, dtype, options, backends):
    pytest.importorskip("ml_dtypes")
    given = {"large": (65, 64), "a": (6, 6)}
    optimizers = [start(rule, dtype, given, backend=backend, threads=2, **options) for backend in backends]
    plain = start(rule, "float32", given)
    plain.params.flat[...] = optimizers[0].flat.astype(np.float32)
    every = gradients(given, 6, dtype)
    for number, grads in enumerate(every):
        for optimizer in optimizers:
            optimizer.step(grads)
        if optimizers[0].accumulated is None:
            plain.step(grads)
        elif number % 2:
            plain.step((grads.flat + every[number - 1].flat) / 2)
    for other in optimizers[1:]:
        assert_same(optimizers[0], other)
    difference = abs(optimizers[0].flat.astype(np.float32) - plain.flat)
    assert difference.max() < 0.1 and optimizers[0].step_count > 0


@pytest.mark.parametrize("rule", EVERY, ids=short)
def test_a_run_goes_on_from_a_checkpoint_with_the_same_bits(rule, tmp_path):
    rules = {"a": rule.replace(lr=fastopt.schedules.Cosine(lr=0.01, steps=9)), "*": rule}
    every = gradients(shapes(rule), 6)
    through, stopped, other = (start(rules, given=shapes(rule)) for _ in range(3))
    for grads in every[:3]:
        through.step(grads)
        stopped.step(grads)
    stopped.save(tmp_path / "run")
    other.load(tmp_path / "run")
    again = start(rules, given=shapes(rule))
    again.flat[...] = stopped.flat
    again.load_state_dict(deepcopy(stopped.state_dict()))
    for grads in every[3:]:
        for each in (through, other, again):
            each.step(grads)
    assert_same(through, other)
    assert_same(through, again)


def test_a_checkpoint_is_converted_in_the_shapes_of_its_states(tmp_path):
    optimizer = start(Adafactor())
    optimizer.step(gradients(shapes(Adafactor()), 1)[0])
    optimizer.save(tmp_path / "run")
    other = start(Adafactor(), state_dtype="bfloat16")
    with pytest.raises(fastopt.CheckpointError, match="convert=True"):
        other.load(tmp_path / "run")
    other.load(tmp_path / "run", convert=True)
    for kind in ("row_var", "col_var"):
        assert other.state[kind]["tensor"].shape == optimizer.state[kind]["tensor"].shape
        assert np.allclose(other.state[kind]["tensor"], optimizer.state[kind]["tensor"], rtol=2**-8)
    wrong = optimizer.state_dict()
    wrong["state"]["a"]["row_var"] = np.zeros((6, 6), np.float32)
    with pytest.raises(fastopt.CheckpointError, match=r"'row_var': 'a' has the shape \(6, 6\), not \(6, 1\)"):
        optimizer.load_state_dict(wrong)


@pytest.mark.parametrize("rule", EVERY, ids=short)
def test_scale_sign_and_freezing(rule):
    grads = gradients(shapes(rule), 3)
    scaled, plain, up = start(rule), start(rule), start(rule.replace(maximize=True))
    for each in grads:
        scaled.step(each, grad_scale=0.25, max_norm=1e9)
        plain.step(each.flat * np.float32(0.25))
        up.step(each.flat * np.float32(-0.25))
    assert_same(scaled, plain)
    assert_same(up, plain)
    rules = {"a": rule, "*": SGD()}
    frozen = start(rules, given=shapes(rule))
    frozen.freeze("a")
    before = frozen.params["a"].copy()
    frozen.step(grads[0])
    assert np.array_equal(before, frozen.params["a"]) and not np.array_equal(
        frozen.params["b"], start(rule).params["b"]
    )
    frozen.thaw("a")
    frozen.step(grads[0])
    frozen.step(grads[0])  # of SOAP the first step moves nothing
    assert not np.array_equal(before, frozen.params["a"])


@pytest.mark.parametrize("rule", EVERY, ids=short)
def test_what_is_not_finite_goes_on_as_in_kernels(rule):
    given = SQUARE
    optimizer = start(rule, given=given)
    good, bad = gradients(given, 2)
    bad["a"][0, 0] = np.nan
    for _ in range(2):
        optimizer.step(good)
    before = held(optimizer)
    assert optimizer.step(bad, nonfinite="skip").skipped
    assert held(optimizer) == before
    with np.errstate(all="raise"):
        for _ in range(12):
            optimizer.step(bad)
    assert np.isnan(optimizer.params["a"]).any() and np.isfinite(optimizer.params["b"]).all()


class Stop(Exception):
    pass


def half_way(rule, step, p, g, momentum_buffer):
    """A stage of a user's own, which fails in the second parameter of step 3, when the first one is done."""
    if step == 3 and g.shape == (9, 9) and rule.fails:
        raise Stop
    momentum_buffer = 0.5 * momentum_buffer + g
    return momentum_buffer, {"momentum_buffer": momentum_buffer}


class Own(Rule):
    """Own: a momentum that a stage keeps."""

    lr: fastopt.declared.LearningRate = 0.1
    fails: bool = False

    kernel = "sgd"
    stage = half_way

    @property
    def states(self):
        return {"momentum_buffer": 0.0}

    def coefficients(self, step):
        return self.common(self.rate(step)) | {"step_size": self.rate(step)}


@pytest.mark.parametrize("options", [{}, {"state_dtype": "bfloat16"}, {"ema_decay": 0.9}], ids=str)
def test_an_error_in_a_stage_leaves_all_as_it_was(backend, options):
    optimizer = start({"*": Own(fails=True)}, given=SQUARE, backend=backend, **options)
    first, second, third = gradients(SQUARE, 3)
    optimizer.step(first)
    optimizer.step(second)
    before = held(optimizer)
    for _ in range(2):
        with pytest.raises(Stop):
            optimizer.step(third)
        assert optimizer.step_count == 2
        assert held(optimizer) == before
    optimizer.rule = Own()
    optimizer.step(third)
    through = start(Own(), given=SQUARE, backend=backend, **options)
    for grads in (first, second, third):
        through.step(grads)
    assert_same(optimizer, through)


def test_a_stage_of_ones_own_is_what_it_says(backend):
    optimizer = start(Own(), given=SQUARE, backend=backend)
    expected = {name: (array.copy(), 0.0) for name, array in optimizer.params.items()}
    for grads in gradients(SQUARE, 3):
        optimizer.step(grads)
        for name, (p, momentum) in expected.items():
            momentum = np.float32(0.5) * momentum + grads[name]
            expected[name] = p - np.float32(0.1) * momentum, momentum
    for name, (p, momentum) in expected.items():
        assert np.array_equal(optimizer.params[name], p)
        assert np.array_equal(optimizer.state["momentum_buffer"][name], momentum)


class Misshapen(SGD):
    """Misshapen: a kernel whose state would be read beyond its end."""

    def state_shape(self, state, shape):
        return shape[:1]


def test_what_a_kernel_works_on_has_the_parameters_shape():
    with pytest.raises(ValueError, match="its kernel needs 'momentum_buffer' in the shape of each parameter"):
        start(Misshapen(momentum=0.9), given=SQUARE)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2)])
def test_muon_names_what_is_no_matrix_and_says_what_to_do(shape):
    given = {"w": (4, 4), "fc.bias": shape}
    with pytest.raises(ValueError, match=r"'fc.bias' has the shape .*\{'fc.bias': fastopt.AdamW\(\), '\*': fastopt.Mu"):
        start(Muon(), given=given)
    optimizer = start({"fc.bias": AdamW(), "*": Muon()}, given=given)
    alone = start(AdamW(), given={"fc.bias": shape})
    alone.flat[...] = optimizer.params["fc.bias"].reshape(-1)
    for grads in gradients(given, 3):
        optimizer.step(grads)
        alone.step(grads["fc.bias"].reshape(-1).copy())
    assert np.array_equal(optimizer.params["fc.bias"], alone.params["fc.bias"])
    assert "'*': sgd (1 parameters" in str(optimizer.explain())


def test_what_a_stage_cannot_take_is_refused():
    optimizer = start(Muon())
    rows = fastopt.Rows(np.array([1]), np.ones((1, 6), np.float32))
    with pytest.raises(ValueError, match="must be an array, not Rows: Muon takes it as a whole"):
        optimizer.step({"a": rows, "b": np.ones((9, 9), np.float32)})
    with pytest.raises(TypeError, match="not Muon"):
        optimizer.update_hessian(gradients(SQUARE, 1)[0])
    with pytest.raises(ValueError, match="ns_steps must be less than 100, not 100"):
        Muon(ns_steps=100)


@pytest.mark.parametrize("shape", [(40, 40), (30, 50), (50, 30), (20, 200), (200, 20), (1, 7), (7, 1)])
def test_orthogonalized_matrices_are_near_the_polar_factor(shape):
    """The singular vectors are the matrix's own, and the singular values those of the iteration: near 1."""
    matrix = np.random.default_rng(5).standard_normal(shape)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values /= np.sqrt(np.sum(values**2))
    a, b, c = Muon().ns_coefficients
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    found = orthogonalized(matrix.astype(np.float32), (a, b, c), 5, 1e-7)
    assert found.dtype == np.float32 and abs(found - (left * values) @ right).max() < 2e-5
    projected = left.T @ found @ right.T
    assert abs(projected - np.diag(np.diag(projected))).max() < 2e-5
    if min(shape) > 1:
        assert np.diag(projected).min() > 0.6 and np.diag(projected).max() < 1.3


def test_soap_leaves_long_sides_as_they_are():
    optimizer = start(SOAP(max_precond_dim=7), given={"w": (6, 9)})
    assert "w" in optimizer.state["Q_L"] and "w" not in optimizer.state["Q_R"]
    for grads in gradients({"w": (6, 9)}, 12):
        optimizer.step(grads)
    basis = optimizer.state["Q_L"]["w"]
    assert np.allclose(basis.T @ basis, np.eye(6), atol=1e-5)


def test_a_gradient_of_zero_without_eps_is_no_number_as_in_kernels():
    params = FlatBuffer({"w": np.ones((3, 4))}, dtype="float32")
    Optimizer(params, Muon(eps=0.0)).step({"w": np.zeros((3, 4), np.float32)})
    assert np.isnan(params["w"]).all()
