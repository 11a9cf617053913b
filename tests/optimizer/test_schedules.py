"""Schedules against closed forms and the recurrences of torch.optim.lr_scheduler, written out by hand."""

import copy
import inspect
import math
import pickle

import numpy as np
import pytest
from harness import random_buffer, snapshot

from fastopt import SGD, Adam, AdamW, Optimizer, schedules
from fastopt.schedules import SCHEDULES, Constant, Cosine, Exponential, Linear, OneCycle, Plateau, Step

LR = 0.3
EXAMPLES = [
    Constant(lr=LR),
    Step(lr=LR, every=4, factor=0.5),
    Exponential(lr=LR, factor=0.93),
    Cosine(lr=LR, steps=23, warmup=5, final=0.01),
    Linear(lr=LR, steps=17, warmup=3),
    OneCycle(lr=LR, steps=20),
    Plateau(lr=LR, factor=0.5, patience=2),
]


def rates(schedule, steps: int) -> list[float]:
    return [schedule(step) for step in range(1, steps + 1)]


def test_every_schedule_is_tried():
    assert {type(schedule).__name__ for schedule in EXAMPLES} == set(SCHEDULES) == set(schedules.SCHEDULES)


def test_constant():
    assert rates(Constant(lr=LR), 5) == [LR] * 5


def test_step_is_steplr():
    """StepLR: multiplied by gamma at every epoch that step_size divides."""
    expected, lr = [], LR
    for epoch in range(30):
        if epoch and epoch % 4 == 0:
            lr *= 0.5
        expected.append(lr)
    np.testing.assert_allclose(rates(Step(lr=LR, every=4, factor=0.5), 30), expected, rtol=1e-14)


def test_exponential_is_exponentiallr():
    expected, lr = [], LR
    for _ in range(50):
        expected.append(lr)
        lr *= 0.93
    np.testing.assert_allclose(rates(Exponential(lr=LR, factor=0.93), 50), expected, rtol=1e-13)


@pytest.mark.parametrize("steps", [2, 3, 24])
def test_cosine_is_cosineannealinglr(steps):
    """CosineAnnealingLR with T_max = steps - 1, whose last step has the final rate."""
    top, final = LR, 0.01
    expected = [final + (top - final) * (1 + math.cos(math.pi * epoch / (steps - 1))) / 2 for epoch in range(steps)]
    schedule = Cosine(lr=top, steps=steps, final=final)
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-14)
    assert rates(schedule, steps + 3)[steps:] == [final] * 3  # and it stays there


@pytest.mark.parametrize("steps", [2, 3, 24])
def test_linear_is_linearlr(steps):
    """LinearLR with start_factor 1, end_factor final / lr and total_iters steps - 1."""
    top, final = LR, 0.01
    expected = [top * (1 + (final / top - 1) * min(epoch, steps - 1) / (steps - 1)) for epoch in range(steps + 3)]
    np.testing.assert_allclose(rates(Linear(lr=top, steps=steps, final=final), steps + 3), expected, rtol=1e-13)


@pytest.mark.parametrize("kind", [Cosine, Linear])
def test_warm_up_climbs_in_a_line_to_the_rate_itself(kind):
    found = rates(kind(lr=LR, steps=20, warmup=8, final=0.05), 20)
    np.testing.assert_allclose(found[:8], [LR * step / 8 for step in range(1, 9)], rtol=1e-15)
    assert found[7] == max(found) == LR and found[-1] == 0.05
    assert found[8:] == sorted(found[8:], reverse=True)
    middle = found[13]  # half of the way down, where both shapes are half
    assert middle == pytest.approx((LR + 0.05) / 2)


@pytest.mark.parametrize(("steps", "rise"), [(10, 0.3), (100, 0.3), (101, 0.37), (5, 0.5), (40, 0.9)])
def test_one_cycle_is_onecyclelr(steps, rise):
    """OneCycleLR with two phases: up to pct_start * total_steps - 1, down to total_steps - 1, by half a cosine each."""
    start, end = LR / 25, LR / 250000
    turn = rise * steps - 1
    expected = []
    for epoch in range(steps):
        first, last, low, high = (0, turn, start, LR) if epoch <= turn else (turn, steps - 1, LR, end)
        done = (epoch - first) / (last - first)
        expected.append(high + (low - high) / 2 * (math.cos(math.pi * done) + 1))
    schedule = OneCycle(lr=LR, steps=steps, rise=rise)
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-11)
    assert schedule(steps + 1) == schedule(steps)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda schedule: type(schedule).__name__)
