"""State of optax's transformations, moved into an optimizer here and back: in memory, and through Orbax."""

import re

import numpy as np
import pytest

import fastopt
from fastopt import CheckpointError, checkpoint

optax = pytest.importorskip("optax")
jax = pytest.importorskip("jax")

#: What makes the same update there and here: functions of optax's, and rules.
PAIRS = {
    "adabelief": (optax.adabelief(0.01, eps=1e-8, eps_root=0.0), fastopt.AdaBelief(lr=0.01, eps=1e-8)),
    "adadelta": (optax.adadelta(0.5, rho=0.9, eps=1e-6), fastopt.Adadelta(lr=0.5, rho=0.9, eps=1e-6)),
    "adagrad": (optax.adagrad(0.1, eps=1e-10), fastopt.Adagrad(lr=0.1, initial_accumulator_value=0.1)),
    "adam": (optax.adam(0.01), fastopt.Adam(lr=0.01)),
    "adamax": (optax.adamax(0.01), fastopt.Adamax(lr=0.01)),
    "adamw": (optax.adamw(0.01, weight_decay=0.1), fastopt.AdamW(lr=0.01, weight_decay=0.1)),
    "lion": (optax.lion(0.01, weight_decay=0.1), fastopt.Lion(lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))),
    "rmsprop": (optax.rmsprop(0.01, decay=0.9, eps_in_sqrt=False), fastopt.RMSprop(lr=0.01, alpha=0.9)),
    "sgd": (optax.sgd(0.1), fastopt.SGD(lr=0.1)),
    "momentum": (optax.sgd(0.1, momentum=0.9), fastopt.SGD(lr=0.1, momentum=0.9)),
    "scheduled": (
        optax.adamw(lambda count: 0.1 / (count + 1), weight_decay=0.0),
        fastopt.AdamW(lr=lambda step: 0.1 / step, weight_decay=0.0),
    ),
}
TREE = {"dense": {"kernel": (70, 64), "bias": (7,)}, "scale": ()}
NAMES = {"dense/kernel": (70, 64), "dense/bias": (7,), "scale": ()}


def leaves(seed):
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in NAMES.items()}


def tree(arrays):
    return {
        "dense": {"kernel": arrays["dense/kernel"], "bias": arrays["dense/bias"]},
        "scale": arrays["scale"],
    }


def flat(params):
    return {"dense/kernel": params["dense"]["kernel"], "dense/bias": params["dense"]["bias"], "scale": params["scale"]}


