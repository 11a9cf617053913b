"""ascend(): sharpness-aware minimization in two calls, of which the second starts from exactly where the first did."""

import copy

import numpy as np
import pytest
from harness import random_buffer, snapshot

from fastopt import SGD, Adam, AdamW, Momentum, NonFiniteGradientError, Optimizer, Rows

STORED = [
    ("float32", {"ema_decay": 0.9}),
    ("float64", {"copy": "float16"}),
    ("bfloat16", {"master": "split"}),
    ("bfloat16", {"master": "float32"}),
    ("float16", {}),
]
RULES = {"*.bias": Momentum(lr=0.1), "first.*": SGD(lr=0.1, maximize=True), "*": Adam(lr=0.05)}


def gradient(seed, dtype="float32"):
    return random_buffer(seed, dtype)


@pytest.mark.parametrize(("dtype", "options"), STORED, ids=str)
def test_it_goes_up_and_the_step_comes_back_first(dtype, options, backend):
    optimizer, plain = (Optimizer(gradient(0, dtype), RULES, backend=backend, **options) for _ in range(2))
    up = gradient(1, dtype)
    for seed in range(2, 5):
        before = optimizer.flat.astype(np.float64)
        norm = optimizer.ascend(up, rho=0.5)
        direction = up.copy()
        direction["first.weight"][...] *= -1
        length = np.linalg.norm(up.flat.astype(np.float64)) + 1e-12
        expected = before + 0.5 * direction.flat.astype(np.float64) / length
        epsilon = {"float32": 1e-6, "float64": 1e-14}.get(dtype, 0.01)
        np.testing.assert_allclose(optimizer.flat.astype(np.float64), expected, rtol=epsilon, atol=epsilon)
        assert norm == pytest.approx(np.linalg.norm(up.flat.astype(np.float64)), rel=1e-6)
        if optimizer.copy is not None:
            with np.errstate(all="ignore"):
                assert optimizer.copy.flat.tolist() == optimizer.flat.astype(np.float32).astype(np.float16).tolist()
        for each in (optimizer, plain):
            each.step(gradient(seed, dtype))
        assert snapshot(optimizer) == snapshot(plain)


def test_both_backends_go_to_the_same_place(backends):
    for dtype, options in STORED:
        found = set()
        for backend in backends:
            optimizer = Optimizer(gradient(0, dtype), RULES, backend=backend, **options)
            optimizer.ascend(dict(gradient(1, "float32")))
            found.add(optimizer.flat.tobytes())
        assert len(found) == 1


def test_it_is_the_loop_of_the_paper():
    """On a quadratic, where gradients can be written down."""
    curvature = np.linspace(1, 20, 30)
    p = np.ones(30)
    optimizer, expected = Optimizer(p, SGD(lr=0.02)), np.ones(30)
    for _ in range(50):
        optimizer.ascend(curvature * p, rho=0.1)
        optimizer.step(curvature * p)
        first = curvature * expected
        expected = expected - 0.02 * curvature * (expected + 0.1 * first / (np.linalg.norm(first) + 1e-12))
        np.testing.assert_allclose(p, expected, rtol=1e-12)


def test_one_buffer_for_both_gradients_is_bound_once(backend):
    optimizer, buffer = Optimizer(gradient(0), AdamW(), backend=backend), gradient(1)
    for _ in range(3):
        optimizer.ascend(buffer)
        optimizer.step(buffer, max_norm=1.0)
    other = Optimizer(gradient(0), AdamW(), backend=backend)
    for _ in range(3):
        other.step(buffer, max_norm=1.0)
    assert snapshot(optimizer) == snapshot(other)


