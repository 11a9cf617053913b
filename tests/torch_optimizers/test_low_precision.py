"""Parameters of 16 bits: every rule, on both backends, against its formula and against torch's own optimizers."""

import copy
import operator
import pickle
import re

import numpy as np
import pytest
import torch
from cases import ELEMENTWISE
from variants import IN_TORCH, NARROW, VARIANTS, assert_rounded, assert_same_bits, exact, ids, make, parameters, train

import fastopt.torch

FLOATS = [torch.float32, torch.float64, *NARROW]


def short(dtype):
    return str(dtype).removeprefix("torch.")


every_variant = pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=ids(VARIANTS))
in_torch = pytest.mark.parametrize(("name", "arguments"), IN_TORCH, ids=ids(IN_TORCH))
narrow = pytest.mark.parametrize("dtype", NARROW, ids=short)


@pytest.fixture(params=["c", "numba"])
def backend(request, monkeypatch):
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv("FASTOPT_BACKEND", request.param)
    return request.param


def formula(optimizer, group, p):
    """What a step by the gradient that a parameter has is to give, by the rule's paper, in float64.

    Also the largest number that comes in: float32 kernels are off by some ulp of it.
    """
    rule = optimizer.make_rule(group)
    entry = optimizer.state.get(p, {})
    states = {
        name: exact(entry[name] if name in entry else torch.full_like(p, first)) for name, first in rule.states.items()
    }
    step = int(entry["step"]) + 1 if "step" in entry else 1 + bool(entry)
    result, after = rule.reference(step, exact(p), exact(p.grad), **states)
    largest = max(np.abs(numbers).max(initial=1.0) for numbers in (exact(p), exact(p.grad), *states.values()))
    return {"param": result, **after}, largest


@every_variant
@narrow
def test_steps_are_the_formula_rounded_once(name, arguments, dtype, backend):
    if fastopt.RULES[name].totals:
        pytest.skip("a step of one parameter follows from all of them")
    optimizer = make(getattr(fastopt.torch, name), arguments, dtype)
    generator = torch.Generator().manual_seed(2)
    for step in range(5):
        expected = {}
        for group in optimizer.param_groups:
            for number, p in enumerate(group["params"]):
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
                if number == 1 and step % 2:  # parameters come to be at different steps
                    p.grad = None
                else:
                    expected[p] = formula(optimizer, group, p)
        optimizer.step()
        assert optimizer.explain().backend == backend and not optimizer.explain().torch
        for p, (values, largest) in expected.items():
            for key, value in values.items():
                kept = p if key == "param" else optimizer.state[p][key]
                assert kept.dtype == dtype
                assert_rounded(kept, value, largest)


@every_variant
@narrow
def test_both_backends_give_the_same_bits(name, arguments, dtype, monkeypatch):
    pytest.importorskip("numba")
    trained = []
    for backend in ("c", "numba"):
        monkeypatch.setenv("FASTOPT_BACKEND", backend)
        optimizer = make(getattr(fastopt.torch, name), arguments, dtype)
        train(optimizer, 0, 4)
        trained.append(optimizer)
    assert_same_bits(*trained)


def assert_near(ours, theirs):
    """Torch's loops round after every operation: parameters are off by some ulp of the largest one."""
    for p, q in zip(parameters(ours), parameters(theirs), strict=True):
        bound = (
            8 * torch.finfo(q.dtype).eps * q.detach().abs().float().max().clamp(min=1.0).item() if q.numel() else 0.0
        )
        torch.testing.assert_close(p, q, rtol=0, atol=bound)


def bearable(name, arguments, dtype):
    """Arguments with which torch's loops do not divide by a zero that should be ``eps``."""
    return arguments | ({"eps": 1e-3} if dtype == torch.float16 and "eps" in fastopt.RULES[name].fields else {})


