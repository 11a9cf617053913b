"""Lookahead: slow weights that follow the parameters in strides, and take them along."""

from typing import Any

import numpy as np

from fastopt.backend.program import Backend, Follower, Program, Work, copy_row
from fastopt.declared import Interval, Whole
from fastopt.encoded import between
from fastopt.errors import quoted
from fastopt.plan import Reading, StepPlan, is_stochastic, only_read
from fastopt.state import STEP, OptimizerState
from fastopt.storage import Stream
from fastopt.storages import noise

_ALPHA = Interval(0.0, 1.0, "(]")
PAIR = 2**32  #: of noise: a number that no two streams of a kernel or a stage have


def check_lookahead(given: Any) -> tuple[int, float]:
    """The steps of a stride, and how far the slow weights follow; TypeError or ValueError if they are no such."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"lookahead must be (steps, alpha), as (6, 0.5) is, not {quoted(given)}")
    return Whole(1).parse("lookahead[0]", given[0]), _ALPHA.parse("lookahead[1]", given[1])


def works_of_stride(
    p: np.ndarray | Stream,
    slow: np.ndarray | Stream,
    alpha: float,
    dtype: np.dtype,
    followers: tuple[Follower, ...],
    keys: np.ndarray,
) -> tuple[Work, Work]:
    """What ends a stride: slow weights follow the parameters; then these are put there, and what follows them.

    ``keys`` are of the noise by which parameters are rounded, where they are rounded stochastically.
    """
    following = Work("blend", (slow, only_read(p)), np.array([1.0 - alpha, alpha], dtype))
    return following, Work("blend", (p, slow), copy_row(dtype), followers, keys if is_stochastic(p) else None)


class LookaheadPlan(StepPlan):
    """Steps of which the last one of each stride moves the slow weights, and puts the parameters there.

    Zhang et al., NeurIPS 2019, arXiv:1907.08610, Algorithm 1: ``slow = (1 - alpha) slow + alpha p; p = slow``.
    """

    def __init__(self, state: OptimizerState, backend: Backend, threads: int) -> None:
        super().__init__(state, backend, threads)
        #: Of the noise by which parameters are rounded a second time in a step: not that of the kernel before.
        self._stride_keys = np.zeros(1, np.uint64)

    def commit(self, reading: Reading) -> None:
        stride = self.state.stride
        assert stride is not None
        if self.counts[STEP] % stride[0]:
            super().commit(reading)
        else:
            self._stride_keys[0] = noise.key(self.state.seed, self.counts[STEP], PAIR)
            program = reading.stride or self._bind_stride(reading)
            self._run(program, lambda: self._bind_stride(reading))

    def _bind_stride(self, reading: Reading) -> Program:
        reading.stride = self._update(self._works(reading, followed=False), *self._following())
        return reading.stride

    def _following(self) -> tuple[list[Work], list[Work]]:
        """What follows the kernels in a stride's last step: slow weights; then parameters, and what follows those."""
        state, slow_works, works = self.state, list[Work](), list[Work]()
        assert state.stride is not None and state.lookahead is not None
        for group in self.groups:
            for names in state.runs(group):
                first, last = names[0], names[-1]
                p, slow = state.numbers(first, last), between(state.lookahead, first, last, state.dtype)
                followers = self._followers(first, last)
                pair = works_of_stride(p, slow, state.stride[1], state.dtype, followers, self._stride_keys)
                slow_works.append(pair[0])
                works.append(pair[1])
        return slow_works, works
