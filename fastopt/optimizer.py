"""The optimizer: rules bound to groups of parameters, stepped by a backend."""

import math
import numbers
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from operator import setitem
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from fastopt import checkpoint
from fastopt.backend.choice import select
from fastopt.backend.process import process, resolve_threads
from fastopt.backend.program import Call, Program, Work, run
from fastopt.buffers import FlatBuffer, Layout, check_array, check_unmasked
from fastopt.declared import Interval, Whole
from fastopt.errors import NonFiniteGradientError, nearest
from fastopt.groups import Group, assign
from fastopt.rule import Rule

NONFINITE = ("propagate", "skip", "raise")

_DECAY = Interval(0.0, 1.0, "[)")
_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_
_TINY = 2.0**-600  # the square of a float64 number that was scaled by this cannot overflow

# Where the counters stand in Optimizer.counts; those of the groups follow.
_STEP, _MICRO_STEP, _GROUPS = 0, 1, 2
_ALL = slice(None)

_UNBOUND = object()


class StepReport(NamedTuple):
    """What a step did.

    ``step`` counts the steps that have updated parameters. ``grad_norm`` is the norm of the scaled gradient before
    clipping, or None if it was not asked for. ``skipped`` says that this call updated nothing: the gradient was not
    finite and ``nonfinite="skip"``, or gradients are being accumulated.
    """

    step: int
    grad_norm: float | None
    skipped: bool