@in_torch
def test_steps_are_near_to_torchs_loops(name, arguments):
    """In bfloat16: in float16 torch has rounded a small second moment to zero before it divides by its root."""
    ours, theirs = (make(getattr(module, name), arguments, torch.bfloat16) for module in (fastopt.torch, torch.optim))
    train(ours, 0, 3)
    train(theirs, 0, 3)
    assert_near(ours, theirs)
    for p, q in zip(parameters(ours), parameters(theirs), strict=True):
        assert {key: value.dtype for key, value in ours.state[p].items()} == {
            key: value.dtype for key, value in theirs.state[q].items()
        }


@narrow
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_steps_have_nearly_the_bits_of_torchs_fused_code(name, dtype):
    """Both round once, and a number in the middle of two may go either way.

    Not so SGD and Adagrad: torch 2.13 leaves the first parameters of 16 bits where they are, or rounds more often.
    """
    ours, theirs = (
        make(getattr(fastopt.torch, name), {}, dtype),
        make(getattr(torch.optim, name), {"fused": True}, dtype),
    )
    train(ours, 0, 1)
    train(theirs, 0, 1)
    for p, q in zip(parameters(ours), parameters(theirs), strict=True):
        pairs = [(p, q), *((ours.state[p][key], value) for key, value in theirs.state[q].items())]
        for computed, expected in pairs:
            assert computed.dtype == expected.dtype
            assert (computed != expected).sum() <= 0.01 * p.numel()


@pytest.mark.parametrize("dtype", FLOATS, ids=short)
@pytest.mark.parametrize("gradients", FLOATS, ids=short)
def test_gradients_of_any_dtype(dtype, gradients, backend):
    optimizer = make(fastopt.torch.Adam, {}, dtype)
    before = torch.Generator().manual_seed(3)
    for p in parameters(optimizer):
        p.grad_dtype = None
        p.grad = torch.randn(p.shape, generator=before).to(dtype)
    optimizer.step()
    expected = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn(p.shape, generator=before).to(gradients)
            expected[p] = formula(optimizer, group, p)
    optimizer.step()
    assert not optimizer.explain().torch
    for p, (values, largest) in expected.items():
        assert_rounded(p, values["param"], largest)


def test_gradients_of_another_dtype_with_as_many_bytes_are_noticed():
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    p.grad_dtype = None
    optimizer = fastopt.torch.SGD([p], lr=1.0)
    for step, dtype in enumerate([torch.bfloat16, torch.float16, torch.float32, torch.float16], 1):
        p.grad = torch.ones(3, dtype=dtype)
        optimizer.step()
        assert p.tolist() == [-step] * 3


@narrow
def test_memory_in_another_order_is_stepped_in_place(dtype, backend):
    """Gradients in the order of their shape are copied, whatever dtype they have."""
    torch.manual_seed(0)
    values, gradient = torch.randn(3, 4, 5, 2).to(dtype), torch.randn(3, 4, 5, 2)
    stepped = []
    for order in (torch.contiguous_format, torch.channels_last):
        p = torch.nn.Parameter(values.clone(memory_format=order))
        p.grad_dtype = torch.float32
        p.grad = gradient.clone()
        optimizer = fastopt.torch.NAdam([p])
        optimizer.step()
        assert optimizer.explain().copied == (order is torch.channels_last)
        assert optimizer.state[p]["exp_avg"].stride() == p.stride()
        stepped.append(p)
    assert torch.equal(*stepped)


def test_each_tensor_has_its_own_dtype(backend):
    """What is stepped with others of another dtype gets the bits that it gets alone."""

    def made(dtypes):
        generator = torch.Generator().manual_seed(5)
        tensors = {dtype: torch.randn(33, generator=generator, dtype=torch.float64).to(dtype) for dtype in FLOATS}
        return [torch.nn.Parameter(tensors[dtype]) for dtype in dtypes]

    together = fastopt.torch.AdamW(made(FLOATS))
    apart = [fastopt.torch.AdamW(made([dtype])) for dtype in FLOATS]
    for _ in range(3):
        for optimizer in (together, *apart):
            for p in parameters(optimizer):
                p.grad = p.detach() + 1
            optimizer.step()
    for p, alone in zip(parameters(together), apart, strict=True):
        assert torch.equal(p, *parameters(alone))
        assert together.state[p]["exp_avg"].dtype == p.dtype
    assert len(together.explain().kernels) == len(FLOATS)


