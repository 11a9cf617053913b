"""States: their names, dicts that go to torch.optim and back, copies, pickles, and optimizers that change hands."""

import copy
import io
import pickle

import pytest
import torch
from variants import IN_TORCH, VARIANTS, assert_near, assert_same_bits, ids, make, parameters, train

import fastopt.torch


def through_a_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("name", "arguments"), IN_TORCH, ids=ids(IN_TORCH))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_training_goes_on_from_the_others_state_dict(name, arguments, dtype, direction):
    kinds = [getattr(torch.optim, name), getattr(fastopt.torch, name)]
    if direction == "to torch":
        kinds.reverse()
    before, after = (make(kind, arguments, dtype) for kind in kinds)
    train(before, 0, 5)
    after.load_state_dict(through_a_file(before.state_dict()))
    with torch.no_grad():
        for p, q in zip(parameters(after), parameters(before), strict=True):
            p.copy_(q)
    train(before, 5, 10)
    train(after, 5, 10)
    # torch itself goes on with a float64 mu_product where it had a float32 one.
    loses_bits = name == "NAdam" and dtype == torch.float64 and direction == "to torch"
    assert_near(after, before, ulps=2**17 if loses_bits else 64)
    assert {number: set(entry) for number, entry in before.state_dict()["state"].items()} == {
        number: set(entry) for number, entry in after.state_dict()["state"].items()
    }


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=ids(VARIANTS))
@pytest.mark.parametrize("how", ["state dict", "deepcopy", "pickle", "twice its own"])
def test_training_goes_on_with_the_same_bits(name, arguments, how):
    made = getattr(fastopt.torch, name)
    whole, part = make(made, arguments), make(made, arguments)
    train(whole, 0, 9)
    train(part, 0, 4)
    if how == "deepcopy":
        again = copy.deepcopy(part)
    elif how == "pickle":
        again = pickle.loads(pickle.dumps(part))
    elif how == "twice its own":
        part.load_state_dict(part.state_dict())
        again = part
    else:
        again = make(made, arguments)
        again.load_state_dict(through_a_file(part.state_dict()))
        with torch.no_grad():
            for p, q in zip(parameters(again), parameters(part), strict=True):
                p.copy_(q)
    assert_same_bits(again, part)
    train(again, 4, 9)
    assert_same_bits(again, whole)
    if how in ("deepcopy", "pickle"):
        train(part, 4, 9)  # the copy has taken nothing from the original
        assert_same_bits(part, whole)


@pytest.mark.parametrize(("name", "arguments"), IN_TORCH, ids=ids(IN_TORCH))
@pytest.mark.parametrize("when", [0, 3])
def test_accelerate_takes_over_parameters_states_and_groups(name, arguments, when):
    theirs, reference = make(getattr(torch.optim, name), arguments), make(getattr(torch.optim, name), arguments)
    calls = []
    theirs.register_step_post_hook(lambda optimizer, *_: calls.append(type(optimizer)))
    schedulers = [torch.optim.lr_scheduler.StepLR(each, 1, 0.5) for each in (theirs, reference)]
    train(theirs, 0, when)
    train(reference, 0, when)
    ours = fastopt.torch.accelerate(theirs)
    assert type(ours) is getattr(fastopt.torch, name)
    assert ours.param_groups is theirs.param_groups
    assert ours.state is theirs.state
    train(ours, when, when + 3)
    train(reference, when, when + 3)
    assert calls[when:] == [type(ours)] * 3
    assert_near(ours, reference)
    theirs.step()  # so that the scheduler of the old optimizer has seen one
    reference.step()
    for scheduler in schedulers:
        scheduler.step()
    assert ours.param_groups[0]["lr"] == reference.param_groups[0]["lr"]
    train(ours, 9, 11)
    train(theirs, 11, 13)  # and back
    train(reference, 9, 13)
    assert_near(theirs, reference)
    assert fastopt.torch.accelerate(ours) is ours


def test_accelerate_refuses_what_it_has_no_rule_for():
    p = torch.nn.Parameter(torch.ones(2, 2))

    class Mine(torch.optim.Adam):
        pass

    for optimizer in (torch.optim.LBFGS([p]), torch.optim.Adafactor([p]), Mine([p])):
        with pytest.raises(
            TypeError, match=f"optimizer must be one of .*torch.optim.Adam,.*not .*{type(optimizer).__name__}"
        ):
            fastopt.torch.accelerate(optimizer)
    with pytest.raises(RuntimeError, match="differentiable"):
        fastopt.torch.accelerate(torch.optim.Adam([p], differentiable=True))


def test_states_are_made_when_a_gradient_comes_as_torch_does():
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = fastopt.torch.AdamW([p, q])
    p.grad = torch.ones(2)
    optimizer.step()
    assert set(optimizer.state) == {p}
    q.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[p]["step"] == 2
    assert optimizer.state[q]["step"] == 1
    step = optimizer.state[p]["step"]
    assert (step.dtype, step.shape, step.device.type) == (torch.float32, (), "cpu")
    sgd = fastopt.torch.SGD([p])
    sgd.step()
    assert not sgd.state


