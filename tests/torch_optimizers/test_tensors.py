"""Every kind of tensor: stepped by kernels, by torch's own optimizer where they cannot, or refused by name."""

import re
from pathlib import Path

import pytest
import torch
from variants import IN_TORCH, assert_near, ids

import fastopt.torch

#: The classes of torch.optim that have fused code for the CPU.
FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}


def parameter(*shape, **options):
    return torch.nn.Parameter(torch.randn(*shape, **options))


def pair(name, arguments, tensors):
    """The same parameters in our optimizer and in torch's, with the memory layout of the originals."""
    theirs = [torch.nn.Parameter(torch.empty_like(tensor).copy_(tensor.detach())) for tensor in tensors]
    return (
        getattr(fastopt.torch, name)(tensors, **arguments),
        getattr(torch.optim, name)(theirs, **arguments),
        list(zip(tensors, theirs, strict=True)),
    )


def step_alike(ours, theirs, both):
    """A step of both optimizers by the same random gradients."""
    for p, q in both:
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    ours.step()
    theirs.step()


def uses_kernels(optimizer):
    explained = optimizer.explain()
    return bool(explained.kernels) and not explained.torch


@pytest.mark.parametrize(("name", "arguments"), IN_TORCH, ids=ids(IN_TORCH))
def test_permuted_memory_is_stepped_in_place(name, arguments):
    torch.manual_seed(0)
    tensors = [
        torch.nn.Parameter(torch.randn(3, 4, 5, 2).to(memory_format=torch.channels_last)),
        torch.nn.Parameter(torch.randn(4, 6).t()),
        parameter(2, 1, 3),
    ]
    ours, theirs, both = pair(name, arguments, tensors)
    addresses = [p.data_ptr() for p in tensors]
    for step in range(4):
        for p, q in both:
            gradient = torch.randn(p.shape)  # contiguous: another order than the parameter's
            q.grad = gradient.clone()
            p.grad = torch.empty_like(p).copy_(gradient) if step % 2 else gradient
        ours.step()
        theirs.step()
    assert uses_kernels(ours)
    assert_near(ours, theirs)
    assert [p.data_ptr() for p in tensors] == addresses
    for p in tensors:
        for state in ours.state[p].values():
            assert state.dim() == 0 or state.stride() == p.stride()


def test_dimensions_of_size_one_may_have_any_stride():
    p, q = parameter(4, 3, 1, 1), parameter(4, 3, 1, 1)
    ours = fastopt.torch.SGD([p, q], lr=1.0)
    before = p.detach().clone()
    for _ in range(2):
        p.grad = torch.ones(4, 3, 1, 1).as_strided((4, 3, 1, 1), (3, 1, 3, 3))
        q.grad = torch.ones(4, 3, 1, 1)
        ours.step()
        assert ours.explain().copied == 0  # it is read where it is
    assert torch.equal(p, before - 1 - 1)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Lion"])
def test_gradients_of_any_strides(name):
    p, q = parameter(4, 6), parameter(4, 6)
    q.data.copy_(p.data)
    optimizers = [getattr(fastopt.torch, name)([each]) for each in (p, q)]
    for gradient in (
        torch.randn(6, 4).t(),
        torch.randn(6).expand(4, 6),
        torch.randn(8, 12)[::2, ::2],
        torch.randn(4, 6),
    ):
        p.grad, q.grad = gradient, gradient.contiguous()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(p, q)


