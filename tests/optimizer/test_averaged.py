"""averaged(): parameters for evaluation, which are gone afterwards, whatever happens in between."""

import copy
import pickle

import numpy as np
import pytest
from harness import random_buffer, snapshot

import fastopt
from fastopt import ASGD, Adam, Momentum, Optimizer, ScheduleFreeAdamW, ScheduleFreeSGD
from fastopt.schedule_free import ScheduleFree

#: How numbers are stored, and how far the averages then may be from those of exact ones.
STORED = [
    ("float32", {}, 1e-6),
    ("float64", {"copy": "float16"}, 1e-13),
    ("bfloat16", {"master": "split"}, 0.02),
    ("bfloat16", {"master": "float32", "state_dtype": "bfloat16"}, 0.1),
    ("float16", {"rounding": "nearest"}, 0.02),
    ("bfloat16", {"state_dtype": "8bit"}, 0.1),
]
AVERAGING = [rule for rule in fastopt.RULES.values() if rule.averages]


def trained(rule, dtype="float32", steps=5, **options):
    optimizer = Optimizer(random_buffer(0, dtype), rule, **options)
    for seed in range(1, steps + 1):
        optimizer.step(random_buffer(seed, dtype))
    return optimizer


def moving(rule):
    """One that moves parameters from the first step on."""
    return rule(lr=0.05, **{"silent_sgd_phase": False} if "silent_sgd_phase" in rule.fields else {})


def shown(optimizer):
    with optimizer.averaged():
        return optimizer.flat.astype(np.float64)


@pytest.mark.parametrize(
    "rule", [rule for rule in AVERAGING if issubclass(rule, ScheduleFree)], ids=lambda rule: rule.__name__
)
def test_it_is_the_weighted_average_of_z(rule):
    """As the paper defines it; steps compute it from y and z alone."""
    made = rule(lr=0.1, r=1.5, **{"warmup_steps": 3} if "warmup_steps" in rule.fields else {"silent_sgd_phase": False})
    optimizer = Optimizer(random_buffer(0, "float64"), made)
    total, weights, lr_max = 0.0, 0.0, 0.0
    for step in range(1, 9):
        optimizer.step(random_buffer(step, "float64"))
        lr_max = max(lr_max, made.size(step))
        weight = step**1.5 * lr_max**2
        total, weights = total + weight * optimizer.state["z"].flat, weights + weight
        np.testing.assert_allclose(shown(optimizer), total / weights, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("dtype", "options", "error"), STORED, ids=str)
@pytest.mark.parametrize("rule", AVERAGING, ids=lambda rule: rule.__name__)
def test_the_bits_from_before_return(rule, dtype, options, error, backend):
    optimizer = trained(moving(rule), dtype, backend=backend, **options)
    before = snapshot(optimizer)
    with optimizer.averaged():
        average = optimizer.flat.astype(np.float64)
        assert optimizer.flat.tobytes() != before["params"] or rule is ASGD
        if optimizer.copy is not None:
            assert optimizer.copy.flat.tolist() == average.astype(np.float32).astype(np.float16).tolist()
        optimizer.flat[:3] = 7
    assert snapshot(optimizer) == before
    exact = trained(moving(rule), "float64")
    assert abs(average - shown(exact)).max() <= error
    other = trained(moving(rule), dtype, backend=backend, **options)
    for each in (optimizer, other):
        each.step(random_buffer(9, dtype))
    assert snapshot(optimizer) == snapshot(other)


def test_without_an_average_of_the_rule_it_is_the_ema_in_each_group(backend):
    rules = {"*.bias": ScheduleFreeSGD(lr=0.1), "*": Adam(lr=0.1)}
    optimizer = trained(rules, backend=backend, ema_decay=0.5)
    z, y = optimizer.state["z"]["first.bias"], optimizer.params["first.bias"].copy()
    with optimizer.averaged():
        np.testing.assert_allclose(optimizer.params["first.bias"], y + (1 - 1 / 0.9) * (z - y), rtol=1e-5, atol=1e-6)
        assert optimizer.params["first.weight"].tobytes() == optimizer.ema["first.weight"].tobytes()


def test_a_group_without_an_average_is_named():
    optimizer = trained({"*.bias": ScheduleFreeSGD(), "*": Momentum()})
    before = snapshot(optimizer)
    words = r"averaged: group '\*' must have a rule that averages, .* not Momentum without: make it with ema_decay"
    with pytest.raises(TypeError, match=words), optimizer.averaged():
        pytest.fail("it begins")
    assert snapshot(optimizer) == before


def test_before_the_first_step_it_is_the_parameters():
    optimizer = Optimizer(random_buffer(0, "float32"), ScheduleFreeAdamW())
    assert shown(optimizer).tolist() == random_buffer(0, "float32").flat.tolist()


def test_infinite_parameters_have_an_infinite_average():
    p = np.array([np.inf, 1.0, -np.inf])
    optimizer = Optimizer(p, ScheduleFreeSGD(lr=0.1))
    optimizer.step(np.zeros(3))
    with optimizer.averaged():
        assert p.tolist() == [np.inf, 1.0, -np.inf]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_error_in_the_block_returns_the_bits_and_goes_on(error):
    optimizer = trained(ScheduleFreeAdamW(lr=0.1))
    before = snapshot(optimizer)
    with pytest.raises(error), optimizer.averaged():
        raise error
    assert snapshot(optimizer) == before


def test_a_block_that_is_left_alone_returns_the_bits():
    optimizer = trained(ScheduleFreeAdamW(lr=0.1))
    before = snapshot(optimizer)
    block = optimizer.averaged()
    block.__enter__()
    assert snapshot(optimizer) != before
    del block
    assert snapshot(optimizer) == before


def test_within_the_block_nothing_else_is_done(tmp_path):
    gradient = random_buffer(1, "float32")
    optimizer = trained(ScheduleFreeAdamW(lr=0.1))
    optimizer.step(gradient)  # bound to it
    optimizer.save(tmp_path / "before.safetensors")
    state = optimizer.state_dict()
    before = snapshot(optimizer)
    calls = {
        "step": lambda: optimizer.step(gradient),
        "update_hessian": lambda: optimizer.update_hessian(gradient),
        "ascend": lambda: optimizer.ascend(gradient),
        "save": lambda: optimizer.save(tmp_path / "within.safetensors"),
        "load": lambda: optimizer.load(tmp_path / "before.safetensors"),
        "state_dict": optimizer.state_dict,
        "load_state_dict": lambda: optimizer.load_state_dict(state),
        "averaged": lambda: optimizer.averaged().__enter__(),
        "copy or pickle": lambda: pickle.dumps(optimizer),
        "copy or pickle ": lambda: copy.deepcopy(optimizer),
    }
    with optimizer.averaged():
        average = snapshot(optimizer)
        for name, call in calls.items():
            with pytest.raises(
                RuntimeError, match="the parameters are averages within averaged.*: leave its block"
            ) as e:
                call()
            assert str(e.value).startswith(f"{name.strip()}: ") or name == "update_hessian"
            assert snapshot(optimizer) == average
    assert snapshot(optimizer) == before and not (tmp_path / "within.safetensors").exists()
    for call in calls.values():
        if call is not calls["update_hessian"]:
            call()
            optimizer.descend()
            break