@narrow
def test_frozen_and_empty_parameters(dtype):
    frozen = torch.nn.Parameter(torch.ones(3, dtype=dtype), requires_grad=False)
    empty, trained = (torch.nn.Parameter(torch.ones(size, dtype=dtype)) for size in (0, 3))
    optimizer = fastopt.torch.Adam([frozen, empty, trained], lr=0.1)
    empty.grad, trained.grad = torch.ones_like(empty), torch.ones_like(trained)
    optimizer.step()
    assert frozen.tolist() == [1.0] * 3 and frozen not in optimizer.state
    assert (trained < 1).all()


@narrow
def test_gradients_are_unscaled_before_they_are_rounded(dtype):
    """With the scale of a GradScaler, some gradients are numbers that 16 bits cannot hold without it."""
    p = torch.nn.Parameter(torch.zeros(4, dtype=dtype))
    q = torch.nn.Parameter(torch.zeros(4))
    optimizer = fastopt.torch.SGD([p, q], lr=2.0**20, fused=True)
    scaled = torch.tensor([2.0**-10, 1.0, -3.0, 2.0**12])
    p.grad, q.grad = scaled.to(dtype), scaled.clone()
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0**18), torch.tensor(0.0)
    optimizer.step()
    expected = -4 * scaled
    assert torch.equal(p.float(), expected) and torch.equal(q, expected)
    assert torch.equal(p.grad, (scaled * 2.0**-18).to(dtype)) and torch.equal(q.grad, scaled * 2.0**-18)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(p.float(), expected)
    optimizer.grad_scale, optimizer.found_inf = None, None
    p.data.zero_()
    p.grad, q.grad = torch.full_like(p, 2.0**-20), None
    optimizer.step()  # the scale is forgotten
    assert p.tolist() == [-1.0] * 4


