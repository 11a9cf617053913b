"""Which parameters kernels can step, as a value: a row for each of them, and of the others the reason why not."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastopt.errors import quoted
from fastopt.precision import Precision
from fastopt.rule import Rule
from fastopt.torch import memory
from fastopt.torch.stored import Kept, Options, keep


class Row(NamedTuple):
    """A parameter that kernels step, with its state dict and what that dict will hold."""

    group: int
    param: Tensor
    entry: dict[str, Any]
    kept: Kept
    #: The numbers beside the states: tensors that the step updates in place, or values that have no tensor yet.
    scalars: dict[str, Tensor | float]
    #: The dtype of each of these numbers.
    dtypes: tuple[torch.dtype, ...]
    #: The dtype of the gradients that are expected, and whether they are sparse.
    gradient: torch.dtype
    sparse: bool
    #: Whether these numbers are a part of the state. If not, they only say whether there is one.
    counted: bool

    @property
    def written(self) -> list[Tensor]:
        """What a step writes to, as it lies in this process's memory."""
        numbers = [value for value in self.scalars.values() if isinstance(value, Tensor)]
        return [*map(memory.local, (self.param, *self.kept.tensors.values())), *numbers]

    @property
    def computes(self) -> np.dtype:
        """In which dtype the kernel computes."""
        return memory.STORED[self.param.dtype].computes


class Survey(NamedTuple):
    """All parameters of an optimizer: who steps them in the state that they are in."""

    rows: list[Row]
    #: The parameters that kernels cannot step, by the number of their group, each with the reason.
    others: dict[int, list[tuple[Tensor, str]]]
    #: The parameters that have no gradient and, for now, nothing that kernels could work on when one comes.
    waiting: list[Tensor]


class Kind(NamedTuple):
    """What of a group's rule decides who steps its parameters, and on which states."""

    kernel: Any
    states: tuple[str, ...]
    #: Whether kernels may step the rows of sparse gradients: not if torch's own optimizer moves others, too.
    rows: bool
    #: The rule's sums.
    sums: str | None
    #: Why torch's own optimizer is to apply the rule, or None if kernels do.
    obstacle: str | None
    options: Options


def kind(rule: Rule, options: Options, in_torch: bool) -> Kind:
    """The kind of a rule, which torch.optim has, too, or has not, and of a group's options.

    Hyperparameters that lie outside the rule's domains are the user's word. What they mean torch's own code knows; a
    negative learning rate is no secret, and where there is no such code kernels take what goes together.
    """
    try:
        if in_torch:
            type(rule)(**dict(rule) | {"lr": 0.0})
        else:
            rule.check()
    except (TypeError, ValueError) as error:
        return Kind(None, (), False, None, f"has hyperparameters that no kernel is made for ({error})", options)
    rows = rule.sums is None and (rule.stage is None or rule.rowwise) and not (in_torch and rule.torch_moves_all_rows)
    return Kind(rule.kernel, tuple(rule.states), rows, rule.sums, None, options)


def survey(
    groups: Sequence[Mapping[str, Any]],
    state: Mapping[Tensor, Any],
    rules: Sequence[Rule],
    kinds: Sequence[Kind],
    describe: Callable[[Tensor], str],
) -> Survey:
    """Looks at all parameters and changes nothing. RuntimeError, with a description, if a state does not fit.

    A parameter without gradient is no one's concern: whatever is wrong with it, it waits.
    """
    rows: list[Row] = []
    others: dict[int, list[tuple[Tensor, str]]] = {}
    waiting: list[Tensor] = []
    for number, (group, rule) in enumerate(zip(groups, rules, strict=True)):
        precision = cache(partial(kinds[number].options.precision, rule.states))
        for p in group["params"]:
            entry = state.get(p) or {}
            reason = kinds[number].obstacle
            if not reason and (p.grad is not None or entry):
                reason = _obstacle(p, kinds[number])
            if reason is None and rule.stage is not None and memory.is_distributed(p):
                reason = "is a DTensor, of which this process has no more than a part"
            if p.grad is None and (reason or not entry):
                waiting.append(p)
            elif reason:
                others.setdefault(number, []).append((p, reason))
            else:
                try:
                    row = _row(number, group, rule, kinds[number].options, precision, p, entry, describe)
                except RuntimeError:
                    if p.grad is not None:
                        raise
                    waiting.append(p)
                    continue
                # What has no gradient may be of this dtype for a while only: its state is not converted.
                as_it_is = all(entry.get(name) is tensor for name, tensor in row.kept.tensors.items())
                if p.grad is None and not as_it_is:
                    waiting.append(p)
                else:
                    rows.append(row)
    for row in _clashing(rows):
        if row.param.grad is None:
            waiting.append(row.param)
        else:
            reason = "shares memory with another parameter or state"
            others.setdefault(row.group, []).append((row.param, reason))
    apart = {id(p) for p in waiting}.union(id(p) for members in others.values() for p, _ in members)
    return Survey([row for row in rows if id(row.param) not in apart], others, waiting)


