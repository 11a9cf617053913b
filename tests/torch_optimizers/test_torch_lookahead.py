"""Lookahead in torch: the bits of fastopt.Optimizer's, for parameters that count their steps each by itself."""

import copy

import numpy as np
import pytest
import torch
from variants import assert_same_bits, parameters, train

import fastopt
import fastopt.torch
from fastopt import checkpoint

BFLOAT16 = torch.bfloat16
CASES = [
    ("AdamW", torch.float32, {}, {}),
    ("SGD", torch.float64, {}, {}),  # of which torch counts no steps
    ("LAMB", torch.float32, {}, {}),
    ("Muon", torch.float32, {}, {}),
    ("ScheduleFreeSGD", torch.float32, {}, {}),
    ("AdamW", BFLOAT16, {"master": "split"}, {}),
    ("AdamW", BFLOAT16, {"master": "float32", "state_dtype": "8bit"}, {}),
    ("SGD", BFLOAT16, {"rounding": "stochastic", "seed": 3, "state_dtype": "bfloat16"}, {"momentum": 0.9}),
    ("Prodigy", torch.float16, {"rounding": "nearest", "state_dtype": "float32"}, {"growth_rate": 1.1}),
]


def made(name, dtype, options, arguments, shapes=((40, 130), (9, 2)), lookahead=(3, 0.4)):
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    return getattr(fastopt.torch, name)(params, lr=0.02, lookahead=lookahead, **options, **arguments)


@pytest.mark.parametrize("backend", ["c", "numba"])
@pytest.mark.parametrize(
    ("name", "dtype", "options", "arguments"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES]
)
def test_the_bits_of_an_optimizer(name, dtype, options, arguments, backend, monkeypatch):
    pytest.importorskip(backend if backend == "numba" else "fastopt._c")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    monkeypatch.setenv("FASTOPT_BACKEND", backend)
    ours = made(name, dtype, options, arguments)
    stored = {BFLOAT16: ml_dtypes.bfloat16, torch.float16: np.float16}.get(dtype, np.dtype(str(dtype)[6:]))

    def arrays(tensors):
        return {f"p{number}": each.detach().double().numpy().astype(stored) for number, each in enumerate(tensors)}

    params = fastopt.FlatBuffer(arrays(parameters(ours)), dtype=str(dtype)[6:])
    own = {key: value for key, value in options.items() if value != "float32" or key == "master"}
    rule = fastopt.RULES[name](lr=0.02, **arguments)
    beside = fastopt.Optimizer(params, rule, lookahead=(3, 0.4), **own)
    for step in range(7):
        generator = torch.Generator().manual_seed(step)
        for p in parameters(ours):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        beside.step(arrays([p.grad for p in parameters(ours)]))
        ours.step()
        for place, p in enumerate(parameters(ours)):
            assert np.array_equal(arrays(parameters(ours))[f"p{place}"], params[f"p{place}"]), step
            assert np.array_equal(ours.state[p]["slow"].numpy(), beside.lookahead[f"p{place}"]), step
    assert not ours.explain().torch and ours.explain().kernels[0].storages["slow"] in ("float32", "float64")
    if name == "AdamW":  # what one has saved the other one loads
        names = list(params)
        loaded = checkpoint.read(ours.state_dict(), beside, names=names)
        assert all(np.array_equal(loaded["lookahead"][name], beside.lookahead[name]) for name in names)
        there = checkpoint.to_torch(beside, names=names)["state"]
        assert all(torch.equal(there[place]["slow"], ours.state[p]["slow"]) for place, p in enumerate(parameters(ours)))
        with pytest.raises(
            fastopt.CheckpointError, match="has slow weights of 'p0', and this optimizer has no lookahead"
        ):
            checkpoint.read(ours.state_dict(), fastopt.Optimizer(params.copy(), rule, **own), names=names)


@pytest.mark.parametrize("options", [{}, {"master": "split"}, {"rounding": "stochastic"}], ids=str)
def test_a_loaded_state_goes_on_within_a_stride(options):
    ours = made("AdamW", BFLOAT16 if options else torch.float32, options, {})
    train(ours, 0, 5)  # in which the second parameter has gradients in some steps only
    assert [int(ours.state[p]["step"]) for p in parameters(ours)] == [5, 3]
    other = made("AdamW", BFLOAT16 if options else torch.float32, options, {})
    for p, q in zip(parameters(other), parameters(ours), strict=True):
        p.data.copy_(q.data)
    other.load_state_dict(copy.deepcopy(ours.state_dict()))
    for each in (ours, other):
        train(each, 5, 12)
    assert_same_bits(ours, other)


def test_only_steps_end_a_stride_and_groups_have_strides_of_their_own():
    p, q = (torch.nn.Parameter(torch.full((4,), 8.0)) for _ in range(2))
    ours = fastopt.torch.SGD([{"params": [p], "lookahead": (2, 0.5)}, {"params": [q]}], lr=1.0)
    p.grad = q.grad = torch.ones(4)
    for expected in (7, 7, 6, 6):
        ours.step()
        assert p.tolist() == [expected] * 4
    assert q.tolist() == [4.0] * 4 and "slow" not in ours.state.get(q, {})
    p.grad = None
    ours.step()
    assert p.tolist() == [6.0] * 4
    hessian = fastopt.torch.SophiaG([q], lookahead=(1, 0.25))
    hessian.step()
    q.data += 1
    after = q.tolist()
    hessian.update_hessian()
    assert q.tolist() == after


def test_all_of_a_parameter_whose_gradient_is_sparse():
    sparse, dense = (made("Adagrad", torch.float32, {}, {}, [(6, 3)]) for _ in range(2))
    for optimizer in (sparse, dense):
        p = parameters(optimizer)[0]
        p.grad = torch.zeros(6, 3)
        p.grad[1:4] = torch.arange(9.0).reshape(3, 3) + 1
        if optimizer is sparse:
            p.grad = p.grad.to_sparse(1)
        for _ in range(4):
            optimizer.step()
    assert_same_bits(sparse, dense)


def test_what_torch_would_step_is_refused():
    p = torch.nn.Parameter(torch.randn(4, 6)[:, ::2])
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"is not dense in memory, and torch\.optim\.AdamW has none of .*lookahead"):
        fastopt.torch.AdamW([p], lookahead=(6, 0.5)).step()