def test_agrees_with_torch(schedule):
    scheduler = pytest.importorskip("torch.optim.lr_scheduler")
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=LR)
    peers = {
        Constant: lambda: scheduler.ConstantLR(optimizer, factor=1.0),
        Step: lambda: scheduler.StepLR(optimizer, 4, 0.5),
        Exponential: lambda: scheduler.ExponentialLR(optimizer, 0.93),
        Cosine: lambda: scheduler.SequentialLR(
            optimizer,
            [scheduler.LinearLR(optimizer, 1 / 5, 1.0, 4), scheduler.CosineAnnealingLR(optimizer, 18, 0.01)],
            [4],
        ),
        Linear: lambda: scheduler.SequentialLR(
            optimizer,
            [scheduler.LinearLR(optimizer, 1 / 3, 1.0, 2), scheduler.LinearLR(optimizer, 1.0, 0.0, 14)],
            [2],
        ),
        OneCycle: lambda: scheduler.OneCycleLR(optimizer, LR, total_steps=20, final_div_factor=1e4),
        Plateau: lambda: scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2),
    }
    peer = peers[type(schedule)]()
    steps = 23 if isinstance(schedule, Cosine) else 17
    metrics = np.round(np.random.default_rng(3).random(steps), 1)
    for step in range(1, steps + 1):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
        optimizer.step()
        if isinstance(schedule, Plateau):
            schedule.observe(metrics[step - 1])
            peer.step(metrics[step - 1])
        else:
            peer.step()


# Plateau


def plateau_of_torch(metrics, lr, factor, patience, mode, threshold, final):
    """ReduceLROnPlateau, threshold_mode "rel", without cooldown."""
    best, bad = math.inf if mode == "min" else -math.inf, 0
    for metric in metrics:
        better = metric < best * (1 - threshold) if mode == "min" else metric > best * (1 + threshold)
        best, bad = (metric, 0) if better else (best, bad + 1)
        if bad > patience:
            lr, bad = max(lr * factor, final), 0
        yield lr


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("final", [0.0, 0.02])
def test_plateau_is_reducelronplateau(mode, patience, final):
    options = {"factor": 0.5, "patience": patience, "mode": mode, "threshold": 0.01, "final": final}
    schedule = Plateau(lr=LR, **options)
    metrics = np.random.default_rng(patience).choice([0.5, 0.501, 0.499, 0.52, 0.48, 0.3, math.nan], 60)
    found = []
    for metric in metrics:
        schedule.observe(metric)
        found.append(schedule(1))
    np.testing.assert_allclose(found, list(plateau_of_torch(metrics, LR, **options)), rtol=1e-14)
    assert found[-1] < LR and min(found) >= final


def test_a_plateau_improves_below_zero_too():
    """The fraction is of the size of the best metric: with torch's formula -1 would improve on -1."""
    schedule = Plateau(lr=1.0, factor=0.5, patience=0)
    for metric, expected in ((-1.0, 1.0), (-1.0, 0.5), (-2.0, 0.5), (-2.0001, 0.25)):
        schedule.observe(metric)
        assert schedule(1) == expected


@pytest.mark.parametrize("metric", [math.inf, -math.inf, math.nan])
def test_a_metric_that_is_not_finite_is_no_improvement(metric):
    schedule = Plateau(lr=1.0, factor=0.5, patience=0)
    schedule.observe(metric)
    assert schedule(1) == 0.5
    for better in (3.0, 2.0, 1.0):
        schedule.observe(better)
        assert schedule(1) == 0.5


def test_a_metric_that_is_no_number_is_refused():
    schedule = Plateau(lr=1.0)
    with pytest.raises(TypeError, match="metric must be a number, not '1'"):
        schedule.observe("1")


def test_a_plateau_never_raises_the_rate_to_its_floor():
    schedule = Plateau(lr=0.1, factor=0.5, patience=0, final=0.2)
    for _ in range(3):
        schedule.observe(1.0)
    assert schedule(1) == 0.1


def test_a_plateau_changes_the_next_step(backend, dtype):
    schedule = Plateau(lr=0.5, factor=0.5, patience=0)
    start = random_buffer(0, dtype)
    optimizer = Optimizer(start.copy(), SGD(lr=schedule), backend=backend)
    gradient = random_buffer(1, dtype)
    optimizer.step(gradient)
    schedule.observe(1.0)
    schedule.observe(1.0)
    optimizer.step(gradient)
    expected = start.flat - np.dtype(dtype).type(0.5) * gradient.flat
    np.testing.assert_array_equal(optimizer.flat, expected - np.dtype(dtype).type(0.25) * gradient.flat)
    assert optimizer.lr == 0.25


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda schedule: type(schedule).__name__)
def test_a_copy_goes_on_where_the_schedule_is(schedule, duplicate):
    if isinstance(schedule, Plateau):
        for metric in (1.0, 0.9, 1.0, 1.0, 1.0, 1.0):
            schedule.observe(metric)
    made = duplicate(schedule)
    assert made == schedule and made.progress() == schedule.progress() and rates(made, 9) == rates(schedule, 9)
    if isinstance(schedule, Plateau):
        made.observe(0.1)
        assert made.progress() != schedule.progress()


# Schedules and callables in optimizers


