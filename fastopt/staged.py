"""How a step runs where rules have stages: what is computed of whole matrices, on the host, before the commit."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from fastopt.backend.program import Backend, Program, Work
from fastopt.encoded import between
from fastopt.groups import Group
from fastopt.matrices import staged
from fastopt.plan import Reading, StepPlan, is_stochastic, only_read
from fastopt.state import STEP, OptimizerState
from fastopt.storage import Stream
from fastopt.storages import noise


class _Kept(NamedTuple):
    """Numbers of the optimizer's as a stage sees them: ``array`` is their memory, or a copy where it is encoded."""

    stream: np.ndarray | Stream
    array: np.ndarray


class _Parameter(NamedTuple):
    """A parameter with a stage: what that reads, and memory of the plan's own for what it gives.

    ``direction`` holds the gradient before the stage and the direction after it, ``after`` the states after the step.
    """

    group: Group
    name: str
    p: _Kept
    direction: np.ndarray
    states: dict[str, _Kept]
    after: dict[str, np.ndarray]
    #: The keys of stochastic rounding of each state: they are streams by themselves.
    keys: dict[str, np.ndarray]

    def run(self, step: int) -> None:
        """Takes the gradient through the stage. It writes to the plan's own memory alone."""
        rule, states = self.group.rule, {name: kept.array for name, kept in self.states.items()}
        direction, after = staged(rule.stage, rule, step, self.p.array, self.direction, states)
        self.direction[...] = direction
        for name, array in self.after.items():
            array[...] = after[name]


class StagedPlan(StepPlan):
    """A plan of steps of which some groups have a stage."""

    def __init__(self, state: OptimizerState, backend: Backend, threads: int) -> None:
        super().__init__(state, backend, threads)
        computes = state.dtype
        #: What gradients are multiplied by on their way to a stage, and what kernels read then, by group.
        self._scales = {group.pattern: np.array([0.0, 1.0], computes) for group in self.groups}
        self._rows = {group.pattern: group.k.copy() for group in self.groups}
        self._copy = np.array([0.0, 1.0], computes)
        self._parameters = [each for group in self.groups if group.rule.stage is not None for each in self._of(group)]

    def _of(self, group: Group) -> Iterator[_Parameter]:
        state = self.state
        for name in group.names:
            shape = state.layout.shapes[name]
            buffers = {kind: state.states[kind] for kind in group.rule.states if name in state.states[kind]}
            states = {
                kind: self._kept(between(buffer, name, name, state.dtype), buffer.layout.shapes[name])
                for kind, buffer in buffers.items()
            }
            yield _Parameter(
                group,
                name,
                self._kept(state.numbers(name, name), shape),
                np.empty(shape, state.dtype),
                states,
                {kind: np.empty_like(kept.array) for kind, kept in states.items()},
                {kind: np.zeros(1, np.uint64) for kind in states},
            )

    def _kept(self, stream: np.ndarray | Stream, shape: tuple[int, ...]) -> _Kept:
        memory = stream if isinstance(stream, np.ndarray) else np.empty(stream.size, self.state.dtype)
        return _Kept(stream, memory.reshape(shape))

    def commit(self, reading: Reading) -> None:
        """Runs the stages, then updates parameters, states, counts, averages and copies by what they give."""
        for group in self.groups:  # the sign and the scale are for the stage: the kernel takes what that gives as it is
            self._scales[group.pattern][1] = group.k[0]
            self._rows[group.pattern][:] = group.k
            self._rows[group.pattern][0] = 1
        self._run(reading.stage or self._bind_stage(reading), partial(self._bind_stage, reading))
        for each in self._parameters:
            each.run(self.counts[each.group.index])
            for pair, keys in enumerate(each.keys.values(), 1):
                keys[0] = noise.key(self.state.seed, self.counts[STEP], pair)
        super().commit(reading)

    def _bind_stage(self, reading: Reading) -> Program:
        """Brings the gradient, and what is encoded, to where stages read it."""
        dtype, works = self.state.dtype, []
        for each in self._parameters:
            for piece in reading.gradient.pieces([(each.name,)]):
                streams = each.direction.reshape(-1), piece.stream(dtype)
                works.append(Work("blend", streams, self._scales[each.group.pattern]))
            for stream, array in (each.p, *each.states.values()):
                if isinstance(stream, Stream):
                    works.append(Work("blend", (array.reshape(-1), only_read(stream)), self._copy))
        reading.stage = self._bind([work for work in works if _size(work)])
        return reading.stage

    def _works_of(self, group: Group, reading: Reading, *, followed: bool) -> list[Work]:
        if group.rule.stage is None:
            return super()._works_of(group, reading, followed=followed)
        works = []
        for each in self._parameters:
            if each.group is not group:
                continue
            name, keys = each.name, self._keys if is_stochastic(each.p.stream) else None
            streams = each.p.stream, each.direction.reshape(-1)
            followers = self._followers(name, name) if followed else ()
            works.append(Work(group.rule.kernel, streams, self._rows[group.pattern], followers, keys))
            for kind, (stream, _) in each.states.items():
                keys = each.keys[kind] if is_stochastic(stream) else None
                works.append(Work("blend", (stream, each.after[kind].reshape(-1)), self._copy, (), keys))
        return [work for work in works if _size(work)]


def _size(work: Work) -> int:
    return work.streams[1].size
