"""What training loops do with an optimizer: closures, hooks, schedulers, gradient scalers, profilers, compilation."""

import contextlib
import copy
import warnings

import numpy as np
import pytest
import torch
from cases import ELEMENTWISE, STAGED
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from variants import SHARED, VARIANTS, assert_near, assert_same_bits, parameters

import fastopt
import fastopt.torch

MODULES = fastopt.torch, torch.optim


def net(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(32, 8, generator=generator)
    return x, x.sum(dim=1, keepdim=True).sin()


def twins(name, **arguments):
    """Two models with equal weights, ours with our optimizer and theirs with torch's."""
    models = net(), net()
    return [
        (model, getattr(module, name)(model.parameters(), **arguments))
        for model, module in zip(models, (fastopt.torch, torch.optim), strict=True)
    ]


def train(model, optimizer, steps, *, scheduler=None, set_to_none=True):
    losses = []
    for step in range(steps):
        optimizer.zero_grad(set_to_none=set_to_none)
        x, y = batch(step)
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_losses_are_torchs(name, set_to_none):
    ours, theirs = (train(*each, 20, set_to_none=set_to_none) for each in twins(name))
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("name", sorted({*ELEMENTWISE} - {*SHARED}))
def test_the_other_rules_train(name):
    model = net()
    losses = train(model, getattr(fastopt.torch, name)(model.parameters(), lr=1e-3), 50)
    assert losses[-1] < losses[0]


SCHEDULERS = {
    "step": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5),
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
    "one cycle, momentum too": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=20),
    "warm restarts": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["SGD", "AdamW", "NAdam", "ASGD"])
@pytest.mark.parametrize("tensor", [False, True])
def test_schedulers(scheduler, name, tensor):
    """NAdam's product of momenta and ASGD's step size depend on the past of what the scheduler changes."""
    arguments = {"lr": torch.tensor(0.01) if tensor else 0.01} | ({"momentum": 0.9} if name == "SGD" else {})
    if name == "ASGD":
        arguments |= {"lambd": 0.5}
        if "momentum" in scheduler:
            return  # there is none to cycle
    (ours, mine), (theirs, its) = twins(name, **copy.deepcopy(arguments))
    if tensor:
        mine.param_groups[0]["lr"] = torch.tensor(0.01)
    a = train(ours, mine, 18, scheduler=SCHEDULERS[scheduler](mine))
    b = train(theirs, its, 18, scheduler=SCHEDULERS[scheduler](its))
    assert a == pytest.approx(b, rel=1e-5)
    assert float(mine.param_groups[0]["lr"]) == pytest.approx(float(its.param_groups[0]["lr"]))
    assert_near(mine, its, ulps=256)


def test_a_tensor_learning_rate_that_changes_in_place():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    p.grad = q.grad = torch.ones(3)
    rates = torch.tensor(0.1), torch.tensor([0.1])
    ours, theirs = fastopt.torch.Adam([p], lr=rates[0]), torch.optim.Adam([q], lr=rates[1])
    for rate in (0.1, 0.5, 0.25):
        for each in rates:
            each.fill_(rate)
        ours.step()
        theirs.step()
    assert_near(ours, theirs)
    assert ours.param_groups[0]["lr"] is rates[0]


def test_closures_run_with_gradients_and_their_loss_is_returned():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fastopt.torch.SGD([p], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure) == 3.0
    assert torch.equal(p, torch.zeros(3))
    assert optimizer.step() is None


def hook_calls(made):
    """What hooks see of an optimizer that is stepped, saved and loaded."""
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = made([p])
    calls = []

    def hook(kind):
        def note(optimizer, args, kwargs):
            step = optimizer.state[p].get("step", torch.tensor(0))
            calls.append((kind, len(args), sorted(kwargs), step.item()))

        return note

    handles = [
        optimizer.register_step_pre_hook(hook("pre")),
        optimizer.register_step_post_hook(hook("post")),
        register_optimizer_step_pre_hook(hook("all pre")),
        register_optimizer_step_post_hook(hook("all post")),
        optimizer.register_state_dict_post_hook(lambda *_: calls.append("saved")),
        optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("loading")),
    ]
    optimizer.step()
    optimizer.step(None)
    optimizer.step(closure=None)
    optimizer.load_state_dict(optimizer.state_dict())
    for handle in handles:
        handle.remove()
    optimizer.step()
    return calls


