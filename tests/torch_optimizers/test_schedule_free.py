"""Schedule-free optimizers in torch, as the package schedulefree has them: modes, and state dicts to and fro."""

import copy

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fastopt.torch")

KINDS = [
    ("ScheduleFreeSGD", "SGDScheduleFree", {"lr": 0.3, "warmup_steps": 4}),
    ("ScheduleFreeAdamW", "AdamWScheduleFree", {"lr": 0.05, "warmup_steps": 4, "weight_decay": 0.1}),
    ("ScheduleFreeRAdam", "RAdamScheduleFree", {"lr": 0.05, "betas": (0.9, 0.9)}),
]
STORED = [
    (torch.float32, {}),
    (torch.float64, {}),
    (torch.bfloat16, {}),
    (torch.bfloat16, {"master": "split"}),
    (torch.bfloat16, {"master": "float32", "state_dtype": "8bit"}),
    (torch.float32, {"state_dtype": "8bit"}),
]
SHAPES = [(70, 61), (5,), ()]


def make(kind, dtype=torch.float32, **arguments):
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    optimizer = kind([{"params": params[:1]}, {"params": params[1:], "lr": 0.02}], **arguments)
    optimizer.train()
    return optimizer


def params(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def values(optimizer):
    return [p.detach().clone() for p in params(optimizer)]


def equal(one, other):
    return all(map(torch.equal, one, other))


def near(one, other, rtol=1e-10, atol=1e-12):
    return all(torch.allclose(p.double(), q.double(), rtol=rtol, atol=atol) for p, q in zip(one, other, strict=True))


def train(optimizer, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for p in params(optimizer):
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()
    return optimizer


def pair(names, dtype=torch.float64):
    package = pytest.importorskip("schedulefree")
    ours, theirs, arguments = names
    return make(getattr(ft, ours), dtype, **arguments), make(getattr(package, theirs), dtype, **arguments)


@pytest.mark.parametrize("names", KINDS, ids=lambda names: names[0])
def test_parameters_and_averages_are_those_of_schedulefree(names):
    ours, theirs = pair(names)
    for first in range(0, 12, 3):
        for each in (ours, theirs):
            train(each, first, first + 3)
        assert near(params(ours), params(theirs))
        for each in (ours, theirs):
            each.eval()
            each.eval()
        assert near(params(ours), params(theirs))
        for each in (ours, theirs):
            each.train()


@pytest.mark.parametrize(("dtype", "options"), STORED, ids=str)
@pytest.mark.parametrize("names", KINDS, ids=lambda names: names[0])
def test_train_returns_exactly_what_was_there_before_eval(names, dtype, options):
    optimizer = train(make(getattr(ft, names[0]), dtype, **names[2], **options), 0, 8)
    other = copy.deepcopy(optimizer)
    before = values(optimizer)
    optimizer.eval()
    assert not equal(values(optimizer), before)
    exact = train(make(getattr(ft, names[0]), torch.float64, **names[2]), 0, 8)
    exact.eval()
    assert near(values(optimizer), values(exact), *((1e-5, 1e-5) if dtype.itemsize > 2 and not options else (0.2, 0.2)))
    optimizer.train()
    assert equal(values(optimizer), before)
    assert equal(values(train(optimizer, 8, 12)), values(train(other, 8, 12)))


def test_what_was_written_in_evaluation_is_taken_for_the_average():
    optimizer = train(make(ft.ScheduleFreeAdamW, torch.float64, lr=0.05), 0, 5)
    optimizer.eval()
    with torch.no_grad():
        for p in params(optimizer):
            p.fill_(0.5)
    optimizer.train()
    for p in params(optimizer):
        assert torch.allclose(p, 0.5 + (1 - 0.9) * (optimizer.state[p]["z"] - 0.5))
    train(optimizer, 5, 6)


def test_a_step_in_evaluation_is_refused():
    optimizer = train(make(ft.ScheduleFreeSGD), 0, 2)
    optimizer.eval()
    before = values(optimizer)
    with pytest.raises(RuntimeError, match=r"ScheduleFreeSGD: param_groups\[0\] is in evaluation, .*: call train\(\)"):
        train(optimizer, 2, 3)
    assert equal(values(optimizer), before)
    optimizer.train()
    train(optimizer, 2, 3)


def test_hooks_run_once():
    optimizer, calls = make(ft.ScheduleFreeAdamW), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(optimizer, 0, 1)
    assert calls == ["before", "after"]


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("names", KINDS, ids=lambda names: names[0])
def test_runs_go_on_from_state_dicts_of_either_package(names, evaluating):
    whole, _ = pair(names)
    train(whole, 0, 12)
    for source, target in (0, 1), (1, 0), (0, 0):
        before, after = pair(names)[source], pair(names)[target]
        train(before, 0, 6)
        if evaluating:
            before.eval()
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        with torch.no_grad():
            for p, q in zip(params(after), params(before), strict=True):
                p.copy_(q)
        assert {group["train_mode"] for group in after.param_groups} == {not evaluating}
        assert {group["k"] for group in before.state_dict()["param_groups"]} == {6}
        after.train()
        train(after, 6, 9)
        back = pair(names)[source]
        back.load_state_dict(copy.deepcopy(after.state_dict()))
        with torch.no_grad():
            for p, q in zip(params(back), params(after), strict=True):
                p.copy_(q)
        assert near(params(train(back, 9, 12)), params(whole)), (source, target)


@pytest.mark.parametrize(("dtype", "options"), STORED, ids=str)
def test_a_run_goes_on_from_its_state_dict_with_the_same_bits(dtype, options):
    whole = train(make(ft.ScheduleFreeAdamW, dtype, r=1.5, **options), 0, 8)
    half = train(make(ft.ScheduleFreeAdamW, dtype, r=1.5, **options), 0, 4)
    other = make(ft.ScheduleFreeAdamW, dtype, r=1.5, **options)
    other.load_state_dict(copy.deepcopy(half.state_dict()))
    with torch.no_grad():
        for p, q in zip(params(other), params(half), strict=True):
            p.copy_(q)
    assert equal(values(train(other, 4, 8)), values(whole))


@pytest.mark.parametrize("name", ["weight_sum", "lr_max"])
def test_a_state_dict_that_lacks_a_number_of_a_group_changes_nothing(name):
    saved = train(make(ft.ScheduleFreeAdamW), 0, 2).state_dict()
    del saved["param_groups"][1][name]
    optimizer = train(make(ft.ScheduleFreeAdamW, lr=0.5), 0, 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=rf"param_groups\[1\] of the state dict must have '{name}'"):
        optimizer.load_state_dict(saved)
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    optimizer.register_load_state_dict_pre_hook(lambda _, given: given["param_groups"][1].update({name: 1.0}))
    optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["param_groups"][1][name] == 1.0


def test_a_state_dict_of_an_optimizer_without_steps():
    optimizer = make(ft.ScheduleFreeRAdam)
    group = optimizer.state_dict()["param_groups"][0]
    assert (group["k"], group["weight_sum"], group["lr_max"], group["train_mode"]) == (0, 0.0, -1.0, True)
    optimizer.eval()
    other = make(ft.ScheduleFreeRAdam)
    other.load_state_dict(optimizer.state_dict())
    assert not other.param_groups[0]["train_mode"]
    other.train()
    train(other, 0, 2)
