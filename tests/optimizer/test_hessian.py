"""``update_hessian``: it changes the estimate alone, whatever the engine, the storage and what follows steps."""

import numpy as np
import pytest
from harness import random_buffer, snapshot

from fastopt import Adam, FlatBuffer, Optimizer, SophiaG

RULE = SophiaG(lr=0.1, betas=(0.9, 0.5))


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "accumulate": 3, "copy": "float16"}], ids=["plain", "more"])
def test_nothing_else_changes(options, backend, dtype):
    optimizer = Optimizer(random_buffer(0, dtype), {"first.*": RULE, "*": RULE}, backend=backend, **options)
    for seed in range(1, 6):
        optimizer.step(random_buffer(seed, dtype))
    before, old = snapshot(optimizer), optimizer.state["hessian"].flat.copy()
    labels = random_buffer(7, dtype)
    optimizer.update_hessian(dict(labels), grad_scale=3)
    after = snapshot(optimizer)
    assert {name for name in before if before[name] != after[name]} == {"state hessian"}
    reference = RULE.estimator().reference(1, np.zeros(1), 3.0 * labels.flat, exp_avg=np.zeros(1), hessian=old)[1]
    np.testing.assert_allclose(optimizer.state["hessian"].flat, reference["hessian"], rtol=8 * np.finfo(dtype).eps)


def test_parameters_that_have_gone_up_stay_there(backend):
    optimizer = Optimizer(random_buffer(0, "float32"), RULE, backend=backend)
    optimizer.ascend(random_buffer(1, "float32"))
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match="update_hessian: the parameters are where ascend has moved them"):
        optimizer.update_hessian(random_buffer(2, "float32"))
    assert snapshot(optimizer) == before


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float64", {}),
        ("float32", {}),
        ("float32", {"state_dtype": "bfloat16"}),
        ("float32", {"state_dtype": "8bit"}),
        ("float16", {"master": "float32", "state_dtype": {"hessian": "float16"}}),
    ],
    ids=str,
)
def test_both_backends_have_the_same_bits(dtype, options, backends):
    if len(backends) < 2:
        pytest.skip("there is one backend")
    shapes, found = {"w": (5000,), "b": (3,)}, []
    for backend in backends:
        params = random_buffer(0, dtype, shapes)
        optimizer = Optimizer(params, SophiaG(lr=0.1, batch_size=8.0), backend=backend, **options)
        for seed in range(1, 9):
            optimizer.step(random_buffer(seed, dtype, shapes))
            if seed % 3 == 1:
                optimizer.update_hessian(random_buffer(100 + seed, dtype, shapes))
        saved = optimizer.state_dict()
        found.append([params.flat.tobytes(), *(part.tobytes() for part in _arrays(saved["state"]))])
    assert found[0] == found[1]


def _arrays(saved):
    if isinstance(saved, dict):
        for each in saved.values():
            yield from _arrays(each)
    elif isinstance(saved, np.ndarray):
        yield saved


def test_frozen_groups_keep_theirs(backend):
    optimizer = Optimizer(FlatBuffer({"a": np.ones(3), "b": np.ones(2)}), {"a": RULE, "b": RULE}, backend=backend)
    optimizer.freeze("a")
    optimizer.update_hessian(np.ones(5))
    assert optimizer.state["hessian"].flat.tolist() == [0, 0, 0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("rules", "arguments", "message"),
    [
        ({"a": RULE, "b": Adam()}, {}, "update_hessian needs rules that estimate a Hessian, not Adam"),
        ({"*": RULE}, {"grad_scale": float("nan")}, "grad_scale must be a finite number, not nan"),
        ({"*": RULE}, {"grads": np.ones(4)}, "grads"),
    ],
)
def test_a_refusal_changes_nothing(rules, arguments, message, backend):
    optimizer = Optimizer(FlatBuffer({"a": np.ones(3), "b": np.ones(2)}), rules, backend=backend)
    before = snapshot(optimizer)
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.update_hessian(**{"grads": np.ones(5)} | arguments)
    assert snapshot(optimizer) == before
    optimizer.step(np.ones(5))


def test_torchs_door_refuses_what_has_none():
    torch = pytest.importorskip("torch")
    ft = pytest.importorskip("fastopt.torch")
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(TypeError, match="update_hessian needs rules that estimate a Hessian, not AdamW"):
        ft.AdamW([p]).update_hessian()
    assert p.tolist() == [1, 1, 1]


def test_a_parameter_of_torch_without_gradient_keeps_its_own():
    torch = pytest.importorskip("torch")
    ft = pytest.importorskip("fastopt.torch")
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = ft.SophiaG([p, q], betas=(0.9, 0.5))
    p.grad = q.grad = torch.ones(3)
    optimizer.step()
    q.grad = None
    optimizer.update_hessian()
    assert optimizer.state[p]["hessian"].tolist() == [0.5] * 3 and optimizer.state[q]["hessian"].tolist() == [0] * 3
    optimizer.step()
    assert (optimizer.state[p]["step"], optimizer.state[q]["step"]) == (2, 1)
