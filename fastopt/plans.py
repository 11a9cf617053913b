"""Which plan steps have: what an optimizer of that state needs beside the ordinary one."""

from functools import cache

from fastopt.backend.program import Backend
from fastopt.plan import StepPlan
from fastopt.state import OptimizerState


def make_plan(state: OptimizerState, backend: Backend, threads: int) -> StepPlan:
    """The plan of the groups that are not frozen now."""
    groups = [group for group in state.groups.values() if not group.frozen]
    kinds: list[type[StepPlan]] = []
    if any(group.adapted for group in groups):
        from fastopt.adapting import AdaptingPlan

        kinds.append(AdaptingPlan)
    if any(group.rule.stage is not None for group in groups):
        from fastopt.staged import StagedPlan

        kinds.append(StagedPlan)
    if state.stride is not None:
        from fastopt.lookahead import LookaheadPlan

        kinds.append(LookaheadPlan)
    return _of_kinds(tuple(kinds))(state, backend, threads)


@cache
def _of_kinds(kinds: tuple[type[StepPlan], ...]) -> type[StepPlan]:
    """The plan that is all of these, each of which does its part and leaves the rest to the next one."""
    return type("".join(kind.__name__ for kind in kinds), kinds, {}) if len(kinds) > 1 else (*kinds, StepPlan)[0]
