"""What the tests of ``fastopt.torch`` compare: optimizers in every form, trained on gradients that can be repeated."""

import numpy as np
import torch
from cases import ELEMENTWISE

#: The one that takes no dense gradients in torch.
SPARSE = "SparseAdam"

#: The other rules that torch.optim has, too.
SHARED = sorted(name for name in ELEMENTWISE if hasattr(torch.optim, name) and name != SPARSE)

#: Arguments besides the defaults: every flag that changes what is kept; and a limit where random gradients, which lead
#: nowhere, would make steps larger and larger.
VARIANTS = [(name, {"growth_rate": 1.05} if rule.totals else {}) for name, rule in ELEMENTWISE.items()] + [
    ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"amsgrad": True, "maximize": True}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("ASGD", {"t0": 2, "lambd": 0.1}),
    ("NAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
]
IN_TORCH = [(name, arguments) for name, arguments in VARIANTS if name in SHARED]
NARROW = [torch.bfloat16, torch.float16]
SHAPES = [(7, 3), (5,), (), (4, 0), (3001,)]


def ids(values):
    return [f"{name}-{'-'.join(arguments)}" for name, arguments in values]


def make(made, arguments, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(shape, dtype=dtype, generator=generator)) for shape in SHAPES]
    half = len(params) // 2
    return made([{"params": params[:half]}, {"params": params[half:], "lr": 0.02}], **arguments)


def parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def train(optimizer, first, last):
    """Steps with random gradients that depend on the step; the second parameter has one in even steps only."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for number, p in enumerate(parameters(optimizer)):
            gradient = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            p.grad = None if number == 1 and step % 2 else gradient
        optimizer.step()


def assert_near(a, b, ulps=64):
    """All values of two optimizers are equal to within some ulp of the largest one of the tensor.

    Dtypes may differ: torch's ``load_state_dict`` makes ``mu_product``, ``eta`` and ``mu`` of the parameter's dtype.
    """
    for p, q in zip(parameters(a), parameters(b), strict=True):
        for x, y in [(p, q), *((a.state[p][key], b.state[q][key]) for key in b.state.get(q, {}))]:
            x, y = torch.as_tensor(x), torch.as_tensor(y)
            y = y.to(torch.float32) if x.dtype == torch.float32 else y
            largest = max([1.0, *y.detach().abs().flatten().tolist()])
            torch.testing.assert_close(x, y, rtol=0, atol=ulps * torch.finfo(y.dtype).eps * largest, check_dtype=False)


def assert_same_bits(a, b):
    for p, q in zip(parameters(a), parameters(b), strict=True):
        assert torch.equal(p, q)
        assert a.state.get(p, {}).keys() == b.state.get(q, {}).keys()
        for key, value in a.state.get(p, {}).items():
            assert torch.equal(value, b.state[q][key]), key


def exact(tensor):
    """The numbers of a tensor in float64."""
    return tensor.detach().double().numpy()


def assert_rounded(computed, expected, largest):
    """Numbers are the expected ones, rounded once to their dtype, but for what float32 lacks in them.

    That is some ulp of the largest number that comes in.
    """
    info = torch.finfo(computed.dtype)
    ulp = info.eps * 2.0 ** np.floor(np.log2(np.maximum(np.abs(expected), info.smallest_normal)))
    error = np.abs(exact(computed) - expected)
    wrong = error > 0.5 * ulp + 32 * 2.0**-24 * largest
    assert not wrong.any(), (computed[torch.tensor(wrong)], expected[wrong])
