"""Stages: what is computed of whole matrices before a kernel runs, in NumPy, for both backends.

A stage has the shape of ``Rule.reference``: a pure function ``(rule, step, p, g, **states)`` to ``(direction, states
after)``. The gradient ``g`` has been scaled, and is that of what is minimized; the kernel takes the direction in its
place. Arrays are of the dtype in which kernels compute. Products of matrices are those of NumPy's BLAS, whose bits
depend on its build and its threads: what is promised is a tolerance, and not bits.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fastopt.matrices.adafactor import adafactor
from fastopt.matrices.muon import muon
from fastopt.matrices.rowwiseadagrad import rowwiseadagrad
from fastopt.matrices.soap import soap

Stage = Callable[..., tuple[np.ndarray, dict[str, np.ndarray]]]

#: The stages by name, read-only.
STAGES: Mapping[str, Stage] = MappingProxyType(
    {each.__name__: each for each in (adafactor, muon, rowwiseadagrad, soap)}
)


def find(stage: str | Stage) -> Stage:
    """The stage of a rule, which gives its name, or a function of one's own."""
    return STAGES[stage] if isinstance(stage, str) else stage


def staged(
    stage: str | Stage, rule: Any, step: int, p: np.ndarray, g: np.ndarray, states: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The direction and the states after a step. Infinities and NaN go the way that they go in kernels: on.

    Of a parameter without elements there is nothing to compute.
    """
    if not g.size:
        return g, dict(states)
    with np.errstate(all="ignore"):
        return find(stage)(rule, step, p, g, **states)
