"""The norm of a model's gradient, and what the gradient is multiplied by so that it keeps to a limit."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastopt.declared import real
from fastopt.errors import quoted
from fastopt.torch import memory

_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def check_limit(value: Any) -> float | None:
    """The largest norm that gradients may have, or None. TypeError or ValueError if it is neither."""
    if value is None:
        return None
    number = real("clip_grad_norm", value, "a number > 0 or None")
    if not number > 0:
        raise ValueError(f"clip_grad_norm must be a number > 0 or None, not {quoted(value)}")
    return number


def factor(norm: float, limit: float) -> float:
    """What a gradient of that norm is multiplied by, as by ``torch.nn.utils.clip_grad_norm_``: NaN if the norm is."""
    return limit / (norm + _EPS) if not norm + _EPS <= limit else 1.0


def total(squares: np.ndarray, params: Sequence[Tensor]) -> float:
    """The sum of the squares of these parameters' gradients, a number for each: of DTensors, in all processes."""
    shared: dict[Any, float] = {}
    alone = 0.0
    for number, p in zip(squares.tolist(), params, strict=True):
        if memory.is_distributed(p):
            key = p.device_mesh, p.placements  # type: ignore[attr-defined]
            shared[key] = shared.get(key, 0.0) + number
        else:
            alone += number
    return alone + sum(_in_all_processes(number, *key) for key, number in shared.items())


def _in_all_processes(number: float, mesh: Any, placements: Any) -> float:
    """A number of this process, added to those of the others that have other parts of the same tensors."""
    tensor = sys.modules["torch.distributed.tensor"]
    parts = [tensor.Replicate() if each.is_replicate() else tensor.Partial() for each in placements]
    local = torch.tensor(number, dtype=torch.float64)
    return tensor.DTensor.from_local(local, mesh, parts, run_check=False).full_tensor().item()


def total_of_tensors(gradients: Sequence[Tensor]) -> float:
    """The same of gradients that no kernel reads."""
    squares = 0.0
    for gradient in gradients:
        dense = gradient.coalesce().values() if gradient.layout is torch.sparse_coo else gradient
        norm: Any = torch.linalg.vector_norm(dense)
        squares += float(norm.full_tensor() if memory.is_distributed(norm) else norm) ** 2
    return squares