def test_a_state_that_the_user_changes_is_seen():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    p.grad = q.grad = torch.full((3,), 0.5)
    ours, theirs = fastopt.torch.Adam([p]), torch.optim.Adam([q])
    changes = [
        lambda entry: entry["step"].fill_(7),
        lambda entry: entry.update(step=torch.tensor(3.0)),
        lambda entry: entry.update(exp_avg=torch.full((3,), 2.0)),
        lambda entry: entry["exp_avg_sq"].mul_(2),
        lambda entry: setattr(entry["exp_avg"], "data", torch.full((3,), -1.0)),
        lambda entry: entry["exp_avg"].share_memory_(),
        lambda entry: entry["step"].share_memory_(),
    ]
    for change in changes:
        for optimizer, param in ((ours, p), (theirs, q)):
            optimizer.step()
            change(optimizer.state[param])
            optimizer.step()
        assert_near(ours, theirs)
        assert ours.state[p]["step"] == theirs.state[q]["step"]
    ours.state[p] = {}
    theirs.state[q] = {}
    ours.step()
    theirs.step()
    assert_near(ours, theirs)
    ours.state.clear()
    theirs.state.clear()
    ours.step()
    theirs.step()
    assert_near(ours, theirs)


def test_a_part_of_the_state_that_the_user_has_kept_is_looked_at_in_every_step():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fastopt.torch.Adam([p])
    for _ in range(3):
        p.grad = torch.ones(3)
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
    assert not optimizer.state_was_seen  # a training loop does not look
    entry = optimizer.state[p]
    optimizer.step()
    entry["exp_avg"] = torch.full((3,), 10.0)
    optimizer.step()
    assert torch.equal(entry["exp_avg"], torch.full((3,), 10.0) * 0.9)
    for other in (copy.deepcopy(optimizer), fastopt.torch.accelerate(torch.optim.Adam([p]))):
        assert other.state_was_seen


def test_a_step_of_a_later_parameter_that_is_replaced():
    first, second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = fastopt.torch.Adam([first, second])
    for value in (7.0, 2.0):
        first.grad = second.grad = torch.ones(3)
        optimizer.step()
        optimizer.state[second]["step"] = torch.tensor(value)
        optimizer.step()
        assert optimizer.state[second]["step"] == value + 1


def test_flags_that_a_rule_fixes_outlast_a_state_dict():
    p = torch.nn.Parameter(torch.ones(3))
    saved = torch.optim.Adam([p]).state_dict()
    adamw, amsgrad = fastopt.torch.AdamW([p]), fastopt.torch.AMSGrad([p])
    for optimizer in (adamw, amsgrad):
        optimizer.load_state_dict(saved)
    assert adamw.param_groups[0]["decoupled_weight_decay"] is True
    assert amsgrad.param_groups[0]["amsgrad"] is True


def test_a_momentum_buffer_that_is_taken_away_starts_anew():
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = fastopt.torch.SGD([p], lr=1.0, momentum=0.5, dampening=0.5)
    p.grad = torch.ones(2)
    optimizer.step()
    optimizer.step()
    assert torch.equal(optimizer.state[p]["momentum_buffer"], torch.ones(2))
    optimizer.state[p]["momentum_buffer"] = None
    p.grad = torch.full((2,), 4.0)
    optimizer.step()
    assert torch.equal(optimizer.state[p]["momentum_buffer"], torch.full((2,), 4.0))


def test_a_state_of_another_optimizer_is_refused_by_name_and_changes_nothing():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    source = fastopt.torch.Adagrad([p])
    source.step()
    optimizer = fastopt.torch.Adam([p])
    optimizer.load_state_dict(source.state_dict())
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match=r"Adam: param_groups\[0\]\['params'\]\[0\] has a state without 'exp_avg'"):
        optimizer.step()
    assert torch.equal(p, before)


def test_default_dtype_float64_keeps_steps_as_torch_does():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    theirs = torch.optim.Adam([p])
    torch.set_default_dtype(torch.float64)
    try:
        theirs.step()
    finally:
        torch.set_default_dtype(torch.float32)
    ours = fastopt.torch.Adam([p])
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    ours.step()
    assert ours.state[p]["step"].dtype == torch.float64
    assert ours.state[p]["step"] == 2


def test_adagrad_moves_its_states_into_shared_memory():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = fastopt.torch.Adagrad([p])
    assert set(optimizer.state[p]) == {"step", "sum"}  # from the start, as torch's
    optimizer.share_memory()
    assert optimizer.state[p]["sum"].is_shared()
    p.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(optimizer.state[p]["sum"], torch.ones(2))
