"""How a step runs where coefficients follow from sums over each parameter, which are taken before it."""

from typing import NamedTuple

import numpy as np

from fastopt.backend.program import Sums, Work
from fastopt.groups import Group
from fastopt.plan import Reading, StepPlan
from fastopt.rule import Rule
from fastopt.totals import total


class Measure(NamedTuple):
    """The sums over the parameters of groups that take the same ones: each group, and where its sums are.

    After these are the parameters, by their number in the group, that the gradient has elements for; None: all.
    """

    sums: Sums
    groups: list[tuple[Group, slice, np.ndarray | None]]


class AdaptingPlan(StepPlan):
    """The plan where coefficients of a group differ from one parameter to another: see :attr:`Rule.sums`."""

    def commit(self, reading: Reading) -> None:
        measured: list[tuple[Group, np.ndarray]] = []
        of_kind: dict[type[Rule], list[np.ndarray]] = {}
        for sums, groups in reading.measures or self._bind_measures(reading):
            found = sums.take(self.threads)
            for group, place, which in groups:
                numbers = found[place]
                if which is not None:
                    numbers = np.zeros((len(group.names), found.shape[1]))
                    numbers[which] = found[place]
                measured.append((group, numbers))
                if group.rule.totals:
                    of_kind.setdefault(type(group.rule), []).append(numbers)
        totals = {kind: total(each) for kind, each in of_kind.items()}
        for group, numbers in measured:
            group.adapt(self.counts[group.index], numbers, totals.get(type(group.rule), ()))
        super().commit(reading)

    def _bind_measures(self, reading: Reading) -> list[Measure]:
        works: dict[str, list[Work]] = {}
        groups: dict[str, list[tuple[Group, slice, np.ndarray | None]]] = {}
        for group in self.groups:
            if group.adapted is None:
                continue
            assert group.rule.sums is not None
            k = group.adapted.measured.array
            taken = works.setdefault(group.rule.sums, [])
            start = len(taken)
            taken += [work._replace(k=k) for work in self._works_of(group, reading, followed=False)]
            pieces = reading.gradient.pieces(self.state.runs(group))
            which = [group.names.index(piece.first) for piece in pieces]
            place = slice(start, len(taken))
            few = None if which == [*range(len(group.names))] else np.array(which, np.intp)
            groups.setdefault(group.rule.sums, []).append((group, place, few))
        reading.measures = [Measure(self.backend.sums(works[name], name), groups[name]) for name in works]
        return reading.measures
