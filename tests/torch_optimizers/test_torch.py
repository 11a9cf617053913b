"""Against torch.optim, where torch is installed: the same names and defaults, and the same numbers after 100 steps.

``DEVIATIONS`` lists where the two differ on purpose; what is not in it must agree.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import ELEMENTWISE, cases, outside, short, within

import fastopt
from fastopt.declared import Flag
from fastopt.rule import Rule

torch = pytest.importorskip("torch")

STEPS = 100
SIZE = 301

#: The largest difference after 100 steps, of parameters and of states, in ulp of the largest value that an element has
#: had. Both sides round; torch's NAdam keeps a product of momenta in the default dtype, too.
ULP = {
    "SGD": 16,
    "Momentum": 16,
    "Nesterov": 16,
    "Adagrad": 16,
    "Adadelta": 32,
    "RMSprop": 32,
    "Adam": 16,
    "AMSGrad": 16,
    "AdamW": 16,
    "Adamax": 16,
    "NAdam": 64,
    "RAdam": 16,
    "SparseAdam": 32,
    "ASGD": 16,
    "Rprop": 0,
}

#: Fields that torch lacks, or for which it takes values that fastopt refuses, with the reason.
DEVIATIONS = {
    "SGD.decoupled_weight_decay": "torch has no decoupled weight decay for SGD",
    "SGD.dampening": "outside [0, 1] it turns the gradient round or multiplies it: torch does not look",
    "RMSprop.alpha": "above 1 the average grows without bound: torch does not look",
    "ASGD.lambd": "a negative decay grows the parameters: torch does not look",
    "ASGD.alpha": "a negative power lets the step size grow: torch does not look",
    "ASGD.t0": "the average cannot start before the first step: torch does not look",
    "Rprop.step_sizes": "step sizes below zero turn the step round: torch does not look",
    **{f"{name}.cautious": "torch has no cautious steps" for name in ("Adam", "AdamW", "NAdam", "SGD")},
}
#: Fields for which torch refuses zero, which is a step that moves nothing, or what Adam divides by in all others.
STRICTER = {"SparseAdam.lr", "SparseAdam.eps"}
#: The one whose gradients are sparse in torch.
SPARSE = "SparseAdam"
#: A changed learning rate reaches torch's ASGD one step late. Rprop takes NaN for a gradient of zero.
LATE, DEAF = "ASGD", "Rprop"

#: The rules that torch has, with the names that it gives them.
NAMES = {"Momentum": "SGD", "Nesterov": "SGD", "AMSGrad": "Adam"}
NAMES |= {name: name for name in ELEMENTWISE if hasattr(torch.optim, name)}
by_rule = pytest.mark.parametrize("name", NAMES)

#: Arguments of torch's that choose how it computes, not what; and states that count steps or hold coefficients.
ENGINE = {"params", "foreach", "fused", "capturable", "differentiable"}
COUNTERS = {"step", "eta", "mu", "mu_product"}


@pytest.fixture(autouse=True)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    """Has torch keep the coefficients that are tensors in the dtype of the parameters."""
    before = torch.get_default_dtype()
    if "dtype" in request.fixturenames:
        torch.set_default_dtype(getattr(torch, request.getfixturevalue("dtype")))
    yield
    torch.set_default_dtype(before)


def parameters(name: str) -> dict[str, Any]:
    """What torch's optimizer takes that concerns the rule, with the defaults."""
    signature = inspect.signature(getattr(torch.optim, NAMES[name]))
    return {key: value.default for key, value in signature.parameters.items() if key not in ENGINE}


def theirs(rule: Rule, parameter: Any) -> Any:
    """Torch's optimizer of the rule's hyperparameters for one tensor."""
    name = type(rule).__name__
    options = {key: getattr(rule, key) for key in parameters(name)}
    return getattr(torch.optim, NAMES[name])([parameter], **options | {"lr": rule.rate(1)})


