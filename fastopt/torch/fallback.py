"""What kernels cannot step: the way from there to the class of torch.optim that computes the same."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Part(NamedTuple):
    """Parameters of one group with the flags that choose torch's code for them."""

    group: int
    flags: dict[str, Any]


class Fallback:
    """Steps parameters by torch's own optimizer, with the same state.

    On the CPU that is never its fused code, which walks through memory and ignores strides.
    """

    def __init__(
        self,
        torch_class: type[torch.optim.Optimizer],
        defaults: Mapping[str, Any],
        members: Mapping[int, Sequence[Tensor]],
    ) -> None:
        self._members = members
        self._stepper = torch_class.__new__(torch_class)
        self._stepper.__setstate__({"defaults": {**defaults, "differentiable": False}, "state": {}, "param_groups": []})
        self._step: Callable[..., Any] = inspect.unwrap(torch_class.step, stop=lambda step: not hasattr(step, "hooked"))
        self._state: defaultdict[Tensor, Any] = defaultdict(dict)  # of these parameters
        self._parts: list[_Part] = []
        self._fused: list[Any] = []

    def step(self, groups: Sequence[Mapping[str, Any]], state: Any, looked: bool) -> None:
        """One step. ``looked`` says whether anybody may have changed the state since the last one."""
        if looked or self._fused != [groups[number].get("fused") for number in self._members]:
            self._divide(groups, state)
        known = len(self._state)
        self._stepper.param_groups = [dict(groups[part.group]) | part.flags for part in self._parts]
        self._step(self._stepper)
        if len(self._state) != known:
            state.update(self._state)

    def _divide(self, groups: Sequence[Mapping[str, Any]], state: Any) -> None:
        """Chooses the code for each parameter. A state that torch has yet to make divides them, too."""
        self._state = self._stepper.state = defaultdict(dict)
        parts: dict[tuple, list[Tensor]] = {}
        for number, params in self._members.items():
            for p in params:
                entry = state.get(p)
                if entry:
                    self._state[p] = entry
                unfused = bool(groups[number].get("fused")) and p.device.type == "cpu"
                parts.setdefault((number, unfused, bool(entry)), []).append(p)
        self._parts = []
        for (number, unfused, _), params in parts.items():
            flags = {"fused": False} if unfused else {}
            self._parts.append(_Part(number, {"params": params} | flags))
        self._fused = [groups[number].get("fused") for number in self._members]