class Optimizer:
    """Updates parameters in place by one rule, or by one rule for each group of them.

    Parameters
    ----------
    params
        A :class:`FlatBuffer`, or a contiguous, aligned and writable 1-D array of float32 or float64, which is used in
        place and treated as one parameter named ``"params"``.
    rule
        A rule, or a mapping from name patterns (``"*.bias"``, as in :mod:`fnmatch`) to rules. The first pattern that
        matches a name takes it.
    backend
        ``"numba"``, ``"c"`` or ``"auto"``; also ``FASTOPT_BACKEND``. The result has the same bits on either.
    threads
        The most threads that a step may use; by default ``FASTOPT_NUM_THREADS`` or every processor. The result has the
        same bits for any number.
    accumulate
        Update at every ``accumulate``-th call of :meth:`step` only, by the mean of the gradients since the last update.
    ema_decay
        If given, :attr:`ema` follows the parameters: ``ema = ema_decay * ema + (1 - ema_decay) * params`` after each
        update, starting from the parameters as they are.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described, no pattern matches a parameter, or a pattern matches none.
    BackendError
        The backend that was asked for is missing, or there is none at all.

    Examples
    --------
    >>> params = FlatBuffer({"w": np.ones(3)}, dtype="float32")
    >>> optimizer = Optimizer(params, fastopt.SGD(lr=0.5))
    >>> optimizer.step({"w": np.array([1, 2, 3], np.float32)})
    StepReport(step=1, grad_norm=None, skipped=False)
    >>> params["w"]
    array([ 0.5,  0. , -0.5], dtype=float32)
    """

    def __init__(
        self,
        params: FlatBuffer | np.ndarray,
        rule: Rule | Mapping[str, Rule],
        *,
        backend: Literal["auto", "numba", "c"] = "auto",
        threads: int | None = None,
        accumulate: int = 1,
        ema_decay: float | None = None,
    ) -> None:
        if isinstance(params, FlatBuffer):
            self.layout, self.flat = params.layout, check_array("params", params.flat, writable=True)
        else:
            self.flat = check_array("params", params, writable=True).view(np.ndarray)
            self.layout = Layout({"params": self.flat.shape})
        self.params = params
        self.dtype = self.flat.dtype
        self.threads = resolve_threads(threads)
        self._accumulate = Whole(1).parse("accumulate", accumulate)
        self._ema_decay = None if ema_decay is None else _DECAY.parse("ema_decay", ema_decay)
        members = assign(list(self.layout.shapes), rule)
        own_kernel = any(not isinstance(each.kernel, str) for each, _ in members.values())
        spans = sum(len(self.layout.runs(names)) for _, names in members.values())
        self._backend, self.backend_reason = select(backend, own_kernel=own_kernel, spans=spans)
        #: Counters, replaced as a whole when a step has been made: see ``_STEP`` and the like.
        self.counts = [0] * (_GROUPS + len(members))
        self._counted = self.counts.copy()  # what they will be after the step that is being made
        #: The groups by pattern.
        self.groups = MappingProxyType(
            {
                pattern: Group(self, _GROUPS + index, pattern, each, names)
                for index, (pattern, (each, names)) in enumerate(members.items())
            }
        )
        #: The states by name: buffers that hold those parameters whose rule keeps the state.
        self.state = MappingProxyType(self._make_states())
        #: The moving average of the parameters, or None.
        self.ema = None
        if self._ema_decay is not None:
            self.ema = FlatBuffer.empty(self.layout, self.dtype)
            self.ema.flat[...] = self.flat
        #: The sum of the gradients since the last update, or None if every step is an update.
        self.accumulated = None
        if self._accumulate > 1:
            self.accumulated = FlatBuffer.empty(self.layout, self.dtype)
            self.accumulated.flat.fill(0)
        self._staged: FlatBuffer | None = None
        self._forks = process.forks
        self._forget()

    @property
    def backend(self) -> str:
        """The backend that runs the kernels: ``"numba"`` or ``"c"``."""
        return self._backend.name

    @property
    def rule(self) -> Rule:
        """The rule, if one group holds all parameters; else see :attr:`groups`."""
        return self._only_group().rule

    @rule.setter
    def rule(self, rule: Rule) -> None:
        self._only_group().rule = rule

    def _only_group(self) -> Group:
        if len(self.groups) != 1:
            raise AttributeError(f"there are several rules: use .groups[pattern].rule; patterns: {list(self.groups)}")
        return next(iter(self.groups.values()))

    @property
    def lr(self) -> float:
        """The learning rate of the next step; setting it (a number or a schedule) changes every group."""
        rates = {group.rule.rate(group.step + 1) for group in self.groups.values()}
        if len(rates) > 1:
            raise AttributeError(f"groups differ in lr: use .groups[pattern].rule.lr; patterns: {list(self.groups)}")
        return rates.pop()

    @lr.setter
    def lr(self, lr: Any) -> None:
        rules = [group.rule.replace(lr=lr) for group in self.groups.values()]
        for group, rule in zip(self.groups.values(), rules, strict=True):
            group.rule = rule

    @property
    def step_count(self) -> int:
        """How many steps have updated parameters."""
        return self.counts[_STEP]

    def freeze(self, pattern: str) -> None:
        """Leaves the group of that pattern out of later steps; its states and step count stay as they are."""
        self._set_frozen(pattern, True)

    def thaw(self, pattern: str) -> None:
        """Takes the group of that pattern into later steps again."""
        self._set_frozen(pattern, False)

    def _set_frozen(self, pattern: str, frozen: bool) -> None:
        if pattern not in self.groups:
            raise KeyError(f"pattern: no group {pattern!r}; {nearest(pattern, self.groups)}")
        self._forget()
        self.groups[pattern].frozen = frozen

    def state_dict(self) -> dict[str, Any]:
        """Copies of the states, keyed by parameter name, with the rules and counts of every group.

        ``{"step", "micro_step", "groups", "state", "ema", "accumulated"}``, where ``state[parameter][name]`` is an
        array of the parameter's shape. The parameters are not in it: see :meth:`save`.
        """
        return checkpoint.state_dict(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave: states, counts and hyperparameters.

        A learning rate that is a callable of the user's own is kept as it is here. Raises
        :class:`fastopt.CheckpointError` if rules, names, shapes or dtypes differ; then nothing has changed.
        """
        checkpoint.load_state_dict(self, state_dict)

    def save(self, path: str | os.PathLike, extra: Any = None) -> None:
        """Writes a checkpoint as a safetensors file: parameters, states, rules and counts, and ``extra`` (JSON).

        The file is written under another name in the same folder and then renamed: a crash at any moment leaves the
        old file or the new one. Raises TypeError if ``extra`` is no JSON value, OSError as :func:`open` does.
        """
        checkpoint.save(self, path, extra)

    def load(self, path: str | os.PathLike) -> Any:
        """Takes over a checkpoint, parameters included, and returns its ``extra``.

        A run that goes on from it has the same bits as one that never stopped. Raises
        :class:`fastopt.CheckpointError` if the file is damaged or does not fit; then nothing has changed.
        """
        return checkpoint.load(self, path)

    def step(
        self,
        grads: FlatBuffer | np.ndarray | Mapping[str, Any],
        *,
        max_norm: float | None = None,
        grad_scale: float = 1.0,
        nonfinite: Literal["propagate", "skip", "raise"] = "propagate",
    ) -> StepReport:
        """Updates the parameters by a gradient.

        Parameters
        ----------
        grads
            A :class:`FlatBuffer` of the parameters' layout, a 1-D array of their size and dtype (both are read in
            place, and checked again only when another object comes), or a mapping from the name of every parameter
            that is not frozen to an array of its shape and dtype, which is copied.
        max_norm
            If given, the gradient is scaled down so that its 2-norm over all parameters that are not frozen does not
            exceed it, as by ``torch.nn.utils.clip_grad_norm_``.
        grad_scale
            A finite number that multiplies the gradient before all else: the inverse of the loss scale. While
            gradients are accumulated, each is multiplied by its own.
        nonfinite
            What to do about a gradient with an infinity or NaN: ``"propagate"`` it without looking, ``"skip"`` the
            step, or ``"raise"`` :class:`fastopt.NonFiniteGradientError`. The last two read the gradient once more.

        Notes
        -----
        After an error, and after a step that was skipped, parameters, states and counts are as they were. A signal
        whose handler raises an exception, as Ctrl-C does, takes effect before the step or after it.
        """
        if max_norm is not None:
            max_norm = _checked_limit(max_norm)
        if type(grad_scale) is not float or grad_scale != 1.0:
            grad_scale = _checked_scale(grad_scale, self.dtype)
        if nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite must not be {nonfinite!r}; {nearest(nonfinite, NONFINITE)}")
        if grads is not self._grads or self._forks != process.forks:
            self._bind(grads)
        source = self._source
        assert source is not None
        if self.accumulated is not None:
            if nonfinite != "propagate" and not math.isfinite(added := source.norm(grad_scale)):
                return self._refuse(added, nonfinite)
            source.scale_added(grad_scale)
            if self.counts[_MICRO_STEP] + 1 < self._accumulate:
                return self._add(source)
            add = source.add_to_total
            run([(setitem, self._total.array, _ALL, self.accumulated.flat), *add.calls], add.lock)
            source, grad_scale = self._total, 1 / self._accumulate
        norm: float | None = None
        scale = grad_scale
        if max_norm is not None or nonfinite != "propagate":
            norm = source.norm(grad_scale)
            if nonfinite != "propagate" and not math.isfinite(norm):
                return self._refuse(norm, nonfinite)
            if max_norm is not None and not norm + _CLIP_EPS <= max_norm:
                scale *= max_norm / (norm + _CLIP_EPS)
        counts = self._counted
        counts[_ALL] = self.counts
        counts[_STEP] += 1
        counts[_MICRO_STEP] = 0
        for group in self._active:
            counts[group.index] += 1
            group.prepare(counts[group.index], scale)
        update = source.update
        run(update.calls, update.lock)
        return StepReport(counts[_STEP], norm, False)

    def _refuse(self, norm: float, nonfinite: str) -> StepReport:
        if nonfinite == "raise":
            raise NonFiniteGradientError(f"grads: the gradient is not finite (its norm is {norm}); nothing has changed")
        return StepReport(self.counts[_STEP], norm, True)

    def _add(self, source: "_Source") -> StepReport:
        """Adds a gradient to the accumulated ones."""
        add = source.add
        run([*add.calls, (setitem, self.counts, _MICRO_STEP, self.counts[_MICRO_STEP] + 1)], add.lock)
        return StepReport(self.counts[_STEP], None, True)

    # Binding: which memory the kernels read and write

    def _make_states(self) -> dict[str, FlatBuffer]:
        firsts: dict[str, dict[str, float]] = {}
        for group in self.groups.values():
            for state, first in group.rule.states.items():
                firsts.setdefault(state, {}).update(dict.fromkeys(group.names, first))
        states = {}
        for state, members in firsts.items():
            layout = Layout({name: shape for name, shape in self.layout.shapes.items() if name in members})
            states[state] = FlatBuffer.empty(layout, self.dtype)
            for name, first in members.items():
                states[state][name].fill(first)
        return states

    def _forget(self) -> None:
        """Has the next step bind its buffers anew."""
        self._grads: Any = _UNBOUND
        self._source: _Source | None = None

    def _bind(self, grads: Any) -> None:
        self._grads = _UNBOUND  # until the end: an interrupt must not leave one gradient with the programs of another
        if self._source is None or self._forks != process.forks:
            self._source = None
            self._forks = process.forks
            self._active = [group for group in self.groups.values() if not group.frozen]
            self._follow = self._follow_params()
            self._finish: list[Call] = list(self._follow.calls)
            if self.accumulated is not None:
                self._finish.append((setitem, self.accumulated.flat, _ALL, 0))
                self._total = _Source(self, FlatBuffer.empty(self.layout, self.dtype).flat)
        array = self._stage(grads) if _is_plain_mapping(grads) else self._checked_flat(grads)
        if self._source is None or self._source.array is not array:
            self._source = _Source(self, array)
        if not _is_plain_mapping(grads):  # a mapping is copied at every step
            self._grads = grads

    def _checked_flat(self, grads: Any) -> np.ndarray:
        """The 1-D array of a gradient that is read in place."""
        if isinstance(grads, FlatBuffer):
            difference = "" if grads.layout is self.layout else self.layout.difference(grads.layout)
            if difference:
                raise ValueError(f"grads is laid out otherwise than the parameters: {difference}")
            array = grads.flat
        else:
            array = check_array("grads", grads, writable=False).view(np.ndarray)
        if array.dtype != self.dtype:
            raise TypeError(f"grads must be {self.dtype} as the parameters are, not {array.dtype}")
        if array.shape != self.flat.shape:
            raise ValueError(f"grads must have the parameters' size {self.flat.size}, not {array.size}")
        for name, buffer in self._own_buffers():
            if np.may_share_memory(array, buffer):
                raise ValueError(f"grads overlaps {name}: a gradient needs memory of its own")
        return array

    def _own_buffers(self) -> list[tuple[str, np.ndarray]]:
        buffers = [("params", self.flat)] + [(f"the state {name!r}", state.flat) for name, state in self.state.items()]
        named = ("ema", self.ema), ("accumulated", self.accumulated)
        return buffers + [(name, buffer.flat) for name, buffer in named if buffer is not None]

    def _stage(self, grads: Mapping[str, Any]) -> np.ndarray:
        """Copies a mapping of gradients, checked, into a flat buffer of the optimizer's own."""
        for name, array in grads.items():
            if name not in self.layout.shapes:
                raise ValueError(f"grads: no parameter {name!r}; {nearest(name, self.layout.shapes)}")
            if not isinstance(array, np.ndarray) or array.dtype != self.dtype:
                kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise TypeError(f"grads[{name!r}] must be an array of {self.dtype} as the parameters are, not {kind}")
            check_unmasked(f"grads[{name!r}]", array)
            if array.shape != self.layout.shapes[name]:
                raise ValueError(f"grads[{name!r}] must have the shape {self.layout.shapes[name]}, not {array.shape}")
        missing = [name for group in self._active for name in group.names if name not in grads]
        if missing:
            raise ValueError(f"grads has no gradient for {missing[0]!r}: give one, or freeze its group")
        if self._staged is None:
            self._staged = FlatBuffer.empty(self.layout, self.dtype)
        for name, staged in self._staged.items():
            staged[...] = grads.get(name, 0)
        return self._staged.flat

    def _follow_params(self) -> Program:
        """The program that updates the moving average: SGD's kernel, with the parameters as its gradient."""
        if self.ema is None or self._ema_decay is None:
            return Program([], ())
        k = np.array([self._ema_decay - 1.0, 0.0, self._ema_decay, 1.0], self.dtype)
        return self._backend.bind([Work("sgd", (self.ema.flat, self.flat), k)], self.threads)


