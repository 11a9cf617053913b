"""State dicts of bitsandbytes' optimizers, written for them; :mod:`fastopt.checkpoint.torch` reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.checkpoint import dynamic
from fastopt.checkpoint.foreign import kept
from fastopt.checkpoint.torch import NESTED, options, ordered
from fastopt.errors import quoted

_SMALL = 4096  # parameters of fewer elements are kept in float32 there


def write(opt: Any, names: Sequence[str] | None = None, bits: int = 8) -> dict[str, Any]:
    """See :func:`fastopt.checkpoint.to_bitsandbytes`."""
    if bits not in (8, 32):
        raise ValueError(f"bits must be 8 or 32, not {quoted(bits)}")
    described = {pattern: group.describe() for pattern, group in opt.groups.items()}
    state: dict[int, dict[str, Any]] = {}
    groups = []
    for members, rule, group in ordered(opt, described, names):
        params = []
        for name in members:
            kinds = kept(rule, opt.layout.shapes[name])
            if len(kinds) not in (1, 2, 3):
                raise ValueError(f"bitsandbytes has optimizers with one to three states, not with {len(kinds)}")
            params.append(len(state))
            values = [np.asarray(opt.state[kind][name], np.float32) for kind in kinds]
            small = bits == 32 or values[0].size < _SMALL
            parts: dict[str, Any] = {}
            for number, arrays in enumerate((values[:-1], values[-1:]) if len(kinds) > 1 else (values,), 1):
                parts |= _float32(number, arrays) if small else _quantized(number, arrays)
            state[len(state)] = {"step": group["step"], NESTED: parts} if group["step"] else {}
        groups.append(options(rule, group["step"]) | {"params": params, "param_names": members})
    return {"state": {position: entry for position, entry in state.items() if entry}, "param_groups": groups}


def _float32(number: int, arrays: list[np.ndarray]) -> dict[str, Any]:
    import torch

    return {f"state{number}": torch.from_numpy(_joined(arrays).copy())}


def _quantized(number: int, arrays: list[np.ndarray]) -> dict[str, Any]:
    """One or two states, each with its blocks; the first has the signed map, whatever it is."""
    import torch

    codes, scales, maps = zip(*(dynamic.encoded(array, signed=number == 1) for array in arrays), strict=True)
    parts = {f"state{number}": _joined(codes), f"absmax{number}": _joined(scales), f"qmap{number}": maps[0]}
    return {name: torch.from_numpy(part) for name, part in parts.items()}


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.stack(arrays)
