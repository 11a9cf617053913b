"""What is measured: a rule for every kernel, derived from the declarations."""

import fastopt
from fastopt.rule import Rule

#: The rules that are measured unless others are asked for: one for each kind of traffic and arithmetic.
DEFAULT = ("SGD", "Momentum", "Adagrad", "RMSprop", "AdamW", "Lion")


def cases() -> dict[str, Rule]:
    """Every rule with its defaults, then one more for each kernel that only other hyperparameters choose, by label.

    Not those that have a stage: what they take is not what their kernel takes.
    """
    kinds = [kind for kind in fastopt.RULES.values() if kind.stage is None]
    rules: list[Rule] = [steady(kind()) for kind in kinds]
    kernels = {rule.kernel for rule in rules}
    for kind in kinds:
        for rule in kind.forms():
            if rule.kernel not in kernels:
                kernels.add(rule.kernel)
                rules.append(steady(rule))
    return {label(rule): rule for rule in rules}


def steady(rule: Rule) -> Rule:
    """The rule with a step size that stays: as the gradient is the same in every step, one that is found would grow."""
    if rule.totals and getattr(rule, "growth_rate", 1.0) is None:
        return rule.replace(growth_rate=1.0)
    return rule


def by_kernel() -> dict[str, Rule]:
    """One rule for every kernel, by the kernel's name: the first of :func:`cases`."""
    return {rule.kernel: rule for rule in reversed(cases().values())}


def label(rule: Rule) -> str:
    """The rule's name, with those hyperparameters that are not the defaults: ``RMSprop(centered=True)``."""
    defaults = {name: field.default for name, field in rule.fields.items()}
    given = [f"{name}={value!r}" for name, value in rule if value != defaults[name]]
    return type(rule).__name__ + (f"({', '.join(given)})" if given else "")


def path(rule: Rule) -> str:
    """Where the rule's class can be imported from, as :func:`pkgutil.resolve_name` takes it."""
    return f"{type(rule).__module__}:{type(rule).__qualname__}"
