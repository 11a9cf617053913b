"""Optimizer.step: forms of a gradient, clipping, scaling, non-finite gradients, accumulation, averages, memory."""

import gc
import itertools
import math
import tracemalloc
import weakref
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cases import ELEMENTWISE, by_kernel, short
from harness import SHAPES, random_buffer, snapshot

import fastopt
from fastopt import SGD, Adam, AdamW, FlatBuffer, Lion, Momentum, Optimizer, Rprop, StepReport

KERNELS = by_kernel()
GROUPS = {"*.bias": Momentum(lr=0.1), "first.*": AdamW(), "*": Adam(amsgrad=True, weight_decay=0.1)}


def assert_same(one: Optimizer, other: Optimizer) -> None:
    one_bits, other_bits = snapshot(one), snapshot(other)
    assert one_bits.keys() == other_bits.keys()
    assert not [name for name in one_bits if one_bits[name] != other_bits[name]]


# Parameters and gradients


def test_a_plain_array_is_updated_in_place(backend, dtype):
    params = np.linspace(-1, 1, 37).astype(dtype)
    address, start = params.ctypes.data, params.copy()
    optimizer = Optimizer(params, SGD(lr=0.5), backend=backend)
    assert optimizer.flat.ctypes.data == address and optimizer.params is params
    assert optimizer.step(np.full(37, 0.25, dtype)) == StepReport(step=1, grad_norm=None, skipped=False)
    np.testing.assert_array_equal(params, start - dtype_of(dtype)(0.125))


def dtype_of(name: str) -> type:
    return np.dtype(name).type


@pytest.mark.parametrize("rule", [GROUPS, Lion(), Rprop()], ids=["groups", "Lion", "Rprop"])
def test_every_form_of_a_gradient_gives_the_same_bits(rule, backend, dtype):
    gradients = [random_buffer(seed, dtype) for seed in range(5)]
    unaligned = np.empty(gradients[0].size + 1, dtype)[1:]
    forms = {
        "FlatBuffer": lambda g: g,
        "array": lambda g: g.flat.copy(),
        "unaligned": lambda g: (unaligned.__setitem__(slice(None), g.flat), unaligned)[1],
        "mapping": lambda g: {name: g[name].copy() for name in reversed(list(g))},
        "strided": lambda g: {name: np.repeat(g[name][..., None], 2, -1)[..., 0] for name in g},
        "by columns": lambda g: {name: np.array(g[name], order="F") for name in g},
        "read-only": lambda g: read_only(g.flat.copy()),
    }
    optimizers = {form: Optimizer(random_buffer(9, dtype), rule, backend=backend) for form in forms}
    for gradient in gradients:
        for form, make in forms.items():
            optimizers[form].step(make(gradient))
    for form in forms:
        assert_same(optimizers["FlatBuffer"], optimizers[form])
    assert optimizers["FlatBuffer"].flat.tobytes() != random_buffer(9, dtype).flat.tobytes()


LARGE = {"a.w": (300, 500), "a.b": (100_003,), "b.w": (2, 3, 17_001)}


def large_forms(seed: int, dtype: str) -> dict[str, Any]:
    """A large gradient in every form, and with arrays of every form in a mapping."""
    gradient = random_buffer(seed, dtype, LARGE)
    apart = {name: array.copy() for name, array in gradient.items()}
    odd = np.empty(apart["a.b"].nbytes + 1, np.uint8)[1:].view(dtype)
    odd[:] = apart["a.b"]
    return {
        "FlatBuffer": gradient,
        "views": dict(gradient),
        "arrays": apart,
        "read-only": {name: read_only(array.copy()) for name, array in reversed(apart.items())},
        "unaligned": apart | {"a.b": odd},
        "strided": apart | {"a.w": np.repeat(apart["a.w"], 2, axis=1)[:, ::2]},
        "by columns": {name: np.array(array, order="F") for name, array in apart.items()},
    }


