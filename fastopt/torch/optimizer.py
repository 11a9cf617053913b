"""The optimizer: torch.optim's interface around a rule's kernels."""

import functools
import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from operator import is_
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks as _post_hooks
from torch.optim.optimizer import _global_optimizer_pre_hooks as _pre_hooks

from fastopt.ascent import check_rho, size_of_ascent
from fastopt.backend.program import Call, make_all
from fastopt.norm import Norm, check_limit
from fastopt.rule import Rule
from fastopt.torch import clipping, memory, recording
from fastopt.torch.explanation import Explanation
from fastopt.torch.fallback import Fallback
from fastopt.torch.gradients import Gradients, Stale
from fastopt.torch.hyperparameters import as_given, is_constant, items_of, number_of
from fastopt.torch.plan import Plan
from fastopt.torch.rows import Kind, kind, survey
from fastopt.torch.states import States
from fastopt.torch.stored import OPTIONS, check_options, options_of

_ABOVE = "the parameters are where ascend has moved them: make the step first, or call descend()"


def _observed(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step as torch wraps it, with hooks and a profiler's record, but without the record when no profiler runs.

    The record alone takes half as long as the whole step of a small model.
    """
    with_hooks = torch.optim.Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def wrapper(self: "RuleOptimizer", *args: Any, **kwargs: Any) -> Any:
        if type(self).step is not wrapper:  # a subclass's own step, which torch has wrapped, calls this one
            return step(self, *args, **kwargs)
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or _pre_hooks or _post_hooks
        if hooks or torch.autograd._profiler_enabled():
            return with_hooks(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    wrapper.hooked = True  # type: ignore[attr-defined]
    return wrapper


class RuleOptimizer(torch.optim.Optimizer):
    """What all optimizers of this package have in common: a ``torch.optim.Optimizer`` that steps by a rule's kernels.

    The subclasses come from :func:`fastopt.torch.optimizer_class`, and are subclasses of the class of ``torch.optim``
    with the same rule, too. A step works on the memory of parameters, gradients and states as they are, float32,
    float64, bfloat16 and float16, contiguous or permuted, and reads DTensors' local parts. It uses torch's thread pool
    and as many threads as ``torch.get_num_threads()`` says. Parameters of 16 bits are computed in float32, and they and
    their states, which have their dtype, are rounded once, to nearest, as by torch's fused code.

    Besides torch's arguments there are five, which groups may have, too:

    - ``master="float32"`` keeps parameters of 16 bits exactly, in the state ``master``, and what the model has is
      rounded from it in the same pass; ``"split"``, for bfloat16, keeps their lower halves alone, in ``remainder``.
      Their other states are float32 then. Whoever writes to such a parameter deletes these states of it.
    - ``state_dtype`` says how states are stored: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"8bit"``, for all or
      in a dict by the state's name. In 8 bits ``exp_avg`` holds codes, and ``exp_avg_scales`` a scale for each 256.
      DTensors have them where each process has whole blocks of 256.
    - ``rounding="stochastic"`` rounds 16-bit states, and 16-bit parameters without a master, up or down at random:
      ``"nearest"`` cannot add up what is small. It is the default where one of the two above is given.
    - ``seed`` is that of the random numbers, which are a function of it, the step and the place in the parameter:
      where replicas have one seed, and take the same steps, they stay equal.
    - ``lookahead=(6, 0.5)`` keeps slow weights, in the state ``slow``, which start as the parameters are. After every
      sixth step of a parameter they move by half of what they lack to it, and the parameter is put there: Zhang et al.,
      NeurIPS 2019, arXiv:1907.08610.

    Sparse gradients, coalesced or not, as ``nn.Embedding(sparse=True)`` makes them, touch the rows that they have, and
    the states and the decay of these alone, by every rule. With momentum SGD leaves them to torch, which moves other
    rows, too.

    And one that is the optimizer's own, ``clip_grad_norm``, which can be set later, too: a step multiplies gradients so
    that their norm over all parameters does not exceed it, as after :func:`torch.nn.utils.clip_grad_norm_`. They are
    read for it once more, and not written: neither clipped nor, under a GradScaler, unscaled does a kernel's gradient
    come back. :attr:`grad_norm` is the norm, as that function returns it: of DTensors, that of the whole tensors.

    Where kernels cannot step a parameter (another device or dtype, gaps in its memory, memory shared with another
    parameter, a gradient that is sparse in several dimensions), the class of ``torch.optim`` steps it, with the same
    state. It steps all parameters while a dispatch mode records what is done (``make_fx``, fake tensors). Where torch
    has no such class the step raises RuntimeError and says why.

    The constructor and :meth:`add_param_group` take what torch's constructors take. What is written into a group later
    is the user's word, as in torch: a negative learning rate steps uphill. Only NaN and an infinite learning rate are
    refused then.

    ``foreach`` and ``fused`` are accepted and change no bit of what kernels compute; ``fused=True`` has a GradScaler
    leave the unscaling of gradients to the step, as in torch. ``capturable`` and ``differentiable`` are refused.
    """

    #: The rule's class, and the class of torch.optim that computes the same, if there is one.
    rule: ClassVar[type[Rule]]
    torch_class: ClassVar[type[torch.optim.Optimizer] | None]
    #: What groups hold beside the arguments: flags that the rule fixes, as AdamW does with decoupled_weight_decay.
    constants: ClassVar[Mapping[str, Any]]
    signature: ClassVar[inspect.Signature]
    #: Takes from a group what its rule depends on.
    values: ClassVar[Callable[[Any], tuple]]

    state: defaultdict[Tensor, Any]

    #: The norm of the gradients of the last step that had ``clip_grad_norm``, unscaled and not yet clipped; else None.
    grad_norm: Any = None

    _clip_grad_norm: float | None = None
    _plan: Plan | None = None
    _plans = 0  # how often it was made
    _others: Fallback | None = None  # steps what the plan leaves
    _loading: list[dict[str, Any]] | None = None  # the state dict that is being loaded, once hooks have seen it
    _below: list[tuple[Tensor, Tensor]] | None = None  # above: the parameters that have ascended, and what they were
    _known: Any = ()  # for each group, what its rule was made of
    _rules: Any = (), ()  # the rules of all groups, and their kinds: lists that are replaced, not changed

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = self.signature.bind(*args, **kwargs)
        given.apply_defaults()
        params = given.arguments.pop("params")
        clip_grad_norm = _checked_limit(given.arguments.pop("clip_grad_norm"))
        defaults = {**given.arguments, **self.constants}
        if defaults.get("fused") and defaults.get("foreach"):
            raise RuntimeError(f"{type(self).__name__}: `fused` and `foreach` cannot be `True` together.")
        self.check_group(defaults)
        torch.optim.Optimizer.__init__(self, params, defaults)
        self._clip_grad_norm = clip_grad_norm
        self._follow_fused()
        self.state = States(dict, self.state)
        if self.torch_class is torch.optim.Adagrad:  # the one class of torch.optim that has its states from the start
            for group in self.param_groups:
                first = group["initial_accumulator_value"]
                for p in group["params"]:
                    made = torch.optim.Adagrad([p], initial_accumulator_value=first, fused=group["fused"])
                    self.state.update(made.state)

    def _keep_dtypes(self, loaded: Mapping[str, Any]) -> None:
        """Takes tensors of the state as they were before torch gave them the dtype of their parameters.

        These are what is or becomes smaller than float32, and the numbers that are float64 whatever the parameters are.
        """
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        numbers = chain.from_iterable(group["params"] for group in loaded["param_groups"])
        for number, p in zip(numbers, params, strict=True):
            given, entry = loaded["state"].get(number), self.state.get(p)
            if not (isinstance(given, Mapping) and isinstance(entry, dict)):
                continue
            computes = p.dtype in memory.DTYPES
            for name, value in given.items():
                if name == "step" or not isinstance(value, Tensor):
                    continue
                if name in self.rule.torch_float64:
                    entry[name] = value.detach().clone()
                elif not (computes and value.dtype in memory.DTYPES):
                    entry[name] = value.to(p.device)

    @property
    def clip_grad_norm(self) -> float | None:
        """The largest norm that steps let gradients have, or None."""
        return self._clip_grad_norm

    @clip_grad_norm.setter
    def clip_grad_norm(self, limit: float | None) -> None:
        self._clip_grad_norm = _checked_limit(limit)

    @property
    def state_was_seen(self) -> bool:
        """Whether anybody has looked at the state since the last step: then the next one looks what has changed."""
        return not isinstance(self.state, States) or self.state.seen

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, as torch does. ValueError if its hyperparameters are wrong."""
        if not isinstance(param_group, dict):
            torch.optim.Optimizer.add_param_group(self, param_group)
            return
        group = self.defaults | param_group
        self.check_group(group)
        torch.optim.Optimizer.add_param_group(self, param_group)
        try:
            members, rule = self.param_groups[-1]["params"], self.make_rule(group)
            self._check_options(group, {p.dtype for p in members})
            for p in members:
                rule.check_shape(self.describe(p).partition(": ")[2], tuple(p.shape))
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def __getstate__(self) -> dict[str, Any]:
        if self._below is not None:
            raise RuntimeError(f"{type(self).__name__}: copy or pickle: {_ABOVE}")
        return torch.optim.Optimizer.__getstate__(self) | {"_clip_grad_norm": self._clip_grad_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)
        if self._loading:
            self._keep_dtypes(self._loading[-1])
        if not isinstance(self.state, States):
            self.state = States(dict, self.state)
        for group in self.param_groups:
            for name, default in {**OPTIONS, **self.defaults}.items():
                group.setdefault(name, default)
            group.update(self.constants)
        self._plan, self._known = None, ()
        self._follow_fused()

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """As torch's: the tensors of the state, by the numbers of the parameters, and the groups.

        The dicts are others than those of the state: whoever keeps them can move its tensors, but not replace them.
        """
        saved = super().state_dict()
        for key, entry in saved["state"].items():
            if type(entry) is dict:
                saved["state"][key] = entry.copy()
        return saved

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state dict of this class or of torch's, as torch does, but for the dtypes.

        Torch gives everything in it the dtype of its parameter. Here that does not touch what would become, or has been
        made, smaller than float32: it keeps its dtype until a step needs another one.
        """
        found: list[dict[str, Any]] = []
        # After all other hooks, which may replace what is loaded.
        hook = self.register_load_state_dict_pre_hook(lambda _, final: found.append(final))
        self._loading = found
        try:
            super().load_state_dict(state_dict)
        finally:
            self._loading = None
            hook.remove()

    def share_memory(self) -> None:
        """Moves the states into shared memory, for training in several processes. Scalars stay in each process."""
        for group in self.param_groups:
            numbers = {"step", *self.make_rule(group).torch_scalars}
            for p in group["params"]:
                for name, value in self.state.get(p, {}).items():
                    if name not in numbers:
                        value.share_memory_()

    def _follow_fused(self) -> None:
        if self.defaults.get("fused"):
            self._step_supports_amp_scaling = True

    @_observed
    @torch._disable_dynamo  # torch.compile leaves the step as it is: there is nothing in it to compile
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Performs a single optimization step.

        ``closure``, if given, evaluates the model anew and returns the loss, which is then the result. A value,
        state or tensor that is wrong raises RuntimeError, TypeError or ValueError before kernels change anything.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._below is not None:
            self.descend()
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return loss
        grad_scale = getattr(self, "grad_scale", None)
        scale = 1.0 if grad_scale is None else grad_scale.item()
        rules, kinds = self._current_rules()
        if recording.recorder() and self._leave_to_torch(scale):
            return loss
        looked = self._others is not None and self.state_was_seen
        plan, gradients = self._current_plan(rules, kinds)
        others = [p.grad for members in plan.others.values() for p, _ in members if p.grad is not None]
        limit = self._clip_grad_norm
        if limit is not None:
            factor = self._clip(plan, gradients, others, limit, scale)
            plan.prepare(rules, gradients, factor, factor)
            _multiply(others, factor)  # what torch's own optimizer steps is clipped as torch does it
        else:
            exact = _has_exact_inverse(scale)
            gradients = gradients if exact else plan.divided(gradients, scale)
            plan.prepare(rules, gradients, 1.0 / scale, 1.0 / scale if exact else 1.0)
            _divide(others, scale)
        if self._others is not None:
            self._others.step(self.param_groups, self.state, looked)
            if isinstance(self.state, States):
                self.state.seen = False  # torch's optimizer has looked, and the plan knows what was before
        plan.run(gradients, torch.get_num_threads())
        if limit is None and scale != 1.0:  # in place, as torch's fused optimizers do
            _divide([p.grad for p in plan.params if p.grad is not None], scale)
        return loss

    def _clip(self, plan: Plan, gradients: Gradients, others: Sequence[Tensor], limit: float, scale: float) -> float:
        """What gradients, which are ``scale`` times too large, are to be multiplied by."""
        squares = plan.squares(gradients, torch.get_num_threads()) + clipping.total_of_tensors(others)
        self.grad_norm = math.sqrt(squares) / scale
        return Norm(self.grad_norm).clip(limit) / scale

    @torch._disable_dynamo
    def ascend(self, *, rho: float = 0.05) -> float:
        """Moves the parameters up their gradients, for sharpness-aware minimization, until the next step.

        By ``rho g / (|g| + 1e-12)``, Foret et al., ICLR 2021, arXiv:2010.01412, |g| being the norm over all parameters,
        which it returns; one that is not finite moves nothing. A step then goes down a gradient that was taken there::

            loss(model).backward()
            optimizer.ascend()
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()

        It starts, after its closure, by putting the parameters back: they have exactly the bits from before, as they
        have after :meth:`descend`. Where a group maximizes, its parameters go down. Parameters of 16 bits are moved as
        they are, and rounded to nearest. RuntimeError where kernels cannot step a parameter, or after another ascent.
        """
        rho = check_rho(rho)
        if self._below is not None:
            raise RuntimeError(f"{type(self).__name__}: ascend: {_ABOVE}")
        rules, kinds = self._current_rules()
        plan, gradients = self._current_plan(rules, kinds)
        for members in plan.others.values():
            param, reason = members[0]
            raise RuntimeError(f"{self.describe(param)} {reason}, and kernels alone ascend")
        threads = torch.get_num_threads()
        norm = Norm(math.sqrt(plan.squares(gradients, threads)))
        below = [(p, p.detach().clone()) for p in plan.params if p.grad is not None]
        keep: Call = (self.__dict__.update, {"_below": below})
        plan.ascend(rules, gradients, size_of_ascent(norm, rho), threads, keep)
        return norm.value

    @torch._disable_dynamo
    @torch.no_grad()
    def descend(self) -> None:
        """Takes back what :meth:`ascend` has done since the last step, if anything: without a step."""
        back: list[Call] = [(Tensor.copy_, p, before) for p, before in self._below or ()]
        make_all([*back, (self.__dict__.update, {"_below": None})])

    @torch._disable_dynamo
    def update_hessian(self) -> None:
        """Updates the estimate of the Hessian by the gradients as they are, as fastopt.SophiaG says; nothing else.

        TypeError if the rule has no such estimate.
        """
        rules, kinds = self._current_rules()
        plan, gradients = self._current_plan(rules, kinds)
        plan.prepare_estimates(rules, gradients)
        plan.run(gradients, torch.get_num_threads())

    def _current_plan(self, rules: list[Rule], kinds: list[Kind]) -> tuple[Plan, Gradients]:
        """The plan, made anew where something has changed, and the gradients that kernels read."""
        plan = self._plan
        if plan is None or not (plan.kinds == kinds and plan.holds(self.param_groups, self.state)):
            plan = self._make_plan(rules, kinds)
        try:
            return plan, plan.gradients.read()
        except Stale:
            plan = self._make_plan(rules, kinds)
            return plan, plan.gradients.read()

    def _make_plan(self, rules: list[Rule], kinds: list[Kind]) -> Plan:
        self._plan = None
        with torch.no_grad():
            found = survey(self.param_groups, self.state, rules, kinds, self.describe)
            self._others = self._fallback(found.others) if found.others else None
            self._plan = Plan(self.param_groups, self.state, rules, kinds, found)
            self._plans += 1
        return self._plan

    def explain(self) -> Explanation:
        """What the last step ran, where and why: kernels, torch's own optimizer, and how often they were chosen anew.

        Where torch's own optimizer stepped all parameters, to be recorded, it is the last step before that.
        """
        plan = self._plan
        if plan is None:
            return Explanation(plans=self._plans)
        kernels = plan.kernels()
        backend, reason = (plan.backend.name, plan.backend_reason) if kernels else ("", "")
        others = [(self.describe(p), reason) for members in plan.others.values() for p, reason in members]
        return Explanation(backend, reason, kernels, tuple(others), self._plans, plan.looks, plan.gradients.copied)

    # Hyperparameters

    def _current_rules(self) -> tuple[list[Rule], list[Kind]]:
        """Each group's rule and its kind. They are made anew when a hyperparameter is another object."""
        known = self._known
        if len(known) != len(self.param_groups):
            known = self._known = [()] * len(self.param_groups)
            self._rules = [None] * len(known), [None] * len(known)
        for number, group in enumerate(self.param_groups):
            values = type(self).values(group)
            before = known[number]
            if not (len(before) == len(values) and all(map(is_, before, values))):
                rule = self.make_rule(group)
                # A tensor or a list may change and be the same object: then there is nothing to compare with.
                constant = all(map(is_constant, values))
                rules, kinds = map(list, self._rules)
                options, last = options_of(group), kinds[number]
                if last is None or options != last.options:
                    self._check_options(group, {p.dtype for p in group["params"]})
                found = kind(rule, options, in_torch=self.torch_class is not None)
                rules[number], kinds[number] = rule, found
                known[number], self._rules = values if constant else (), (rules, kinds)
        return self._rules

    def make_rule(self, group: Mapping[str, Any]) -> Rule:
        """The rule of a group. TypeError or ValueError if one of its hyperparameters is no number, or NaN."""
        try:
            return self._checked_rule(group)
        except (TypeError, ValueError):
            name, fields = type(self).__name__, self.rule.fields.items()
            values = {key: as_given(f"{name}: {key}", field.domain, number_of(group[key])) for key, field in fields}
            return self.rule.unchecked(**values)

    def _checked_rule(self, group: Mapping[str, Any]) -> Rule:
        name = type(self).__name__
        if group.get("capturable"):
            raise RuntimeError(f"{name}: capturable=True is for the graphs of accelerators; fastopt works on the CPU")
        if group.get("differentiable"):
            fused = " (`fused` does not support `differentiable`)" if group.get("fused") else ""
            raise RuntimeError(
                f"{name}: differentiable=True needs a step that autograd records; fastopt's is not{fused}"
            )
        if callable(group["lr"]):
            raise ValueError(f"{name}: lr must be a number or a tensor; for a schedule use torch.optim.lr_scheduler")
        return self.rule(**{field: number_of(group[field]) for field in self.rule.fields})

    def check_group(self, group: Mapping[str, Any]) -> None:
        """TypeError, ValueError or RuntimeError if neither the rule nor torch's constructor takes what a group has.

        What torch says comes first, for those who match on its words.
        """
        own: Exception | None = None
        try:
            self._checked_rule(group)
        except (TypeError, ValueError) as error:
            own = error
        values = {field: group[field] for field in self.rule.fields}
        if own is None and not any(isinstance(value, Tensor) for each in values.values() for value in items_of(each)):
            return
        if self.torch_class is not None:
            known = values.keys() & inspect.signature(self.torch_class).parameters.keys()
            try:
                self.torch_class([torch.zeros(1, 1, device="cpu")], **{name: values[name] for name in known})
            except (ValueError, RuntimeError) as refusal:
                raise type(refusal)(f"{refusal} ({own})" if own else str(refusal)) from None
            except (TypeError, IndexError) as refusal:  # not what it says about a value, but where it came to grief
                raise own or refusal from None
        elif own is not None:
            raise own
        self.make_rule(group)

    def _check_options(self, group: Mapping[str, Any], dtypes: Collection[torch.dtype]) -> None:
        try:
            check_options(options_of(group), self.make_rule(group).states, dtypes)
        except (TypeError, ValueError) as error:
            kind_of = TypeError if isinstance(error, TypeError) else ValueError
            raise kind_of(f"{type(self).__name__}: {error}") from None

    # Parameters that kernels cannot step

    def check_others(self, others: Mapping[int, list[tuple[Tensor, str]]]) -> None:
        """RuntimeError if there are parameters that kernels cannot step and torch has no class that could."""
        for number, members in others.items():
            param, reason = members[0]
            if self.torch_class is None:
                raise RuntimeError(f"{self.describe(param)} {reason}, and torch.optim has no {type(self).__name__}")
            known = inspect.signature(self.torch_class).parameters.keys() | self.constants.keys()
            for name, field in self.rule.fields.items():
                if name not in known and self.param_groups[number][name] != field.default:
                    raise RuntimeError(
                        f"{self.describe(param)} {reason}, and torch.optim.{self.torch_class.__name__} has no {name}"
                    )
            if not options_of(self.param_groups[number]).as_torch:
                raise RuntimeError(
                    f"{self.describe(param)} {reason}, and torch.optim.{self.torch_class.__name__} has none of "
                    f"{', '.join(OPTIONS)}"
                )

    def describe(self, param: Tensor) -> str:
        """The parameter's place, and its name if it has one, for error messages."""
        for number, group in enumerate(self.param_groups):
            for place, member in enumerate(group["params"]):
                if member is param:
                    name = f" ({group['param_names'][place]})" if "param_names" in group else ""
                    return f"{type(self).__name__}: param_groups[{number}]['params'][{place}]{name}"
        raise ValueError("the parameter belongs to no group")

    def _leave_to_torch(self, scale: float) -> bool:
        """Has torch's own optimizer step all parameters, in operations that can be recorded. False if there is none.

        Gradients are ``scale`` times too large. RuntimeError if there is none and a program is made of the operations:
        it would lack the step.
        """
        if self.torch_class is None and not recording.makes_a_program():
            return False
        reason = f"is to be stepped in operations that {recording.recorder()} can record"
        members = [[(p, reason) for p in group["params"] if p.grad is not None] for group in self.param_groups]
        others = {number: pairs for number, pairs in enumerate(members) if pairs}
        fallback = self._fallback(others) if others else None
        stepped = [p for pairs in others.values() for p, _ in pairs]
        if scale != 1.0:  # or no_grad itself would be recorded
            _divide([p.grad for p in stepped if p.grad is not None], scale)
        if self._clip_grad_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(stepped, self._clip_grad_norm)
            self.grad_norm = norm if recording.makes_a_program() else clipping.as_number(norm)
        if fallback is not None:
            fallback.step(self.param_groups, self.state, looked=True)
        return True

    def _fallback(self, others: Mapping[int, list[tuple[Tensor, str]]]) -> Fallback:
        """Torch's own optimizer for parameters that kernels cannot step. RuntimeError if there is none."""
        self.check_others(others)
        assert self.torch_class is not None
        members = {number: [p for p, _ in members] for number, members in others.items()}
        return Fallback(self.torch_class, self.defaults, members)


def _checked_limit(value: Any) -> float | None:
    return None if value is None else check_limit("clip_grad_norm", value)


def _multiply(gradients: list[Tensor], factor: float) -> None:
    if gradients:  # torch takes no empty list
        with torch.no_grad():
            torch._foreach_mul_(gradients, factor)


def _divide(gradients: list[Tensor], scale: float) -> None:
    if gradients and scale != 1.0:
        with torch.no_grad():  # not around the function, which every step calls
            torch._foreach_div_(gradients, scale)


def _has_exact_inverse(scale: float) -> bool:
    """Whether products with the inverse have the bits of quotients: of powers of two, as GradScaler's mostly are."""
    mantissa, exponent = math.frexp(scale)
    return mantissa == 0.5 and abs(exponent) < 126  # float32 has both numbers
