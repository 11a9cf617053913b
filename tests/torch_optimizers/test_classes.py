"""The classes: signatures, defaults, groups and refusals, against torch.optim's own and its test-suite's inputs."""

import copy
import inspect
import pickle
import re
import subprocess
import sys
import warnings

import pytest
import torch
from cases import ELEMENTWISE
from variants import NARROW, SHARED, assert_rounded, exact

import fastopt
import fastopt.torch
from fastopt.rules import RULES

pytest.importorskip("expecttest", reason="torch's test-suite needs expecttest")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_optimizers import optim_db

INFOS = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in SHARED}


def parameter(*shape):
    return torch.nn.Parameter(torch.randn(shape))


def test_every_rule_has_a_class():
    assert set(RULES) <= set(dir(fastopt.torch))
    for name, rule in RULES.items():
        made = getattr(fastopt.torch, name)
        assert issubclass(made, torch.optim.Optimizer)
        assert made.rule is rule


def test_torch_tests_as_many_classes():
    assert set(INFOS) == set(SHARED)
    assert len(SHARED) == 11


@pytest.mark.parametrize("name", SHARED)
def test_signature_is_torchs_with_the_rules_other_fields(name):
    ours = inspect.signature(getattr(fastopt.torch, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for each, parameter in theirs.items():
        assert (ours[each].default, ours[each].kind) == (parameter.default, parameter.kind), each
    for each in list(ours)[len(theirs) :]:
        assert ours[each].kind is inspect.Parameter.KEYWORD_ONLY
    defaults = {field: declared.default for field, declared in RULES[name].fields.items()}
    assert {field: theirs[field].default for field in defaults if field in theirs} == {
        field: default for field, default in defaults.items() if field in theirs
    }


@pytest.mark.parametrize("name", SHARED)
def test_groups_hold_what_torchs_hold(name):
    ours, theirs = getattr(fastopt.torch, name)([parameter(3)]), getattr(torch.optim, name)([parameter(3)])
    group = ours.state_dict()["param_groups"][0]
    extra = group.keys() - theirs.state_dict()["param_groups"][0].keys()
    assert extra - {"decoupled_weight_decay", "cautious"} == {"master", "state_dtype", "rounding", "seed", "lookahead"}
    assert {key: value for key, value in group.items() if key not in extra} == theirs.state_dict()["param_groups"][0]
    assert set(ours.defaults) == set(group) - {"params"}


def test_flags_that_a_rule_fixes_are_in_its_groups():
    assert fastopt.torch.AMSGrad([parameter(3)]).param_groups[0]["amsgrad"] is True
    nesterov = fastopt.torch.Nesterov([parameter(3)]).param_groups[0]
    assert (nesterov["nesterov"], nesterov["dampening"]) == (True, 0.0)
    assert fastopt.torch.AdamW([parameter(3)]).param_groups[0]["decoupled_weight_decay"] is True


INPUTS = [
    pytest.param(name, each.kwargs, id=f"{name}-{number}-{each.desc.replace(' ', '_')}")
    for name in SHARED
    for number, each in enumerate(INFOS[name].optim_inputs_func(device="cpu"))
]


@pytest.mark.parametrize(("name", "arguments"), INPUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_of_torchs_own_test_inputs(name, arguments, dtype):
    """Parameters and states stay within a few ulp of torch's, with every set of arguments that torch tests."""
    torch.manual_seed(0)
    theirs = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in [(10, 5), (10,), (1,), ()]]
    ours = [torch.nn.Parameter(p.detach().clone()) for p in theirs]
    a, b = getattr(fastopt.torch, name)(ours, **arguments), getattr(torch.optim, name)(theirs, **arguments)
    for _ in range(7):
        for p, q in zip(ours, theirs, strict=True):
            q.grad = torch.randn_like(q)
            p.grad = q.grad.clone()
        a.step()
        b.step()
    close = {"rtol": 0, "atol": 64 * torch.finfo(dtype).eps}
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, **close)
    mine, its = a.state_dict()["state"], b.state_dict()["state"]
    assert mine.keys() == its.keys()
    for number, entry in its.items():
        assert mine[number].keys() == entry.keys()
        for key, value in entry.items():
            assert mine[number][key].dtype == value.dtype
            torch.testing.assert_close(mine[number][key], value, rtol=0, atol=64 * torch.finfo(value.dtype).eps)


NARROW_INPUTS = [
    pytest.param(name, dtype, each.kwargs, id=f"{name}-{dtype}-{number}-{each.desc.replace(' ', '_')}")
    for name in SHARED
    for dtype in NARROW
    for number, each in enumerate(INFOS[name].optim_inputs_func(device="cpu", dtype=dtype))
]


@pytest.mark.parametrize(("name", "dtype", "arguments"), NARROW_INPUTS)
def test_steps_of_torchs_own_test_inputs_in_16_bits(name, dtype, arguments):
    """Each step, once there are states in 16 bits, is torch's of the same numbers in float32, rounded once."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in [(10, 5), (10,), (1,), ()]]
    theirs = [torch.nn.Parameter(p.detach().float()) for p in ours]
    a, b = getattr(fastopt.torch, name)(ours, **arguments), getattr(torch.optim, name)(theirs, **arguments)
    for step in range(7):
        largest = 1.0
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.float()
            with torch.no_grad():
                q.copy_(p)
            for key, value in a.state.get(p, {}).items():
                b.state[q][key].copy_(value)
                largest = max(largest, value.abs().max().item())
        a.step()
        b.step()
        assert not a.explain().torch
        for p, q in zip(ours, theirs, strict=True) if step else ():
            assert a.state[p].keys() == b.state[q].keys()
            for computed, expected in [(p, q), *((a.state[p][key], value) for key, value in b.state[q].items())]:
                assert_rounded(computed, exact(expected), 4 * largest)


@pytest.mark.parametrize("name", SHARED)
def test_what_torchs_tests_expect_to_be_refused_is_refused(name):
    checked = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = list(INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32))
    for case in cases:
        given = case.optimizer_error_input
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if "foreach=True" in case.error_regex:  # a restriction of torch's foreach code, which is not used here
                getattr(fastopt.torch, name)(given.params or [parameter(3)], **given.kwargs)
                continue
            with pytest.raises(case.error_type, match=case.error_regex):
                getattr(fastopt.torch, name)(given.params, **given.kwargs)
        checked += 1
    assert checked


REFUSED = [
    ("lr", -0.1),
    ("eps", -1e-8),
    ("weight_decay", -0.1),
    ("momentum", -0.5),
    ("betas", (1.5, 0.9)),
    ("betas", (0.9, -0.1)),
    ("rho", 1.1),
    ("alpha", -0.1),
    ("lr_decay", -0.5),
    ("momentum_decay", -0.2),
    ("initial_accumulator_value", -1.0),
    ("etas", (1.5, 1.2)),
]


@pytest.mark.parametrize("name", SHARED)
def test_refusals_have_torchs_words_and_ours(name):
    ours, theirs = getattr(fastopt.torch, name), getattr(torch.optim, name)
    checked = 0
    for field, value in REFUSED:
        if field not in inspect.signature(theirs).parameters:
            continue
        try:
            theirs([parameter(3)], **{field: value})
        except ValueError as refusal:
            with pytest.raises(ValueError, match=f"^{re.escape(str(refusal))} [(]{name}: {field}"):
                ours([parameter(3)], **{field: value})
            checked += 1
        else:  # torch does not look: it is the user's word
            ours([parameter(3)], **{field: value})
    assert checked


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SGD", {"momentum": 0.9, "dampening": -0.5}),
        ("SGD", {"momentum": 0.9, "dampening": 1.5}),
        ("RMSprop", {"alpha": 1.01}),
        ("ASGD", {"lambd": -0.1}),
        ("ASGD", {"alpha": -0.75}),
        ("ASGD", {"t0": -2.0, "lambd": 0.1}),
        ("Rprop", {"step_sizes": (0, 50)}),
        ("Rprop", {"step_sizes": (1e-6, float("inf"))}),
        ("Adam", {"amsgrad": 1}),
    ],
)
def test_what_torchs_constructors_take_is_taken_and_means_the_same(name, arguments):
    torch.manual_seed(0)
    p = parameter(101)
    q = copy.deepcopy(p)
    ours, theirs = getattr(fastopt.torch, name)([p], **arguments), getattr(torch.optim, name)([q], **arguments)
    for _ in range(5):
        p.grad = torch.randn(101)
        q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_and_what_is_no_number_is_refused_where_torch_takes_it(name):
    made = getattr(fastopt.torch, name)
    with pytest.raises(ValueError, match=f"{name}: lr must be"):
        made([parameter(3)], lr=float("nan"))
    with pytest.raises((TypeError, ValueError), match=f"{name}: lr must be"):
        made([parameter(3)], lr="0.1")
    if "betas" in made.rule.fields:
        with pytest.raises(TypeError, match=f"{name}: betas must be .*, not .0.9,"):
            made([parameter(3)], betas=(0.9,))


@pytest.mark.parametrize("name", SHARED)
def test_a_group_may_be_empty(name):
    p = parameter(3)
    ours, theirs = (getattr(module, name)([{"params": [p]}, {"params": []}]) for module in (fastopt.torch, torch.optim))
    assert ours.state_dict()["param_groups"][1]["params"] == []
    assert ours.state_dict()["state"].keys() == theirs.state_dict()["state"].keys()
    p.grad = torch.ones(3)
    ours.step()
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        getattr(fastopt.torch, name)([])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_classes_are_subclasses_of_torchs(name):
    """And lose nothing by it: their steps, states and pickles are their own."""
    made = getattr(fastopt.torch, name)
    same = {"Momentum": "SGD", "Nesterov": "SGD", "AMSGrad": "Adam"}.get(name, name)
    theirs = same if hasattr(torch.optim, same) else "Optimizer"
    optimizer = made([parameter(3)])
    for each in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(each) is made
        assert isinstance(each, getattr(torch.optim, theirs))
        assert isinstance(torch.optim.lr_scheduler.StepLR(each, 1).optimizer, fastopt.torch.RuleOptimizer)
    assert made.step is fastopt.torch.RuleOptimizer.step
    assert made.state_dict.__module__.startswith("fastopt.torch.")
    assert issubclass(fastopt.torch.AdamW, torch.optim.AdamW)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_wrong_hyperparameters_are_refused_by_name(name):
    made = getattr(fastopt.torch, name)
    with pytest.raises(ValueError, match=f"{name}: lr must be"):
        made([parameter(3)], lr=-1.0)
    with pytest.raises(ValueError, match="schedule"):
        made([parameter(3)], lr=lambda step: 0.1)
    with pytest.raises(ValueError, match="1 element"):
        made([parameter(3)], lr=torch.tensor([0.1, 0.2]))
    with pytest.raises(TypeError, match="nonsense"):
        made([parameter(3)], nonsense=1)
    optimizer = made([parameter(3)])
    with pytest.raises(ValueError, match=f"{name}: lr must be"):
        optimizer.add_param_group({"params": [parameter(2)], "lr": -1.0})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_makes_no_sense_here_is_refused_with_the_reason(name):
    made = getattr(fastopt.torch, name)
    options = inspect.signature(made).parameters
    if "capturable" in options:
        with pytest.raises(RuntimeError, match=f"{name}: capturable=True is for"):
            made([parameter(3)], capturable=True)
    if "differentiable" in options:
        with pytest.raises(RuntimeError, match=f"{name}: differentiable=True needs"):
            made([parameter(3)], differentiable=True)
    optimizer = made([parameter(3)])
    optimizer.param_groups[0]["differentiable"] = True
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="differentiable=True"):
        optimizer.step()
    if "fused" in options:
        with pytest.raises(RuntimeError, match="cannot be `True` together"):
            made([parameter(3)], fused=True, foreach=True)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}])
def test_foreach_and_fused_change_no_bit(name, options):
    made = getattr(fastopt.torch, name)
    if not options.keys() <= inspect.signature(made).parameters.keys():
        return
    torch.manual_seed(0)
    plain = parameter(101)
    other = copy.deepcopy(plain)
    optimizers = made([plain]), made([other], **options)
    for _ in range(3):
        plain.grad = torch.randn(101)
        other.grad = plain.grad
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(plain, other)


def test_repr_and_positional_arguments():
    optimizer = fastopt.torch.SGD([parameter(2)], 0.5, 0.9, 0.1, 0.2)
    assert repr(optimizer).startswith("SGD (\nParameter Group 0\n    cautious: False\n    dampening: 0.1\n")
    with pytest.raises(TypeError):
        fastopt.torch.SGD([parameter(2)], 0.5, 0.9, 0.0, 0.2, True, True)


def test_importing_fastopt_does_not_import_torch():
    code = "import sys, fastopt; fastopt.FlatBuffer({'w': [1.0]}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Halving(fastopt.Rule):
    """A user's rule by a kernel that fastopt has: SGD with half of the rate."""

    lr: fastopt.rule.LearningRate = 0.5
    kernel = "sgd"

    @property
    def states(self):
        return {}

    def coefficients(self, step):
        return self.common(0.0) | {"step_size": self.rate(step) / 2}


class Velocity(fastopt.Rule):
    """A user's rule with a state, under the name of no class of torch."""

    lr: fastopt.rule.LearningRate = 0.5
    momentum: fastopt.declared.NonNegative = 0.5
    kernel = "momentum"

    @property
    def states(self):
        return {"velocity": 1.0}

    def coefficients(self, step):
        return self.common(0.0) | {"step_size": self.rate(step), "momentum": self.momentum, "one_minus_dampening": 1.0}


def test_a_users_own_rule_gets_a_class():
    made = fastopt.torch.optimizer_class(Halving)
    assert made is fastopt.torch.optimizer_class(Halving)
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    made([p], lr=0.5).step()
    assert torch.equal(p, torch.full((3,), 0.75))
    assert fastopt.torch.optimizer_class(fastopt.Lion) is fastopt.torch.Lion
    with pytest.raises(TypeError, match="rule must be a class"):
        fastopt.torch.optimizer_class(Halving())


def test_a_users_own_rule_keeps_states_and_is_pickled():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fastopt.torch.optimizer_class(Velocity)([p], momentum=0.25)
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(optimizer.state[p]["velocity"], torch.full((3,), 1.25))
    again = pickle.loads(pickle.dumps(optimizer))
    assert type(again) is type(optimizer)
    q = again.param_groups[0]["params"][0]
    p.grad = q.grad = torch.ones(3)
    optimizer.step()
    again.step()
    assert torch.equal(p, q)
    assert again.state_dict()["state"][0]["step"] == 2
    copied = copy.deepcopy(optimizer)
    assert torch.equal(copied.state_dict()["state"][0]["velocity"], optimizer.state[p]["velocity"])