def test_hooks_are_called_as_torchs_are():
    calls = hook_calls(fastopt.torch.Adam)
    assert calls == hook_calls(torch.optim.Adam)
    assert len(calls) == 14


def test_a_hook_changes_the_arguments():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = fastopt.torch.SGD([p])
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: ((*args, lambda: 42), kwargs))
    assert optimizer.step() == 42


def test_a_subclass_with_a_step_of_its_own():
    calls = []

    class Mine(fastopt.torch.AdamW):
        def step(self, closure=None):
            calls.append("mine")
            return super().step(closure)

    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = Mine([p], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: calls.append("hook"))
    optimizer.step()
    assert calls == ["hook", "mine"]
    assert optimizer.state[p]["step"] == 1
    assert not torch.equal(p, torch.ones(3))


def test_the_profiler_records_the_step():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = fastopt.torch.AdamW([p])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            optimizer.step()
    assert "Optimizer.step#AdamW.step" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Lion"])
@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_gradient_scaler(name, fused, recorded):
    """A step with an infinite gradient is left out; the others see unscaled gradients, during and after the step."""
    if fused and name == "RMSprop":
        return
    arguments = {} if fused is None else {"fused": fused}
    other = name if name in SHARED else None
    results = []
    for module in (fastopt.torch, torch.optim if other else fastopt.torch):
        model = net()
        optimizer = getattr(module, name)(model.parameters(), **(arguments if module is fastopt.torch or other else {}))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for step in range(6):
            optimizer.zero_grad()
            x, y = batch(step)
            scaler.scale((model(x) - y).square().mean()).backward()
            if step == 2:
                model[0].weight.grad[0, 0] = float("inf")
            if step == 4:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            ours = not results
            with FlopCounterMode(display=False) if recorded and ours else contextlib.nullcontext():
                scaler.step(optimizer)
            scaler.update()
        results.append((optimizer, [p.grad for p in model.parameters()], scaler.get_scale()))
    (ours, gradients, scale), (theirs, expected, its_scale) = results
    assert scale == its_scale
    assert_near(ours, theirs)
    for mine, its in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, its)
    steps = [entry["step"].item() for entry in ours.state.values() if "step" in entry]
    assert set(steps) <= {5.0}


def to_be_scaled(name, arguments):
    """An optimizer of parameters whose gradient lies in another order or is sparse, and of one that torch steps."""
    rule = fastopt.RULES[name]
    params = [torch.ones(6, 4)]
    if name in SHARED:
        params.append(torch.ones(6, 4)[:, ::2])
    optimizer = getattr(fastopt.torch, name)(map(torch.nn.Parameter, params), **arguments)
    by_rows = rule.sums is None and (rule.stage is None or rule.rowwise) and not rule.starts_from_parameters
    if by_rows and not (name in SHARED and optimizer.make_rule(optimizer.param_groups[0]).torch_moves_all_rows):
        optimizer.add_param_group({"params": torch.nn.Parameter(torch.ones(6, 3))})
    return optimizer


def set_gradients(optimizer, step, scale, *, divided):
    for number, p in enumerate(parameters(optimizer)):
        gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + number))
        if p.shape[-1] == 4:
            gradient = gradient.t().contiguous().t()
        elif p.shape[-1] == 3:
            gradient = torch.sparse_coo_tensor([[4, 1, 4]], gradient[:3], p.shape, check_invariants=True)
        p.grad = gradient / scale if divided else gradient
    if not divided:
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)


def gradients(optimizer):
    return [p.grad.to_dense().clone() for p in parameters(optimizer)]