@narrow
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_grad_scaler(name, dtype):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1).to(dtype)
    optimizer = getattr(fastopt.torch, name)(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    before = [p.detach().clone() for p in model.parameters()]
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(model(factor * torch.ones(2, 4, dtype=dtype)).float().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**7
    for p, q in zip(model.parameters(), before, strict=True):
        assert p.isfinite().all() and not torch.equal(p, q)


@in_torch
@narrow
def test_state_dicts_go_to_torch_and_back(name, arguments, dtype):
    """And what was float32 in them is float32 afterwards: torch's own loading rounds it to 16 bits."""
    arguments = bearable(name, arguments, dtype)
    trained = make(getattr(torch.optim, name), arguments, dtype)
    train(trained, 0, 3)
    ours, theirs = (make(getattr(module, name), arguments, dtype) for module in (fastopt.torch, torch.optim))
    for optimizer in (ours, theirs):
        for p, q in zip(parameters(optimizer), parameters(trained), strict=True):
            p.data.copy_(q.data)
    ours.load_state_dict(copy.deepcopy(trained.state_dict()))
    for p, q in zip(parameters(ours), parameters(trained), strict=True):
        assert {key: value.dtype for key, value in ours.state[p].items()} == {
            key: value.dtype for key, value in trained.state[q].items()
        }
    train(ours, 3, 4)
    train(trained, 3, 4)
    assert_near(ours, trained)
    theirs.load_state_dict(ours.state_dict())
    train(theirs, 4, 5)
    again = make(getattr(fastopt.torch, name), arguments, dtype)
    again.load_state_dict(copy.deepcopy(ours.state_dict()))
    for p, q in zip(parameters(again), parameters(ours), strict=True):
        p.data.copy_(q.data)
    train(ours, 4, 6)
    train(again, 4, 6)
    assert_same_bits(ours, again)


# Masters, states in other storages, and how they are rounded

FORMATS = [
    {"master": "float32"},
    {"master": "split"},
    {"rounding": "stochastic"},
    {"state_dtype": "float32", "seed": 7},
    {"state_dtype": "8bit"},
    {"master": "float32", "state_dtype": "float16", "rounding": "nearest"},
    {"master": "split", "state_dtype": "bfloat16", "seed": 2**64 - 1},
    {"master": "split", "state_dtype": "8bit"},
]
format_ids = ["-".join(map(str, [*each.values()])) for each in FORMATS]

#: Each variant with a few of the formats, and all formats in turn.
MIXED = [(*variant, FORMATS[place % len(FORMATS)]) for place, variant in enumerate(2 * VARIANTS, 1)]


def each_of(cases):
    """Parametrizes a test, with readable names."""
    named = ["-".join(map(str, [name, *arguments, *options.values()])) for name, arguments, options in cases]
    return pytest.mark.parametrize(("name", "arguments", "options"), cases, ids=named)


def one(name, arguments, options, dtype=torch.bfloat16, size=5001):
    """An optimizer of a parameter that is large enough for states in 8 bits."""
    generator = torch.Generator().manual_seed(1)
    p = torch.nn.Parameter(torch.randn(size, generator=generator).to(dtype))
    return getattr(fastopt.torch, name)([p], **arguments, **options)


@each_of(MIXED)
def test_both_backends_store_the_same_bits(name, arguments, options, monkeypatch):
    pytest.importorskip("numba")
    trained = []
    for backend in ("c", "numba"):
        monkeypatch.setenv("FASTOPT_BACKEND", backend)
        optimizer = one(name, arguments, options)
        train(optimizer, 0, 3)
        assert optimizer.explain().backend == backend and not optimizer.explain().torch
        trained.append(optimizer)
    assert_same_bits(*trained)


#: Torch keeps the running numbers of the others in float32.
WITHOUT_SCALARS = [each for each in MIXED if not fastopt.RULES[each[0]]().torch_scalars]


@each_of(WITHOUT_SCALARS)
def test_tensors_hold_what_fastopts_own_optimizer_stores(name, arguments, options):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    ours = one(name, arguments, options)
    (p,) = parameters(ours)
    rule = ours.make_rule(ours.param_groups[0])
    params = fastopt.FlatBuffer({"p": np.zeros(p.numel())}, dtype=bfloat16)
    params.flat.view(np.int16)[:] = p.detach().view(torch.int16).numpy()
    whole = options.get("state_dtype") == "float32"
    default = None if whole or "master" in options else "bfloat16"
    wanted = options | {"state_dtype": None if whole else options.get("state_dtype", default)}
    theirs = fastopt.Optimizer(params, rule, **wanted)
    for _ in range(3):
        p.grad = torch.randn(p.shape).bfloat16()
        theirs.step({"p": p.grad.float().numpy()})
        ours.step()
    assert np.array_equal(p.detach().view(torch.int16).numpy(), params["p"].view(np.int16))
    entry = ours.state[p]
    if "master" in options:
        master = entry["master"] if "master" in entry else joined(p, entry["remainder"])
        assert np.array_equal(master.numpy(), theirs.master["p"])
    for state in rule.states:
        here, there = entry[state], theirs.state[state]["p"]
        if here.dtype == torch.uint8:
            assert np.array_equal(here.numpy(), there.parts["codes"])
            assert np.array_equal(entry[f"{state}_scales"].numpy(), there.parts["scales"])
        else:
            assert np.array_equal(here.float().numpy(), there)


def joined(p, remainder):
    """The float32 whose upper half, rounded, and lower half are given."""
    upper, lower = p.detach().view(torch.int16).int(), remainder.int()
    return ((upper << 16) + lower).view(torch.float32)


@each_of(MIXED)
def test_training_goes_on_from_a_file(name, arguments, options, tmp_path):
    """Bit for bit, in an optimizer that was made without the options: they are in the file."""
    ours = one(name, arguments, options)
    train(ours, 0, 2)
    torch.save(ours.state_dict(), tmp_path / "state")
    again = one(name, arguments, {})
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    (p,), (q,) = parameters(ours), parameters(again)
    q.data.copy_(p.data)
    kept = {key: value.dtype for key, value in ours.state[p].items()}
    assert {key: value.dtype for key, value in again.state[q].items()} == kept
    train(ours, 2, 4)
    train(again, 2, 4)
    assert_same_bits(ours, again)
    restored = copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))
    for optimizer in (ours, *restored):
        train(optimizer, 4, 5)
    for optimizer in restored:
        assert_same_bits(ours, optimizer)


