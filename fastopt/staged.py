"""How a step runs where rules have stages: what is computed of whole matrices, on the host, before the commit."""

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from fastopt.backend.program import Backend, Program, Spans, Work, copy_row
from fastopt.encoded import between
from fastopt.groups import Group
from fastopt.matrices import staged
from fastopt.plan import Reading, StepPlan, is_stochastic, only_read
from fastopt.rows import Merged, consecutive
from fastopt.state import STEP, OptimizerState
from fastopt.storage import Stream
from fastopt.storages import noise


class _Kept(NamedTuple):
    """Numbers of the optimizer's as a stage sees them: ``array`` is their memory, or a copy where it is encoded.

    It is one, too, where the stage sees some rows: ``spans`` are their places in the stream, and in the array.
    """

    stream: np.ndarray | Stream
    array: np.ndarray
    spans: Spans | None = None

    def reading(self) -> list[Work]:
        """What brings the numbers to the array, if that is a copy."""
        if self.spans is None and not isinstance(self.stream, Stream):
            return []
        spans = self.spans and self.spans._replace(starts=self.spans.sources, sources=self.spans.starts)
        streams = self.array.reshape(-1), only_read(self.stream)
        return [Work("blend", streams, copy_row(self.array.dtype), spans=spans)]


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
    #: The rows of the gradient, if it has some only; all arrays have these alone.
    rows: Merged | None = None

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
        #: What gradients are multiplied by on their way to a stage, and what kernels read then, by group.
        self._scales = {group.pattern: copy_row(state.dtype).copy() for group in self.groups}
        self._rows = {group.pattern: group.k.copy() for group in self.groups}
        #: The keys of stochastic rounding of states, from number 1 on: they are streams by themselves.
        self._state_keys = np.zeros(1 + max(len(group.rule.states) for group in self.groups), np.uint64)
        self._parameters = [each for group in self.groups if group.rule.stage is not None for each in self._of(group)]

    def _of(self, group: Group) -> Iterator[_Parameter]:
        for name in group.names:
            yield self._parameter(group, name)

    def _parameter(self, group: Group, name: str, rows: Merged | None = None) -> _Parameter:
        state = self.state
        p = self._kept(state.numbers(name, name), state.layout.shapes[name], rows)
        buffers = {kind: state.states[kind] for kind in group.rule.states if name in state.states[kind]}
        states = {
            kind: self._kept(between(buffer, name, name, state.dtype), buffer.layout.shapes[name], rows)
            for kind, buffer in buffers.items()
        }
        after = {kind: np.empty_like(kept.array) for kind, kept in states.items()}
        return _Parameter(group, name, p, np.empty(p.array.shape, state.dtype), states, after, rows)

    def _kept(self, stream: np.ndarray | Stream, shape: tuple[int, ...], rows: Merged | None) -> _Kept:
        dtype = self.state.dtype
        if rows is not None:
            few, *each = rows.indices.size, *shape[1:]
            return _Kept(stream, np.empty((few, *each), dtype), consecutive(rows.indices, math.prod(each)))
        memory = stream if isinstance(stream, np.ndarray) else np.empty(stream.size, dtype)
        return _Kept(stream, memory.reshape(shape))

    def _staged(self, reading: Reading) -> list[_Parameter]:
        """The parameters with stages, as these see them where that gradient is read."""
        if reading.staged is None:
            rows = reading.gradient.rows
            reading.staged = [
                self._parameter(each.group, each.name, *rows[each.name]) if each.name in rows else each
                for each in self._parameters
            ]
        return reading.staged

    def commit(self, reading: Reading) -> None:
        """Runs the stages, then updates parameters, states, counts, averages and copies by what they give."""
        for group in self.groups:  # the sign and the scale are for the stage: the kernel takes what that gives as it is
            self._scales[group.pattern][1] = group.k[0]
            self._rows[group.pattern][:] = group.k
            self._rows[group.pattern][0] = 1
        self._run(reading.stage or self._bind_stage(reading), partial(self._bind_stage, reading))
        for each in self._staged(reading):
            each.run(self.counts[each.group.index])
        noise.fill_keys(self._state_keys, self.state.seed, self.counts[STEP])
        super().commit(reading)

    def _bind_stage(self, reading: Reading) -> Program:
        """Brings the gradient, and what is encoded, to where stages read it."""
        dtype, works = self.state.dtype, []
        for each in self._staged(reading):
            for piece in reading.gradient.pieces([(each.name,)]):
                streams, spans = (each.direction.reshape(-1), piece.stream(dtype)), piece.spans
                if spans is not None and each.p.spans is not None:
                    spans = spans._replace(starts=each.p.spans.sources)
                works.append(Work("blend", streams, self._scales[each.group.pattern], spans=spans))
            for kept in (each.p, *each.states.values()):
                works += kept.reading()
        reading.stage = self._bind([work for work in works if _has_elements(work)])
        return reading.stage

    def _works_of(self, group: Group, reading: Reading, *, followed: bool) -> list[Work]:
        if group.rule.stage is None:
            return super()._works_of(group, reading, followed=followed)
        works = []
        for each in self._staged(reading):
            if each.group is not group:
                continue
            if each.rows is not None and followed and self.state.ema is not None:
                works += self._average_of_others(each.name, [each.rows], self.state.ema)
            name, keys = each.name, self._keys if is_stochastic(each.p.stream) else None
            streams = each.p.stream, each.direction.reshape(-1)
            followers = self._followers(name, name) if followed else ()
            works.append(Work(group.rule.kernel, streams, self._rows[group.pattern], followers, keys, each.p.spans))
            for pair, (kind, kept) in enumerate(each.states.items(), 1):
                keys = self._state_keys[pair : pair + 1] if is_stochastic(kept.stream) else None
                streams = kept.stream, each.after[kind].reshape(-1)
                works.append(Work("blend", streams, copy_row(self.state.dtype), (), keys, kept.spans))
        return [work for work in works if _has_elements(work)]


def _has_elements(work: Work) -> bool:
    return all(stream.size for stream in work.streams[:2])
