"""Lookahead: slow weights around any rule."""

import copy

import numpy as np
import pytest
from harness import random_buffer, snapshot

from fastopt import LAMB, MADGRAD, SGD, AdamW, CheckpointError, Momentum, Optimizer, ScheduleFreeSGD

STORED = [
    ("float32", {}),
    ("float64", {"copy": "float16"}),
    ("bfloat16", {"master": "split"}),
    ("bfloat16", {"master": "float32"}),
    ("bfloat16", {"state_dtype": "8bit"}),
    ("float16", {"rounding": "nearest"}),
]
RULES = {"*.bias": Momentum(lr=0.1), "*": AdamW(lr=0.05)}


def steps(optimizer, first, last):
    for seed in range(first, last):
        optimizer.step(random_buffer(seed, optimizer.dtype.name))
    return optimizer


def start(dtype="float32", rules=RULES, lookahead=(3, 0.4), **options):
    return Optimizer(random_buffer(0, dtype), rules, lookahead=lookahead, **options)


@pytest.mark.parametrize("rule", [SGD, AdamW, LAMB, MADGRAD, ScheduleFreeSGD], ids=lambda rule: rule.__name__)
def test_it_is_the_algorithm_around_a_rule(rule):
    """Beside a second optimizer whose parameters are set by hand."""
    ahead, plain = start("float64", rule(lr=0.01), ema_decay=0.8), Optimizer(random_buffer(0, "float64"), rule(lr=0.01))
    slow, ema = plain.flat.copy(), plain.flat.copy()
    for step in range(1, 8):
        for each in (ahead, plain):
            each.step(random_buffer(step, "float64"))
        if step % 3 == 0:
            slow = 0.6 * slow + 0.4 * plain.flat
            plain.flat[:] = slow
        ema = 0.8 * ema + 0.2 * plain.flat
        np.testing.assert_allclose(ahead.flat, plain.flat, rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(ahead.lookahead.flat, slow, rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(ahead.ema.flat, ema, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("steps_", "alpha"), [(5, 0.8), (3, 1.0)])
def test_lookahead_of_optax(steps_, alpha):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    with jax.enable_x64(True):
        fast = jax.numpy.asarray(random_buffer(0, "float64").flat)
        params = optax.LookaheadParams.init_synced(fast)
        transformation = optax.lookahead(optax.adamw(0.05, weight_decay=0.01), sync_period=steps_, slow_step_size=alpha)
        state = transformation.init(params)
        ours = start("float64", AdamW(lr=0.05, weight_decay=0.01), (steps_, alpha))
        for seed in range(1, 12):
            gradient = random_buffer(seed, "float64")
            updates, state = transformation.update(jax.numpy.asarray(gradient.flat), state, params)
            params = optax.apply_updates(params, updates)
            ours.step(gradient)
            np.testing.assert_allclose(ours.flat, np.asarray(params.fast), rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(ours.lookahead.flat, np.asarray(params.slow), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_on_the_average_parameters_are_rounded_to_the_slow_weights(alpha, backend):
    """By noise of its own: the kernel's, which has rounded what the slow weights follow, would round it up again."""
    params = random_buffer(0, "bfloat16", {"w": (40_000,)})
    params.flat[:] = 1
    optimizer = Optimizer(params, SGD(lr=1.0), backend=backend, lookahead=(1, alpha))
    optimizer.step({"w": np.full(40_000, -(2.0**-8), np.float32)})  # half a unit in the last place
    slow, rounded = (each["w"].astype(np.float64) - 1 for each in (optimizer.lookahead, params))
    assert slow.mean() * 2**7 == pytest.approx(alpha / 2, abs=0.01)
    assert rounded.mean() * 2**7 == pytest.approx(alpha / 2, abs=0.01)


@pytest.mark.parametrize(("dtype", "options"), STORED, ids=str)
def test_both_backends_have_the_same_bits_and_what_follows_the_parameters_does(dtype, options, backends):
    found = []
    for backend in backends:
        for threads in (1, 2):
            optimizer = start(dtype, backend=backend, threads=threads, ema_decay=0.5, **options)
            steps(optimizer, 1, 7)
            found.append(snapshot(optimizer))
            exact = (
                optimizer.flat
                if optimizer.master is None
                else np.concatenate([optimizer.master[name].reshape(-1) for name in optimizer.params])
            )
            if dtype == optimizer.lookahead.flat.dtype.name or optimizer.master is not None:
                assert (exact == optimizer.lookahead.flat).all()
            else:
                np.testing.assert_allclose(exact.astype(float), optimizer.lookahead.flat, rtol=2**-7, atol=1e-6)
            if optimizer.copy is not None:
                assert optimizer.copy.flat.tolist() == exact.astype(np.float32).astype(np.float16).tolist()
            if optimizer.master is not None:
                assert optimizer.flat.tolist() == pytest.approx(exact.tolist(), rel=2**-7)
    assert all(each == found[0] for each in found)


def test_large_parameters_on_threads_have_the_same_bits(backends):
    """Where each stage is split: the slow weights read what the whole step before has written."""
    found = set()
    for backend in backends:
        for threads in (1, 2):
            p = np.ones(300_001, np.float32)
            optimizer = Optimizer(p, AdamW(lr=0.1), backend=backend, threads=threads, lookahead=(2, 0.5))
            for seed in range(4):
                optimizer.step(np.random.default_rng(seed).standard_normal(p.size, np.float32))
            found.add((p.tobytes(), optimizer.lookahead.flat.tobytes()))
    assert len(found) == 1


def test_frozen_groups_stay_where_they_are(backend):
    optimizer = steps(start(backend=backend), 1, 3)
    optimizer.freeze("*.bias")
    before, slow = optimizer.params["first.bias"].copy(), optimizer.lookahead["first.bias"].copy()
    steps(optimizer, 3, 8)
    assert (optimizer.params["first.bias"] == before).all() and (optimizer.lookahead["first.bias"] == slow).all()
    optimizer.thaw("*.bias")
    steps(optimizer, 8, 10)
    assert (optimizer.params["first.bias"] == optimizer.lookahead["first.bias"]).all()


def test_strides_are_counted_in_updates(backend):
    """Neither in gradients nor in steps that were skipped."""
    one, other = start(backend=backend, accumulate=2), start(backend=backend)
    for seed in range(1, 6):
        gradient = random_buffer(seed, "float32")
        for each in (one, one, other):
            each.step(gradient)
        gradient.flat[0] = np.nan
        other.step(gradient, nonfinite="skip")
    assert one.flat.tolist() == pytest.approx(other.flat.tolist(), rel=1e-6)
    assert one.lookahead.flat.tolist() == pytest.approx(other.lookahead.flat.tolist(), rel=1e-6)


@pytest.mark.parametrize(("dtype", "options"), STORED, ids=str)
def test_a_run_goes_on_from_a_checkpoint_or_a_copy(dtype, options, tmp_path):
    whole, half = steps(start(dtype, **options), 1, 9), steps(start(dtype, **options), 1, 5)
    half.save(tmp_path / "half.safetensors")
    loaded, given = start(dtype, **options), start(dtype, **options)
    loaded.load(tmp_path / "half.safetensors")
    given.load_state_dict(half.state_dict())
    given.flat[:] = half.flat
    for each in (loaded, given, copy.deepcopy(half)):
        assert snapshot(steps(each, 5, 9)) == snapshot(whole)


def test_checkpoints_without_slow_weights_are_what_they_were(tmp_path):
    plain = steps(Optimizer(random_buffer(0, "float32"), RULES), 1, 3)
    saved = plain.state_dict()
    assert saved.pop("lookahead") is None  # as those of before do
    plain.load_state_dict(saved)
    plain.save(tmp_path / "plain.safetensors")
    ahead = start()
    with pytest.raises(CheckpointError, match="lookahead: this optimizer has it and the checkpoint has not"):
        ahead.load(tmp_path / "plain.safetensors")
    ahead.save(tmp_path / "ahead.safetensors")
    with pytest.raises(CheckpointError, match="lookahead: the checkpoint has it and this optimizer has not"):
        plain.load(tmp_path / "ahead.safetensors")
    double = start("float64")
    double.load(tmp_path / "ahead.safetensors", convert=True)
    assert (double.lookahead.flat == ahead.lookahead.flat).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (6, r"lookahead must be \(steps, alpha\), as \(6, 0.5\) is, not 6"),
        ((6,), r"lookahead must be \(steps, alpha\)"),
        ("ab", r"lookahead must be \(steps, alpha\)"),
        ((0, 0.5), r"lookahead\[0\] must be a whole number >= 1, not 0"),
        ((2.0, 0.5), r"lookahead\[0\] must be a whole number >= 1, not 2.0"),
        ((2, 0.0), r"lookahead\[1\] must be a number in \(0, 1\], not 0.0"),
        ((2, 1.5), r"lookahead\[1\] must be a number in \(0, 1\], not 1.5"),
        ((2, "x"), r"lookahead\[1\] must be a number in \(0, 1\], not 'x'"),
    ],
)
def test_it_is_checked(given, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Optimizer(np.ones(3), SGD(), lookahead=given)


def test_without_it_there_are_no_slow_weights():
    assert Optimizer(np.ones(3), SGD()).lookahead is None
