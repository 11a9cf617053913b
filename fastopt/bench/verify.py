"""Whether an engine makes the same step: its parameters next to those of the rule's formula in float64."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastopt.bench.mix import Mix
from fastopt.bench.peers import Bound
from fastopt.buffers import aligned_empty, check_dtype
from fastopt.rule import Rule

SIZE, STEPS = 4099, 5
BLOCKS = 17 * 256  # the size in 8 bits: some libraries compress whole blocks alone

#: The largest error that counts as rounding, in ulp of the largest value that the parameter has had. Some libraries
#: compute bias corrections in float32; an ``eps`` in another place, as the test shows, differs by far more.
ULP = 512

#: The same for what steps round to 16 bits: each by one ulp at most.
ROUNDED_ULP = 2 * STEPS

#: What compressed states may add, as a share of the way that the parameter has gone.
SHARES = {None: 0.0, "bfloat16": 1 / 64, "float16": 1 / 64, "8bit": 1 / 8}

#: And what step sizes that follow from sums may: differences of parameters that have hardly moved have few digits.
TOTALS = 1 / 64


class Difference(NamedTuple):
    """How far parameters are from the formula after a few steps.

    ``ulp`` is the largest error, in ulp of the largest value that the parameter has had, and ``excess`` the largest
    over what rounding explains: above 1 it is another update. Both are infinite if a value is not finite, or if the
    copy in 16 bits is not one of the parameters.
    """

    ulp: float
    excess: float


def difference(make: Callable[[np.ndarray, np.ndarray], Bound | None], rule: Rule, mix: Mix) -> Difference | None:
    """The difference after a few steps, or None if the maker gives None.

    The gradients span six orders of magnitude, so that an ``eps`` in another place is found; one, where states are
    compressed. What is rounded to 16 bits starts small enough for the steps to be seen.
    """
    generator = np.random.default_rng(0)
    size = BLOCKS if mix.state_dtype == "8bit" else SIZE
    first = aligned_empty(size, check_dtype("dtype", mix.dtype))
    gradient = aligned_empty(size, check_dtype("grad_dtype", mix.grad_dtype))
    first[:] = generator.standard_normal(size) / (64 if mix.rounds else 1)
    span = 6 if mix.state_dtype is None else 1
    gradient[:] = generator.choice([-1.0, 1.0], size) * 10.0 ** generator.uniform(-span, 0, size)
    expected, wide_gradient = first.astype(np.float64), _prepared(gradient, mix)
    bound = make(first, gradient)
    if bound is None:
        return None
    largest, way = np.abs(expected), np.zeros(size)
    state = rule.remembered((size,))
    for step in range(1, STEPS + 1):
        before = expected
        expected, state = rule.reference(step, expected, wide_gradient, **state)
        largest, way = np.maximum(largest, np.abs(expected)), way + np.abs(expected - before)
        bound.step()
    found = bound.params().astype(np.float64)
    if not np.isfinite(found).all() or not _is_copied(bound, found, mix):
        return Difference(float("inf"), float("inf"))
    error, ulp = np.abs(found - expected), _spacing(largest, mix.exact)
    share = max(SHARES[mix.state_dtype], TOTALS if rule.totals else 0.0)
    allowed = ulp * (ROUNDED_ULP if mix.rounds else ULP) + share * way
    return Difference(float((error / ulp).max()), float((error / allowed).max()))


def _prepared(gradient: np.ndarray, mix: Mix) -> np.ndarray:
    """The gradient, unscaled and clipped, in float64."""
    wide = mix.grad_scale * gradient.astype(np.float64)
    if mix.max_norm is not None:
        wide *= min(1.0, mix.max_norm / (float(np.linalg.norm(wide)) + 1e-6))
    return wide


def _is_copied(bound: Bound, params: np.ndarray, mix: Mix) -> bool:
    if mix.low is None:
        return True
    return bool((np.abs(bound.copy().astype(np.float64) - params) <= _spacing(np.abs(params), mix.low)).all())


def _spacing(magnitudes: np.ndarray, dtype: str) -> np.ndarray:
    """An ulp of each number, in float64."""
    digits, least = {"float64": (52, -1022), "float32": (23, -126), "float16": (10, -14), "bfloat16": (7, -126)}[dtype]
    return np.ldexp(1.0, np.maximum(np.frexp(magnitudes)[1] - 1, least) - digits)
