"""Groups: the parameters that share a rule, and the coefficients of their next step."""

import fnmatch
import struct
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt.errors import nearest
from fastopt.rule import Rule

if TYPE_CHECKING:
    from fastopt.optimizer import Optimizer


class Group:
    """The parameters that share a rule. :class:`fastopt.Optimizer` makes them."""

    def __init__(self, optimizer: "Optimizer", index: int, pattern: str, rule: Rule, names: tuple[str, ...]) -> None:
        self._optimizer, self._rule = optimizer, rule
        #: Where the group's step count stands in the optimizer's counts.
        self.index = index
        #: The pattern that chose the parameters, and their names.
        self.pattern, self.names = pattern, names
        #: Whether steps leave the group out: see :meth:`fastopt.Optimizer.freeze`.
        self.frozen = False
        #: The coefficients of the step that is being made, in the rule's order: an array that kernels read.
        self.k = np.zeros(len(rule.coefficients(1)), optimizer.dtype)
        pack = struct.Struct(f"={self.k.size}{self.k.dtype.char}").pack_into  # "=": too large is an error
        self._pack = partial(pack, memoryview(self.k).cast("B"), 0)

    @property
    def step(self) -> int:
        """How many steps have updated the group."""
        return self._optimizer.counts[self.index]

    @property
    def rule(self) -> Rule:
        """The rule. Another of the same kind may take its place between steps, with other hyperparameters."""
        return self._rule

    @rule.setter
    def rule(self, rule: Rule) -> None:
        self._rule = self.replacement(rule)

    def replacement(self, rule: Any) -> Rule:
        """The rule if it can take the place of the group's: of the same kind, with the same kernel and states."""
        if type(rule) is not type(self._rule):
            raise TypeError(f"rule must be a {type(self._rule).__name__} for group {self.pattern!r}, not {rule!r}")
        if (rule.kernel, list(rule.states)) != (self._rule.kernel, list(self._rule.states)):
            raise ValueError(f"rule: {rule!r} keeps other states than {self._rule!r}: make a new Optimizer")
        return rule

    def prepare(self, step: int, scale: float) -> None:
        """Fills the coefficients of a step (counted from 1), for gradients that are to be multiplied by ``scale``."""
        values: dict[str, float] = {}
        try:
            values = self._rule.coefficients(step)
            if scale != 1.0:
                values["grad_scale"] *= scale
            self._pack(*values.values())
        except OverflowError:
            raise too_large(self._rule, self.k.dtype, values) from None

    def __repr__(self) -> str:
        frozen = ", frozen" if self.frozen else ""
        return f"Group({self.pattern!r}: {self._rule!r}, {len(self.names)} parameters, step {self.step}{frozen})"


def too_large(rule: Rule, dtype: np.dtype, values: Mapping[str, float]) -> ValueError:
    """The error that names the coefficients that a dtype cannot hold; there are none if they could not be computed."""
    largest = float(np.finfo(dtype).max)
    large = {name: value for name, value in values.items() if abs(value) > largest}
    return ValueError(f"{rule!r}: too large for {dtype.name}: {large or 'the coefficients of the next step'}")


def assign(names: list[str], rules: Rule | Mapping[str, Rule]) -> dict[str, tuple[Rule, tuple[str, ...]]]:
    """Each pattern with its rule and the names that it takes: a name goes to the first pattern that matches it.

    Raises TypeError if there is no rule where one should be, ValueError if a name or a pattern is left over.
    """
    if isinstance(rules, Rule):
        rules = {"*": rules}
    if not isinstance(rules, Mapping):
        raise TypeError(f"rule must be a rule or a mapping of name patterns to rules, not {_kind(rules)}")
    members: dict[str, list[str]] = {}
    for pattern, rule in rules.items():
        if not isinstance(pattern, str):
            raise TypeError(f"rule: patterns must be strings, not {pattern!r}")
        if not isinstance(rule, Rule):
            raise TypeError(f"rule[{pattern!r}] must be a rule, not {_kind(rule)}")
        if names and not fnmatch.filter(names, pattern) and pattern not in names:
            raise ValueError(f"rule: the pattern {pattern!r} matches no parameter; {nearest(pattern, names)}")
        _check_kernel(rule)
        members[pattern] = []
    for name in names:
        taker = next((p for p in members if p == name or fnmatch.fnmatchcase(name, p)), None)
        if taker is None:
            raise ValueError(f"rule: no pattern matches the parameter {name!r}; {nearest(name, members)}")
        members[taker].append(name)
    return {pattern: (rules[pattern], tuple(names)) for pattern, names in members.items()}


def _check_kernel(rule: Rule) -> None:
    """Raises ValueError if a rule's own kernel takes other buffers than the rule declares."""
    if callable(rule.kernel):
        code = getattr(rule.kernel, "py_func", rule.kernel).__code__
        taken = code.co_varnames[: code.co_argcount]
        if list(taken[2:-1]) != list(rule.states) or len(taken) < 3:
            wanted = ", ".join(("p", "g", *rule.states, "k"))
            raise ValueError(f"{type(rule).__name__}: its kernel must take ({wanted}), not ({', '.join(taken)})")


def _kind(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, Rule):
        return f"the class {value.__name__}: write {value.__name__}()"
    return f"{value!r} ({type(value).__name__})"