@pytest.mark.parametrize("scale", [1024.0, 3.0])
def test_a_scale_divides_as_torch_does(scale):
    """By every rule, the same bits, whether steps get the scale or gradients that torch has divided by it."""
    for name, arguments in [*VARIANTS, *((name, {}) for name in STAGED)]:
        ours, expected = (to_be_scaled(name, arguments) for _ in range(2))
        for step in range(3):
            set_gradients(ours, step, scale, divided=False)
            set_gradients(expected, step, scale, divided=True)
            ours.step()
            expected.step()
            assert_same_bits(ours, expected)
            assert all(map(torch.equal, gradients(ours), gradients(expected)))
    p, q = (torch.nn.Parameter(torch.zeros(1000)) for _ in range(2))
    for param, module in ((p, fastopt.torch), (q, torch.optim)):
        optimizer = module.SGD([param], lr=1.0, fused=True)
        set_gradients(optimizer, 0, scale, divided=False)
        optimizer.step()
    assert torch.equal(p, q) and torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("name", ["Adam", "Muon", "LAMB", "RowwiseAdagrad"])
@pytest.mark.parametrize("scale", [1024.0, 3.0])
def test_a_step_that_is_refused_leaves_gradients_as_they_were(name, scale):
    ours, expected = (to_be_scaled(name, {}) for _ in range(2))
    for optimizer in (ours, expected):
        set_gradients(optimizer, 0, scale, divided=False)
    given, last = gradients(ours), ours.param_groups[-1]
    before, last["lr"] = last["lr"], 1e300
    with pytest.raises(ValueError, match="too large for float32"):
        ours.step()
    assert all(map(torch.equal, gradients(ours), given))
    last["lr"] = before
    for optimizer in (ours, expected):
        optimizer.step()
    assert_same_bits(ours, expected)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_maximize_is_the_step_against_the_gradient(name):
    p, q = (torch.nn.Parameter(torch.ones(101)) for _ in range(2))
    made = getattr(fastopt.torch, name)
    up, down = made([p], maximize=True), made([q])
    for _ in range(3):
        gradient = torch.randn(101)
        p.grad, q.grad = gradient, -gradient
        up.step()
        down.step()
    assert torch.equal(p, q)


def test_frozen_parameters_and_groups_that_are_added():
    (ours, mine), (theirs, its) = twins("AdamW", lr=0.01)
    for model, optimizer in ((ours, mine), (theirs, its)):
        model[0].weight.requires_grad_(False)
        train(model, optimizer, 3)
        model[0].weight.requires_grad_(True)
        train(model, optimizer, 3)
        extra = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(extra.weight)
        torch.nn.init.zeros_(extra.bias)
        optimizer.add_param_group({"params": extra.parameters(), "lr": 0.1, "weight_decay": 0.5})
        train(torch.nn.Sequential(*model, extra), optimizer, 3)
    assert_near(mine, its)
    assert [mine.state[p]["step"].item() for p in ours.parameters()] == [6, 9, 9, 9]
    assert [mine.state[p]["step"].item() for p in mine.param_groups[1]["params"]] == [3, 3]


def test_a_scheduler_that_ends_a_little_below_zero():
    (ours, mine), (theirs, its) = twins("SGD", lr=0.1)
    for model, optimizer in ((ours, mine), (theirs, its)):
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, end_factor=0.0, total_iters=5)
        train(model, optimizer, 8, scheduler=scheduler)
    assert mine.param_groups[0]["lr"] == its.param_groups[0]["lr"] < 0
    assert_near(mine, its)


#: What torch's constructors refuse or kernels are not made for, and what a group may be changed to all the same.
WORDS = [
    ("SGD", {"lr": -0.1}),
    ("SGD", {"momentum": -0.5}),
    ("SGD", {"weight_decay": -0.1}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.5}),
    ("Adam", {"lr": -0.1}),
    ("Adam", {"betas": (-0.5, 0.9)}),
    ("Adam", {"betas": (0.9, 0.0)}),
    ("Adam", {"eps": -1e-3}),
    ("Adam", {"lr": np.float32(0.25), "maximize": 1}),
    ("AdamW", {"weight_decay": -0.5, "betas": [0.5, 0.6]}),
    ("Adagrad", {"lr_decay": -0.01, "lr": -1}),
    ("Adadelta", {"rho": 1.1}),
    ("RMSprop", {"alpha": 1.5, "momentum": -0.1}),
    ("Adamax", {"betas": (1.5, 1.5)}),
    ("NAdam", {"momentum_decay": -0.1, "lr": -0.1}),
    ("RAdam", {"weight_decay": -1.0}),
    ("ASGD", {"t0": 0, "lambd": -1.0, "alpha": -1, "lr": -0.5}),
    ("Rprop", {"step_sizes": (0, float("inf"))}),
    ("Rprop", {"step_sizes": (1.0, 0.5)}),
    ("Rprop", {"etas": (1.5, 0.5)}),
]


