"""What a step reads and writes: worked out once, and used again for as long as it holds."""

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fastopt.groups import too_large
from fastopt.rule import Rule
from fastopt.torch import memory
from fastopt.torch.engines import Run, engine
from fastopt.torch.scalars import advance, first_scalars, saves_step

if TYPE_CHECKING:
    from fastopt.torch.optimizer import RuleOptimizer

# All parameters are looked at in every step, since anybody may replace them, their gradients and their states. These
# functions of C are mapped over lists: a loop in Python would cost several times as much.
_gradient, _nbytes, _members = attrgetter("grad"), attrgetter("nbytes"), itemgetter("params")
_stride = Tensor.stride


def _addresses(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))


class Stale(Exception):
    """A gradient came that kernels cannot read: a new plan hands its parameter to torch's optimizer."""


class Gradients(NamedTuple):
    """The gradients of a plan's rows in the parameters' layout, their addresses, and which there are (None: all)."""

    tensors: Sequence[Tensor | None]
    addresses: np.ndarray
    present: np.ndarray | None


class _Row(NamedTuple):
    """A parameter that kernels step, with its state dict and what that dict will hold."""

    group: int
    param: Tensor
    entry: dict[str, Any]
    states: dict[str, Tensor]
    scalars: dict[str, float]

    @property
    def buffers(self) -> list[Tensor]:
        return list(map(memory.local, (self.param, *self.states.values())))


class _Batch:
    """The rows from ``start`` to ``stop``: those of one group and dtype, which share a rule."""

    def __init__(self, rows: list[_Row], rule: Rule, start: int, scalars: np.ndarray, update: np.ndarray) -> None:
        self.rows, self.group, self.start, self.stop = rows, rows[0].group, start, start + len(rows)
        self.dtype: Any = memory.DTYPES[rows[0].param.dtype]
        #: The scalars of each row, of which state dicts hold views, and what they will be after the step.
        self.scalars, self.update = scalars, update
        self.scalars[:] = [list(row.scalars.values()) for row in rows]
        #: The coefficients of the step: one set of them where all rows make the same step.
        self.k = np.empty((1, len(rule.coefficients(1))), self.dtype)
        #: Whether the step before had the same scalars in all rows, and so left them the same.
        self.even = False
        self._entries = [row.entry for row in rows]
        self._states = _taker(list(rows[0].states))
        self._shown = _taker(list(rows[0].scalars) if saves_step(rule) else [])

    def states(self) -> Iterable[Tensor]:
        """The states of all rows, as the state dicts hold them now."""
        return self._states(self._entries)

    def shown(self) -> Iterable[Tensor]:
        """The views of the scalars of all rows, as the state dicts hold them now."""
        return self._shown(self._entries)


def _taker(names: list[str]) -> Callable[[list[dict[str, Any]]], Iterable[Tensor]]:
    """A function that takes these values from each of some dicts, one dict after the other."""
    if not names:
        return lambda entries: ()
    get = itemgetter(*names)
    if len(names) == 1:
        return lambda entries: map(get, entries)
    return lambda entries: chain.from_iterable(map(get, entries))


