"""Rules with a stage in PyTorch: beside torch's own optimizers, in every layout and dtype."""

import copy

import numpy as np
import pytest
import torch

import fastopt
import fastopt.torch as ft

MATRICES = [(20, 30), (30, 20), (16, 16)]
OTHERS = [(9,), (), (3, 4, 5)]


def params(name: str, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    """Of some shapes, one with its dimensions in another order in memory."""
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(shape, dtype=dtype, generator=generator) for shape in MATRICES]
    made[1] = torch.randn(20, 30, dtype=dtype, generator=generator).t()
    if name != "Muon":
        made += [torch.randn(shape, dtype=dtype, generator=generator) for shape in OTHERS]
    return [torch.nn.Parameter(each) for each in made]


def train(optimizer: torch.optim.Optimizer, first: int, last: int, scale: float = 1.0) -> None:
    """Steps by gradients that depend on the step; the second parameter has one in even steps only."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for number, p in enumerate(optimizer.param_groups[0]["params"]):
            gradient = scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = None if number == 1 and step % 2 else gradient.to(p.dtype)
        optimizer.step()


def assert_close(ours, theirs, rtol: float) -> None:
    for p, q in zip(*(each.param_groups[0]["params"] for each in (ours, theirs)), strict=True):
        assert list(ours.state[p]) == list(theirs.state[q])
        for x, y in [(p, q), *((ours.state[p][key], theirs.state[q][key]) for key in theirs.state[q])]:
            assert x.shape == y.shape and x.dtype == y.dtype
            assert (x - y).abs().max() <= rtol * y.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "arguments", [{}, {"weight_decay": 0.1, "lr": 0.1}, {"eps": (1e-3, 0.1), "maximize": True}], ids=str
)
def test_adafactor_is_torchs(dtype, arguments):
    ours, theirs = (made(params("Adafactor", dtype), **arguments) for made in (ft.Adafactor, torch.optim.Adafactor))
    rtol = 30 * torch.finfo(dtype).eps
    for each in (ours, theirs):
        train(each, 1, 11)
    assert_close(ours, theirs, rtol)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for each in (ours, theirs):
        train(each, 11, 15)
    assert_close(ours, theirs, rtol)


@pytest.mark.parametrize(
    "arguments", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 4}], ids=str
)
def test_muon_is_near_torchs_which_computes_in_bfloat16(arguments):
    ours, theirs = (made(params("Muon"), lr=1.0, weight_decay=0.0, **arguments) for made in (ft.Muon, torch.optim.Muon))
    for number in range(1, 6):
        before = [p.detach().clone() for p in ours.param_groups[0]["params"]]
        for each in (ours, theirs):
            train(each, number, number + 1)
        members = zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], before, strict=True)
        for p, q, start in members:
            step, its = p.detach() - start, q.detach() - start
            assert (step - its).norm() <= 0.03 * max(1.0, step.norm())
            q.data.copy_(p.data)
    for p, q in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(ours.state[p]["momentum_buffer"], theirs.state[q]["momentum_buffer"])


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])  # what SOAP turns by depends on how numbers are rounded
def test_steps_are_those_of_the_optimizer_for_arrays(name):
    optimizer = getattr(ft, name)(params(name))
    named = {str(number): p.detach().numpy() for number, p in enumerate(optimizer.param_groups[0]["params"])}
    other = fastopt.Optimizer(
        fastopt.FlatBuffer(named), fastopt.RULES[name](), backend=optimizer.explain().backend or "c"
    )
    for step in (2, 4, 6):
        train(optimizer, step, step + 1)
        grads = {str(number): p.grad.numpy() for number, p in enumerate(optimizer.param_groups[0]["params"])}
        other.step({key: np.array(each, order="C") for key, each in grads.items()})
    for number, p in enumerate(optimizer.param_groups[0]["params"]):
        np.testing.assert_allclose(p.detach().numpy(), other.params[str(number)], rtol=0, atol=2e-5)
    assert [str(each).split(": ")[1].split(" (")[0] for each in optimizer.explain().kernels] == ["sgd"]


@pytest.mark.parametrize("name", ["Adafactor", "Muon", "SOAP"])
@pytest.mark.parametrize(
    "options",
    [{}, {"master": "float32"}, {"master": "split", "state_dtype": "bfloat16"}, {"state_dtype": "8bit"}],
    ids=str,
)
def test_parameters_and_states_in_16_bits(name, options):
    optimizer = getattr(ft, name)(params(name, torch.bfloat16), lr=0.01, **options)
    whole = getattr(ft, name)(
        [torch.nn.Parameter(p.detach().float()) for p in optimizer.param_groups[0]["params"]], lr=0.01
    )
    for each in (optimizer, whole):
        train(each, 1, 6)
    for p, q in zip(optimizer.param_groups[0]["params"], whole.param_groups[0]["params"], strict=True):
        assert (p.float() - q).abs().max() < 0.15
    again = copy.deepcopy(optimizer)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in (optimizer, again):
        train(each, 6, 9)
    for p, q in zip(optimizer.param_groups[0]["params"], again.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)


def test_muon_refuses_what_is_no_matrix_and_names_it():
    layer = torch.nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"\['params'\]\[1\] \(bias\).* has the shape \(4,\).*fastopt.torch.AdamW"):
        ft.Muon(layer.named_parameters())
    optimizer = ft.Muon([layer.weight])
    with pytest.raises(ValueError, match="has the shape"):
        optimizer.add_param_group({"params": [layer.bias]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="Muon: momentum must be a number in"):
        ft.Muon([layer.weight], momentum=torch.tensor(-1.0))


def test_soap_is_fastopts_own():
    assert ft.SOAP.torch_class is None and issubclass(ft.Muon, torch.optim.Muon)
    optimizer = ft.SOAP(params("SOAP"), precondition_frequency=2)
    train(optimizer, 1, 6)
    first = optimizer.param_groups[0]["params"][0]
    assert list(optimizer.state[first]) == ["step", "exp_avg", "exp_avg_sq", "GG_L", "GG_R", "Q_L", "Q_R"]
    assert optimizer.state[first]["Q_R"].shape == (30, 30)


def test_a_stage_takes_the_clipped_gradient():
    """As from gradients that were multiplied before."""
    plain, scaled = ft.Adafactor(params("Adafactor")), ft.Adafactor(params("Adafactor"), maximize=True)
    train(plain, 1, 4)
    train(scaled, 1, 4, scale=-1.0)
    for p, q in zip(plain.param_groups[0]["params"], scaled.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)