@pytest.mark.parametrize("options", [{}, {"max_norm": 0.5}, {"nonfinite": "skip"}], ids=str)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_large_gradients_have_the_same_bits_in_every_form(options, accumulate, backend):
    """Read in place or copied, and by turns; with a norm and without."""
    rules = {"a.*": AdamW(), "b.*": Momentum()}
    optimizers = {
        form: Optimizer(
            random_buffer(9, "float32", LARGE), rules, backend=backend, accumulate=accumulate, ema_decay=0.9
        )
        for form in large_forms(0, "float32")
    }
    for seed in range(3):
        for form, gradient in large_forms(seed, "float32").items():
            optimizers[form].step(gradient, **options)
            if isinstance(gradient, dict):
                for array in gradient.values():
                    assert np.isfinite(array).all()  # as it was: nothing has been written to it
        if seed == 0:
            for optimizer in optimizers.values():
                optimizer.freeze("b.*")
    for form in optimizers:
        assert_same(optimizers["FlatBuffer"], optimizers[form])


def test_large_arrays_of_a_mapping_are_read_where_they_lie(backend, dtype):
    optimizer = Optimizer(random_buffer(9, dtype, LARGE), SGD(), backend=backend)
    gradient = {name: array.copy() for name, array in random_buffer(1, dtype, LARGE).items()}
    optimizer.step(gradient)  # compiles
    tracemalloc.start()
    try:
        for _ in range(3):
            optimizer.step(gradient)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000 < optimizer.flat.nbytes / 10


def test_what_large_arrays_hold_when_the_step_comes_counts(backend):
    """The same mapping and the same arrays with other values, another array of the same name, one that is gone."""
    gradient = {name: array.copy() for name, array in random_buffer(1, "float32", LARGE).items()}
    optimizer, expected = (Optimizer(random_buffer(9, "float32", LARGE), Adam(), backend=backend) for _ in range(2))
    for seed in range(4):
        new = random_buffer(seed, "float32", LARGE)
        for name, array in gradient.items():
            array[...] = new[name]
        if seed == 2:
            gradient["a.w"] = new["a.w"].copy()
        optimizer.step(gradient)
        expected.step(new)
    del gradient["b.w"]
    with pytest.raises(ValueError, match="grads has no gradient for 'b.w'"):
        optimizer.step(gradient)
    assert_same(optimizer, expected)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def test_a_gradient_of_a_group_of_optimizers_or_of_another_object_is_not_mixed_up(backend):
    gradients = [random_buffer(seed, "float32") for seed in range(2)]
    alternating, expected = (Optimizer(random_buffer(9, "float32"), Adam(), backend=backend) for _ in range(2))
    for index in (0, 1, 1, 0, 0, 1):
        alternating.step(gradients[index])
        expected.step(gradients[index].copy())
    assert_same(alternating, expected)


def test_what_a_gradient_holds_when_the_step_comes_counts(backend):
    gradient = random_buffer(1, "float32")
    optimizer, expected = (Optimizer(random_buffer(9, "float32"), Adam(), backend=backend) for _ in range(2))
    for seed in range(4):
        gradient.flat[:] = random_buffer(seed, "float32").flat
        optimizer.step(gradient)
        expected.step(random_buffer(seed, "float32"))
    assert_same(optimizer, expected)


def test_gradients_are_left_as_they_are(backend, dtype):
    gradient = random_buffer(1, dtype)
    before = gradient.flat.tobytes()
    optimizer = Optimizer(random_buffer(2, dtype), GROUPS, backend=backend, accumulate=2, ema_decay=0.9)
    for _ in range(4):
        optimizer.step(gradient, max_norm=0.1, grad_scale=3.0, nonfinite="raise")
    assert gradient.flat.tobytes() == before


def test_a_gradient_in_a_read_only_file(tmp_path, backend, dtype):
    random_buffer(1, dtype).flat.tofile(tmp_path / "gradient")
    mapped = np.memmap(tmp_path / "gradient", dtype, "r")
    optimizer, expected = (Optimizer(random_buffer(9, dtype), Adam(), backend=backend) for _ in range(2))
    for _ in range(3):
        optimizer.step(mapped, max_norm=1.0)
        expected.step(random_buffer(1, dtype), max_norm=1.0)
    assert_same(optimizer, expected)