class Plan:
    """The parameters that kernels step, those that torch's own optimizer steps, and those that wait for a gradient."""

    def __init__(self, optimizer: "RuleOptimizer", rules: Sequence[Rule]) -> None:
        self._members = [p for group in optimizer.param_groups for p in group["params"]]
        self._rules, self._kinds = list(rules), _kinds(rules)
        self._waiting: list[Tensor] = []
        #: The parameters that kernels cannot step, by the number of their group, each with the reason.
        self.others: dict[int, list[tuple[Tensor, str]]] = {}
        rows: dict[tuple[int, torch.dtype], list[_Row]] = {}
        for row in self._rows(optimizer, rules):
            rows.setdefault((row.group, row.param.dtype), []).append(row)
        optimizer.check_others(self.others)
        self._lay_out(list(rows.values()), rules)
        for row in chain.from_iterable(rows.values()):
            if row.entry:
                optimizer.own_state[row.param] = row.entry
        self._entries = list(optimizer.own_state.values())

    def _rows(self, optimizer: "RuleOptimizer", rules: Sequence[Rule]) -> list[_Row]:
        """The rows for kernels; notes all other parameters."""
        rows = []
        for number, (group, rule) in enumerate(zip(optimizer.param_groups, rules, strict=True)):
            for p in group["params"]:
                entry = optimizer.own_state.get(p) or {}
                if p.grad is None and not entry:
                    self._waiting.append(p)
                elif reason := _obstacle(p):
                    self.others.setdefault(number, []).append((p, reason))
                else:
                    rows.append(_row(optimizer, number, rule, p, entry))
        buffers = [(row, buffer) for row in rows for buffer in row.buffers]
        clashing = {id(buffers[index][0]) for index in memory.overlapping([buffer for _, buffer in buffers])}
        for row in rows:
            if id(row) in clashing:
                reason = "shares memory with another parameter or state"
                self.others.setdefault(row.group, []).append((row.param, reason))
        return [row for row in rows if id(row) not in clashing]

    def _lay_out(self, parts: list[list[_Row]], rules: Sequence[Rule]) -> None:
        rows = list(chain.from_iterable(parts))
        double = any(_is_double(row.entry.get("step")) for row in rows)
        scalars = np.empty(sum(len(row.scalars) for row in rows), np.float64 if double else np.float32)
        update = np.empty_like(scalars)
        self._batches: list[_Batch] = []
        start = place = 0
        for part in parts:
            shape = len(part), len(part[0].scalars)
            end = place + shape[0] * shape[1]
            block = scalars[place:end].reshape(shape), update[place:end].reshape(shape)
            self._batches.append(_Batch(part, rules[part[0].group], start, *block))
            start, place = start + len(part), end
        runs = [Run(rules[batch.group].kernel, batch.dtype, batch.start, batch.stop) for batch in self._batches]
        self._engine = engine(runs, [row.buffers for row in rows], scalars, update)
        self._scalars = scalars
        for batch in self._batches:
            self._engine.use(slice(batch.start, batch.stop), batch.k)
        for batch in self._batches:
            views = torch.from_numpy(batch.scalars)
            for row, view in zip(batch.rows, views, strict=True):
                row.entry.update(row.states)
                if saves_step(rules[row.group]):
                    row.entry.update(zip(row.scalars, view.unbind(), strict=True))
        self._params = [row.param for row in rows]
        self._versioned = [p for p in self._params if not p.is_inference()]
        self._distributed = any(map(memory.is_distributed, self._params))
        params = self._locals(self._params)
        self._addresses = _addresses(params).tobytes()
        self._states, self._shown = self._find_states(), self._find_shown()
        self._state_addresses = _addresses(self._locals(self._states)).tobytes()
        self._layouts, self._sizes = list(map(_stride, params)), list(map(_nbytes, params))
        self._strides = self._layouts.copy()  # of the gradients

    def _find_states(self) -> list[Tensor]:
        return list(chain.from_iterable(batch.states() for batch in self._batches))

    def _find_shown(self) -> list[Tensor]:
        return list(chain.from_iterable(batch.shown() for batch in self._batches))

    def _locals(self, tensors: list[Tensor]) -> list[Tensor]:
        return list(map(memory.local, tensors)) if self._distributed else tensors

    def holds(self, optimizer: "RuleOptimizer", rules: Sequence[Rule]) -> bool:
        """Whether parameters, states and their memory are still what they were."""
        try:
            return (
                (_same(self._rules, rules) or self._kinds == _kinds(rules))
                and _same(self._members, list(chain.from_iterable(map(_members, optimizer.param_groups))))
                and self._addresses == _addresses(self._locals(self._params)).tobytes()
                and not (optimizer.state_was_seen and self._state_differs(optimizer.own_state))
                and not any(p.grad is not None for p in self._waiting)
            )
        except (AttributeError, KeyError, RuntimeError, TypeError):  # something is no tensor with memory any more
            return False

    def _state_differs(self, state: dict[Tensor, Any]) -> bool:
        states, shown = self._find_states(), self._find_shown()
        return not (
            _same(self._entries, list(state.values()))
            and _same(self._states, states)
            and _same(self._shown, shown)
            and self._state_addresses == _addresses(self._locals(states)).tobytes()
            and (not shown or shown[0].data_ptr() == self._scalars.ctypes.data)
        )

    def prepare(self, rules: Sequence[Rule], gradients: Gradients) -> None:
        """Works out the coefficients of the step. ValueError if a dtype cannot hold one of them."""
        present = gradients.present
        for batch in self._batches:
            part = None if present is None else present[batch.start : batch.stop]
            self._prepare(batch, rules[batch.group], part)

    def run(self, gradients: Gradients, threads: int) -> None:
        """One step of the kernels, with the coefficients that were prepared."""
        if not self._params:
            return
        stepped = self._versioned
        if gradients.present is not None:
            pairs = zip(self._params, gradients.tensors, strict=True)
            stepped = [p for p, gradient in pairs if gradient is not None and not p.is_inference()]
        increment_version(stepped)
        self._engine.step(gradients.tensors, gradients.addresses, threads)

    def gradients(self) -> Gradients:
        """The gradients of the rows. Raises :class:`Stale` if kernels cannot read one of them.

        A parameter that got another layout in the same memory is found here, too: its gradient has the new layout.
        """
        gradients: list[Any] = list(map(_gradient, self._params))
        if not self._distributed and memory.PLAIN.issuperset(map(type, gradients)):
            try:
                addresses = _addresses(gradients)
                if self._sizes == list(map(_nbytes, gradients)) and self._strides == list(map(_stride, gradients)):
                    return Gradients(gradients, addresses, None)
            except RuntimeError:  # a gradient without memory: a sparse one
                pass
        with torch.no_grad():
            for row, (gradient, p) in enumerate(zip(gradients, self._params, strict=True)):
                if gradient is not None:
                    gradients[row] = self._readable(row, memory.local_gradient(gradient, p), memory.local(p))
        present = np.array([gradient is not None for gradient in gradients])
        addresses = np.array([0 if gradient is None else gradient.data_ptr() for gradient in gradients], np.int64)
        return Gradients(gradients, addresses, None if present.all() else present)

    def _readable(self, row: int, gradient: Tensor, param: Tensor) -> Tensor:
        """The gradient, or a copy of it where its elements lie in another order than the parameter's."""
        unchanged = param.nbytes == self._sizes[row] and param.stride() == self._layouts[row]
        if not unchanged or memory.gradient_obstacle(gradient, param):
            raise Stale
        if not memory.same_layout(gradient, param):
            return memory.like(param, gradient)
        self._strides[row] = gradient.stride()  # dimensions of size 1 may have any stride
        return gradient

    def _prepare(self, batch: _Batch, rule: Rule, present: np.ndarray | None) -> None:
        """Works out the coefficients of a batch, and its scalars after the step."""
        if present is None and batch.even and batch.scalars.tobytes() == batch.update.tobytes():
            batch.update[:] = _fill(batch.k[0], rule, batch.scalars[0])
            return
        rows = np.arange(len(batch.rows)) if present is None else np.flatnonzero(present)
        batch.update[:] = batch.scalars
        batch.even = False
        if not rows.size:
            return
        distinct, which = np.unique(batch.scalars[rows], axis=0, return_inverse=True)
        batch.k = np.empty((len(distinct), batch.k.shape[1]), batch.dtype)
        for number, scalars in enumerate(distinct):
            chosen = rows[which.reshape(-1) == number]
            batch.update[chosen] = _fill(batch.k[number], rule, scalars)
            self._engine.use(batch.start + chosen, batch.k[number])
            batch.even = len(chosen) == len(batch.rows)