def odd_parameters():
    """Parameters that kernels cannot step, and why."""
    yield "is not dense", torch.nn.Parameter(torch.randn(4, 6)[:, ::2])
    yield "is not dense", torch.nn.Parameter(torch.randn(4, 6, dtype=torch.bfloat16)[:, ::2])
    yield "has the dtype torch.complex64", parameter(5, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("reason", "odd"), odd_parameters_list := list(odd_parameters()), ids=lambda value: str(value)[:30]
)
@pytest.mark.parametrize(("name", "arguments"), IN_TORCH, ids=ids(IN_TORCH))
def test_torchs_own_optimizer_steps_what_kernels_cannot(name, arguments, reason, odd):
    """Bit for bit, in one optimizer with parameters that kernels do step."""
    torch.manual_seed(0)
    odd = torch.nn.Parameter(odd.detach().clone(memory_format=torch.preserve_format))
    if "dense" in reason:
        odd = torch.nn.Parameter(torch.randn(4, 6, dtype=odd.dtype)[:, ::2])
    plain = parameter(7)
    ours, theirs, both = pair(name, arguments, [plain, odd])
    for _ in range(4):
        step_alike(ours, theirs, both)
    assert [why.startswith(reason) for _, why in ours.explain().torch] == [True]
    p, q = both[1]
    assert torch.equal(p, q)
    assert {key: value.tolist() for key, value in ours.state[p].items()} == {
        key: value.tolist() for key, value in theirs.state[q].items()
    }
    torch.testing.assert_close(*both[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(FUSED))
def test_torchs_fused_code_is_not_asked_to_step_what_it_ignores(name):
    """It does not look at strides."""
    torch.manual_seed(0)
    ours, theirs, both = pair(name, {}, [torch.nn.Parameter(torch.randn(4, 6, dtype=torch.bfloat16)[:, ::2])])
    ours.param_groups[0]["fused"] = True
    for _ in range(3):
        step_alike(ours, theirs, both)
    assert torch.equal(*both[0])
    assert not uses_kernels(ours)


def test_momentum_of_sixteen_bits_that_begins_late():
    p, q = parameter(4, dtype=torch.bfloat16), parameter(4, dtype=torch.bfloat16)
    optimizer = fastopt.torch.SGD([p, q], lr=0.5, momentum=0.5)
    p.data.zero_()
    q.data.zero_()
    for gradients in ((1.0, None), (None, 1.0), (1.0, 1.0)):
        p.grad, q.grad = (None if each is None else torch.full_like(p, each) for each in gradients)
        optimizer.step()
    assert p.tolist() == q.tolist() == [-0.5 - 0.75] * 4


@pytest.mark.parametrize("name", ["Adam", "SGD", "Lion", "NAdam"])
def test_a_parameter_without_gradient_is_not_looked_at(name):
    """Whatever has become of it: the others are stepped, and it goes on when it is itself again."""
    arguments = {"momentum": 0.9} if name == "SGD" else {}
    results = []
    for oddity in (
        lambda p, q: q,
        lambda p, q: torch.empty(0),
        lambda p, q: q.bfloat16(),
        lambda p, q: torch.randn(6)[::2],
        lambda p, q: p,
    ):
        p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        optimizer = getattr(fastopt.torch, name)([p, q], lr=0.1, **arguments)
        p.grad = q.grad = torch.ones(3)
        optimizer.step()
        q.grad, value = None, q.data
        q.data = oddity(p.data, q.data)
        optimizer.step()
        optimizer.step()
        q.data = value
        q.grad = torch.ones(3)
        optimizer.step()
        results.append([p, q, *(each for param in (p, q) for each in optimizer.state[param].values())])
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0], strict=True))


def test_a_state_of_a_parameter_without_gradient_is_not_looked_at():
    p, q = parameter(3), parameter(3)
    optimizer = fastopt.torch.Adam([p, q])
    p.grad = torch.ones(3)
    optimizer.state[q] = {"nonsense": 1}
    optimizer.step()
    q.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="without 'exp_avg'"):
        optimizer.step()


@pytest.mark.parametrize(("reason", "odd"), odd_parameters_list, ids=lambda value: str(value)[:30])
def test_lion_refuses_what_kernels_cannot_step(reason, odd):
    plain = parameter(3)
    optimizer = fastopt.torch.Lion([("first", plain), ("second", odd)])
    plain.grad, odd.grad = torch.ones(3), torch.ones_like(odd)
    before = plain.detach().clone()
    with pytest.raises(RuntimeError, match=rf"Lion: param_groups\[0\]\['params'\]\[1\] \(second\) {reason}"):
        optimizer.step()
    assert torch.equal(plain, before)
    assert not optimizer.state


def test_a_device_without_memory_here():
    p = torch.nn.Parameter(torch.ones(3, device="meta"))
    p.grad = torch.ones(3, device="meta")
    fastopt.torch.SGD([p]).step()  # as torch's: nothing happens
    with pytest.raises(RuntimeError, match=r"is on the device meta, and torch\.optim has no Lion"):
        fastopt.torch.Lion([p]).step()