def test_parameters_in_a_file(tmp_path, backend, dtype):
    start = random_buffer(9, dtype)
    start.flat.tofile(tmp_path / "params")
    mapped = np.memmap(tmp_path / "params", dtype, "r+")
    Optimizer(mapped, Adam(lr=0.1), backend=backend).step(random_buffer(1, dtype).flat)
    Optimizer(start, Adam(lr=0.1), backend=backend).step(random_buffer(1, dtype))
    mapped.flush()
    assert (tmp_path / "params").read_bytes() == start.flat.tobytes()


@pytest.mark.parametrize(
    "params", [{}, {"w": np.zeros((0, 3)), "b": np.zeros(0)}], ids=["no parameters", "no elements"]
)
@pytest.mark.parametrize("rule", [GROUPS["*"], SGD()], ids=["amsgrad", "sgd"])
def test_nothing_to_update(params, rule, backend, dtype):
    buffer = FlatBuffer(params, dtype=dtype)
    optimizer = Optimizer(buffer, rule, backend=backend, ema_decay=0.5)
    report = optimizer.step(buffer.zeros_like(), max_norm=1.0, nonfinite="raise")
    assert report == StepReport(step=1, grad_norm=0.0, skipped=False)


# max_norm and grad_scale


def norm(gradient: FlatBuffer) -> float:
    return float(np.sqrt(np.sum(np.square(gradient.flat, dtype=np.float64))))


@pytest.mark.parametrize("size", [1e-320, 1e-300, 1e-200, 1e-150, 1.0, 1e150, 1e200, 1e300])
@pytest.mark.parametrize("count", [3, 40_000])
def test_a_norm_is_right_where_squares_are_not_representable(size, count, backend):
    gradient = np.random.default_rng(5).normal(size=count) * size
    largest = np.abs(gradient).max()
    exact = float(np.linalg.norm(gradient / largest) * largest)
    optimizer = Optimizer(np.zeros(count), fastopt.SGD(lr=1.0), backend=backend)
    report = optimizer.step(gradient, max_norm=0.5, nonfinite="raise")
    tolerance = 1e-3 if size < 1e-310 else 1e-6
    assert report.grad_norm == pytest.approx(exact, rel=1e-3 if size < 1e-310 else 1e-13)
    largest = np.abs(optimizer.flat).max()
    clipped = float(np.linalg.norm(optimizer.flat / largest) * largest)
    assert clipped == pytest.approx(min(0.5, exact), rel=tolerance)


def test_a_norm_that_no_float_can_hold_is_clipped_and_not_taken_for_an_infinite_gradient(backend):
    optimizer = Optimizer(np.ones(4), fastopt.SGD(lr=1.0), backend=backend)
    report = optimizer.step(np.full(4, 1.7e308), max_norm=1.0, nonfinite="raise")
    assert report == StepReport(step=1, grad_norm=math.inf, skipped=False)
    np.testing.assert_allclose(optimizer.flat, 0.5, rtol=1e-12)


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 10.0, 1e6, np.inf, 2, np.float32(0.5)])
@pytest.mark.parametrize("grad_scale", [1.0, 1 / 1024, -3.7, np.float32(0.25), 2])
def test_clipping_is_torchs(max_norm, grad_scale, backend, dtype):
    """clip_grad_norm_ multiplies by max_norm / (norm + 1e-6) if that is less than one."""
    gradient, start = random_buffer(1, dtype), random_buffer(2, dtype)
    expected_norm = norm(gradient) * abs(float(grad_scale))
    factor = float(grad_scale) * min(1.0, float(max_norm) / (expected_norm + 1e-6))
    optimizer = Optimizer(start.copy(), SGD(lr=1.0), backend=backend)
    report = optimizer.step(gradient, max_norm=max_norm, grad_scale=grad_scale)
    assert report.grad_norm == pytest.approx(expected_norm, rel=1e-14) and isinstance(report.grad_norm, float)
    expected = start.flat - dtype_of(dtype)(factor) * gradient.flat
    np.testing.assert_array_max_ulp(optimizer.flat, expected, maxulp=1 if dtype == "float32" else 4)
    within = Optimizer(start.copy(), SGD(lr=1.0), backend=backend)
    within.step(gradient, max_norm=expected_norm + 2e-6, grad_scale=grad_scale)
    plain = Optimizer(start.copy(), SGD(lr=1.0), backend=backend)
    plain.step(gradient, grad_scale=grad_scale)
    assert_same(within, plain)  # below the limit nothing is scaled


