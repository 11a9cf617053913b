"""What optimizers of schedule-free rules have besides: train() and eval(), and the numbers of their groups."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastopt.backend.program import Call, make_all
from fastopt.rule import Rule
from fastopt.torch.optimizer import RuleOptimizer
from fastopt.torch.rows import Kind
from fastopt.torch.stored import MASTER, REMAINDER, decoded, exact

#: What the package schedulefree keeps for each group, and not for each parameter, besides the arguments.
_OF_GROUPS = ("k", "weight_sum", "lr_max", "scheduled_lr")


class AveragingOptimizer(RuleOptimizer):
    """An optimizer that gives a model its averaged parameters, as those of the package schedulefree do.

    :meth:`eval` puts the averages in the place of the parameters that steps update, and :meth:`train` puts these back.
    A new optimizer is in training: without :meth:`eval` nothing need be called. ``train_mode`` of the groups says which
    parameters the model has, in state dicts, too. These go to schedulefree's classes of the same rule and come from
    there: groups have ``k``, ``weight_sum`` and ``lr_max`` in them.
    """

    _kept: dict[Tensor, tuple[Tensor, int]] | None = None  # in evaluation: what steps left, and which version came then

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.defaults["train_mode"] = True
        for group in self.param_groups:
            group.setdefault("train_mode", True)

    def _current_rules(self) -> tuple[list[Rule], list[Kind]]:
        """The rules with which a step is made: RuntimeError in evaluation."""
        for number, group in enumerate(self.param_groups):
            if not group["train_mode"]:
                raise RuntimeError(
                    f"{type(self).__name__}: param_groups[{number}] is in evaluation, where the parameters are "
                    "averages: call train() of the optimizer first"
                )
        return super()._current_rules()

    @torch.no_grad()
    def eval(self) -> None:
        """Has the model's parameters be the averages. Those that steps update are kept, so that they return exactly."""
        kept, calls = {}, list[Call]()
        for group, members in self._members(train_mode=True):
            rule = self.make_rule(group)
            for p, entry in members:
                kept[p] = p.detach().clone()
                y, z = exact(p, entry), decoded(p, entry, "z", rule.states["z"])
                average = y.lerp(z.to(y), 1 - 1 / rule.averaging)  # type: ignore[attr-defined]
                calls.append((Tensor.copy_, p, average))
            calls.append((group.update, {"train_mode": False}))
        make_all(calls)
        versions = {p: (y, -1 if p.is_inference() else p._version) for p, y in kept.items()}
        self._kept = (self._kept or {}) | versions

    @torch.no_grad()
    def train(self) -> None:
        """Has the model's parameters be those that steps update.

        They are exactly what they were before :meth:`eval`. If they have been written to since, or come from a state
        dict, they are computed from what is there.
        """
        calls = list[Call]()
        known = self._kept or {}
        for group, members in self._members(train_mode=False):
            rule = self.make_rule(group)
            for p, entry in members:
                y, version = known.get(p, (None, -1))
                if y is None or p.is_inference() or p._version != version:
                    z = decoded(p, entry, "z", rule.states["z"])
                    y = entry.get(MASTER)
                    if y is None:
                        x = p.to(z.dtype) if p.dtype.itemsize < z.dtype.itemsize else p
                        y = x.lerp(z.to(x), 1 - rule.averaging)  # type: ignore[attr-defined]
                    calls.append((entry.pop, REMAINDER, None))  # the lower half of other numbers
                calls.append((Tensor.copy_, p, y))
            calls.append((group.update, {"train_mode": True}))
        make_all(calls)
        self._kept = None

    def _members(self, *, train_mode: bool) -> Iterable[tuple[dict[str, Any], list[tuple[Tensor, dict[str, Any]]]]]:
        """The groups in this mode, with the parameters of each that have made a step, and their states."""
        found = []
        for group in self.param_groups:
            if group["train_mode"] == train_mode:
                states = [(p, self.state.get(p)) for p in group["params"]]
                found.append((group, [(p, entry) for p, entry in states if entry and entry.get("z") is not None]))
        return found

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """As that of torch, with the numbers besides that schedulefree keeps for each group."""
        saved = super().state_dict()
        for group, packed in zip(self.param_groups, saved["param_groups"], strict=True):
            entries = [saved["state"][number] for number in packed["params"] if number in saved["state"]]
            last = max(entries, key=_step, default=None)
            numbers = {"k": 0, "weight_sum": 0.0, "lr_max": -1.0, "scheduled_lr": 0.0}
            if last is not None and "weight_sum" in last:
                step = int(_step(last))
                numbers = {
                    "k": step,
                    "weight_sum": float(last["weight_sum"]),
                    "lr_max": float(last["lr_max"]),
                    "scheduled_lr": self.make_rule(group).size(step),  # type: ignore[attr-defined]
                }
            packed.update(numbers)
        return saved

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state dict of this class, or of schedulefree's for the same rule.

        ValueError if a group of it has steps without the numbers that belong to them.
        """
        hook = self.register_load_state_dict_pre_hook(lambda _, final: self._check_numbers(final))  # after all others
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        self._kept = None
        for group in self.param_groups:
            numbers = {name: group.pop(name) for name in _OF_GROUPS if name in group}
            entries = [entry for p in group["params"] if (entry := self.state.get(p))]
            if not numbers.get("k"):
                continue
            before = max(map(_step, entries), default=0)
            for entry in entries:
                if before != numbers["k"] or _step(entry) == numbers["k"]:
                    entry["step"] = torch.tensor(float(numbers["k"]), device="cpu")
                    for name in self.rule.torch_float64:
                        entry[name] = torch.tensor(float(numbers[name]), dtype=torch.float64, device="cpu")

    def _check_numbers(self, state_dict: Mapping[str, Any]) -> None:
        for number, group in enumerate(state_dict["param_groups"]):
            missing = [name for name in self.rule.torch_float64 if name not in group]
            if group.get("k") and missing:
                raise ValueError(
                    f"{type(self).__name__}: param_groups[{number}] of the state dict must have {missing[0]!r}"
                )


def _step(entry: Mapping[str, Any]) -> float:
    return float(entry.get("step", 0))