def gradient(rule: Rule, values: np.ndarray) -> torch.Tensor:
    """What torch's optimizer takes for a gradient: of a sparse one every element is there."""
    tensor = torch.tensor(values)
    if type(rule).__name__ != SPARSE:
        return tensor
    return torch.sparse_coo_tensor(torch.arange(len(values))[None], tensor, tensor.shape, check_invariants=True)


def comparable(rule: Rule) -> bool:
    name = type(rule).__name__
    if name not in NAMES or (NAMES[name] == "SGD" and rule.decoupled_weight_decay):
        return False
    return not (name == LATE and callable(rule.lr)) and not getattr(rule, "cautious", False)  # which torch has not


COMPARABLE = [rule for rule in cases() if comparable(rule)]


def test_every_rule_that_torch_has_is_compared():
    assert {name for name in ELEMENTWISE if hasattr(torch.optim, name)} <= {*NAMES} <= {*ELEMENTWISE}
    assert {*ULP} == {*NAMES}


@by_rule
def test_names_and_defaults(name):
    rule = fastopt.RULES[name]
    own = {"Momentum": {"momentum"}, "Nesterov": {"momentum"}}.get(name, set())  # what the name stands for
    for key, default in parameters(name).items():
        assert hasattr(rule(), key), f"{name} lacks {key}"
        if key in rule.fields and key not in own:
            assert rule.fields[key].default == default, key


#: Gradients: their scale, how far they lean to one side, and how many are zero. A third of the elements has each kind.
KINDS = [(1.0, 0.0, 0.0), (0.01, 0.3, 0.1), (100.0, 1.0, 0.5)]


@pytest.mark.parametrize("rule", COMPARABLE, ids=short)
def test_the_same_numbers(rule, dtype, backends):
    bound = ULP[type(rule).__name__]
    kind = np.arange(SIZE) * len(KINDS) // SIZE
    scale, mean, zeros = np.array(KINDS)[kind].T
    rng = np.random.default_rng(0)
    p = rng.standard_normal(SIZE).astype(dtype)
    drift = mean * rng.standard_normal(SIZE)
    q = torch.tensor(p, requires_grad=True)
    other = theirs(rule, q)
    ours = [fastopt.Optimizer(p.copy(), rule, backend=backend, threads=1) for backend in backends]
    largest = {name: np.zeros(SIZE, dtype) for name in ("params", *rule.states)}
    error = {name: np.zeros(SIZE, dtype) for name in largest}
    for step in range(1, STEPS + 1):
        grads = (scale * (rng.standard_normal(SIZE) + drift) * (rng.random(SIZE) >= zeros)).astype(dtype)
        other.param_groups[0]["lr"] = rule.rate(step)
        q.grad = gradient(rule, grads)
        other.step()
        for optimizer in ours:
            optimizer.step(grads)
        state = {name: tensor for name, tensor in other.state[q].items() if name not in COUNTERS}
        assert {*state} - {*rule.states} == set()
        for name in largest:
            value = (q if name == "params" else state[name]).detach().numpy()
            largest[name] = np.maximum(largest[name], abs(value))
            for optimizer in ours:
                computed = optimizer.flat if name == "params" else optimizer.state[name].flat
                error[name] = np.maximum(error[name], abs(computed - value))
    for name in largest:
        ulps = error[name] / np.spacing(largest[name])
        for number, (scale, _, _) in enumerate(KINDS):
            worst = ulps[kind == number].max()
            assert worst <= bound, f"{name} differs by {worst:.1f} ulp for gradients around {scale}"


@pytest.mark.parametrize("rule", COMPARABLE, ids=short)
def test_the_same_states(rule):
    q = torch.ones(3, requires_grad=True)
    other = theirs(rule, q)
    q.grad = gradient(rule, np.ones(3, np.float32))
    other.step()
    assert {name for name in other.state[q] if name not in COUNTERS} == {*rule.states}
    optimizer = fastopt.Optimizer(np.ones(3, np.float32), rule)
    assert {*optimizer.state} == {*rule.states}


