"""clip_grad_norm: the norm and the steps of torch.nn.utils.clip_grad_norm_, and gradients that nobody writes."""

import contextlib
import copy
import functools
import math
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from variants import NARROW

import fastopt.torch

FLOATS = [torch.float32, torch.float64, *NARROW]
SHAPES = ((33, 7), (), (0, 3), (20_000,))

every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(params=["c", "numba"])
def backend(request, monkeypatch):
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv("FASTOPT_BACKEND", request.param)


def parameters(dtype):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def set_gradients(params, step, size=1.0):
    generator = torch.Generator().manual_seed(step + 1)
    for p in params:
        p.grad = (size * torch.randn(p.shape, generator=generator)).to(p.dtype)
    if step == 2:
        params[1].grad = None


@every_dtype
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_steps_and_norms_are_those_after_torchs_clipping(backend, dtype, limit):
    ours, theirs = parameters(dtype), parameters(dtype)
    groups = ([{"params": params[:2]}, {"params": params[2:], "lr": 0.02}] for params in (ours, theirs))
    optimizer = fastopt.torch.SGD(next(groups), momentum=0.9, clip_grad_norm=limit)
    without = fastopt.torch.SGD(next(groups), momentum=0.9)
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        given = [None if p.grad is None else p.grad.clone() for p in ours]
        optimizer.step()
        norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
        without.step()
        # Torch's norm is a number of the gradients' dtype, as are its gradients, which ours are not rounded to.
        eps = max(torch.finfo(dtype).eps, 1e-6 if dtype is torch.float32 else 1e-12)
        assert math.isclose(optimizer.grad_norm, norm.item(), rel_tol=2 * eps)
        for p, other, before in zip(ours, theirs, given, strict=True):
            torch.testing.assert_close(p, other, rtol=8 * eps, atol=8 * eps)
            assert before is None if p.grad is None else torch.equal(p.grad, before)
    assert not optimizer.explain().torch


@pytest.mark.parametrize(
    "options", [{"state_dtype": "8bit"}, {"state_dtype": "bfloat16"}, {"rounding": "stochastic"}, {"master": "split"}]
)
def test_norms_where_numbers_are_rounded_stochastically(backend, options):
    ours, without = parameters(torch.bfloat16), parameters(torch.bfloat16)
    optimizer = fastopt.torch.Adam(ours, clip_grad_norm=1e6, **options)
    other = fastopt.torch.Adam(without, **options)
    for step in range(2):
        set_gradients(ours, step)
        set_gradients(without, step)
        optimizer.step()
        other.step()
        norm = torch.nn.utils.get_total_norm([p.grad.double() for p in without])
        assert math.isclose(optimizer.grad_norm, norm.item(), rel_tol=1e-6)
        assert all(map(torch.equal, ours, without))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_makes_what_torch_makes(wrong):
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    optimizer = fastopt.torch.SGD(ours, lr=0.1, clip_grad_norm=1.0)
    for params in (ours, theirs):
        set_gradients(params, 0)
        params[0].grad[3, 2] = wrong
    optimizer.step()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.optim.SGD(theirs, lr=0.1).step()
    torch.testing.assert_close(optimizer.grad_norm, norm.item(), equal_nan=True)
    for p, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, other, equal_nan=True)


@every_dtype
@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_under_a_grad_scaler(dtype, fused, recorded):
    ours, theirs = parameters(dtype), parameters(dtype)
    optimizer = fastopt.torch.SGD(ours, lr=0.1, momentum=0.9, fused=fused, clip_grad_norm=0.5)
    without = fastopt.torch.SGD(theirs, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    scaler.scale(torch.ones(1))
    mode = functools.partial(FlopCounterMode, display=False) if recorded else contextlib.nullcontext
    for step in range(3):
        set_gradients(ours, step, 64.0)
        set_gradients(theirs, step)
        if step == 1:
            ours[0].grad[1, 1] = math.inf
            before = [p.clone() for p in ours]
        if dtype is torch.float16 and not fused:  # whose gradients torch does not unscale itself
            scaler._per_optimizer_states.clear()
            optimizer.grad_scale = torch.tensor(64.0)
            optimizer.found_inf = torch.tensor(float(step == 1))
            with mode():
                optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
        else:
            with mode():
                scaler.step(optimizer)
            scaler.update(64.0)
        if step == 1:
            assert all(map(torch.equal, ours, before))
            continue
        norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        without.step()
        eps = max(torch.finfo(dtype).eps, 1e-6 if dtype is torch.float32 else 1e-12)
        assert type(optimizer.grad_norm) is float and math.isclose(optimizer.grad_norm, norm.item(), rel_tol=2 * eps)
        for p, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, other, rtol=8 * eps, atol=8 * eps)


def test_what_torchs_own_optimizer_steps_is_clipped_with_the_rest():
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    gappy = [torch.nn.Parameter(torch.ones(6, 4)[:, ::2]) for _ in range(2)]
    optimizer = fastopt.torch.Adam([*ours, gappy[0]], clip_grad_norm=0.5)
    without = torch.optim.Adam([*theirs, gappy[1]])
    for step in range(3):
        set_gradients([*ours, gappy[0]], step)
        set_gradients([*theirs, gappy[1]], step)
        optimizer.step()
        norm = torch.nn.utils.clip_grad_norm_([*theirs, gappy[1]], 0.5)
        without.step()
        assert math.isclose(optimizer.grad_norm, norm.item(), rel_tol=1e-6)
    assert optimizer.explain().torch
    for p, other in zip([*ours, gappy[0]], [*theirs, gappy[1]], strict=True):
        torch.testing.assert_close(p, other)


def test_it_is_kept_in_copies_and_can_be_set():
    params = parameters(torch.float32)
    optimizer = fastopt.torch.Lion(params, clip_grad_norm=0.5)
    assert copy.deepcopy(optimizer).clip_grad_norm == pickle.loads(pickle.dumps(optimizer)).clip_grad_norm == 0.5
    assert "clip_grad_norm" not in optimizer.state_dict()["param_groups"][0]
    optimizer.load_state_dict(fastopt.torch.Lion(params).state_dict())
    assert optimizer.clip_grad_norm == 0.5 and optimizer.grad_norm is None
    optimizer.clip_grad_norm = None
    set_gradients(params, 0)
    optimizer.step()
    assert optimizer.grad_norm is None
    assert fastopt.torch.accelerate(torch.optim.Adam(params)).clip_grad_norm is None


@pytest.mark.parametrize("value", [0, -1.0, math.nan, "1", [1.0]])
def test_wrong_limits(value):
    params = parameters(torch.float32)
    message = r"clip_grad_norm must be a number > 0 or None, not "
    with pytest.raises((TypeError, ValueError), match=message):
        fastopt.torch.Adam(params, clip_grad_norm=value)
    optimizer = fastopt.torch.Adam(params, clip_grad_norm=2)
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.clip_grad_norm = value
    assert optimizer.clip_grad_norm == 2.0