def _kinds(rules: Sequence[Rule]) -> list[tuple[Any, list[str]]]:
    """What of the rules the plan depends on: kernels and states. All else is looked at in every step."""
    return [(rule.kernel, list(rule.states)) for rule in rules]


def _same(before: Sequence[Any], now: Sequence[Any]) -> bool:
    return len(before) == len(now) and all(map(is_, before, now))


def _is_double(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float64


def _fill(k: np.ndarray, rule: Rule, scalars: np.ndarray) -> list[float]:
    """Fills in the coefficients of the step that follows these scalars, and returns the scalars after it."""
    values, after = advance(rule, scalars.tolist(), scalars.dtype)
    try:
        struct.pack_into(f"={k.size}{k.dtype.char}", k.data, 0, *values.values())
    except OverflowError:
        raise too_large(rule, k.dtype, values) from None
    return after


def _obstacle(p: Tensor) -> str | None:
    """Why kernels cannot step a parameter, or None if they can."""
    reason = memory.obstacle(memory.local(p))
    if reason or p.grad is None:
        return reason
    if memory.is_distributed(p) != memory.is_distributed(p.grad):
        return "is a DTensor while its gradient is not, or the other way round"
    if memory.is_distributed(p) and p.grad.placements != p.placements:  # type: ignore[attr-defined]
        return None  # the step redistributes the gradient
    return memory.gradient_obstacle(memory.local(p.grad), memory.local(p))


def _row(optimizer: "RuleOptimizer", group: int, rule: Rule, p: Tensor, entry: dict[str, Any]) -> _Row:
    """The row of a parameter, with states made where there are none. Changes nothing."""
    scalars = first_scalars(rule)
    if not saves_step(rule):
        scalars["step"] = float(any(entry.get(name) is not None for name in rule.states))
        entry = {name: value for name, value in entry.items() if value is not None} if scalars["step"] else entry
    elif entry:
        missing = [name for name in (*rule.states, *scalars) if entry.get(name) is None]
        if missing:
            raise RuntimeError(
                f"{optimizer.describe(p)} has a state without {missing[0]!r}, only {', '.join(map(repr, entry))}: "
                f"it comes from another optimizer, or from other flags than those of {rule!r}"
            )
        scalars = {name: float(entry[name]) for name in scalars}
    states = {}
    for name, first in rule.states.items():
        state = entry.get(name)
        if state is None:
            states[name] = torch.full_like(p, first, requires_grad=False, memory_format=torch.preserve_format)
        elif state.shape != p.shape:
            raise RuntimeError(
                f"{optimizer.describe(p)} has the shape {tuple(p.shape)}, its state {name!r} {tuple(state.shape)}"
            )
        else:
            states[name] = state if memory.matches(state, p) else memory.like(p, state)
    return _Row(group, p, entry, states, scalars)
