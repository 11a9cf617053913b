"""State dicts of bitsandbytes' optimizers, written for them; :mod:`fastopt.checkpoint.torch` reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.checkpoint import dynamic
from fastopt.checkpoint.torch import options, ordered

_NESTED = "__bnb_optimizer_quant_state__"
_SMALL = 4096  # parameters of fewer elements are kept in float32 there


def write(opt: Any, names: Sequence[str] | None = None, bits: int = 8) -> dict[str, Any]:
    """See :func:`fastopt.checkpoint.to_bitsandbytes`."""
    import torch

    saved = opt.state_dict()
    state: dict[int, dict[str, Any]] = {}
    groups = []
    for members, rule, described in ordered(opt, saved, names):
        kinds = list(rule.states)
        if len(kinds) not in (1, 2, 3):
            raise ValueError(f"bitsandbytes has optimizers with one to three states, not with {len(kinds)}")
        params = []
        for name in members:
            params.append(len(state))
            values = {kind: np.asarray(opt.state[kind][name], np.float32) for kind in kinds}
            signed = {kind: getattr(rule.states[kind], "signed", True) for kind in kinds}
            parts: dict[str, Any] = {}
            if len(kinds) == 3:  # the first two are one
                values = {kinds[0]: np.stack([values[kinds[0]], values[kinds[1]]]), kinds[2]: values[kinds[2]]}
            for number, (kind, array) in enumerate(values.items(), 1):
                if bits == 8 and array.size >= _SMALL:
                    parts |= _quantized(number, array, signed=signed[kind])
                else:
                    parts[f"state{number}"] = torch.from_numpy(array.copy())
            state[len(state)] = {"step": described["step"], _NESTED: parts} if described["step"] else {}
        groups.append(options(rule, described["step"]) | {"params": params, "param_names": members})
    return {"state": {position: entry for position, entry in state.items() if entry}, "param_groups": groups}


def _quantized(number: int, array: np.ndarray, *, signed: bool) -> dict[str, Any]:
    import torch

    codes, scales, qmap = dynamic.encoded(array, signed=signed)
    parts = {f"state{number}": codes, f"absmax{number}": scales, f"qmap{number}": qmap}
    return {name: torch.from_numpy(part) for name, part in parts.items()}
