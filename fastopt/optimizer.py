"""The optimizer: rules bound to groups of parameters, stepped by a backend."""

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from fastopt.backend.choice import BackendChoice, select
from fastopt.backend.process import process, resolve_threads
from fastopt.backend.program import Call, make_all
from fastopt.buffers import PARTS, FlatBuffer, Layout
from fastopt.declared import Flag, Interval, Whole, real
from fastopt.encoded import EncodedBuffer
from fastopt.errors import NonFiniteGradientError, nearest, one_of, quoted
from fastopt.groups import Group, assign
from fastopt.norm import check_limit
from fastopt.plan import Explanation, Reading, StepPlan
from fastopt.plans import make_plan
from fastopt.precision import Copy, Master, Rounding, StateDtype, check_precision, check_seed
from fastopt.rule import Rule
from fastopt.state import MICRO_STEP, STEP, OptimizerState, flat_and_layout

if TYPE_CHECKING:
    from fastopt.ascent import Ascent
    from fastopt.checkpoint.saved import Saved, Stored

NONFINITE = ("propagate", "skip", "raise")

_DECAY = Interval(0.0, 1.0, "[)")

_report = tuple.__new__  # of what has been checked: StepReport(...) takes twice as long
_UNBOUND = (object(), None, None)  # a gradient that nobody has, in place of the last one with its plan and programs

#: Attributes that a copy, or an optimizer that comes from a pickle, finds anew.
_OF_THIS_PROCESS = frozenset({"_threads", "_backend_reason", "_backend", "_plan", "_bound", "_ascent", "_bound_before"})


class StepReport(NamedTuple):
    """What a step did.

    ``step`` counts the steps that have updated parameters. ``grad_norm`` is the norm of the scaled gradient before
    clipping, infinite if no float is as large, or None if it was not asked for. ``skipped`` says that this call updated
    nothing: the gradient was not finite and ``nonfinite="skip"``, or gradients are being accumulated.
    """

    step: int
    grad_norm: float | None
    skipped: bool


