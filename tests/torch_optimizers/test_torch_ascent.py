"""Sharpness-aware minimization in torch: the bits of fastopt.Optimizer's."""

import copy

import numpy as np
import pytest
import torch

import fastopt
import fastopt.torch

CASES = [
    ("AdamW", torch.float32, {}),
    ("SGD", torch.float64, {"momentum": 0.9, "maximize": True}),
    ("Muon", torch.float32, {}),
    ("AdamW", torch.bfloat16, {"master": "split", "lookahead": (2, 0.5)}),
]


def one(name, dtype=torch.float32, **arguments):
    generator = torch.Generator().manual_seed(1)
    p = torch.nn.Parameter(torch.randn(40, 50, generator=generator).to(dtype))
    return getattr(fastopt.torch, name)([p], lr=0.02, **arguments), p


def gradient(p, seed):
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).to(p.dtype)


@pytest.mark.parametrize("backend", ["c", "numba"])
@pytest.mark.parametrize(("name", "dtype", "arguments"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_the_bits_of_an_optimizer(name, dtype, arguments, backend, monkeypatch):
    pytest.importorskip(backend if backend == "numba" else "fastopt._c")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    monkeypatch.setenv("FASTOPT_BACKEND", backend)
    ours, p = one(name, dtype, **arguments)
    stored = ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.dtype(str(dtype)[6:])

    def array(tensor):
        return tensor.detach().double().numpy().astype(stored)

    params = fastopt.FlatBuffer({"p": array(p)}, dtype=str(dtype)[6:])
    own = {key: value for key, value in arguments.items() if key in ("master", "lookahead")}
    rule = fastopt.RULES[name](lr=0.02, **{key: value for key, value in arguments.items() if key not in own})
    beside = fastopt.Optimizer(params, rule, **own)
    for step in range(3):
        before = p.detach().clone()
        gradient(p, 2 * step)
        assert ours.ascend(rho=0.5) == beside.ascend({"p": array(p.grad)}, rho=0.5)
        assert np.array_equal(array(p), params["p"]) and not torch.equal(p, before)
        gradient(p, 2 * step + 1)
        beside.step({"p": array(p.grad)})
        ours.step()
        assert np.array_equal(array(p), params["p"])


def test_the_way_back_is_exact_whatever_comes_of_the_step():
    ours, p = one("AdamW")
    before = p.detach().clone()
    gradient(p, 0)
    version = p._version
    assert ours.ascend() == pytest.approx(p.grad.norm().item())
    assert p._version > version and torch.allclose(p - before, 0.05 * p.grad / p.grad.norm(), rtol=1e-3, atol=1e-6)
    for refused in (ours.ascend, lambda: copy.deepcopy(ours)):
        with pytest.raises(RuntimeError, match=r"AdamW: .*the parameters are where ascend has moved them"):
            refused()
    ours.descend()
    assert torch.equal(p, before)
    ours.ascend()
    ours.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="lr"):
        ours.step()
    assert torch.equal(p, before)
    p.grad = torch.full_like(p, torch.inf)
    ours.param_groups[0]["lr"] = 0.1
    assert ours.ascend() == np.inf and torch.equal(p, before)
    ours.descend()
    with pytest.raises(ValueError, match="rho must be"):
        ours.ascend(rho=0)


def test_a_closure_is_evaluated_above_and_parameters_without_gradients_stay():
    ours, p = one("SGD")
    still = torch.nn.Parameter(torch.ones(3))
    ours.add_param_group({"params": [still]})
    gradient(p, 0)
    ours.ascend(rho=1.0)
    above, seen = p.detach().clone(), []
    ours.step(lambda: seen.append(torch.equal(p, above)))
    assert seen == [True] and torch.equal(still, torch.ones(3))


def test_rows_of_a_sparse_gradient():
    found = []
    for sparse in (False, True):
        ours, p = one("Adagrad")
        p.grad = torch.zeros_like(p)
        p.grad[[3, 7, 8]] = torch.arange(150.0).reshape(3, 50)
        if sparse:
            p.grad = p.grad.to_sparse(1)
        ours.ascend()
        found.append(p.detach().clone())
        ours.step()
        found.append(p.detach().clone())
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


def test_what_kernels_cannot_step_does_not_ascend():
    p = torch.nn.Parameter(torch.randn(4, 6)[:, ::2])
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="is not dense in memory, and kernels alone ascend"):
        fastopt.torch.AdamW([p]).ascend()