@pytest.mark.parametrize("as_given", [np.array, np.float64, Fraction, lambda x: np.array(x, np.float32)])
def test_a_number_may_come_as_whatever_holds_it(as_given, backend):
    """Python's and NumPy's, and arrays without axes: what float() takes without losing anything."""
    given, plain = (
        Optimizer(random_buffer(2, "float32"), SGD(), backend=backend, ema_decay=convert(0.75), threads=threads)
        for convert, threads in ((as_given, np.array(2)), (float, 2))
    )
    for optimizer, convert in ((given, as_given), (plain, float)):
        report = optimizer.step(random_buffer(1, "float32"), max_norm=convert(0.5), grad_scale=convert(0.25))
        assert type(report.grad_norm) is float
    assert_same(given, plain)
    assert Optimizer(np.ones(2), SGD(), backend=backend, accumulate=np.array(3)).accumulated is not None


def test_clipping_agrees_with_torch(backend, dtype):
    torch = pytest.importorskip("torch")
    gradient, start = random_buffer(1, dtype), random_buffer(2, dtype)
    tensor = torch.from_numpy(start.flat.copy()).requires_grad_()
    tensor.grad = torch.from_numpy(gradient.flat.copy())
    expected = torch.nn.utils.clip_grad_norm_([tensor], 0.7)
    torch.optim.SGD([tensor], lr=1.0).step()
    optimizer = Optimizer(start, SGD(lr=1.0), backend=backend)
    report = optimizer.step(gradient, max_norm=0.7)
    assert report.grad_norm == pytest.approx(expected.item(), rel=4 * float(np.finfo(dtype).eps))
    np.testing.assert_allclose(optimizer.flat, tensor.detach().numpy(), rtol=0, atol=4 * np.finfo(dtype).eps)


def test_the_scale_multiplies_every_rules_gradient(backend, dtype):
    """A power of two, so that scaling by hand is exact."""
    for kernel, rule in KERNELS.items():
        scaled, expected = (Optimizer(random_buffer(2, dtype), rule, backend=backend) for _ in range(2))
        for seed in range(4):
            gradient = random_buffer(seed, dtype)
            expected.step(gradient)
            gradient.flat[:] *= 1024
            scaled.step(gradient, grad_scale=1 / 1024)
        assert snapshot(scaled) == snapshot(expected), kernel


def test_the_norm_of_huge_and_tiny_gradients(backend):
    gradient = np.array([3e200, 4e200], np.float64)
    optimizer = Optimizer(np.zeros(2), SGD(lr=1.0), backend=backend)
    report = optimizer.step(gradient, max_norm=5.0, nonfinite="raise")
    assert report.grad_norm == pytest.approx(5e200, rel=1e-14)
    np.testing.assert_allclose(optimizer.flat, [-3, -4], rtol=1e-14)
    single = Optimizer(np.zeros(2, np.float32), SGD(lr=1.0), backend=backend)
    report = single.step(np.array([3e38, -3e38], np.float32), max_norm=1.0, nonfinite="raise")
    assert report.grad_norm == pytest.approx(3e38 * 2**0.5, rel=1e-6)
    np.testing.assert_allclose(single.flat, [-(0.5**0.5), 0.5**0.5], rtol=1e-6)


def test_the_norm_is_that_of_the_parameters_that_are_stepped(backend):
    gradient = random_buffer(1, "float32")
    optimizer = Optimizer(random_buffer(2, "float32"), GROUPS, backend=backend)
    optimizer.freeze("first.*")
    stepped = [name for name in SHAPES if name != "first.weight"]
    expected = np.sqrt(sum(np.sum(np.square(gradient[name], dtype=np.float64)) for name in stepped))
    gradient["first.weight"][0, 0] = np.nan
    assert optimizer.step(gradient, max_norm=1.0, nonfinite="raise").grad_norm == pytest.approx(expected, rel=1e-14)


