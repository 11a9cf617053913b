"""States: their names, dicts that go to torch.optim and back, copies, pickles, and optimizers that change hands."""

import collections
import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch.optim._stateless import swap_in_optimizer_params_and_state
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
    for optimizer in (after, before):  # whose mu_product, eta and mu take the dtype of the parameters then
        optimizer.load_state_dict(through_a_file(before.state_dict()))
    with torch.no_grad():
        for p, q in zip(parameters(after), parameters(before), strict=True):
            p.copy_(q)
    train(before, 5, 10)
    train(after, 5, 10)
    assert_near(after, before)
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

    for optimizer in (torch.optim.LBFGS([p]), Mine([p])):
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


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (3, "needs a dict for its state, not 3"),
        ({"step": 1.0, "exp_avg": 0.5, "exp_avg_sq": 0.5}, "needs a tensor for the state 'exp_avg', not 0.5"),
        ({"step": "1st", "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}, "needs a number for the state 'step'"),
    ],
)
def test_a_state_that_is_none_is_refused_by_name(state, message):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = fastopt.torch.Adam([p])
    optimizer.load_state_dict(optimizer.state_dict() | {"state": {0: state}})
    p.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=rf"Adam: param_groups\[0\]\['params'\]\[0\] {message}"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2))


@pytest.mark.parametrize("options", [{}, {"state_dtype": "8bit", "lookahead": (1, 0.5), "clip_grad_norm": 1.0}])
def test_parameters_do_not_wait_for_the_garbage_collector(options):
    p = torch.nn.Parameter(torch.ones(5000))
    p.grad = torch.ones(5000)
    optimizer = fastopt.torch.Adam([p], **options)
    optimizer.step()
    optimizer.step()
    alive = weakref.ref(p), weakref.ref(optimizer)
    gc.collect()
    gc.disable()
    try:
        del p, optimizer
        assert [each() for each in alive] == [None, None]
    finally:
        gc.enable()


@pytest.fixture
def default_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def dtypes(optimizer):
    return [{key: value.dtype for key, value in optimizer.state[p].items()} for p in parameters(optimizer)]


@pytest.mark.parametrize(("name", "arguments"), IN_TORCH, ids=ids(IN_TORCH))
@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_under_float64_as_default_dtypes_are_torchs(name, arguments, fused, dtype, default_float64):
    if fused and name not in ("SGD", "Adam", "AdamW", "Adagrad"):
        return
    arguments = arguments | ({"fused": True} if fused else {})
    ours, theirs = (make(getattr(module, name), arguments, dtype) for module in (fastopt.torch, torch.optim))
    for first in (0, 3):
        train(ours, first, first + 3)
        train(theirs, first, first + 3)
        assert dtypes(ours) == dtypes(theirs)
        for optimizer in (ours, theirs):
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert dtypes(ours) == dtypes(theirs)


@pytest.mark.parametrize("name", ["NAdam", "ASGD", "Adam"])
@pytest.mark.parametrize("loaded", [False, True])
def test_300_steps_in_float64_are_torchs(name, loaded, request):
    if not loaded:
        request.getfixturevalue("default_float64")
    arguments = {"lambd": 0.1, "t0": 2} if name == "ASGD" else {}
    ours, theirs = (make(getattr(module, name), arguments, torch.float64) for module in (fastopt.torch, torch.optim))
    for optimizer in (ours, theirs):
        train(optimizer, 0, 2)
        if loaded:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(optimizer, 2, 300)
    assert dtypes(ours) == dtypes(theirs)
    assert_near(ours, theirs, ulps=256)