@pytest.mark.parametrize(("name", "changes"), WORDS, ids=[f"{name}-{changes}" for name, changes in WORDS])
@pytest.mark.parametrize("when", [0, 2])
def test_what_is_written_into_a_group_is_the_users_word(name, changes, when):
    torch.manual_seed(0)
    p, q = (torch.nn.Parameter(torch.linspace(-1, 1, 33)) for _ in range(2))
    ours, theirs = getattr(fastopt.torch, name)([p]), getattr(torch.optim, name)([q])
    for step in range(6):
        if step == when:
            ours.param_groups[0] |= changes
            theirs.param_groups[0] |= changes
        p.grad = torch.randn(33)
        q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("changes", [{"lr": float("inf")}, {"lr": "0.1"}, {"lr": None}, {"betas": (0.9,)}])
def test_what_is_no_hyperparameter_at_all_is_refused_and_changes_nothing(changes):
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = fastopt.torch.Adam([p])
    optimizer.param_groups[0] |= changes
    with pytest.raises((TypeError, ValueError), match=f"Adam: {next(iter(changes))} must be"):
        optimizer.step()
    assert torch.equal(p, torch.ones(3)) and not optimizer.state


def test_accelerate_after_a_scheduler_exists():
    p = torch.nn.Parameter(torch.ones(3))
    old = torch.optim.AdamW([p], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(old, 1, 0.5)
    new = fastopt.torch.accelerate(old)
    later = torch.optim.lr_scheduler.StepLR(new, 1, 0.5)
    p.grad = torch.ones(3)
    for _ in range(3):
        new.step()
        scheduler.step()
        later.step()
    assert new.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**6)
    assert new.state[p]["step"] == 3
    again = fastopt.torch.accelerate(torch.optim.AdamW([p], lr=0.1))
    assert "step" not in vars(again)


def test_a_scheduler_that_comes_before_the_first_step_still_says_so():
    p = torch.nn.Parameter(torch.ones(3))
    old = torch.optim.SGD([p], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(old, 1)
    fastopt.torch.accelerate(old)
    with pytest.warns(UserWarning, match=r"lr_scheduler\.step\(\)` before `optimizer\.step"):
        scheduler.step()


def recorded(made, **options):
    """The operations that make_fx sees in two training steps; or what torch raises about its own optimizer there."""

    def steps(start, x):
        p = torch.nn.Parameter(start.clone())
        optimizer = made([p], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            (p * x).square().sum().backward()
            optimizer.step()
        return p.detach().clone()

    try:
        program = make_fx(steps, **options)(torch.ones(3), torch.ones(3))
    except Exception as error:
        if made is fastopt.torch.Lion:
            raise
        return type(error)
    return [str(node.target) for node in program.graph.nodes if "profiler" not in str(node.target)]


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("options", [{}, {"tracing_mode": "fake"}, {"pre_dispatch": True}], ids=str)
def test_a_program_that_is_recorded_has_the_step_in_it(name, options):
    ours, theirs = (recorded(getattr(module, name), **options) for module in MODULES)
    assert ours == theirs
    assert isinstance(theirs, type) or any(each.startswith("aten.add") for each in theirs)


def test_a_step_that_cannot_be_recorded_is_refused():
    with pytest.raises(RuntimeError, match=r"ProxyTorchDispatchMode can record, and torch\.optim has no Lion"):
        recorded(fastopt.torch.Lion)


def test_a_step_after_a_recording_goes_on():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = fastopt.torch.Adam([p], lr=0.1)
    other = torch.optim.Adam([q := torch.nn.Parameter(torch.ones(3))], lr=0.1)
    q.grad = torch.ones(3)

    class Counter(TorchDispatchMode):
        """Sees every operation."""

        seen = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen += 1
            return function(*args, **(kwargs or {}))

    for mode in (contextlib.nullcontext(), counter := Counter(), contextlib.nullcontext()):
        with mode:
            optimizer.step()
        other.step()
    assert counter.seen
    assert_near(optimizer, other)
    lion = fastopt.torch.Lion([p])
    with counter:
        lion.step()
    assert lion.state[p]["step"] == 1


@pytest.mark.parametrize(("name", "options"), [("Prodigy", {"d0": 1e200}), ("StableAdamW", {"eps": 1e200})])
def test_coefficients_that_are_too_large_even_for_python_are_refused(name, options):
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=rf"{name}\(.*: too large for float32: the coefficients of step 1"):
        getattr(fastopt.torch, name)([p], **options).step()
    assert torch.equal(p, torch.ones(3))


def test_hyperparameters_that_turn_wrong_are_refused_before_anything_changes():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = fastopt.torch.Adam([p])
    optimizer.step()
    before = p.detach().clone(), optimizer.state[p]["exp_avg"].clone()
    optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="Adam: lr must be"):
        optimizer.step()
    optimizer.param_groups[0] |= {"lr": 0.1, "weight_decay": 1e39}
    with pytest.raises(ValueError, match="too large for float32"):
        optimizer.step()
    assert torch.equal(p, before[0])
    assert torch.equal(optimizer.state[p]["exp_avg"], before[1])
    assert optimizer.state[p]["step"] == 1
    optimizer.param_groups[0]["weight_decay"] = 0.0
    for name, wrong in [
        ("master", "bits"),
        ("state_dtype", "bits"),
        ("rounding", "bits"),
        ("seed", -1),
        ("lookahead", 3),
    ]:
        optimizer.param_groups[0][name], right = wrong, optimizer.param_groups[0][name]
        with pytest.raises((TypeError, ValueError), match=rf"Adam: {name} must be .*, not {wrong!r}"):
            optimizer.step()
        optimizer.param_groups[0][name] = right
    for wrong in (float("nan"), -1.0):
        optimizer.state[p]["step"].fill_(wrong)
        with pytest.raises(ValueError, match=rf"param_groups\[0\]: a state has {wrong} for 'step', which must be"):
            optimizer.step()
    optimizer.state[p]["step"].fill_(1.0)
    assert torch.equal(p, before[0])
    optimizer.step()