class _Source:
    """A gradient's flat array and the programs that read it."""

    def __init__(self, optimizer: Optimizer, array: np.ndarray) -> None:
        self.array, self._optimizer = array, optimizer
        self._k = np.array([1.0, 0.0, 1.0, -1.0], optimizer.dtype)  # SGD's kernel, by a step of minus one

    def _slices(self, names: list[str]) -> list[tuple[slice, str]]:
        """The runs of parameters without gaps, each with its place and its first name."""
        places = self._optimizer.layout.places
        runs = self._optimizer.layout.runs(names)
        return [(slice(places[run[0]].start, places[run[-1]].stop), run[0]) for run in runs]

    @cached_property
    def update(self) -> Program:
        """Updates parameters and states by the gradient, takes over the counts, and does what follows an update."""
        optimizer = self._optimizer
        works = []
        for group in optimizer._active:
            for place, first in self._slices(list(group.names)):
                buffers = [optimizer.flat[place], self.array[place]]
                for name in group.rule.states:
                    state = optimizer.state[name]
                    start = state.layout.places[first].start
                    buffers.append(state.flat[start : start + place.stop - place.start])
                works.append(Work(group.rule.kernel, tuple(buffers), group.k))
        update = optimizer._backend.bind(works, optimizer.threads)
        count = setitem, optimizer.counts, _ALL, optimizer._counted
        lock = update.lock or optimizer._follow.lock
        return Program([*update.calls, count, *optimizer._finish], update.keeps, lock)

    def scale_added(self, scale: float) -> None:
        """Sets by what :attr:`add` and :attr:`add_to_total` multiply the gradient."""
        self._k[0] = scale

    @cached_property
    def add(self) -> Program:
        """Adds the gradient to the accumulated ones."""
        accumulated = self._optimizer.accumulated
        assert accumulated is not None
        return self._adding(accumulated.flat)

    @cached_property
    def add_to_total(self) -> Program:
        """Adds the gradient to their copy, which becomes the gradient of an update."""
        return self._adding(self._optimizer._total.array)

    def _adding(self, array: np.ndarray) -> Program:
        return self._optimizer._backend.bind([Work("sgd", (array, self.array), self._k)], self._optimizer.threads)

    @cached_property
    def _sum_squares(self) -> Callable[[float], float]:
        names = [name for group in self._optimizer._active for name in group.names]
        gradients = [self.array[place] for place, _ in self._slices(names)]
        return self._optimizer._backend.bind_sum_squares(gradients, self._optimizer.threads)

    def norm(self, scale: float) -> float:
        """The 2-norm of the gradient times ``scale``; infinite or NaN only if the gradient is not finite."""
        total = self._sum_squares(1.0)
        if math.isfinite(total):
            return abs(scale) * math.sqrt(total)
        return abs(scale) * (math.sqrt(self._sum_squares(_TINY)) / _TINY)


def _is_plain_mapping(grads: Any) -> bool:
    return isinstance(grads, Mapping) and not isinstance(grads, FlatBuffer)


def _checked_limit(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"max_norm must be a number > 0 or None, not {value!r} ({type(value).__name__})")
    if not float(value) > 0:
        raise ValueError(f"max_norm must be a number > 0 or None, not {value!r}")
    return float(value)


def _checked_scale(value: Any, dtype: np.dtype) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"grad_scale must be a finite number, not {value!r} ({type(value).__name__})")
    if not math.isfinite(value):
        raise ValueError(f"grad_scale must be a finite number, not {value!r}")
    if abs(float(value)) > float(np.finfo(dtype).max):
        raise ValueError(f"grad_scale must be a number of {dtype}, not {value!r}")
    return float(value)
