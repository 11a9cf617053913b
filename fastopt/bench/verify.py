"""Whether an engine makes the same step: its parameters next to those of the rule's formula in float64."""

from collections.abc import Callable

import numpy as np

from fastopt.bench.peers import Bound
from fastopt.buffers import aligned_empty
from fastopt.rule import Rule

SIZE, STEPS = 4099, 5

#: The largest error that counts as rounding, in ulp of the largest value that the parameter has had. Some libraries
#: compute bias corrections in float32; an ``eps`` in another place, as the test shows, differs by far more.
ULP = 512


def difference(make: Callable[[np.ndarray, np.ndarray], Bound | None], rule: Rule, dtype: str) -> float | None:
    """The largest difference after a few steps, in ulp of the largest value that the parameter has had.

    The gradients span six orders of magnitude, so that an ``eps`` in another place is found. None if the maker gives
    None; infinite if a value is not finite.
    """
    generator = np.random.default_rng(0)
    first, gradient = (aligned_empty(SIZE, np.dtype(dtype)) for _ in range(2))
    first[:] = generator.standard_normal(SIZE)
    gradient[:] = generator.choice([-1.0, 1.0], SIZE) * 10.0 ** generator.uniform(-6, 0, SIZE)
    expected, wide_gradient = first.astype(np.float64), gradient.astype(np.float64)
    bound = make(first, gradient)
    if bound is None:
        return None
    largest = np.abs(expected)
    state = {name: np.full(SIZE, value) for name, value in rule.states.items()}
    for step in range(1, STEPS + 1):
        expected, state = rule.reference(step, expected, wide_gradient, **state)
        largest = np.maximum(largest, np.abs(expected))
        bound.step()
    error = np.abs(bound.params().astype(np.float64) - expected) / np.spacing(largest.astype(dtype)).astype(np.float64)
    return float(error.max()) if np.isfinite(error).all() else float("inf")