# Gradients that are not finite


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_skip_and_raise_change_nothing(bad, accumulate, max_norm, backend, dtype):
    def make() -> Optimizer:
        return Optimizer(random_buffer(2, dtype), GROUPS, backend=backend, accumulate=accumulate, ema_decay=0.9)

    optimizer, expected = make(), make()
    damaged = random_buffer(7, dtype)
    damaged["second.bias"][-1] = bad
    for seed in range(7):
        before = snapshot(optimizer)
        report = optimizer.step(damaged, nonfinite="skip", max_norm=max_norm)
        assert report.skipped and report.step == optimizer.step_count and not np.isfinite(report.grad_norm)
        with pytest.raises(fastopt.NonFiniteGradientError, match=r"^grads: .* nothing has changed$"):
            optimizer.step({name: damaged[name] for name in damaged}, nonfinite="raise", max_norm=max_norm)
        assert snapshot(optimizer) == before
        for each in (optimizer, expected):
            report = each.step(random_buffer(seed, dtype), nonfinite="skip", max_norm=max_norm)
            assert report.skipped == ((seed + 1) % accumulate != 0)
        assert_same(optimizer, expected)
    assert optimizer.step_count == 7 // accumulate


def test_a_sum_that_overflows_changes_nothing(backend):
    huge = np.full(3, 2.5e38, np.float32)
    optimizer = Optimizer(np.ones(3, np.float32), Adam(), backend=backend, accumulate=2)
    optimizer.step(huge, nonfinite="raise")
    before = snapshot(optimizer)
    with pytest.raises(fastopt.NonFiniteGradientError):
        optimizer.step(huge, nonfinite="raise")
    assert optimizer.step(huge, nonfinite="skip").skipped
    assert snapshot(optimizer) == before
    optimizer.step(-huge, nonfinite="raise")
    assert optimizer.step_count == 1 and optimizer.flat.tolist() == [1, 1, 1]


def test_propagate_lets_them_through(backend, dtype):
    optimizer = Optimizer(np.ones(3, dtype), SGD(lr=1.0), backend=backend)
    report = optimizer.step(np.array([np.nan, np.inf, 1], dtype))
    assert report == StepReport(step=1, grad_norm=None, skipped=False)
    assert np.isnan(optimizer.flat[0]) and optimizer.flat[1] == -np.inf and optimizer.flat[2] == 0


# Accumulation


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_accumulating_is_one_step_with_the_mean(accumulate, backend, dtype):
    """The same bits as a step with the sum and the scale 1 / k; and with the mean itself if k is a power of two."""
    for kernel, rule in (("sgd", KERNELS["sgd"]), ("adam", KERNELS["adam"])):
        gathered, summed, averaged = (
            Optimizer(random_buffer(2, dtype), rule, backend=backend, accumulate=each, ema_decay=0.9)
            for each in (accumulate, 1, 1)
        )
        for step in range(3):
            gradients = [random_buffer(step * accumulate + micro, dtype) for micro in range(accumulate)]
            reports = [gathered.step(gradient) for gradient in gradients]
            assert reports == [(step, None, True)] * (accumulate - 1) + [(step + 1, None, False)]
            total = gradients[0].zeros_like()
            for gradient in gradients:
                total.flat[:] += gradient.flat
            summed.step(total, grad_scale=1 / accumulate)
            total.flat[:] /= accumulate
            averaged.step(total)
        bits, expected = snapshot(gathered), snapshot(summed)
        assert bits.pop("accumulated") == bytes(gathered.flat.nbytes)
        assert bits == expected, kernel
        if accumulate in (2, 4):
            assert bits == snapshot(averaged), kernel


def test_while_gradients_gather_only_their_sum_changes(backend, dtype):
    optimizer = Optimizer(random_buffer(2, dtype), GROUPS, backend=backend, accumulate=3, ema_decay=0.9)
    before = snapshot(optimizer)
    optimizer.step(random_buffer(0, dtype))
    optimizer.step(random_buffer(1, dtype))
    after = snapshot(optimizer)
    assert {name for name in before if before[name] != after[name]} == {"accumulated", "counts"}
    np.testing.assert_array_equal(
        optimizer.accumulated.flat, random_buffer(0, dtype).flat + random_buffer(1, dtype).flat
    )


