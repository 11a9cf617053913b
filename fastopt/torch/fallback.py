"""What kernels cannot step: the way from there to the class of torch.optim that computes the same."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastopt.torch import memory

#: The dtypes whose kernels torch alone has, in the fused code of some of its classes.
FUSED_DTYPES = {torch.bfloat16, torch.float16}

_gradient, _stride = attrgetter("grad"), Tensor.stride


class _Part(NamedTuple):
    """Parameters of one group with the flags that choose torch's code for them."""

    group: int
    params: list[Tensor]
    flags: dict[str, Any]


class Fallback:
    """Steps parameters by torch's own optimizer, with the same state: by its fused code where ``fuse`` allows it."""

    def __init__(
        self,
        torch_class: type[torch.optim.Optimizer],
        defaults: Mapping[str, Any],
        members: Mapping[int, Sequence[Tensor]],
        *,
        fuse: bool,
    ) -> None:
        self._members = members
        self._fuse = fuse and "fused" in inspect.signature(torch_class).parameters
        self._stepper = torch_class.__new__(torch_class)
        self._stepper.__setstate__({"defaults": {**defaults, "differentiable": False}, "state": {}, "param_groups": []})
        self._step: Callable[..., Any] = inspect.unwrap(torch_class.step, stop=lambda step: not hasattr(step, "hooked"))
        self._state: defaultdict[Tensor, Any] = defaultdict(dict)  # of these parameters
        self._parts: list[_Part] = []
        self._flags: list[Any] = []
        self._fused: list[Tensor] = []
        self._waiting: list[Tensor] = []  # for a gradient that the fused code takes
        self._strides: list[tuple[int, ...]] = []

    def step(self, groups: Sequence[Mapping[str, Any]], state: Any, looked: bool) -> None:
        """One step. ``looked`` says whether anybody may have changed the state since the last one."""
        if looked or not self._holds(groups):
            self._divide(groups, state)
        known = len(self._state)
        self._stepper.param_groups = [dict(groups[part.group]) | part.flags for part in self._parts]
        self._step(self._stepper)
        if len(self._state) != known:
            state.update(self._state)

    def _holds(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether what torch's fused code was chosen for still fits it."""
        try:
            gradients = list(map(_gradient, self._fused))
            return (
                bool(self._parts)
                and self._flags == [groups[part.group].get("fused") for part in self._parts]
                and self._strides == list(map(_stride, gradients))
                and self._strides == list(map(_stride, self._fused))
                and not any(p.grad is not None and _fits(p.grad, p) for p in self._waiting)
            )
        except (AttributeError, RuntimeError, TypeError):  # a parameter without gradient, or a sparse one
            return False

    def _divide(self, groups: Sequence[Mapping[str, Any]], state: Any) -> None:
        """Chooses the code for each parameter. A state that torch has yet to make divides them, too."""
        self._state = self._stepper.state = defaultdict(dict)
        self._waiting = []
        parts: dict[tuple, list[Tensor]] = {}
        for number, params in self._members.items():
            for p in params:
                entry = state.get(p)
                if entry:
                    self._state[p] = entry
                wanted = groups[number].get("fused")
                fusable = self._fuse and wanted is not False and _takes_fused(p, entry or {})
                fused = fusable and _fits(p.grad, p)
                if fusable and not fused:
                    self._waiting.append(p)
                key = number, fused, not fused and bool(wanted) and p.device.type == "cpu", bool(entry)
                parts.setdefault(key, []).append(p)
        self._parts = []
        for (number, fused, unfused, _), params in parts.items():
            flags = {"fused": True, "foreach": False} if fused else {"fused": False} if unfused else {}
            self._parts.append(_Part(number, params, {"params": params} | flags))
        self._flags = [groups[part.group].get("fused") for part in self._parts]
        self._fused = list(chain.from_iterable(part.params for part in self._parts if part.flags.get("fused")))
        self._strides = list(map(_stride, self._fused))


def _takes_fused(p: Tensor, entry: Mapping[str, Any]) -> bool:
    """Whether torch's fused code takes a parameter with its states. It walks through memory and ignores strides."""
    return (
        p.dtype in FUSED_DTYPES
        and p.device.type == "cpu"
        and type(p) in memory.PLAIN
        and memory.is_dense(p)
        and all(_fits(value, p) for value in entry.values() if isinstance(value, Tensor) and value.dim() == p.dim() > 0)
    )


def _fits(other: Tensor | None, p: Tensor) -> bool:
    """Whether a gradient or state lies in memory as its parameter does."""
    return (
        type(other) in memory.PLAIN
        and other.layout is torch.strided  # type: ignore[union-attr]
        and other.dtype == p.dtype  # type: ignore[union-attr]
        and other.stride() == p.stride()  # type: ignore[union-attr]
    )
