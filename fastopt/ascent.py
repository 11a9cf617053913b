"""Sharpness-aware minimization: parameters go up a gradient, and back to exactly where they were before the step."""

import math
from typing import Any

import numpy as np

from fastopt.backend.program import Follower, Program, Work, joined, make_all, run
from fastopt.declared import Interval
from fastopt.encoded import between, of_array
from fastopt.norm import Norm
from fastopt.plan import Reading, StepPlan
from fastopt.state import Aside, OptimizerState

_EPS = 1e-12  # as in the authors' code
_RHO = Interval(0.0, brackets="()")


def check_rho(rho: Any) -> float:
    """How far to go. TypeError or ValueError if it is no such number."""
    return rho if type(rho) is float and 0 < rho < math.inf else _RHO.parse("rho", rho)


def size_of_ascent(norm: Norm, rho: float) -> float:
    """What a gradient is multiplied by: nothing if it has no direction."""
    return rho / (norm.value + _EPS) if norm.finite and norm.value else 0.0


class Ascent:
    """What moves parameters up a gradient: Foret et al., ICLR 2021, arXiv:2010.01412, equation 2."""

    def __init__(self, state: OptimizerState) -> None:
        self._state = state
        self._aside: Aside | None = None  # memory for as many parameters: made when it is first needed
        self._bound: tuple[StepPlan | None, Reading | None, Program | None] = None, None, None
        up = np.array([1.0, 0.0], state.dtype)
        self._k = {maximize: up.copy() for maximize in (False, True)}

    @property
    def made(self) -> bool:
        """Whether the parameters have gone up and not come back."""
        return self._aside is not None and self._aside.kept

    def make(self, plan: StepPlan, reading: Reading, rho: float) -> float:
        """Moves them by ``rho g / (norm + 1e-12)``, and returns the norm; one that is not finite moves nothing."""
        if self._aside is None:
            words = "the parameters are where ascend has moved them: make the step first, or call descend()"
            self._aside = Aside(self._state, words)
        if self._bound[:2] != (plan, reading):
            self._bound = plan, reading, self._bind(plan, reading)
        norm = plan.norm(reading, 1.0)
        size = size_of_ascent(norm, rho)
        if size > float(np.finfo(self._state.dtype).max):
            raise ValueError(f"rho: {rho} over the gradient's norm is too large for {self._state.dtype}: {size}")
        program = self._bound[2]
        assert program is not None
        for maximize, k in self._k.items():
            k[1] = -size if maximize else size
        *copies, out_of_place = self._aside.keep()
        kept = Program(copies, ())
        run(joined([kept, program]) if size else kept, out_of_place)
        return norm.value

    def take_back(self) -> None:
        """Puts the parameters back where they were."""
        assert self._aside is not None
        make_all(self._aside.put_back())

    def _bind(self, plan: StepPlan, reading: Reading) -> Program:
        state, works = self._state, []
        for group in plan.groups:
            for piece in reading.gradient.pieces(state.layout.runs(group.names)):
                p = of_array(state.flat[piece.place], state.dtype)
                copy = () if state.copy is None else (between(state.copy, piece.first, piece.last, state.dtype),)
                streams = p, piece.stream(state.dtype)
                k, followers = self._k[group.rule.maximize], tuple(map(Follower, copy))
                works.append(Work("blend", streams, k, followers, spans=piece.spans))
        return plan.backend.bind(works, plan.threads)