def test_every_gathered_gradient_has_its_own_scale(backend, dtype):
    gathered = Optimizer(random_buffer(2, dtype), Adam(), backend=backend, accumulate=2)
    expected = Optimizer(random_buffer(2, dtype), Adam(), backend=backend, accumulate=2)
    for seed, scale in enumerate((4.0, 0.5, 8.0, 2.0)):
        gradient = random_buffer(seed, dtype)
        expected.step(gradient)
        gradient.flat[:] *= scale
        gathered.step(gradient, grad_scale=1 / scale)
    assert_same(gathered, expected)


def test_the_norm_of_a_gathered_step_is_that_of_the_mean(backend, dtype):
    gradients = [random_buffer(seed, dtype) for seed in range(2)]
    mean = gradients[0].copy()
    mean.flat[:] = (mean.flat + gradients[1].flat) / 2
    optimizer = Optimizer(random_buffer(2, dtype), SGD(lr=1.0), backend=backend, accumulate=2)
    expected = Optimizer(random_buffer(2, dtype), SGD(lr=1.0), backend=backend)
    reports = [optimizer.step(gradient, max_norm=0.5) for gradient in gradients]
    assert reports[0].grad_norm is None
    assert reports[1].grad_norm == pytest.approx(norm(mean), rel=1e-14)
    expected.step(mean, max_norm=0.5)
    np.testing.assert_array_max_ulp(optimizer.flat, expected.flat, maxulp=4)


def test_a_gradient_that_a_mapping_leaves_out_counts_as_zero(backend):
    rules = {"a": Momentum(lr=0.1), "b": Momentum(lr=0.1)}
    params = {"a": np.ones(3), "b": np.ones(3)}
    optimizer = Optimizer(FlatBuffer(params, "float32"), rules, backend=backend, accumulate=2)
    ones = {name: np.ones(3, np.float32) for name in params}
    optimizer.step(ones)
    optimizer.step(ones)
    before = optimizer.params["b"].copy()
    optimizer.freeze("b")
    optimizer.step({"a": ones["a"]})
    optimizer.thaw("b")
    np.testing.assert_array_equal(optimizer.accumulated["b"], 0)
    optimizer.step({"a": ones["a"], "b": 0 * ones["b"]})
    momentum = np.float32(optimizer.groups["b"].rule.momentum)
    np.testing.assert_allclose(optimizer.params["b"], before - np.float32(0.1) * momentum, rtol=1e-6)


# The moving average


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_follows_the_parameters(decay, backend, dtype):
    optimizer = Optimizer(random_buffer(2, dtype), GROUPS, backend=backend, ema_decay=decay)
    plain = Optimizer(random_buffer(2, dtype), GROUPS, backend=backend)
    expected = optimizer.flat.astype(np.float64)
    assert optimizer.ema.flat.tobytes() == optimizer.flat.tobytes() and optimizer.ema.layout == optimizer.layout
    for seed in range(6):
        optimizer.step(random_buffer(seed, dtype))
        plain.step(random_buffer(seed, dtype))
        expected = decay * expected + (1 - decay) * optimizer.flat
    assert optimizer.flat.tobytes() == plain.flat.tobytes()
    np.testing.assert_allclose(optimizer.ema.flat, expected, rtol=0, atol=12 * np.finfo(dtype).eps)
    assert plain.ema is None


# Backends agree on all of it


def test_both_backends_give_the_same_bits():
    available = [name for name, found in fastopt.backends().items() if found]
    if len(available) < 2:
        pytest.skip("one backend is installed")
    for dtype, threads, accumulate in itertools.product(("float32", "float64"), (1, 2, 4), (1, 3)):
        snapshots = []
        for backend in available:
            options = {"backend": backend, "threads": threads, "accumulate": accumulate, "ema_decay": 0.99}
            shapes = SHAPES | {"large": (140_003,)}
            optimizer = Optimizer(random_buffer(5, dtype, shapes), GROUPS, **options)
            for seed in range(6):
                gradient = random_buffer(seed, dtype, shapes)
                optimizer.step(gradient, max_norm=5.0, grad_scale=0.3, nonfinite="skip")
            snapshots.append(snapshot(optimizer))
        assert snapshots[0] == snapshots[1]


# What a step would run