@pytest.mark.parametrize(("name", "arguments"), IN_TORCH, ids=ids(IN_TORCH))
def test_a_state_dict_that_is_shared_moves_as_one(name, arguments):
    """Without a deep copy both optimizers go on with the same memory, as torch's do."""
    results = []
    for module in (fastopt.torch, torch.optim):
        first, second = (make(getattr(module, name), arguments) for _ in range(2))
        train(first, 0, 2)
        second.load_state_dict(first.state_dict())
        train(second, 2, 4)
        train(first, 4, 5)
        results.append((first, second))
    for ours, theirs in zip(*results, strict=True):
        assert_near(ours, theirs)
    (first, second), _ = results
    for p, q in zip(parameters(first), parameters(second), strict=True):
        for key in first.state[p]:
            assert torch.equal(first.state[p][key], second.state[q][key]), key


@pytest.mark.parametrize("name", ["AdamW", "NAdam", "ASGD", "Rprop", "Lion"])
def test_the_numbers_beside_the_states_are_updated_in_place(name):
    """Also those of the user's, wherever they lie and whatever comes and goes between the steps."""
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(4)]
    optimizer = getattr(fastopt.torch, name)(params)
    params[0].grad = params[2].grad = torch.ones(3)
    optimizer.step()
    kept = dict(optimizer.state[params[2]])
    params[1].grad = torch.ones(3)
    optimizer.step()
    mine = torch.tensor([7.0, 0.0])
    optimizer.state[params[0]]["step"] = mine[0]
    other = {key: value.clone() for key, value in optimizer.state[params[1]].items()}
    optimizer.state[params[3]] = dict(other)
    params[3].grad = torch.ones(3)
    optimizer.step()
    optimizer.step()
    assert mine.tolist() == [9.0, 0.0]
    assert kept["step"] == 4 and all(optimizer.state[params[2]][key] is value for key, value in kept.items())
    assert other["step"] == 3 and all(optimizer.state[params[3]][key] is value for key, value in other.items())
    for key, value in optimizer.state[params[1]].items():
        assert key == "ax" or torch.equal(value, other[key])  # the average is of the parameter, which has come further


def test_numbers_that_are_no_float_tensors_become_some():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    p.grad = q.grad = torch.ones(3)
    ours, theirs = fastopt.torch.NAdam([p]), torch.optim.NAdam([q])
    theirs.step()
    p.data.copy_(q.data)
    ours.state[p] = {key: value.clone() for key, value in theirs.state[q].items()}
    ours.state[p] |= {"step": 1, "mu_product": torch.tensor([ours.state[p]["mu_product"].item()], dtype=torch.float16)}
    theirs.state[q]["mu_product"] = theirs.state[q]["mu_product"].half().float()
    ours.step()
    theirs.step()
    assert_near(ours, theirs)


def test_one_step_for_two_parameters_counts_both_as_torchs_does():
    results = []
    for module in (fastopt.torch, torch.optim):
        params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
        optimizer = module.Adam(params)
        for p in params:
            p.grad = torch.ones(3)
        optimizer.step()
        optimizer.state[params[1]]["step"] = optimizer.state[params[0]]["step"]
        optimizer.step()
        results.append(optimizer)
    ours, theirs = results
    assert ours.state[parameters(ours)[0]]["step"] == 3
    assert_near(ours, theirs)


def test_states_that_are_swapped_in_are_stepped_in_place():
    results = []
    for module in (fastopt.torch, torch.optim):
        optimizer = make(module.NAdam, {})
        train(optimizer, 0, 2)
        params = {str(number): p.detach().clone() for number, p in enumerate(parameters(optimizer))}
        saved = copy.deepcopy(optimizer.state_dict())
        with swap_in_optimizer_params_and_state(optimizer, params, saved):
            train(optimizer, 2, 4)
        results.append((optimizer, params, saved))
        train(optimizer, 4, 5)
    (ours, params, saved), (theirs, expected, its) = results
    for key, p in params.items():
        torch.testing.assert_close(p, expected[key], rtol=1e-5, atol=1e-6)
    for number, entry in its["state"].items():
        assert saved["state"][number]["step"] == entry["step"]
        for key, value in entry.items():
            torch.testing.assert_close(saved["state"][number][key], value, rtol=1e-5, atol=1e-6)
    assert_near(ours, theirs)