@pytest.mark.parametrize("rule", COMPARABLE, ids=short)
def test_nan_goes_to_the_same_places(rule, dtype, backend):
    rng = np.random.default_rng(9)
    p = rng.standard_normal(SIZE).astype(dtype)
    q = torch.tensor(p, requires_grad=True)
    other = theirs(rule, q)
    optimizer = fastopt.Optimizer(p, rule, backend=backend, threads=1)
    for step in (1, 2, 3):
        grads = rng.standard_normal(SIZE).astype(dtype)
        grads[rng.random(SIZE) < 0.2 * (step == 2)] = np.nan
        other.param_groups[0]["lr"] = rule.rate(step)
        q.grad = gradient(rule, grads)
        other.step()
        optimizer.step(grads)
        np.testing.assert_array_equal(np.isnan(p), torch.isnan(q).numpy())
    assert (type(rule).__name__ == DEAF) == (not np.isnan(p).any())
    assert np.isnan(p).sum() < SIZE / 2


@by_rule
def test_what_fastopt_takes_torch_takes(name):
    for key, field in fastopt.RULES[name].fields.items():
        for value in within(field.domain):
            if callable(value) or key not in parameters(name) or (f"{name}.{key}" in STRICTER and value == 0):
                continue
            try:
                rule = fastopt.RULES[name](**{key: value})
            except ValueError:
                continue
            theirs(rule, torch.ones(1, dtype=torch.float64, requires_grad=True))


@by_rule
def test_what_torch_refuses_fastopt_refuses(name):
    """And what torch takes though fastopt refuses it is a deviation, or no finite number at all."""
    rule = fastopt.RULES[name]
    accepted = set()
    for key, field in rule.fields.items():
        if key not in parameters(name) or isinstance(field.domain, Flag):  # torch takes anything for a flag
            continue
        for value in outside(field.domain):
            with pytest.raises((TypeError, ValueError)):
                rule(**{key: value})
            numbers, count = (value, 2) if isinstance(value, tuple) else ((value,), 1)
            if len(numbers) != count or not all(type(number) is float and np.isfinite(number) for number in numbers):
                continue
            options = {other: getattr(rule(), other) for other in parameters(name)} | {key: value}
            try:
                getattr(torch.optim, NAMES[name])([torch.ones(1, requires_grad=True)], **options)
            except (TypeError, ValueError, RuntimeError):
                continue
            accepted.add(f"{NAMES[name]}.{key}")
    lacking = {f"{NAMES[name]}.{key}" for key in rule.fields if key not in parameters(name)}
    assert accepted | lacking <= {*DEVIATIONS}
    if name == NAMES[name]:
        assert accepted | lacking == {each for each in DEVIATIONS if each.startswith(f"{name}.")}


@pytest.mark.parametrize("changes", [{"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_both_refuse_nesterov_without_momentum(changes):
    with pytest.raises(ValueError, match="Nesterov momentum requires"):
        torch.optim.SGD([torch.ones(1)], nesterov=True, **changes)
    with pytest.raises(ValueError, match="nesterov needs momentum"):
        fastopt.SGD(nesterov=True, **changes)


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e6])
def test_clipping_is_that_of_clip_grad_norm(max_norm, dtype, backend):
    rng = np.random.default_rng(10)
    p, grads = np.zeros(SIZE, dtype), rng.standard_normal(SIZE).astype(dtype)
    q = torch.zeros(SIZE, requires_grad=True)
    q.grad = torch.tensor(grads)
    norm = torch.nn.utils.clip_grad_norm_([q], max_norm).item()
    torch.optim.SGD([q], lr=1.0).step()
    report = fastopt.Optimizer(p, fastopt.SGD(lr=1.0), backend=backend).step(grads, max_norm=max_norm)
    eps = float(np.finfo(dtype).eps)
    assert report.grad_norm == pytest.approx(norm, rel=8 * eps)
    np.testing.assert_allclose(p, q.detach().numpy(), rtol=8 * eps, atol=0)
