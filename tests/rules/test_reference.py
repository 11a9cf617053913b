"""The kernels against the paper: 100 steps beside each rule's reference, which computes with a wider type.

Errors are in ulp of the largest magnitude that an element has had, so that a parameter that passes zero does not turn a
small error into a large one. Each rule states its bound for parameters as ``Rule.ulp``; the largest errors come from
coefficients that float32 rounds in the same direction at every step, such as 1 - lr * weight_decay. ``pytest -rP``
prints what was measured.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from cases import ELEMENTWISE, about, by_kind, cases, short
from conftest import BACKENDS

import fastopt
from fastopt.rule import Rule

pytestmark = pytest.mark.compiled

STEPS = 100
SIZE = 301
BACKEND = BACKENDS[-1]  # the other one has the same bits
WIDER = {"float32": np.float64, "float64": np.longdouble}

#: How gradients look: their magnitude, their mean in standard deviations, and the share of zeros.
GRADIENTS = [(1.0, 0.0, 0.0), (0.01, 0.3, 0.0), (0.1, 3.0, 0.1), (100.0, 1.0, 0.5)]
SCALES, MEANS, ZEROS = (np.array(column)[:, None] for column in zip(*GRADIENTS, strict=True))


def descend(rule: Rule, dtype: str) -> Iterator[tuple]:
    """Yields ``(gradients, buffer, error)``: the largest error in ulp of the parameters and of each state.

    Each kind of gradient has parameters of its own, all of the same values, and all go at once. Running numbers that
    follow from sums are the optimizer's in every step, and grow slowly: these gradients lead nowhere, and they would
    estimate how far it is to there.
    """
    rule = rule.replace(d0=1e-3, growth_rate=1.05) if rule.totals else rule
    wider = WIDER[dtype]
    rng = np.random.default_rng(2015)
    params = np.tile(rng.standard_normal(SIZE).astype(dtype), len(GRADIENTS))
    drift = MEANS * rng.standard_normal(SIZE)
    exact = {"params": params.astype(wider)} | rule.remembered(params.shape, wider)
    optimizer = fastopt.Optimizer(params, rule, backend=BACKEND, threads=1)
    buffers = {"params": params} | {name: state.flat for name, state in optimizer.state.items()}
    largest = {name: abs(exact[name]) for name in buffers}
    error = {name: np.zeros(params.size, wider) for name in buffers}
    for step in range(1, STEPS + 1):
        grads = SCALES * (rng.standard_normal(SIZE) + drift) * (rng.random(SIZE) >= ZEROS)
        grads = grads.astype(dtype).reshape(-1)
        if rule.totals:  # in what follows from sums, rounding errors grow from step to step
            numbers = optimizer.groups["*"].scalars
            exact |= {name: wider(number) for name, number in numbers.items()}
        p, state = rule.reference(step, exact.pop("params"), grads.astype(wider), **exact)
        exact = {"params": p} | state
        optimizer.step(grads)
        for name, buffer in buffers.items():
            np.maximum(largest[name], abs(exact[name]), out=largest[name])
            np.maximum(error[name], abs(buffer - exact[name]), out=error[name])
    for name, value in error.items():
        ulps = value / np.spacing(largest[name].astype(dtype)).astype(wider)
        for gradient, ulp in zip(GRADIENTS, ulps.reshape(len(GRADIENTS), SIZE).max(axis=1).tolist(), strict=True):
            yield gradient, name, float(ulp)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_form_of_a_rule_stays_within_its_ulp(name, dtype):
    if dtype == "float64" and np.finfo(np.longdouble).eps == np.finfo(np.float64).eps:
        pytest.skip("this platform has no type wider than float64")
    worst = {"params": (0.0, ""), "states": (0.0, "")}
    kind = fastopt.RULES[name]
    # in float64 the arithmetic is the same, and the wider type is slow
    for rule in (rule for rule in cases() if type(rule) is kind) if dtype == "float32" else kind.forms():
        for gradient, buffer, error in descend(rule, dtype):
            where = f"{short(rule)}: {buffer} with gradients {gradient}"
            limit = rule.ulp if buffer == "params" else max(rule.ulp, rule.state_ulp)
            assert error <= limit, f"{where}: {error:.1f} ulp"
            part = "params" if buffer == "params" else "states"
            worst[part] = max(worst[part], (error, where))
    bound = kind.ulp
    print(f"{name} {dtype}: parameters {worst['params'][0]:.1f} of {bound} ulp, states {worst['states'][0]:.1f} ulp")
    if dtype == "float32":
        assert worst["params"][0] > bound / 4, f"{name}: ulp = {bound} is idle, the worst was {worst['params']}"


@by_kind(cases())
def test_a_reference_keeps_the_states_that_the_rule_declares(rules):
    for rule in rules:
        with about(rule):
            a_reference_keeps_the_states(rule)


def a_reference_keeps_the_states(rule: Rule) -> None:
    states = rule.remembered((3,))
    before = {name: value.copy() for name, value in states.items()}
    p, g = np.array([0.5, -2.0, 0.0]), np.array([1.0, 0.25, -3.0])
    moved, after = rule.reference(1, p, g, **states)
    assert list(after) == list(states)
    assert moved.shape == p.shape and all(np.shape(after[name]) == value.shape for name, value in states.items())
    assert p.tolist() == [0.5, -2.0, 0.0] and g.tolist() == [1.0, 0.25, -3.0]
    assert all(np.array_equal(states[name], before[name]) for name in states)