def test_descend_takes_it_back():
    optimizer = Optimizer(gradient(0), RULES)
    before = snapshot(optimizer)
    optimizer.descend()
    optimizer.ascend(gradient(1))
    assert snapshot(optimizer)["params"] != before["params"]
    optimizer.descend()
    optimizer.descend()
    assert snapshot(optimizer) == before
    optimizer.ascend(gradient(1))
    optimizer.descend()
    optimizer.step(gradient(2))


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_a_step_that_is_refused_comes_back_too(nonfinite):
    optimizer = Optimizer(gradient(0), RULES)
    before = snapshot(optimizer)
    optimizer.ascend(gradient(1))
    wrong = gradient(2)
    wrong.flat[3] = np.nan
    if nonfinite == "raise":
        with pytest.raises(NonFiniteGradientError):
            optimizer.step(wrong, nonfinite=nonfinite)
    else:
        assert optimizer.step(wrong, nonfinite=nonfinite).skipped
    assert snapshot(optimizer) == before
    with pytest.raises(ValueError, match="grads must have the parameters' size"):
        optimizer.step(np.zeros(3, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(value):
    optimizer, wrong = Optimizer(gradient(0), RULES), gradient(1)
    wrong.flat[3] = value
    before = snapshot(optimizer)
    assert not np.isfinite(optimizer.ascend(wrong))
    assert snapshot(optimizer) == before
    optimizer.step(gradient(2))
    optimizer.ascend(np.zeros_like(optimizer.flat))
    assert not np.isnan(optimizer.flat).any()


def test_frozen_groups_stay_and_accumulated_gradients_are_taken_where_it_leads(backend):
    optimizer = Optimizer(gradient(0), RULES, backend=backend, accumulate=2)
    other = Optimizer(gradient(0), RULES, backend=backend, accumulate=2)
    for each in (optimizer, other):
        each.freeze("*.bias")
    before = optimizer.params["first.bias"].copy()
    for seed in range(1, 5):
        optimizer.ascend(gradient(seed))
        assert (optimizer.params["first.bias"] == before).all()
        optimizer.step(gradient(seed + 5))
        other.step(gradient(seed + 5))
        assert snapshot(optimizer) == snapshot(other)


def test_rows_move_alone(backend):
    optimizer = Optimizer(gradient(0), SGD(), backend=backend)
    before = optimizer.params.copy()
    values = np.ones((2, 11), np.float32)
    rows = dict(gradient(1)) | {"second.weight": Rows(np.array([0, 3]), values)}
    optimizer.ascend(rows)
    moved = (optimizer.params["second.weight"] != before["second.weight"]).any(axis=1)
    assert moved.tolist() == [True, False, False, True, False]
    optimizer.descend()
    assert optimizer.flat.tobytes() == before.flat.tobytes()


def test_until_the_step_nothing_is_saved_or_loaded(tmp_path):
    optimizer = Optimizer(gradient(0), RULES, ema_decay=0.5)
    optimizer.save(tmp_path / "before.safetensors")
    state = optimizer.state_dict()
    optimizer.ascend(gradient(1))
    moved = snapshot(optimizer)
    calls = {
        "ascend": lambda: optimizer.ascend(gradient(1)),
        "averaged": lambda: optimizer.averaged().__enter__(),
        "save": lambda: optimizer.save(tmp_path / "between.safetensors"),
        "load": lambda: optimizer.load(tmp_path / "before.safetensors"),
        "state_dict": optimizer.state_dict,
        "load_state_dict": lambda: optimizer.load_state_dict(state),
        "copy or pickle": lambda: copy.deepcopy(optimizer),
    }
    for name, call in calls.items():
        with pytest.raises(
            RuntimeError, match=f"{name}: the parameters are where ascend has moved them: make the step"
        ):
            call()
        assert snapshot(optimizer) == moved
    optimizer.freeze("*.bias")  # the plan is another one then
    optimizer.descend()
    optimizer.load(tmp_path / "before.safetensors")


@pytest.mark.parametrize("rho", [0, -0.1, np.inf, np.nan, "0.05", None, True])
def test_rho_is_a_positive_number(rho):
    optimizer = Optimizer(gradient(0), RULES)
    before = snapshot(optimizer)
    with pytest.raises((TypeError, ValueError), match="rho must be a finite number > 0, not"):
        optimizer.ascend(gradient(1), rho=rho)
    assert snapshot(optimizer) == before


def test_a_rho_too_large_for_the_dtype_moves_nothing():
    optimizer = Optimizer(gradient(0), RULES)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"rho: 1e\+300 over the gradient's norm is too large for float32"):
        optimizer.ascend(gradient(1), rho=1e300)
    assert snapshot(optimizer) == before
    optimizer.step(gradient(1))