@each_of([each for each in MIXED if each[:2] in IN_TORCH])
def test_torchs_state_dicts_load_into_other_storages(name, arguments, options):
    theirs = getattr(torch.optim, name)([p.detach().clone() for p in parameters(one(name, arguments, {}))], **arguments)
    train(theirs, 0, 2)
    ours = one(name, arguments, options)
    (p,), (q,) = parameters(ours), parameters(theirs)
    p.data.copy_(q)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    train(ours, 2, 3)
    fresh = one(name, arguments, options)
    train(fresh, 0, 1)
    assert {key: value.dtype for key, value in ours.state[p].items()} == {
        key: value.dtype for key, value in fresh.state[parameters(fresh)[0]].items()
    }
    if "step" in theirs.state[q]:
        assert ours.state[p]["step"] == 3
    train(theirs, 2, 3)
    torch.testing.assert_close(p, q, rtol=0, atol=0.05)


MASTERS = ("float32", "split")


def test_a_master_is_float32_training(backend):
    """As parameters of float32 are trained by the same gradients, and the model's are that, rounded."""
    for name in ELEMENTWISE:
        whole, master, split = one(name, {}, {}, torch.float32), *(one(name, {}, {"master": each}) for each in MASTERS)
        (f,), (p,), (q,) = map(parameters, (whole, master, split))
        f.data.copy_(p.data)
        for _ in range(5):
            p.grad = q.grad = torch.randn(p.shape).bfloat16()
            f.grad = p.grad.float()
            for each in (whole, master, split):
                each.step()
        assert torch.equal(master.state[p]["master"], f)
        assert torch.equal(p, f.bfloat16())
        assert torch.equal(joined(q, split.state[q]["remainder"]), f)


@narrow
def test_small_steps_add_up(dtype):
    """In parameters that are rounded at random, or have a master; to nearest they stay where they are."""
    size, steps = 4096, 64
    moved = {}
    for options in ({}, {"rounding": "stochastic"}, {"master": "float32"}):
        p = torch.nn.Parameter(torch.full((size,), 1.5, dtype=dtype))
        optimizer = fastopt.torch.SGD([p], lr=2.0**-16, **options)
        for _ in range(steps):
            p.grad = torch.ones_like(p)
            optimizer.step()
        whole = optimizer.state[p].get("master", p).detach()
        moved[str(options)] = (1.5 - whole.double().mean().item()) / (steps * 2.0**-16)
    nearest, stochastic, master = moved.values()
    assert nearest == 0 and master == 1 and stochastic == pytest.approx(1, rel=0.15)


def test_replicas_of_one_seed_stay_equal():
    """Whatever else an optimizer has to step: the noise is a function of seed, step and place."""
    alone, together, other = ([], [], [])
    for seed, optimizers, sizes in ((3, alone, [301]), (3, together, [7, 301]), (4, other, [301])):
        params = [torch.nn.Parameter(torch.ones(size, dtype=torch.bfloat16)) for size in sizes]
        optimizer = fastopt.torch.AdamW(params, rounding="stochastic", seed=seed)
        optimizers.append(params[-1])
        for step in range(4):
            params[0].grad = None  # one parameter is behind the other
            for p in params[-1:] if step < 2 else params:
                p.grad = torch.linspace(-1, 1, p.numel()).bfloat16()
            optimizer.step()
    assert torch.equal(alone[0], together[0])
    assert not torch.equal(alone[0], other[0])