def test_explain_says_what_runs_where_and_why(backend):
    optimizer = Optimizer(random_buffer(0, "float32"), GROUPS, backend=backend, threads=2)
    optimizer.freeze("first.*")
    explained = optimizer.explain()
    assert (explained.backend, explained.reason, explained.threads) == (backend, "backend asks for it", 2)
    assert explained.frozen == ("first.*",)
    assert [kernel[:5] for kernel in explained.kernels] == [
        ("*.bias", "momentum", 2, 14, 2),
        ("*", "amsgrad", 3, 56, 1),
    ]
    assert str(explained).splitlines() == [
        f"{backend}, up to 2 threads: backend asks for it",
        "'*.bias': momentum (2 parameters, 14 elements, 2 runs of memory)",
        "'*': amsgrad (3 parameters, 56 elements, 1 runs of memory)",
        "'first.*': frozen",
    ]


def test_explaining_changes_nothing(backend, dtype):
    optimizer, expected = (
        Optimizer(random_buffer(0, dtype), GROUPS, backend=backend, accumulate=2, ema_decay=0.9) for _ in range(2)
    )
    for seed in range(5):
        before = snapshot(optimizer)
        optimizer.explain()
        assert snapshot(optimizer) == before
        optimizer.step(random_buffer(seed, dtype))
        expected.step(random_buffer(seed, dtype))
    assert_same(optimizer, expected)


def test_an_optimizer_is_freed_when_nobody_holds_it(backend):
    """At once: it and its buffers are in no cycle that only a collection would find."""
    optimizer = Optimizer(random_buffer(0, "float32"), GROUPS, backend=backend, accumulate=2, ema_decay=0.9)
    gc.collect()
    gc.disable()
    try:
        for seed in range(4):
            optimizer.step(random_buffer(seed, "float32"), max_norm=1.0)
            optimizer.step(dict(random_buffer(seed, "float32")))
        freed = [weakref.ref(each) for each in (optimizer, optimizer.ema.flat, optimizer.state["exp_avg"].flat)]
        del optimizer
        assert [each() for each in freed] == [None, None, None]
    finally:
        gc.enable()


# Memory


@pytest.mark.parametrize("form", ["FlatBuffer", "mapping"])
def test_a_step_makes_no_temporaries(form, backend, dtype):
    shapes = {"a.w": (400, 501), "b": (1001,), "c.w": (140_003,)}
    optimizer = Optimizer(
        random_buffer(0, dtype, shapes), {"*.w": Adam(), "b": SGD()}, backend=backend, accumulate=2, ema_decay=0.9
    )
    gradient = random_buffer(1, dtype, shapes)
    given = gradient if form == "FlatBuffer" else dict(gradient)
    for _ in range(3):
        optimizer.step(given, max_norm=1.0, nonfinite="skip")
    tracemalloc.start()
    try:
        for _ in range(4):
            optimizer.step(given, max_norm=1.0, nonfinite="skip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 65_536 < optimizer.flat.nbytes / 10


# NumPy's errors


SCALES = [0.0, 1e-30, 1.0, 1e30]
FORMS = [form for rule in ELEMENTWISE.values() for form in rule.forms()]
#: Two scales for each form: neighbours among rules are of one family.
SCALED = [(form, SCALES[(place + shift) % 4]) for place, form in enumerate(FORMS) for shift in (0, 1)]


@pytest.mark.parametrize(("rule", "scale"), SCALED, ids=[f"{short(form)}-{scale}" for form, scale in SCALED])
def test_what_numpy_does_about_floating_point_errors_does_not_matter(rule, scale):
    """2,000 steps with every option at once; what over- and underflows is a coefficient, a norm or a schedule."""
    gradient = np.array([0.0, 1.0, -0.5], np.float32) * np.float32(scale)
    params = np.ones(3, np.float32)
    with np.errstate(all="raise"):
        rule = rule.replace(lr=fastopt.schedules.Exponential(lr=0.01, factor=0.9))
        optimizer = Optimizer(params, rule, accumulate=2, ema_decay=0.9)
        for _ in range(2000):
            optimizer.step(gradient, max_norm=1.0, grad_scale=1e-3)
        optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.step_count == 1000