@pytest.mark.parametrize(
    "schedule",
    [*EXAMPLES, lambda step: 1 / step, np.float32, lambda step: np.float64(0.1) * step],
    ids=lambda s: getattr(s, "__name__", type(s).__name__),
)
def test_a_step_uses_the_rate_of_its_count(schedule, backend, dtype):
    scheduled = Optimizer(random_buffer(0, dtype), Adam(lr=schedule), backend=backend)
    by_hand = Optimizer(random_buffer(0, dtype), Adam(), backend=backend)
    for step in range(1, 30):
        by_hand.lr = float(schedule(step))
        assert scheduled.lr == by_hand.lr
        scheduled.step(random_buffer(step, dtype))
        by_hand.step(random_buffer(step, dtype))
    assert scheduled.flat.tobytes() == by_hand.flat.tobytes()


def test_while_gradients_gather_a_schedule_waits(backend):
    schedule = Linear(lr=0.5, steps=4)
    optimizer = Optimizer(random_buffer(0, "float32"), SGD(lr=schedule), backend=backend, accumulate=3)
    seen = []
    for seed in range(9):
        seen.append(optimizer.lr)
        optimizer.step(random_buffer(seed, "float32"))
    assert seen == [schedule(1)] * 3 + [schedule(2)] * 3 + [schedule(3)] * 3


class Failing(Exception):
    pass


def failing(step):
    raise Failing


@pytest.mark.parametrize(
    ("schedule", "error"),
    [
        (lambda step: math.nan, ValueError),
        (lambda step: math.inf, ValueError),
        (lambda step: -1e-3, ValueError),
        (lambda step: "0.1", TypeError),
        (lambda step: None, TypeError),
        (lambda step: True, TypeError),
        (lambda step: np.ones(1), TypeError),
        (lambda step: 1j, TypeError),
        (lambda: 0.1, TypeError),
        (Exponential(lr=0.1, factor=1e200), ValueError),
        (Step(lr=0.1, every=1, factor=1e200), ValueError),
        (failing, Failing),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_schedule_that_gives_no_rate_changes_nothing(schedule, error, accumulate, backend):
    """Even if the groups before it are ready to go."""
    rules = {"first.*": AdamW(), "*": Adam(lr=lambda step: 0.1 if step < 3 else schedule(step))}
    optimizer = Optimizer(random_buffer(0, "float32"), rules, backend=backend, accumulate=accumulate, ema_decay=0.5)
    for seed in range(3 * accumulate - 1):
        optimizer.step(random_buffer(seed, "float32"))
    assert optimizer.step_count == 2
    before = snapshot(optimizer)
    # An error of the schedule itself comes as it is.
    own = schedule is failing or not inspect.signature(schedule).parameters
    message = None if own else "Adam: lr: the schedule's value at step 3 must be a finite number >= 0, not"
    for _ in range(2):
        with pytest.raises(error, match=message):
            optimizer.step(random_buffer(9, "float32"))
        assert snapshot(optimizer) == before
    optimizer.groups["*"].rule = Adam(lr=0.1)
    assert optimizer.step(random_buffer(9, "float32")).step == 3


def test_a_rate_too_large_for_the_dtype_changes_nothing(backend):
    optimizer = Optimizer(np.ones(3, np.float32), SGD(lr=1e39), backend=backend)
    with pytest.raises(ValueError, match=r"too large for float32: \{'step_size': 1e\+39\}"):
        optimizer.step(np.ones(3, np.float32))
    assert optimizer.step_count == 0 and optimizer.flat.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Step(lr=0.1), TypeError, "Step needs 'every': a whole number >= 1"),
        (lambda: Step(lr=0.1, every=0), ValueError, "Step: every must be a whole number >= 1, not 0"),
        (lambda: Step(lr=0.1, every=2.0), TypeError, "Step: every must be a whole number >= 1, not 2.0"),
        (lambda: Exponential(lr=0.1, factor=0), ValueError, "Exponential: factor must be a finite number > 0, not 0"),
        (lambda: Cosine(lr=0.1, steps=5, warmup=5), ValueError, "Cosine: warmup must be less than steps, not 5 of 5"),
        (lambda: Linear(lr=-0.1, steps=5), ValueError, "Linear: lr must be a finite number >= 0, not -0.1"),
        (
            lambda: OneCycle(lr=0.1, steps=5, rise=1.0),
            ValueError,
            r"OneCycle: rise must be a number in \(0, 1\), not 1.0",
        ),
        (
            lambda: Plateau(lr=0.1, mode="mni"),
            ValueError,
            "Plateau: mode must be one of 'min', 'max', not 'mni'; did you mean 'min'",
        ),
        (lambda: Cosine(lr=0.1, step=5), TypeError, "Cosine has no argument 'step'; did you mean 'steps'"),
    ],
)
def test_bad_schedules(make, error, message):
    with pytest.raises(error, match=message):
        make()