def test_tensors_of_32_bits_have_no_master():
    p, q = torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16))
    optimizer = fastopt.torch.AdamW([{"params": [p]}, {"params": [q], "master": "split"}], master="float32")
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    assert optimizer.state[p].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert optimizer.state[q].keys() == {"step", "exp_avg", "exp_avg_sq", "remainder"}
    assert optimizer.state_dict()["param_groups"][0]["master"] == "float32"


def test_how_numbers_are_stored_is_explained():
    p, q = (torch.nn.Parameter(torch.ones(size, dtype=torch.bfloat16)) for size in (5000, 5))
    optimizer = fastopt.torch.Adam([p, q], master="float32", state_dtype="8bit")
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    assert str(optimizer.explain()).splitlines()[1:] == [
        "param_groups[0]: adam (2 parameters, 5005 elements of bfloat16; params in bfloat16, master in float32, "
        "exp_avg in float8_signed and float32, exp_avg_sq in float8_unsigned, stochastic and float32)"
    ]
    split = fastopt.torch.Adam([q], master="split")
    split.step()
    assert split.explain().kernels[0].storages == {"params": "split", "exp_avg": "float32", "exp_avg_sq": "float32"}
    rounded = fastopt.torch.SGD([q], rounding="stochastic")
    rounded.step()
    assert rounded.explain().kernels[0].storages == {"params": "bfloat16, stochastic"}


def test_options_may_change_between_steps():
    """What states hold is converted; a master is made of the parameters."""
    p = torch.nn.Parameter(torch.randn(6, 5, 40, 10).to(torch.bfloat16, memory_format=torch.channels_last))
    p.grad = torch.randn(p.shape).to(torch.bfloat16, memory_format=torch.channels_last)
    optimizer = fastopt.torch.Adam([p], lr=0.0, betas=(1.0 - 2.0**-20, 0.5))
    optimizer.step()
    optimizer.state[p]["exp_avg"].copy_(torch.randn(p.shape))
    expected = optimizer.state[p]["exp_avg"].float()
    for options, dtype in (
        ({"state_dtype": "8bit"}, torch.uint8),
        ({"state_dtype": None, "master": "split"}, torch.float32),
        ({"state_dtype": {"exp_avg": "float16"}, "master": "float32"}, torch.float16),
        ({"state_dtype": {"exp_avg": "8bit"}}, torch.uint8),
        ({"state_dtype": None, "master": None}, torch.bfloat16),
    ):
        optimizer.param_groups[0].update(options)
        optimizer.step()
        state = optimizer.state[p]["exp_avg"]
        assert state.dtype == dtype and state.stride() == p.stride()
        if dtype != torch.uint8:
            torch.testing.assert_close(state.float(), expected, rtol=0.1, atol=0.02)


def test_states_in_8_bits_follow_another_order_of_memory():
    """Their scales are of blocks of memory: they cannot just be copied by place."""
    magnitudes = torch.logspace(-3, 3, 5000).reshape(5, 20, 10, 5)
    p, q = torch.nn.Parameter(torch.zeros(magnitudes.shape)), torch.nn.Parameter(torch.zeros(magnitudes.shape))
    q.data = q.data.to(memory_format=torch.channels_last)
    optimizers = [fastopt.torch.SGD([each], lr=1.0, momentum=0.5, state_dtype="8bit") for each in (p, q)]
    p.grad, q.grad = magnitudes, torch.zeros_like(magnitudes)
    optimizers[0].step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    optimizers[1].step()  # by half of the gradient before
    torch.testing.assert_close(q.detach(), -magnitudes / 2, rtol=0.1, atol=0)