def test_a_state_dict_shows_the_memory_of_the_state():
    p = torch.nn.Parameter(torch.randn(3, 4, 5, 2).to(memory_format=torch.channels_last))
    q = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = fastopt.torch.Adam([p, q])
    p.grad, q.grad = torch.randn_like(p), torch.ones_like(q)
    optimizer.step()
    saved = optimizer.state_dict()["state"]
    optimizer.step()
    for number, param in enumerate((p, q)):
        for key, value in optimizer.state[param].items():
            assert torch.equal(saved[number][key], value)
            assert saved[number][key].stride() == value.stride()
            assert saved[number][key].data_ptr() == value.data_ptr()
    saved[0]["exp_avg_sq"].share_memory_()
    kept = saved[0].pop("step")
    optimizer.step()
    assert optimizer.state[p]["step"] is kept
    assert kept == 3
    optimizer.share_memory()
    optimizer.step()
    assert saved[0]["exp_avg"].is_shared()
    for key, value in saved[0].items():
        assert torch.equal(optimizer.state[p][key], value)


def looks(optimizer):
    """How many of the next steps look whether the state has changed."""
    before = optimizer.explain()
    for _ in range(100):
        optimizer.step()
    after = optimizer.explain()
    assert after.plans == before.plans
    return after.looks - before.looks


#: After so many steps, at most, in which nobody has read the state it is known whether anybody holds a part of it.
SOON = 10


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=ids(VARIANTS))
def test_steps_do_not_look_at_a_state_that_nobody_holds(name, arguments):
    optimizer = make(getattr(fastopt.torch, name), arguments)
    train(optimizer, 0, 2)
    assert looks(optimizer) <= SOON
    assert looks(optimizer) == 0
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    optimizer.step()
    assert looks(optimizer) <= SOON
    assert looks(optimizer) == 0


PARTS = {
    "entry": lambda optimizer: entry_of(optimizer),
    "state": lambda optimizer: entry_of(optimizer)["exp_avg"],
    "number": lambda optimizer: entry_of(optimizer)["step"],
    "view": lambda optimizer: entry_of(optimizer)["exp_avg"].view(-1),
    "detached": lambda optimizer: entry_of(optimizer)["step"].detach(),
    "array": lambda optimizer: entry_of(optimizer)["exp_avg"].numpy(),
    "storage": lambda optimizer: entry_of(optimizer)["exp_avg_sq"].untyped_storage(),
    "graph": lambda optimizer: entry_of(optimizer)["exp_avg"] * torch.ones(1, requires_grad=True),
    "state dict": lambda optimizer: optimizer.state_dict(),
}


def entry_of(optimizer):
    return next(iter(optimizer.state.values()))


@pytest.mark.parametrize("part", PARTS)
def test_steps_look_while_somebody_holds_a_part_of_the_state(part):
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = fastopt.torch.Adam([p])
    optimizer.step()
    held = PARTS[part](optimizer)
    assert looks(optimizer) == 100
    assert looks(optimizer) == 100
    del held
    assert len(optimizer.state.values()) == 1
    assert looks(optimizer) <= SOON
    assert looks(optimizer) == 0


def test_an_optimizer_that_took_over_looks_while_the_old_one_is_used():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    old = torch.optim.AdamW([p])
    old.step()
    new = fastopt.torch.accelerate(old)
    new.step()
    assert looks(new) <= SOON
    assert looks(new) == 0
    old.state[p]["exp_avg"] = torch.full((3,), 10.0)
    new.step()
    assert torch.equal(old.state[p]["exp_avg"], torch.full((3,), 10.0).lerp_(p.grad, 0.1))
    assert pickle.loads(pickle.dumps(old)).state_dict()["state"][0]["step"] == old.state[p]["step"]
    assert type(pickle.loads(pickle.dumps(old.state))) is type(copy.deepcopy(old.state)) is collections.defaultdict


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
