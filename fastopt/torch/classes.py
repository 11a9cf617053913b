"""The classes: one for each rule, made from its declaration, with torch.optim's signature where torch has the rule."""

import functools
import inspect
from functools import cache
from inspect import Parameter, Signature
from operator import itemgetter
from types import MappingProxyType, MethodType
from typing import Any

import torch

from fastopt.rule import Rule
from fastopt.rules import RULES
from fastopt.schedule_free import ScheduleFree
from fastopt.torch.averaging import AveragingOptimizer
from fastopt.torch.optimizer import RuleOptimizer
from fastopt.torch.states import States
from fastopt.torch.stored import OPTIONS

_MODULE = __name__.rpartition(".")[0]
_BUILT_IN = set(RULES.values())

# The keyword arguments that classes take when torch has no class of their own.
_OPTIONS = {"maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None}

_REFUSED = {"capturable", "differentiable"}


@cache
def optimizer_class(rule: Any) -> type[RuleOptimizer]:
    """The ``torch.optim.Optimizer`` for a rule, of fastopt or of your own: ``optimizer_class(fastopt.Lion)``.

    It is a subclass of the class of ``torch.optim`` that computes the same, if the rule is fastopt's and there is one.
    Its arguments are the parameters, then those of the class of ``torch.optim`` with the rule's name, if the rule is
    fastopt's and there is one, or else the rule's fields; and by keyword the rule's other fields, ``maximize``,
    ``foreach``, ``capturable``, ``differentiable``, ``fused``, ``master``, ``state_dtype``, ``rounding``, ``seed``,
    ``lookahead`` and ``clip_grad_norm``.
    """
    if not (isinstance(rule, type) and issubclass(rule, Rule)):
        raise TypeError(f"rule must be a class of rules, as fastopt.Adam is, not {rule!r}")
    built_in = rule in _BUILT_IN
    torch_class = _torch_class(rule) if built_in else None
    signature = _signature(rule, getattr(torch.optim, rule.__name__, None) if built_in else None)
    namespace: dict[str, Any] = {
        "__doc__": rule.__doc__,
        "__module__": _MODULE if built_in else rule.__module__,
        "__signature__": signature,
        "rule": rule,
        "torch_class": torch_class,
        "constants": MappingProxyType(_constants(rule)),
        "signature": signature,
        "values": staticmethod(itemgetter(*rule.fields, *OPTIONS, *(_REFUSED & signature.parameters.keys()))),
    }
    if not built_in:
        namespace["__reduce__"] = _reduce
    own = AveragingOptimizer if issubclass(rule, ScheduleFree) else RuleOptimizer
    bases = (own, torch_class) if torch_class else (own,)
    return type(rule.__name__, bases, namespace)


def _signature(rule: type[Rule], own: type[torch.optim.Optimizer] | None) -> Signature:
    if own is not None:
        parameters = dict(inspect.signature(own).parameters)
    else:
        parameters = {"params": Parameter("params", Parameter.POSITIONAL_OR_KEYWORD)}
        for name, field in rule.fields.items():
            if name not in _OPTIONS:
                parameters[name] = Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=field.default)
        for name, default in _OPTIONS.items():
            parameters[name] = Parameter(name, Parameter.KEYWORD_ONLY, default=default)
    for name, field in rule.fields.items():
        parameters.setdefault(name, Parameter(name, Parameter.KEYWORD_ONLY, default=field.default))
    for name, default in {**OPTIONS, "clip_grad_norm": None}.items():
        parameters[name] = Parameter(name, Parameter.KEYWORD_ONLY, default=default)
    return Signature([parameter.replace(annotation=Parameter.empty) for parameter in parameters.values()])


def _constants(rule: type[Rule]) -> dict[str, Any]:
    """The fields of the rule's bases that are fixed in the rule: torch's groups have them, too."""
    inherited = {name for base in rule.__mro__ for name in getattr(base, "fields", ())}
    return {name: getattr(rule, name) for name in sorted(inherited - set(rule.fields))}


def _torch_class(rule: type[Rule]) -> type[torch.optim.Optimizer] | None:
    """The class of torch.optim that computes what a built-in rule does: AMSGrad is torch's Adam with a flag."""
    for base in rule.__mro__:
        found = getattr(torch.optim, base.__name__, None) if base in _BUILT_IN else None
        if found is not None:
            return found
    return None


def _reduce(self: RuleOptimizer) -> tuple:
    """Pickles the optimizer of a user's rule by the rule, since its class is in no module."""
    return _restore, (self.rule,), self.__getstate__()


def _restore(rule: Any) -> RuleOptimizer:
    made: type[RuleOptimizer] = optimizer_class(rule)
    return made.__new__(made)


def accelerate(optimizer: torch.optim.Optimizer) -> RuleOptimizer:
    """fastopt's optimizer in the place of one of torch.optim's, over the same parameters, states, groups and hooks.

    Groups and states are shared, not copied: schedulers that were made for the old optimizer go on to work, and the
    old one could take over again at any time. Raises TypeError if fastopt has no rule for the optimizer's class, and
    RuntimeError if it is ``capturable`` or ``differentiable``.
    """
    if isinstance(optimizer, RuleOptimizer):
        return optimizer
    replaced = {getattr(torch.optim, name): rule for name, rule in RULES.items() if hasattr(torch.optim, name)}
    if type(optimizer) not in replaced:
        known = ", ".join(f"torch.optim.{each.__name__}" for each in replaced)
        given = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        raise TypeError(f"optimizer must be one of {known}, not {given}")
    rule = replaced[type(optimizer)]
    made = optimizer_class(rule)
    accelerated = made.__new__(made)
    state = optimizer.state if isinstance(optimizer.state, States) else States(dict, optimizer.state)
    fields = {name: field.default for name, field in rule.fields.items()}
    for group in optimizer.param_groups:
        accelerated.make_rule({**fields, **made.constants, **group})
    hooks = {name: value for name, value in vars(optimizer).items() if name.endswith("_hooks")}
    defaults = {**fields, **OPTIONS, **optimizer.defaults, **made.constants}
    shared = {"state": state, "param_groups": optimizer.param_groups, "defaults": defaults}
    accelerated.__setstate__(hooks | shared)
    optimizer.state = state
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        _report_first_step(accelerated, optimizer)
    return accelerated


def _report_first_step(accelerated: RuleOptimizer, optimizer: torch.optim.Optimizer) -> None:
    """Has the first step count as one of the old optimizer, for the schedulers that wait for it there."""

    @functools.wraps(type(accelerated).step)
    def step(self: RuleOptimizer, *args: Any, **kwargs: Any) -> Any:
        optimizer._opt_called = True  # type: ignore[attr-defined]
        if vars(self).get("step") is bound:
            del self.step
        return type(self).step(self, *args, **kwargs)

    bound = MethodType(step, accelerated)
    accelerated.step = bound  # type: ignore[method-assign]
