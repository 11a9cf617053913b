"""The numbers that torch.optim keeps for each parameter beside its states, and what they do to the coefficients."""

import math
import struct
from collections.abc import Callable, Sequence

import numpy as np

from fastopt.rule import Rule
from fastopt.rules.asgd import ASGD
from fastopt.rules.nadam import NAdam
from fastopt.rules.sgd import SGD

_FLOAT32 = struct.Struct("=f")


def first_scalars(rule: Rule) -> dict[str, float]:
    """The first values of the 0-d tensors that torch.optim keeps for each parameter, by name; ``step`` comes first."""
    if isinstance(rule, NAdam):
        return {"step": 0.0, "mu_product": 1.0}
    if isinstance(rule, ASGD):
        return {"step": 0.0, "eta": rule.rate(1), "mu": 1.0}
    return {"step": 0.0}


def saves_step(rule: Rule) -> bool:
    """Whether state dicts hold the step. torch.optim.SGD's do not: a parameter without buffer makes its first step."""
    return not isinstance(rule, SGD)


def advance(
    rule: Rule, scalars: Sequence[float], dtypes: Sequence[np.dtype], default: Callable[[], np.dtype]
) -> tuple[dict[str, float], list[float]]:
    """The coefficients of the step that follows these scalars, and the scalars after it.

    NAdam's product of momenta and ASGD's step size are running values in torch.optim, so that a schedule that changes
    betas or the learning rate on the way has there another effect than in the closed formulas of the rules. They are
    rounded as torch rounds them: to their own dtypes, ASGD's to torch's default dtype before, which ``default`` gives.
    """
    step = int(scalars[0]) + 1
    if isinstance(rule, NAdam):
        product = rounded(scalars[1] * rounded(rule.momentum_of(step), dtypes[1]), dtypes[1])
        return rule.coefficients_with(step, product), [step, product]
    if isinstance(rule, ASGD):
        _, eta, mu = scalars
        lr, first = rule.rate(step), default()
        following = lr / (1 + rule.lambd * lr * step) ** rule.alpha, 1 / max(1.0, step - rule.t0)
        numbers = [rounded(rounded(each, first), dtype) for each, dtype in zip(following, dtypes[1:], strict=True)]
        return rule.coefficients_with(eta, mu), [step, *numbers]
    return rule.coefficients(step), [step]


def rounded(value: float, dtype: np.dtype) -> float:
    """The number of float32 or float64 that is nearest to a value, whatever NumPy does about under- and overflow."""
    if dtype.itemsize == 8:
        return value
    try:
        return _FLOAT32.unpack(_FLOAT32.pack(value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