def their_steps(transformation, params, state, steps):
    for step in steps:
        updates, state = transformation.update(tree(leaves(100 + step)), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def our_steps(optimizer, steps):
    for step in steps:
        optimizer.step(leaves(100 + step))


def made(params, rule, **options):
    return fastopt.Optimizer(fastopt.FlatBuffer({k: np.asarray(v) for k, v in flat(params).items()}), rule, **options)


def assert_near(params, optimizer, tolerance=2e-5):
    for name, array in flat(params).items():
        np.testing.assert_allclose(optimizer.params[name], array, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_run_goes_from_optax_and_back(pair):
    transformation, rule = PAIRS[pair]
    params = tree(leaves(0))
    params, state = their_steps(transformation, params, transformation.init(params), range(3))
    moved = made(params, rule)
    moved.load_state_dict(checkpoint.read(state, like=moved))
    assert_near(params, moved, 0)
    params, state = their_steps(transformation, params, state, range(3, 5))
    our_steps(moved, range(3, 5))
    assert_near(params, moved)
    back = checkpoint.to_optax(moved, transformation.init(params))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)
    there = tree({name: np.array(each) for name, each in moved.params.items()})
    there, _ = their_steps(transformation, there, back, range(5, 7))
    our_steps(moved, range(5, 7))
    assert_near(there, moved)


@pytest.mark.parametrize("pair", PAIRS)
def test_without_a_state_it_is_that_of_optaxs_function(pair):
    transformation, rule = PAIRS[pair]
    arrays = leaves(0)
    optimizer = fastopt.Optimizer(fastopt.FlatBuffer(arrays), rule)
    optimizer.step(leaves(100))
    written, first = checkpoint.to_optax(optimizer), transformation.init(arrays)
    assert jax.tree.structure(written) == jax.tree.structure(first)
    again = fastopt.Optimizer(fastopt.FlatBuffer(arrays), rule)
    again.load_state_dict(checkpoint.read(written, like=again))
    for kind, buffer in optimizer.state.items():
        assert np.array_equal(buffer.flat, again.state[kind].flat)


def test_through_orbax(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    transformation, rule = PAIRS["adamw"]
    params = tree(leaves(0))
    params, state = their_steps(transformation, params, transformation.init(params), range(3))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", {"params": params, "opt_state": state})
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "run")
    moved, stayed = made(params, rule), made(params, rule)
    moved.load_state_dict(checkpoint.read(restored["opt_state"], like=moved))
    stayed.load_state_dict(checkpoint.read(state, like=stayed))
    assert moved.step_count == stayed.step_count == 3
    for kind, buffer in moved.state.items():
        assert buffer.flat.any() and np.array_equal(buffer.flat, stayed.state[kind].flat)


def test_several_transformations_and_injected_hyperparameters():
    params = tree(leaves(0))
    labels = {"dense": {"kernel": "matrix", "bias": "other"}, "scale": "other"}
    transformation = optax.chain(
        optax.clip_by_global_norm(1e9),
        optax.multi_transform(
            {"matrix": optax.inject_hyperparams(optax.adam)(0.25, b1=0.8), "other": optax.sgd(0.1, momentum=0.9)},
            labels,
        ),
    )
    params, state = their_steps(transformation, params, transformation.init(params), range(3))
    moved = made(params, {"*kernel": fastopt.Adam(lr=0.25, betas=(0.8, 0.999)), "*": fastopt.SGD(lr=0.1, momentum=0.9)})
    moved.load_state_dict(checkpoint.read(state, like=moved))
    params, state = their_steps(transformation, params, state, range(3, 5))
    our_steps(moved, range(3, 5))
    assert_near(params, moved)
    back = checkpoint.to_optax(moved, state)
    assert jax.tree.structure(back) == jax.tree.structure(state)


def test_each_count_is_that_of_its_group():
    """One that was frozen for a while has made fewer steps than the optimizer."""
    params = tree(leaves(0))
    labels = {"dense": {"kernel": "matrix", "bias": "other"}, "scale": "other"}
    scheduled = optax.adamw(lambda count: 0.1 / (count + 1))
    apart = optax.multi_transform({"matrix": scheduled, "other": optax.adam(0.1)}, labels).init(params)
    rules = {"*kernel": fastopt.AdamW(lr=lambda step: 0.1 / step), "*": fastopt.Adam(lr=0.1)}
    optimizer = made(params, rules)
    our_steps(optimizer, range(1))
    optimizer.freeze("*kernel")
    our_steps(optimizer, range(1, 4))
    optimizer.thaw("*kernel")
    written = checkpoint.to_optax(optimizer, apart)
    kernel, *_, schedule = written.inner_states["matrix"].inner_state
    assert (kernel.count, schedule.count, written.inner_states["other"].inner_state[0].count) == (1, 1, 4)
    moved = made(params, rules)
    moved.load_state_dict(checkpoint.read(written, like=moved))
    assert {pattern: group.step for pattern, group in moved.groups.items()} == {"*kernel": 1, "*": 4}
    with pytest.raises(ValueError, match="state has one count for '.*', which has made [14] steps, and '.*', [14]"):
        checkpoint.to_optax(optimizer, optax.adam(0.1).init(params))
    alone = fastopt.Optimizer(fastopt.FlatBuffer(leaves(0)), fastopt.Adam())
    our_steps(alone, range(2))
    alone.freeze("*")
    our_steps(alone, range(2, 3))
    assert alone.step_count == 3 and checkpoint.to_optax(alone)[0].count == 2


def test_parameters_may_have_the_names_of_states():
    arrays = {"attention/v/mu": np.ones(3, np.float32), "m": np.ones(2, np.float32)}
    optimizer = fastopt.Optimizer(fastopt.FlatBuffer(arrays), fastopt.Adam())
    optimizer.step(arrays)
    first = optax.adam(0.1).init({"attention": {"v": {"mu": arrays["attention/v/mu"]}}, "m": arrays["m"]})
    again = fastopt.Optimizer(fastopt.FlatBuffer(arrays), fastopt.Adam())
    again.load_state_dict(checkpoint.read(checkpoint.to_optax(optimizer, first), like=again))
    assert np.array_equal(again.state["exp_avg"].flat, optimizer.state["exp_avg"].flat)


def test_numbers_keep_their_dtype():
    params = tree(leaves(0))
    transformation = optax.adam(0.01, mu_dtype="bfloat16")
    params, state = their_steps(transformation, params, transformation.init(params), range(3))
    moved = made(params, fastopt.Adam(), state_dtype={"exp_avg": "bfloat16"})
    moved.load_state_dict(checkpoint.read(state, like=moved))
    assert np.array_equal(
        moved.state["exp_avg"]["dense/kernel"], np.asarray(state[0].mu["dense"]["kernel"], np.float32)
    )
    whole = made(params, fastopt.Adam())
    with pytest.raises(CheckpointError, match="is bfloat16, not float32 as here; convert=True"):
        whole.load_state_dict(checkpoint.read(state, like=whole))
    whole.load_state_dict(checkpoint.read(state, like=whole), convert=True)


def test_what_does_not_fit_names_both_sides():
    params = tree(leaves(0))
    state = optax.adam(0.01).init(params)

    def fails(match, tree, optimizer):
        with pytest.raises(CheckpointError, match=match):
            checkpoint.read(tree, like=optimizer)

    fails("no momentum_buffer, which is trace in optax; it has .*'mu', 'nu'", state, made(params, fastopt.Momentum()))
    fails(
        "no max_exp_avg_sq, which is nothing in optax", optax.amsgrad(0.1).init(params), made(params, fastopt.AMSGrad())
    )
    small = fastopt.Optimizer(fastopt.FlatBuffer({"scale": np.ones(1)}), fastopt.Adam())
    fails(re.escape("the tree has 'dense/kernel', and here there are ['scale']") + "|dense/bias", state, small)
    more = fastopt.Optimizer(fastopt.FlatBuffer(leaves(0) | {"more": np.ones(3, np.float32)}), fastopt.Adam())
    fails("has no mu of 'more'", state, more)
    twice = optax.chain(optax.scale_by_adam(), optax.scale_by_adam()).init(params)
    fails("has mu of .* twice", twice, made(params, fastopt.Adam()))