@pytest.mark.parametrize(
    ("name", "options"),
    [("Adam", {}), ("Lion", {"lookahead": (1, 0.5)}), ("AdamW", {"state_dtype": "8bit"}), ("ScheduleFreeSGD", {})],
)
def test_states_lie_where_their_parameters_do_whatever_the_default_device(name, options):
    results = []
    for device in ("cpu", "meta"):
        p = torch.nn.Parameter(torch.ones(20_000))
        with torch.device(device):
            optimizer = getattr(fastopt.torch, name)([p], lr=0.1, **options)
            for _ in range(2):
                optimizer.load_state_dict(optimizer.state_dict())
                p.grad = torch.full((20_000,), 0.5, device="cpu")
                optimizer.step()
        assert {value.device.type for value in optimizer.state[p].values()} == {"cpu"}
        assert uses_kernels(optimizer)
        results.append(p)
    assert torch.equal(*results)


def test_parameters_that_share_memory_are_stepped_one_after_the_other():
    whole = torch.randn(12)
    copy = whole.clone()
    results = []
    for memory, made in ((whole, fastopt.torch.SGD), (copy, torch.optim.SGD)):
        parts = [torch.nn.Parameter(memory[:8]), torch.nn.Parameter(memory[4:])]
        optimizer = made(parts, lr=0.5, momentum=0.5, weight_decay=0.1)
        for _ in range(3):
            for part in parts:
                part.grad = torch.ones(8)
            optimizer.step()
        results.append(memory)
    torch.testing.assert_close(*results)
    a, b = (torch.nn.Parameter(whole[part]) for part in (slice(0, 8), slice(4, 12)))
    a.grad = b.grad = torch.ones(8)
    with pytest.raises(RuntimeError, match="shares memory"):
        fastopt.torch.Lion([a, b]).step()


def test_a_parameter_given_twice_is_stepped_twice_as_torch_does():
    p, q = parameter(3), parameter(3)
    q.data.copy_(p.data)
    for each, made in ((p, fastopt.torch.Adam), (q, torch.optim.Adam)):
        with pytest.warns(UserWarning, match="duplicate"):
            optimizer = made([each, each])
        each.grad = torch.ones(3)
        optimizer.step()
        optimizer.step()
        assert optimizer.state[each]["step"] == 4
    torch.testing.assert_close(p, q)


def test_decoupled_decay_is_not_left_to_a_class_that_has_none():
    p = torch.nn.Parameter(torch.randn(4, 6)[:, ::2])
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"torch\.optim\.SGD has no decoupled_weight_decay"):
        fastopt.torch.SGD([p], weight_decay=0.1, decoupled_weight_decay=True).step()


def test_memory_that_moves_between_steps_is_followed():
    torch.manual_seed(0)
    ours, theirs, both = pair("Adam", {}, [parameter(6, 4), parameter(5)])
    moves = [
        lambda p: setattr(p, "data", p.data.clone()),
        lambda p: p.data.share_memory_(),
        lambda p: setattr(p, "data", p.data.double()),
        lambda p: setattr(p, "data", p.data.float()),
        lambda p: None,
    ]
    for move in moves:
        for p, q in both:
            for each in (p, q):
                each.grad = None
            move(p)
            p.grad = torch.randn_like(p)
            q.grad = p.grad.float()
        ours.step()
        theirs.step()
    assert_near(ours, theirs)


def test_a_layout_that_changes_within_its_memory_is_noticed():
    p = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    optimizer = fastopt.torch.SGD([p], lr=1.0)
    p.grad = torch.ones(2, 3)
    optimizer.step()
    p.grad = None
    p.data = p.data.t()
    p.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    expected = p.detach() - p.grad
    optimizer.step()
    assert torch.equal(p, expected)
    p.grad = None
    p.data = p.data[:1]
    p.grad = torch.ones(1, 2)
    expected = p.detach() - 1
    optimizer.step()
    assert torch.equal(p, expected)


def test_float32_and_float64_in_one_optimizer():
    torch.manual_seed(0)
    ours, theirs, both = pair("AdamW", {}, [parameter(5), parameter(5, dtype=torch.float64), parameter(3)])
    for _ in range(3):
        step_alike(ours, theirs, both)
    assert uses_kernels(ours)
    assert_near(ours, theirs)


