"""The sum of the squares of a model's gradients, wherever they are."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastopt.torch import memory


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
    local = torch.tensor(number, dtype=torch.float64, device="cpu")
    return tensor.DTensor.from_local(local, mesh, parts, run_check=False).full_tensor().item()


def total_of_tensors(gradients: Sequence[Tensor]) -> float:
    """The same of gradients that no kernel reads."""
    squares = 0.0
    for gradient in gradients:
        dense = gradient.coalesce().values() if gradient.layout is torch.sparse_coo else gradient
        squares += as_number(torch.linalg.vector_norm(dense)) ** 2
    return squares


def as_number(norm: Any) -> float:
    """A norm that torch has taken: of a DTensor, that of the whole tensor."""
    return float(norm.full_tensor() if memory.is_distributed(norm) else norm)