def test_a_storage_that_is_written_into_a_group_is_that_of_the_next_step():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fastopt.torch.Adam([p], state_dtype={"exp_avg": "bfloat16"})
    for dtype in ("bfloat16", "float32"):
        optimizer.param_groups[0]["state_dtype"]["exp_avg"] = dtype
        p.grad = torch.ones(3)
        optimizer.step()
        assert optimizer.state[p]["exp_avg"].dtype == getattr(torch, dtype)


def test_a_flag_that_needs_another_state_is_refused_by_name():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = fastopt.torch.Adam([p])
    optimizer.step()
    optimizer.param_groups[0]["amsgrad"] = True
    with pytest.raises(RuntimeError, match="without 'max_exp_avg_sq'"):
        optimizer.step()
    sgd = fastopt.torch.SGD([p])
    sgd.step()
    sgd.param_groups[0]["momentum"] = 0.9
    sgd.step()
    assert torch.equal(sgd.state[p]["momentum_buffer"], torch.ones(3))


def test_compiled_training_steps_leave_the_optimizer_as_it_is():
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(50))
    q = torch.nn.Parameter(p.detach().clone())
    compiled, plain = fastopt.torch.AdamW([p]), fastopt.torch.AdamW([q])

    def train(param, optimizer, x):
        optimizer.zero_grad()
        (param * x).square().sum().backward()
        optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = torch.compile(train, backend="eager")
        step = torch.compile(compiled.step, backend="eager")
        for x in torch.randn(3, 50):
            whole(p, compiled, x)
            train(q, plain, x)
        step()
        plain.step()
    assert torch.equal(p, q)
    assert compiled.state[p]["step"] == 4


def test_averaged_models_and_clipping():
    (ours, mine), (theirs, its) = twins("SGD", lr=0.05, momentum=0.9)
    averages = []
    for model, optimizer in ((ours, mine), (theirs, its)):
        average = torch.optim.swa_utils.AveragedModel(model)
        for step in range(8):
            optimizer.zero_grad()
            x, y = batch(step)
            (model(x) - y).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            average.update_parameters(model)
        averages.append(average.module)
    for p, q in zip(averages[0].parameters(), averages[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