class Optimizer:
    """Updates parameters in place by one rule, or by one rule for each group of them.

    Parameters
    ----------
    params
        A :class:`FlatBuffer`, or a contiguous, aligned and writable 1-D array of one of its dtypes, which is used in
        place and treated as one parameter named ``"params"``. Steps compute in float64 for float64 parameters, and in
        float32 for all others.
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
        update, starting from the parameters as they are. It is float32 for parameters in 16 bits, and follows what
        these are rounded from.
    master
        For parameters in 16 bits, what holds them exactly: ``"float32"``, a buffer of them, of which steps write the
        parameters as a copy rounded to nearest; or, of bfloat16, ``"split"``, the lower halves of float32 numbers
        whose upper halves, rounded, are the parameters. Who writes to parameters sets :attr:`master`, too. If None,
        steps round the parameters themselves.
    state_dtype
        How states are stored: None, as kernels compute them; ``"bfloat16"``, ``"float16"`` or ``"8bit"``, which is
        floating point in a byte with a scale for each 256 elements; or a mapping from the names of states to one
        of these words. In ``8bit``, parameters of fewer than 4096 elements keep their states as they are computed.
        ``float16`` has no numbers below 6e-8, where second moments of small gradients vanish and Adam diverges: it is
        for momentum.
    rounding
        How steps round parameters in 16 bits without a master, and states in 16 bits: ``"stochastic"``, up or down as
        often as is right on the average, or to ``"nearest"``. In ``8bit``, states that have signs go to the nearest
        code, and others are rounded stochastically.
    seed
        What stochastic rounding is seeded with: a whole number in [0, 2**64). The same seed gives the same bits.
    copy
        ``"bfloat16"`` or ``"float16"``: :attr:`copy`, a flat buffer, holds the parameters so, rounded to nearest, after
        each update.
    lookahead
        ``(steps, alpha)``, as ``(6, 0.5)``: :attr:`lookahead` holds slow weights, which start as the parameters are.
        After each so many updates ``slow = (1 - alpha) * slow + alpha * params`` and ``params = slow``, for groups that
        are not frozen: Zhang et al., NeurIPS 2019, arXiv:1907.08610. Averages and copies are those of the parameters
        then. ``steps`` is a whole number >= 1, ``alpha`` a number in (0, 1]. The weights have the dtype in which steps
        compute.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described, no pattern matches a parameter, or a pattern matches none.
    BackendError
        The backend that was asked for is missing, or there is none at all.
    ImportError
        A copy in bfloat16 is asked for, and ml_dtypes is not installed.

    Examples
    --------
    >>> params = FlatBuffer({"w": np.ones(3)}, dtype="float32")
    >>> optimizer = Optimizer(params, fastopt.SGD(lr=0.5))
    >>> optimizer.step({"w": np.array([1, 2, 3], np.float32)})
    StepReport(step=1, grad_norm=None, skipped=False)
    >>> params["w"]
    array([ 0.5,  0. , -0.5], dtype=float32)
    """

    _ascent: "Ascent | None"  # made when it is first needed
    _bound: tuple[Any, Any, Any]  # a gradient, with its plan and programs
    _bound_before: tuple[Any, Any, Any]  # the same, before parameters were moved

    def __init__(
        self,
        params: FlatBuffer | np.ndarray,
        rule: Rule | Mapping[str, Rule],
        *,
        backend: BackendChoice = "auto",
        threads: int | None = None,
        accumulate: int = 1,
        ema_decay: float | None = None,
        master: Master | None = None,
        state_dtype: StateDtype | Mapping[str, StateDtype] | None = None,
        rounding: Rounding = "stochastic",
        seed: int = 0,
        copy: Copy | None = None,
        lookahead: tuple[int, float] | None = None,
    ) -> None:
        accumulate = Whole(1).parse("accumulate", accumulate)
        ema_decay = None if ema_decay is None else _DECAY.parse("ema_decay", ema_decay)
        if lookahead is not None:
            from fastopt.lookahead import check_lookahead

            lookahead = check_lookahead(lookahead)
        seed = check_seed(seed)
        flat, layout = flat_and_layout(params)
        members = assign(list(layout.shapes), rule)
        for each, names in members.values():
            for name in names:
                each.check_shape(name, layout.shapes[name])
        states = list(dict.fromkeys(name for each, _ in members.values() for name in each.states))
        precision = check_precision(
            flat.dtype.name, states, master=master, state_dtype=state_dtype, rounding=rounding, copy=copy
        )
        self._asked = backend, threads
        self._choose(layout, members.values())
        self._state = OptimizerState(
            params,
            members,
            accumulate=accumulate,
            ema_decay=ema_decay,
            lookahead=lookahead,
            precision=precision,
            seed=seed,
        )
        self._ascent = None
        self._forget()

    def _choose(self, layout: Layout, members: Iterable[tuple[Rule, tuple[str, ...]]]) -> None:
        """Chooses backend and threads, here and now."""
        backend, threads = self._asked
        self._threads = resolve_threads(threads)
        own_kernel = any(not isinstance(rule.kernel, str) for rule, _ in members)
        spans = sum(len(layout.runs(names)) for _, names in members)
        self._backend, self._backend_reason = select(backend, own_kernel=own_kernel, spans=spans)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _OF_THIS_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._choose(self.layout, [(group.rule, group.names) for group in self.groups.values()])
        self._ascent = None
        self._forget()

    def __copy__(self) -> Self:  # two optimizers of the same memory would be at odds about it
        from copy import deepcopy

        return deepcopy(self)

    @property
    def params(self) -> FlatBuffer | np.ndarray:
        """The parameters as they were given."""
        return self._state.params

    @property
    def flat(self) -> np.ndarray:
        """The parameters as one 1-D array."""
        return self._state.flat

    @property
    def layout(self) -> Layout:
        """Names, shapes and places of the parameters."""
        return self._state.layout

    @property
    def dtype(self) -> np.dtype:
        """The parameters' dtype."""
        return self._state.flat.dtype

    @property
    def counts(self) -> list[int]:
        """Counters: steps, gradients accumulated since the last, and steps of each group; replaced by each step."""
        return self._state.counts

    @property
    def groups(self) -> Mapping[str, Group]:
        """The groups by pattern, read-only."""
        return MappingProxyType(self._state.groups)

    @property
    def state(self) -> Mapping[str, FlatBuffer]:
        """The states by name, read-only: buffers that hold those parameters whose rule keeps the state.

        Of a compressed state it is an ``EncodedBuffer``, which gives decoded, read-only copies. The ``parts`` of
        ``state["exp_avg"]["w"]`` are the arrays as they lie in memory; ``state["exp_avg"]["w"] = array`` encodes.
        """
        return MappingProxyType(self._state.states)  # type: ignore[arg-type]

    @property
    def master(self) -> FlatBuffer | EncodedBuffer | None:
        """What holds 16-bit parameters exactly, or None: a buffer of float32, or of both halves, which gives copies."""
        return self._state.master

    @property
    def copy(self) -> FlatBuffer | None:
        """The copy of the parameters in 16 bits, or None."""
        return self._state.copy

    @property
    def ema(self) -> FlatBuffer | None:
        """The moving average of the parameters, or None."""
        return self._state.ema

    @property
    def lookahead(self) -> FlatBuffer | None:
        """The slow weights of lookahead, or None."""
        return self._state.lookahead

    @property
    def accumulated(self) -> FlatBuffer | None:
        """The sum of the gradients since the last update, or None if every step is an update."""
        return self._state.accumulated

    @property
    def backend(self) -> str:
        """The backend that runs the kernels: ``"numba"`` or ``"c"``."""
        return self._backend.name

    @property
    def backend_reason(self) -> str:
        """Why that backend was taken, in words."""
        return self._backend_reason

    @property
    def threads(self) -> int:
        """The most threads that a step may use."""
        return self._threads

    @property
    def rule(self) -> Rule:
        """The rule, if one group holds all parameters; else see :attr:`groups`."""
        return self._only_group().rule

    @rule.setter
    def rule(self, rule: Rule) -> None:
        self._only_group().rule = rule

    def _only_group(self) -> Group:
        if len(self.groups) != 1:
            if not self.groups:
                raise AttributeError("there is no group, hence no rule")
            raise AttributeError(f"there are several rules: use .groups[pattern].rule; patterns: {list(self.groups)}")
        return next(iter(self.groups.values()))

    @property
    def lr(self) -> float:
        """The learning rate of the next step; setting it (a number or a schedule) changes every group."""
        rates = {group.rule.rate(group.step + 1) for group in self.groups.values()}
        if not rates:
            raise AttributeError("there is no group, hence no lr")
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
        return self.counts[STEP]

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

    def explain(self) -> Explanation:
        """What the next step would run, where and why: backend, threads, and a kernel for each group."""
        frozen = tuple(pattern for pattern, group in self.groups.items() if group.frozen)
        return Explanation(self.backend, self.backend_reason, self.threads, self._current_plan().kernels(), frozen)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the states, keyed by parameter name, with the rules and counts of every group.

        ``{"step", "micro_step", "seed", "groups", "state", "ema", "accumulated", "master", "copy", "lookahead"}``,
        where ``state[parameter][name]`` is an array of the state's shape, or of a compressed state a mapping of its
        parts with the name of its ``"storage"``. The parameters are not in it, nor of ``master="split"`` their upper
        halves: see :meth:`save`.
        """
        self._state.check_in_place("state_dict")
        saved = self._state.describe()
        saved["state"] = {name: _copies(states) for name, states in saved["state"].items()}
        return saved | {part: saved[part] and _copies(saved[part]) for part in PARTS}

    def load_state_dict(self, state_dict: Mapping[str, Any], *, convert: bool = False) -> None:
        """Takes over what :meth:`state_dict` gave: states, counts, seed and hyperparameters.

        ``convert`` says that states may be stored otherwise here than there: they are rounded to nearest then. A
        learning rate that is a callable of the user's own is kept as it is here. Raises
        :class:`fastopt.CheckpointError` if rules, names, shapes or storages differ; then nothing has changed.
        """
        from fastopt.checkpoint.saved import parse

        self._state.check_in_place("load_state_dict")
        calls = self._adopting(parse(state_dict), convert)
        self._forget()
        make_all(calls)

    def save(self, path: str | os.PathLike, extra: Any = None) -> None:
        """Writes a checkpoint as a safetensors file: parameters, states, rules and counts, and ``extra``.

        ``extra`` is any JSON value that comes back as it was: None, bool, int, float, str, and lists and dictionaries
        with text for keys, nested at most 100 deep. The file is written from the arrays as they lie, under another name
        in the same folder, and then renamed: a crash at any moment leaves the old file or the new one. A symbolic link
        stays and its target is replaced. Raises TypeError or ValueError, which name the place, for another ``extra``,
        and OSError as :func:`open` does or if the disk is full; the old file is whole then.
        """
        from fastopt.checkpoint import file

        self._state.check_in_place("save")
        file.save(path, self._state.describe(), self._state.parameters(), self.layout.shapes, extra)

    def load(self, path: str | os.PathLike, *, convert: bool = False) -> Any:
        """Takes over a checkpoint, parameters included, and returns its ``extra``.

        A run that goes on from it has the same bits as one that never stopped. ``convert`` says that parameters and
        states may be stored otherwise here than there: they are rounded to nearest then. The file is read twice: to
        compare its checksums, and then into the arrays themselves, without a copy in between but for what is converted.
        Raises :class:`fastopt.CheckpointError` if the file is damaged or does not fit, OSError if it cannot be read;
        then nothing has changed. Only if a disk fails, or somebody cuts the file, between the two readings does OSError
        say that the optimizer holds a part of it.
        """
        from fastopt.checkpoint import file

        self._state.check_in_place("load")

        def adopting(saved: "Saved") -> list[Call]:
            calls = self._adopting(saved, convert)
            self._forget()
            return calls

        return file.load(path, adopting)

    def _adopting(self, saved: "Saved", convert: bool) -> list[Call]:
        state = self._state
        if Flag().parse("convert", convert):
            from fastopt.checkpoint.convert import converted

            saved = converted(saved, state.describe(), state.parameters(), state.layout.shapes)
        return state.adopting(saved)

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
            A :class:`FlatBuffer` of the parameters' layout, a 1-D array of their size (both are read in place, and
            checked again only when another object comes), or a mapping from the name of every parameter that is not
            frozen to an array of its shape: read in place where arrays are large, contiguous, in memory of their own,
            and no norm is asked for; else copied. Of any dtype that flat buffers have, whatever the parameters'.
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
        if max_norm is not None and not (type(max_norm) is float and max_norm > 0.0):
            max_norm = check_limit("max_norm", max_norm)
        if type(grad_scale) is not float or grad_scale != 1.0:
            grad_scale = _checked_scale(grad_scale, self._state.dtype)
        looking = nonfinite != "propagate"
        if looking and nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite must be {one_of(nonfinite, NONFINITE)}")
        given, plan, reading = self._bound
        if grads is not given or plan.forks != process.forks:
            plan, reading = self._bind(grads, measured=looking or max_norm is not None)
        state = self._state
        if state.accumulated is not None:
            if looking and not (added := plan.norm(reading, grad_scale)).finite:
                return self._refuse(added.value, nonfinite)
            if state.counts[MICRO_STEP] + 1 < state.accumulate:
                plan.add(reading, grad_scale)
                return _report(StepReport, (state.counts[STEP], None, True))
            reading, grad_scale = plan.add_up(reading, grad_scale), 1 / state.accumulate
        norm: float | None = None
        scale = grad_scale
        if looking or max_norm is not None:
            measured = plan.norm(reading, grad_scale)
            scaled, unit = measured
            norm = scaled / unit
            if looking and not math.isfinite(scaled):
                return self._refuse(norm, nonfinite)
            if max_norm is not None:
                scale *= measured.clip(max_norm)
        step = plan.fill(scale)
        plan.commit(reading)
        return _report(StepReport, (step, norm, False))

    def update_hessian(self, grads: FlatBuffer | np.ndarray | Mapping[str, Any], *, grad_scale: float = 1.0) -> None:
        """Updates the estimate of the Hessian by a gradient of its own, as :class:`fastopt.SophiaG` says; nothing else.

        ``grads`` and ``grad_scale`` are as for :meth:`step`. Several between two steps are rounded by the same noise
        where the estimate is compressed: leave it as kernels compute it then. TypeError if a rule has no such estimate,
        RuntimeError after :meth:`ascend`. After an error everything is as it was.
        """
        self._state.check_in_place("update_hessian")
        grad_scale = _checked_scale(grad_scale, self._state.dtype)
        given, plan, reading = self._bound
        if grads is not given or plan.forks != process.forks:
            plan, reading = self._bind(grads, measured=False)
        plan.estimate(reading, grad_scale)

    def averaged(self) -> AbstractContextManager[None]:
        """For ``with optimizer.averaged():``, in whose block the parameters are those to evaluate a model with.

        They are the averages of rules that have one, as schedule-free rules do, and else :attr:`ema`, rounded to
        nearest where they have 16 bits; so is :attr:`copy`. After the block, whatever ends it, both have exactly the
        bits from before it, and what was written to them within is lost. Within it, RuntimeError for steps, saving,
        loading, copies of the optimizer, and another such block. TypeError, when it begins, if a group has no average.
        """
        from fastopt.averaging import averaged

        return averaged(self._state, self._forget)

    def ascend(self, grads: FlatBuffer | np.ndarray | Mapping[str, Any], *, rho: float = 0.05) -> float:
        """Moves the parameters up a gradient, for sharpness-aware minimization, until the next call of :meth:`step`.

        By ``rho g / (|g| + 1e-12)``, Foret et al., ICLR 2021, arXiv:2010.01412: a step then goes down a gradient that
        was taken there. It starts, even if it refuses that gradient, by putting the parameters back: they have exactly
        the bits from before, as they have after :meth:`descend`. Until then RuntimeError for saving, loading and copies
        of the optimizer, and for another ascent. Where rules maximize, the parameters go down.

        ``grads`` is as for :meth:`step`, but not to be accumulated. Returns the norm of it; where that is not finite,
        nothing moves. Parameters of 16 bits are moved as they are, and rounded to nearest, and frozen ones stay. The
        first ascent allocates memory for a copy of the parameters.
        """
        from fastopt.ascent import Ascent, check_rho

        rho = check_rho(rho)
        self._state.check_in_place("ascend")
        given, plan, reading = self._bound
        if grads is not given or plan.forks != process.forks:
            plan, reading = self._bind(grads, measured=True)
        self._bound_before, self._bound = self._bound, _UNBOUND
        if self._ascent is None:
            self._ascent = Ascent(self._state)
        return self._ascent.make(plan, reading, rho)

    def descend(self) -> None:
        """Takes back what :meth:`ascend` has done since the last step, if anything: without a step."""
        if self._ascent is not None and self._ascent.made:
            self._ascent.take_back()
            self._bound = self._bound_before

    def _refuse(self, norm: float, nonfinite: str) -> StepReport:
        if nonfinite == "raise":
            raise NonFiniteGradientError(f"grads: the gradient is not finite (its norm is {norm}); nothing has changed")
        return StepReport(self.step_count, norm, True)

    def _forget(self) -> None:
        """Has the next step make a plan."""
        self._bound = self._bound_before = _UNBOUND
        self._plan: StepPlan | None = None

    def _bind(self, grads: Any, *, measured: bool) -> tuple[StepPlan, Reading]:
        """The plan, and the gradient read by it. One that is refused leaves the one before in use."""
        if self._ascent is not None and self._ascent.made:
            self.descend()
            given, plan, reading = self._bound
            if grads is given and plan.forks == process.forks:
                return plan, reading
        self._state.check_in_place("step")
        plan = self._current_plan()
        reading = plan.read(grads, measured=measured)
        if reading.lasts:
            self._bound = grads, plan, reading
        return plan, reading

    def _current_plan(self) -> StepPlan:
        if self._plan is None or self._plan.forks != process.forks:
            self._forget()
            self._plan = make_plan(self._state, self._backend, self._threads)
        return self._plan


def _copies(members: "Mapping[str, Stored]") -> dict[str, Any]:
    from fastopt.checkpoint.saved import in_state_dict

    return {name: in_state_dict(stored) for name, stored in members.items()}


@cache
def _largest(dtype: np.dtype) -> float:
    return float(np.finfo(dtype).max)


def _checked_scale(value: Any, dtype: np.dtype) -> float:
    number = value if type(value) is float else real("grad_scale", value, "a finite number")
    if not math.isfinite(number):
        raise ValueError(f"grad_scale must be a finite number, not {quoted(value)}")
    if abs(number) > _largest(dtype):
        raise ValueError(f"grad_scale must be a number of {dtype}, not {quoted(value)}")
    return number