def test_numba_gives_the_same_bits(monkeypatch):
    pytest.importorskip("numba")
    results = {}
    for backend in ("c", "numba"):
        monkeypatch.setenv("FASTOPT_BACKEND", backend)
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(3, 4, 5, 2).to(memory_format=torch.channels_last))
        q = parameter(70001, dtype=torch.float64)
        optimizer = fastopt.torch.NAdam([p, q])
        for step in range(4):
            p.grad = torch.randn_like(p)
            q.grad = torch.randn_like(q) if step % 2 else None
            optimizer.step()
        assert optimizer.explain().backend == backend
        results[backend] = [p, q, *optimizer.state[p].values(), *optimizer.state[q].values()]
    assert all(torch.equal(x, y) for x, y in zip(results["c"], results["numba"], strict=True))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(500, 601),
        torch.randn(601, 500).t(),
        torch.randn(30, 40, 5, 50).to(memory_format=torch.channels_last),
        torch.randn(300_001, 1, dtype=torch.float64),
        torch.randn(300_007)[3:],
    ],
    ids=["contiguous", "transposed", "channels last", "float64", "unaligned"],
)
@pytest.mark.parametrize(("name", "count"), [("Adam", 2), ("Lion", 1), ("RMSprop", 3)])
def test_large_states_begin_at_other_places_of_a_page(tensor, name, count):
    """Where all buffers begin at one place, every load waits for a store to another buffer."""
    p = torch.nn.Parameter(tensor)
    arguments = {"momentum": 0.9, "centered": True} if name == "RMSprop" else {}
    optimizer = getattr(fastopt.torch, name)([p], **arguments)
    p.grad = torch.randn_like(p)
    optimizer.step()
    assert uses_kernels(optimizer)
    states = [value for value in optimizer.state[p].values() if value.dim()]
    assert len(states) == count
    places = sorted(buffer.data_ptr() % 4096 for buffer in (p, *states))
    assert all(state.data_ptr() % 64 == 0 for state in states)
    apart = [(after - before) % 4096 for before, after in zip(places, places[1:] + places[:1], strict=True)]
    assert min(apart) >= 4096 // (count + 1) - 128
    for state in states:
        assert state.stride() == p.stride()
        assert state.untyped_storage().nbytes() <= state.nbytes + 4096


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="there are no such pages here")
def test_large_states_ask_for_huge_pages():
    p = torch.nn.Parameter(torch.randn(2**21))
    optimizer = fastopt.torch.Adam([p])
    p.grad = torch.randn_like(p)
    optimizer.step()
    mappings = re.findall(r"^(\w+)-(\w+) .*?^VmFlags: ([\w ]+)", Path("/proc/self/smaps").read_text(), re.M | re.S)
    for name in ("exp_avg", "exp_avg_sq"):
        middle = optimizer.state[p][name].data_ptr() + p.nbytes // 2
        (flags,) = (flags for start, stop, flags in mappings if int(start, 16) <= middle < int(stop, 16))
        assert "hg" in flags.split()


def test_version_counters_see_the_step():
    """A step between forward and backward is an error, as with torch's optimizers, and not a wrong gradient."""
    p = parameter(3)
    loss = (p * p * p).sum()
    p.grad = torch.ones(3)
    fastopt.torch.SGD([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_steps_run_is_explained():
    p, q, r = parameter(4, 6), parameter(5, dtype=torch.complex64), parameter(3)
    optimizer = fastopt.torch.NAdam([p, q])
    assert optimizer.explain() == ("", "", (), (), 0, 0, 0)
    p.grad, q.grad = torch.randn(6, 4).t(), torch.randn_like(q)
    optimizer.step()
    explained = optimizer.explain()
    stored = dict.fromkeys(("params", "exp_avg", "exp_avg_sq"), "float32")
    assert explained.kernels == ((0, "nadam", "float32", 1, 24, stored),)
    ((param, reason),) = explained.torch
    assert param == "NAdam: param_groups[0]['params'][1]"
    assert reason == "has the dtype torch.complex64"
    assert (explained.plans, explained.copied) == (1, 1)
    assert str(explained).splitlines()[1:] == [
        "param_groups[0]: nadam (1 parameters, 24 elements of float32)",
        f"torch: {param} {reason}",
    ]
    optimizer.step()  # torch has made a state for its parameter, which the plan has seen
    p.grad = torch.randn(4, 6)
    optimizer.step()
    explained = optimizer.explain()
    assert (explained.plans, explained.copied) == (1, 0)
    optimizer.add_param_group({"params": [r]})
    r.grad = torch.ones(3)
    optimizer.step()
    explained = optimizer.explain()
    assert explained.plans == 2
    assert [(kernel.group, kernel.elements) for kernel in explained.kernels] == [(0, 24), (1, 3)]