def _obstacle(p: Tensor, kind: Kind) -> str | None:
    """Why kernels cannot step a parameter, or None if they can."""
    reason = memory.obstacle(memory.local(p))
    if reason is None and kind.sums and memory.is_distributed(p):
        return "is a DTensor, of which this process has only parts to take norms of"
    if reason or p.grad is None:
        return reason
    if kind.rows and memory.is_sparse(p.grad):
        return memory.rows_obstacle(p.grad, p)
    if memory.is_distributed(p) != memory.is_distributed(p.grad):
        return "is a DTensor while its gradient is not, or the other way round"
    if memory.is_distributed(p) and p.grad.placements != p.placements:  # type: ignore[attr-defined]
        return None  # the step redistributes the gradient
    return memory.gradient_obstacle(memory.local(p.grad), memory.local(p))


def _row(
    number: int,
    group: Mapping[str, Any],
    rule: Rule,
    options: Options,
    precision: Callable[[torch.dtype], Precision],
    p: Tensor,
    entry: dict[str, Any],
    describe: Callable[[Tensor], str],
) -> Row:
    """The row of a parameter, with states made where there are none."""
    scalars: dict[str, Any] = {"step": 0.0, **rule.torch_scalars}
    if not isinstance(entry, dict):
        raise RuntimeError(f"{describe(p)} needs a dict for its state, not {quoted(entry)}")
    if rule.torch_step and entry:
        shape = tuple(p.shape)
        kept_here = [name for name in rule.states if rule.state_shape(name, shape) is not None]
        missing = [name for name in (*kept_here, *scalars) if entry.get(name) is None]
        if missing:
            raise RuntimeError(
                f"{describe(p)} has a state without {missing[0]!r}, only {', '.join(map(repr, entry))}: "
                f"it comes from another optimizer, or from other flags than those of {rule!r}"
            )
    try:
        kept = keep(rule, p, entry, precision(p.dtype), slow=options.lookahead is not None)
    except ValueError as error:
        raise RuntimeError(f"{describe(p)} {error}") from None
    # Where torch keeps no step, stochastic rounding and lookahead need one.
    counted = rule.torch_step or kept.slow is not None or any(numbers.stochastic for numbers in kept.numbers)
    if counted and entry.get("step") is not None:
        try:
            scalars = {name: _number(name, entry[name]) for name in scalars}
        except ValueError as error:
            raise RuntimeError(f"{describe(p)} {error}") from None
    elif not rule.torch_step:
        scalars["step"] = float(any(entry.get(name) is not None for name in rule.states))
    double = torch.get_default_dtype() == torch.float64 and not group.get("fused")  # as torch.optim makes them
    default = torch.float64 if double else torch.float32
    dtypes = tuple(
        value.dtype if isinstance(value, Tensor) else torch.float64 if name in rule.torch_float64 else default
        for name, value in scalars.items()
    )
    gradient = p.dtype if p.grad is None else p.grad.dtype
    sparse = p.grad is not None and memory.is_sparse(p.grad)
    if sparse:
        if rule.starts_from_parameters and not float(scalars["step"]):
            raise RuntimeError(
                f"{describe(p)} has a sparse gradient, and states of {type(rule).__name__} start as the parameters are "
                "in the first step, so that one must be of all rows"
            )
        for numbers in kept.numbers:
            if math.prod(numbers.tensors[0].shape[1:]) % numbers.storage.block:
                raise RuntimeError(
                    f"{describe(p)} has a sparse gradient, and a state in blocks of {numbers.storage.block} elements, "
                    "of which a row has no whole number; with state_dtype='bfloat16' there are none"
                )
    return Row(number, p, entry, kept, scalars, dtypes, gradient, sparse, counted)


def _number(name: str, value: Any) -> Tensor | float:
    try:
        return value if memory.is_number(value) else float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"needs a number for the state {name!r}, not {quoted(value)}") from None


def _clashing(rows: list[Row]) -> list[Row]:
    """The rows that share memory with another one and cannot be stepped at the same time as that.

    Those without gradient give way: they leave, and the others are looked at again.
    """
    found: list[Row] = []
    while True:
        buffers = [(row, buffer) for row in rows for buffer in row.written]
        clashing = {id(buffers[index][0]) for index in memory.overlapping([buffer for _, buffer in buffers])}
        leaving = [row for row in rows if id(row) in clashing]
        still = [row for row in leaving if row.param.grad is None] or leaving
        if not still:
            return found
        found += still
        gone = {id(row) for row in still}
        rows = [row for row in rows if id(row) not in gone]