WRONG = [
    ({"master": "bfloat16"}, torch.bfloat16, "AdamW: master must be None, 'float32' or 'split'"),
    ({"master": True}, torch.float32, "AdamW: master must be None, 'float32' or 'split'"),
    ({"master": "split"}, torch.float16, "AdamW: master must be None or 'float32' for parameters of float16"),
    ({"state_dtype": "float8"}, torch.bfloat16, "AdamW: state_dtype must be"),
    ({"state_dtype": torch.bfloat16}, torch.bfloat16, "AdamW: state_dtype must be"),
    ({"state_dtype": {"momentum": "8bit"}}, torch.bfloat16, "AdamW: state_dtype: the rules keep no state 'momentum'"),
    ({"rounding": "up"}, torch.bfloat16, "AdamW: rounding must be"),
    ({"seed": -1}, torch.bfloat16, "AdamW: seed must be"),
    ({"seed": 1.5}, torch.bfloat16, "AdamW: seed must be"),
    ({"lookahead": 6}, torch.float32, "AdamW: lookahead must be (steps, alpha), as (6, 0.5) is, not 6"),
    ({"lookahead": (6, 0.0)}, torch.float32, "AdamW: lookahead[1] must be"),
]


def test_a_step_that_is_refused_leaves_states_as_they_were():
    """It would have stored those that are there in fewer bits, and made those that are not."""
    optimizers = []
    for _ in range(2):
        p, q = (torch.nn.Parameter(torch.ones(8)) for _ in range(2))
        optimizer = fastopt.torch.AdamW([p, q], lr=0.1)
        p.grad = torch.full((8,), 1 / 3)
        optimizer.step()
        q.grad = p.grad
        optimizers.append(optimizer)
    ours, group = optimizers[0], optimizers[0].param_groups[0]
    before = {p: dict(entry) for p, entry in ours.state.items()}
    group |= {"state_dtype": "bfloat16", "lr": 1e300}
    for _ in range(2):
        with pytest.raises(ValueError, match="too large for float32"):
            ours.step()
        assert ours.state.keys() == before.keys()
        for p, entry in before.items():
            assert all(map(operator.is_, ours.state[p].values(), entry.values()))
    group |= {"state_dtype": None, "lr": 0.1}
    for optimizer in optimizers:
        optimizer.step()
    assert_same_bits(*optimizers)


@pytest.mark.parametrize(("options", "dtype", "message"), WRONG, ids=[str(options) for options, *_ in WRONG])
def test_wrong_options_are_refused(options, dtype, message):
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        fastopt.torch.AdamW([p], **options)
    optimizer = fastopt.torch.AdamW([torch.nn.Parameter(torch.ones(3))])
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        optimizer.add_param_group({"params": [p], **options})
    assert len(optimizer.param_groups) == 1


def test_what_torch_would_step_has_no_master():
    p = torch.nn.Parameter(torch.randn(4, 6, dtype=torch.bfloat16)[:, ::2])
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"is not dense in memory, and torch\.optim\.AdamW has none of master"):
        fastopt.torch.AdamW([p], master="split").step()


def test_hooks_see_what_is_loaded_and_may_replace_it():
    ours = one("AdamW", {}, {"master": "float32"})
    train(ours, 0, 1)
    again, seen = one("AdamW", {}, {}), []

    def doubled(optimizer, saved):
        entry = saved["state"][0]
        return {**saved, "state": {0: {**entry, "master": 2 * entry["master"]}}}

    again.register_load_state_dict_pre_hook(doubled)
    again.register_load_state_dict_post_hook(lambda optimizer: seen.extend(optimizer.state.values()))
    again.load_state_dict(ours.state_dict())
    (entry,) = again.state.values()
    assert torch.equal(entry["master"], 2 * ours.state[parameters(ours)[0]]["master"])
    assert seen[0]["master"].dtype == torch.float32


def test_a_state_in_8_bits_without_its_scales_is_refused():
    optimizer = one("AdamW", {}, {"state_dtype": "8bit"})
    train(optimizer, 0, 1)
    (p,) = parameters(optimizer)
    optimizer.state[p]["exp_avg_scales"] = torch.ones(3)
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match=r"params'\]\[0\] has a state 'exp_avg' in 8 bits without 20 exp_avg_scales"):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("options", FORMATS, ids=format_ids)
def test_states_move_into_shared_memory(options):
    optimizer = one("AdamW", {}, options)
    train(optimizer, 0, 1)
    optimizer.share_memory()
    (entry,) = optimizer.state.values()
    assert all(value.is_shared() == (name != "step") for name, value in entry.items())
    train(optimizer, 1, 2)
