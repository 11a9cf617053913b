"""The optimizer: torch.optim's interface around a rule's kernels."""

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from operator import is_
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks as _post_hooks
from torch.optim.optimizer import _global_optimizer_pre_hooks as _pre_hooks

from fastopt.rule import Rule
from fastopt.torch.plan import Plan, Stale


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

    The subclasses come from :func:`fastopt.torch.optimizer_class`. A step works on the memory of parameters, gradients
    and states as they are, float32 and float64, contiguous or permuted, and reads DTensors' local parts. It uses
    torch's thread pool and as many threads as ``torch.get_num_threads()`` says. Where kernels cannot step a parameter
    (another device or dtype, a sparse gradient, gaps in its memory, memory shared with another parameter), the class of
    ``torch.optim`` steps it, with the same state; where there is none, the step raises RuntimeError and says why.

    ``foreach`` and ``fused`` are accepted and make no difference, but that ``fused=True`` has a GradScaler leave the
    unscaling of gradients to the step, as in torch. ``capturable`` and ``differentiable`` are refused.
    """

    #: The rule's class, and the class of torch.optim that computes the same, if there is one.
    rule: ClassVar[type[Rule]]
    torch_class: ClassVar[type[torch.optim.Optimizer] | None]
    #: What groups hold beside the arguments: flags that the rule fixes, as AdamW does with decoupled_weight_decay.
    constants: ClassVar[Mapping[str, Any]]
    signature: ClassVar[inspect.Signature]
    #: Takes from a group what its rule depends on.
    values: ClassVar[Callable[[Any], tuple]]

    #: The state, for the package's own use: see :attr:`state`.
    own_state: defaultdict[Tensor, Any]
    #: Whether anybody else may hold a part of the state. Until then a step need not look whether it has been changed.
    state_was_seen = True

    _plan: Plan | None = None
    _known: Any = ()  # for each group, what its rule was made of, and the rule

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = self.signature.bind(*args, **kwargs)
        given.apply_defaults()
        params = given.arguments.pop("params")
        defaults = {**given.arguments, **self.constants}
        if defaults.get("fused") and defaults.get("foreach"):
            raise RuntimeError(f"{type(self).__name__}: `fused` and `foreach` cannot be `True` together.")
        self.make_rule(defaults)
        super().__init__(params, defaults)
        self._follow_fused()
        if self.torch_class is torch.optim.Adagrad:  # the one class of torch.optim that has its states from the start
            for group in self.param_groups:
                first = group["initial_accumulator_value"]
                self.own_state.update(torch.optim.Adagrad(group["params"], initial_accumulator_value=first).state)
        self.state_was_seen = False

    @property
    def state(self) -> defaultdict[Tensor, Any]:  # type: ignore[override]
        """The state of each parameter: a dict of tensors, named as torch names them."""
        self.state_was_seen = True
        return self.own_state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self.state_was_seen = True
        self.own_state = state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, as torch does. ValueError if its hyperparameters are wrong."""
        if isinstance(param_group, dict):
            self.make_rule(self.defaults | param_group)
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({name: value for name, value in state.items() if name != "state"})
        self.state = state["state"]
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)
            group.update(self.constants)
        self._plan, self._known = None, ()
        self._follow_fused()

    def share_memory(self) -> None:
        """Moves the states into shared memory, for training in several processes. Scalars stay in each process."""
        for group in self.param_groups:
            for name in self.make_rule(group).states:
                for p in group["params"]:
                    if p in self.state:
                        self.state[p][name].share_memory_()

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
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return loss
        rules = self._current_rules()
        plan = self._plan
        if plan is None or not plan.holds(self, rules):
            plan = self._make_plan(rules)
        try:
            gradients = plan.gradients()
        except Stale:
            plan = self._make_plan(rules)
            gradients = plan.gradients()
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            self._unscale(scale.item())
            gradients = plan.gradients()
        plan.prepare(rules, gradients)
        if plan.others:
            self._step_others(plan)
        plan.run(gradients, torch.get_num_threads())
        return loss

    def _make_plan(self, rules: list[Rule]) -> Plan:
        self._plan = None
        with torch.no_grad():
            self._plan = Plan(self, rules)
        return self._plan

    def _current_rules(self) -> list[Rule]:
        """Each group's rule. A new one is made, and its fields are checked, when a hyperparameter is another object."""
        known = self._known
        if len(known) != len(self.param_groups):
            known = self._known = [((), None)] * len(self.param_groups)
        rules = []
        for number, group in enumerate(self.param_groups):
            values = type(self).values(group)
            before, rule = known[number]
            if not (len(before) == len(values) and all(map(is_, before, values))):
                rule = self.make_rule(group)
                # A tensor or a list may change and be the same object: then there is nothing to compare with.
                known[number] = (values if all(map(_is_constant, values)) else (), rule)
            rules.append(rule)
        return rules

    def make_rule(self, group: Mapping[str, Any]) -> Rule:
        """The rule of a group. Raises TypeError or ValueError if a hyperparameter is wrong."""
        name = type(self).__name__
        if group.get("capturable"):
            raise RuntimeError(f"{name}: capturable=True is for the graphs of accelerators; fastopt works on the CPU")
        if group.get("differentiable"):
            raise RuntimeError(f"{name}: differentiable=True needs a step that autograd records; fastopt's is not")
        if callable(group["lr"]):
            raise ValueError(f"{name}: lr must be a number or a tensor; for a schedule use torch.optim.lr_scheduler")
        return self.rule(**{field: _number(group[field]) for field in self.rule.fields})

    def _unscale(self, scale: float) -> None:
        """Divides the gradients by the scale of a GradScaler, in place, as torch's fused optimizers do."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        with torch.no_grad():
            torch._foreach_div_(gradients, scale)

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

    def describe(self, param: Tensor) -> str:
        """The parameter's place, and its name if it has one, for error messages."""
        for number, group in enumerate(self.param_groups):
            for place, member in enumerate(group["params"]):
                if member is param:
                    name = f" ({group['param_names'][place]})" if "param_names" in group else ""
                    return f"{type(self).__name__}: param_groups[{number}]['params'][{place}]{name}"
        raise ValueError("the parameter belongs to no group")

    def _step_others(self, plan: Plan) -> None:
        """Has torch's own optimizer step the parameters that kernels cannot, with the same state."""
        torch_class = self.torch_class
        assert torch_class is not None
        stepper = torch_class.__new__(torch_class)
        stepper.__setstate__(
            {
                "defaults": self.defaults | {"differentiable": False},
                "state": self.own_state,
                "param_groups": [
                    self.param_groups[number] | {"params": [param for param, _ in members]}
                    for number, members in plan.others.items()
                ],
            }
        )
        inspect.unwrap(torch_class.step, stop=lambda step: not hasattr(step, "hooked"))(stepper)


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, (float, int, str))


def _number(value: Any) -> Any:
    """A hyperparameter without tensors: each is replaced by its only element."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"Tensor hyperparameters must have 1 element, not the shape {tuple(value.shape)}")
        return value.item()
    if isinstance(value, (tuple, list)):
        return tuple(map(_number, value))
    return value
