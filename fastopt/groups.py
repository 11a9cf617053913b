"""Groups: the parameters that share a rule, and the coefficients of their next step."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt.backend.program import Call
from fastopt.declared import OrNone
from fastopt.errors import QUOTED, nearest, quoted
from fastopt.rule import Row, Rule

if TYPE_CHECKING:
    from fastopt.checkpoint.saved import SavedGroup


class Adapted:
    """The coefficients of a sum that is taken over each parameter of a group, and those that follow from it.

    ``sizes`` are how many elements the parameters have, ``values`` the coefficients of the step before sums are taken.
    """

    __slots__ = ("measured", "rows", "sizes", "values")

    def __init__(self, measured: Row, sizes: Sequence[int], k: np.ndarray) -> None:
        self.sizes = np.array(sizes, np.float64)
        self.values: dict[str, float] = {}
        self.measured = measured
        self.rows = np.zeros((len(sizes), k.size), k.dtype)


class Group:
    """The parameters that share a rule. :class:`fastopt.Optimizer` makes them."""

    def __init__(
        self,
        pattern: str,
        rule: Rule,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: np.dtype,
        counts: list[int],
        index: int,
    ) -> None:
        self._rule, self._counts, self._shapes = rule, counts, dict(shapes)
        #: Where the group's step count stands in the optimizer's counts.
        self.index = index
        #: The pattern that chose the parameters, and their names.
        self.pattern, self.names = pattern, tuple(shapes)
        #: Whether steps leave the group out: see :meth:`fastopt.Optimizer.freeze`.
        self.frozen = False
        self._row, measured = rule.rows(dtype)
        #: The coefficients of the step that is being made, in the rule's order: an array that kernels read.
        self.k = self._row.array
        #: The coefficients of the rule's sum and, from it, a row for each parameter, in the place of ``k``; or None.
        self.adapted = None if measured is None else Adapted(measured, [*map(math.prod, shapes.values())], self.k)
        #: The rule's running numbers, and what they will be after the step that is being made.
        self.scalars, self._following = dict(rule.scalars), dict(rule.scalars)
        #: The calls that follow a step: the running numbers move on.
        self.finish: list[Call] = [(self.scalars.update, self._following)] if self.scalars else []

    def __reduce__(self) -> tuple:
        made = self.pattern, self._rule, self._shapes, self.k.dtype, self._counts, self.index
        return type(self), made, (self.frozen, self.scalars)

    def __setstate__(self, state: tuple[bool, dict[str, float]]) -> None:
        self.frozen, scalars = state
        self.scalars.update(scalars)

    @property
    def step(self) -> int:
        """How many steps have updated the group."""
        return self._counts[self.index]

    @property
    def rule(self) -> Rule:
        """The rule. Another of the same kind may take its place between steps, with other hyperparameters."""
        return self._rule

    @rule.setter
    def rule(self, rule: Rule) -> None:
        rule = self._replacement(rule)
        scalars = rule.scalars_in_place_of(self.step, self.scalars) if self.scalars else {}
        self._rule = rule
        self.scalars.update(scalars)

    def _replacement(self, rule: Any) -> Rule:
        """The rule if it can take the place of the group's: of the same kind, with the same kernel and states."""
        if type(rule) is not type(self._rule):
            raise TypeError(
                f"rule must be of the kind {type(self._rule).__name__} for group {self.pattern!r}, not {quoted(rule)}"
            )
        if self._needs(rule) != self._needs(self._rule):
            raise ValueError(f"rule: {rule!r} keeps other states than {self._rule!r}: make a new Optimizer")
        return rule

    def _needs(self, rule: Rule) -> tuple:
        """Kernel, sum, and the states; the shapes of a stage's, which may follow from hyperparameters."""
        shapes = self._shapes.values() if rule.stage is not None else ()
        states = {state: [rule.state_shape(state, shape) for shape in shapes] for state in rule.states}
        return rule.kernel, rule.sums, [*states], states

    def describe(self) -> dict[str, Any]:
        """What a checkpoint holds of the group."""
        from fastopt.checkpoint.saved import describe_rule

        described = describe_rule(self._rule) | {
            "step": self.step,
            "frozen": self.frozen,
            "parameters": list(self.names),
        }
        return described | ({"scalars": dict(self.scalars)} if self.scalars else {})

    def adopting(self, saved: "SavedGroup") -> list[Call]:
        """The calls by which the group takes over what is saved of one, but for its step count.

        A schedule that is here already stays, and the calls give it its progress: the run may hold it, to report
        metrics to it. TypeError or ValueError, before any of them, if it does not fit, or no step could follow.
        """
        from fastopt.schedules import Schedule

        if saved.rule != type(self._rule).__name__:
            raise ValueError(f"the rule is {saved.rule[:QUOTED]}, not {type(self._rule).__name__} as here")
        if saved.parameters != list(self.names):
            raise ValueError(f"it holds {quoted(saved.parameters)}, not {quoted(list(self.names))} as here")
        here, values = dict(self._rule), dict(saved.hyperparameters)
        calls: list[Call] = []
        for name, value in saved.hyperparameters.items():
            if name not in here:
                raise ValueError(f"no hyperparameter {quoted(name)}; {nearest(name, here)}")
            if value is None and not isinstance(self._rule.fields[name].domain, OrNone):
                if not callable(here[name]):
                    raise ValueError(f"{name} was a callable, which no checkpoint holds: give the optimizer one")
                values[name] = here[name]
            elif isinstance(value, Schedule) and value == here[name]:
                values[name] = here[name]
                calls += here[name].adopting(value)
        rule = self._replacement(self._rule.replace(**values))
        alone = {
            name: 0.0 if value is None and callable(values[name]) else value
            for name, value in saved.hyperparameters.items()
        }
        without_calls = rule.replace(**alone)  # what is the user's own is not called now
        scalars = self._adopted_scalars(without_calls, saved)
        try:
            without_calls.fill(Row(np.empty_like(self.k)), saved.step + 1, 1.0, scalars)
        except ArithmeticError as error:
            raise ValueError(f"{quoted(rule)} has no step {saved.step + 1}: {error}") from None
        calls.append((self.__dict__.update, {"_rule": rule, "frozen": saved.frozen}))
        return [*calls, (self.scalars.update, scalars)]

    def _adopted_scalars(self, rule: Rule, saved: "SavedGroup") -> dict[str, float]:
        """The running numbers that are saved; where there are none, those that follow from the step."""
        if saved.scalars is None:
            return rule.scalars_after(saved.step)
        if saved.scalars.keys() != self.scalars.keys():
            there, here = quoted(list(saved.scalars)), list(self.scalars)
            raise ValueError(f"scalars: the running numbers are {there}, not {here} as here")
        return saved.scalars

    def prepare(self, step: int, scale: float) -> None:
        """Fills the coefficients of a step (counted from 1), for gradients that are to be multiplied by ``scale``.

        Or those of the sum that the step takes first. ValueError if there are some that the dtype cannot hold.
        """
        scalars, adapted = self.scalars, self.adapted
        if adapted is None:
            self._rule.fill(self._row, step, scale, scalars)
        else:
            adapted.values = self._rule.fill_measured(adapted.measured, step, scale, scalars)
        if scalars and not self._rule.totals:
            self._following.update(self._rule.advance(step, **scalars))

    def adapt(self, step: int, sums: np.ndarray, totals: Sequence[float]) -> None:
        """Fills the coefficients of a step for each parameter, whose sums have a row each.

        ``totals`` are those of all parameters that the step updates by a rule of this kind.
        """
        assert self.adapted is not None
        adapted, rule = self.adapted, self._rule
        if rule.totals:
            self._following.update(rule.advance(step, totals=totals, **self.scalars))
        rule.fill_adapted(adapted.rows, step, adapted.values, adapted.sizes, sums, self._following)

    def prepare_estimate(self, scale: float) -> None:
        """Fills the coefficients of an update of the Hessian, for gradients that are to be multiplied by ``scale``."""
        self._rule.estimator().fill(self._row, self.step + 1, scale)

    def __repr__(self) -> str:
        frozen = ", frozen" if self.frozen else ""
        return f"Group({self.pattern!r}: {self._rule!r}, {len(self.names)} parameters, step {self.step}{frozen})"


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
            raise TypeError(f"rule: patterns must be strings, not {quoted(pattern)}")
        if not isinstance(rule, Rule):
            raise TypeError(f"rule[{pattern!r}] must be a rule, not {_kind(rule)}")
        if names and not any(map(_takes, repeat(pattern), names)):
            raise ValueError(f"rule: the pattern {pattern!r} matches no parameter; {nearest(pattern, names)}")
        _check_kernel(rule)
        members[pattern] = []
    for name in names:
        taker = next((pattern for pattern in members if _takes(pattern, name)), None)
        if taker is None:
            raise ValueError(f"rule: no pattern matches the parameter {name!r}; {nearest(name, members)}")
        members[taker].append(name)
    return {pattern: (rules[pattern], tuple(names)) for pattern, names in members.items()}


def _takes(pattern: str, name: str) -> bool:
    return pattern in ("*", name) or fnmatch.fnmatchcase(name, pattern)


def _check_kernel(rule: Rule) -> None:
    """Raises ValueError if a rule's own kernel takes other buffers than the rule declares."""
    if callable(rule.kernel):
        code = getattr(rule.kernel, "py_func", rule.kernel).__code__
        taken = code.co_varnames[: code.co_argcount]
        if list(taken[2:-1]) != list(rule.kernel_states) or len(taken) < 3:
            wanted = ", ".join(("p", "g", *rule.kernel_states, "k"))
            raise ValueError(f"{type(rule).__name__}: its kernel must take ({wanted}), not ({', '.join(taken)})")


def _kind(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, Rule):
        return f"the class {value.__name__}: write {value.__name__}()"
    return f"{quoted(value)} ({type(value).__name__})"
