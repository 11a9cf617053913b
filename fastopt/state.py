"""All that a step may change: parameters, states, averages, counts. A checkpoint holds it."""

from collections.abc import Iterator
from operator import setitem
from typing import Any

import numpy as np

from fastopt.backend.program import Call
from fastopt.buffers import FlatBuffer, Layout, check_array
from fastopt.checkpoint.saved import PARTS, Saved, Source
from fastopt.errors import CheckpointError, nearest, quoted
from fastopt.groups import Group
from fastopt.rule import Rule

#: Where the counters stand in OptimizerState.counts; those of the groups follow.
STEP, MICRO_STEP, GROUPS = 0, 1, 2


class OptimizerState:
    """What an optimizer owns and its steps change.

    ``params`` is what the user gave; ``flat`` is its memory, and ``layout`` says which parameter lies where.
    ``members`` gives each pattern its rule and its parameters.
    """

    def __init__(
        self,
        params: FlatBuffer | np.ndarray,
        members: dict[str, tuple[Rule, tuple[str, ...]]],
        *,
        accumulate: int,
        ema_decay: float | None,
    ) -> None:
        self.params = params
        self.flat, self.layout = flat_and_layout(params)
        #: After how many gradients parameters are updated, and the weight of the past in the moving average.
        self.accumulate, self.ema_decay = accumulate, ema_decay
        #: Counters, replaced as a whole when a step has been made: see ``STEP`` and the like.
        self.counts = [0] * (GROUPS + len(members))
        self.groups = {
            pattern: Group(pattern, rule, names, self.dtype, self.counts, GROUPS + index)
            for index, (pattern, (rule, names)) in enumerate(members.items())
        }
        #: Buffers that hold those parameters whose rule keeps the state.
        self.states = self._first_states()
        #: The moving average of the parameters, or None.
        self.ema = None if ema_decay is None else self._empty()
        if self.ema is not None:
            self.ema.flat[...] = self.flat
        #: The sum of the gradients since the last update, or None if every step is an update.
        self.accumulated = None if accumulate == 1 else self._empty()
        if self.accumulated is not None:
            self.accumulated.flat.fill(0)

    @property
    def dtype(self) -> np.dtype:
        return self.flat.dtype

    def _empty(self) -> FlatBuffer:
        return FlatBuffer.empty(self.layout, self.dtype)

    def _first_states(self) -> dict[str, FlatBuffer]:
        firsts: dict[str, dict[str, float]] = {}
        for group in self.groups.values():
            for state, first in group.rule.states.items():
                firsts.setdefault(state, {}).update(dict.fromkeys(group.names, first))
        states = {}
        for state, members in firsts.items():
            layout = Layout({name: shape for name, shape in self.layout.shapes.items() if name in members})
            states[state] = FlatBuffer.empty(layout, self.dtype)
            for name, first in members.items():
                states[state][name].fill(first)
        return states

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("flat", "layout")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.flat, self.layout = flat_and_layout(self.params)

    def written(self) -> Iterator[tuple[str, np.ndarray]]:
        """The memory that steps write to, with names for messages."""
        yield "params", self.flat
        for name, buffer in self.states.items():
            yield f"the state {name!r}", buffer.flat
        for part in PARTS:
            buffer = getattr(self, part)
            if buffer is not None:
                yield part, buffer.flat

    # Checkpoints

    def parameters(self) -> dict[str, np.ndarray]:
        """Views of the parameters by name."""
        return {name: self.flat[self.layout.places[name]].reshape(shape) for name, shape in self.layout.shapes.items()}

    def describe(self) -> dict[str, Any]:
        """The state dict, with the arrays themselves and no copies."""
        state: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.layout.shapes}
        for kind, buffer in self.states.items():
            for name, array in buffer.items():
                state[name][kind] = array
        return {
            "step": self.counts[STEP],
            "micro_step": self.counts[MICRO_STEP],
            "groups": {pattern: group.describe() for pattern, group in self.groups.items()},
            "state": state,
            "ema": None if self.ema is None else dict(self.ema),
            "accumulated": None if self.accumulated is None else dict(self.accumulated),
        }

    def adopting(self, saved: Saved) -> list[Call]:
        """The calls that take over what is saved. CheckpointError, before any of them, if it does not fit."""
        if saved.layout is not None:
            difference = self.layout.difference(Layout(saved.layout))
            if difference:
                raise CheckpointError(f"the checkpoint's parameters differ: {difference}")
        if list(saved.groups) != list(self.groups):
            there, here = quoted(list(saved.groups)), quoted(list(self.groups))
            raise CheckpointError(f"groups: the patterns are {there}, not {here} as here")
        calls: list[Call] = []
        for pattern, group in self.groups.items():
            try:
                calls += group.adopting(saved.groups[pattern])
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"groups[{quoted(pattern)}]: {error}") from None
        if saved.micro_step >= self.accumulate:
            there = f"{saved.micro_step} gradients are accumulated"
            raise CheckpointError(f"micro_step: {there}, and every {self.accumulate} make a step here")
        counts = [saved.step, saved.micro_step, *(group.step for group in saved.groups.values())]
        return [*self._adopting_arrays(saved), *calls, (setitem, self.counts, slice(None), counts)]

    def _adopting_arrays(self, saved: Saved) -> list[Call]:
        calls: list[Call] = []
        for name in saved.state:
            if name not in self.layout.shapes:
                raise CheckpointError(f"state: no parameter {quoted(name)} here; {nearest(name, self.layout.shapes)}")
        kinds = {kind for states in saved.state.values() for kind in states}
        for kind in sorted(kinds | set(self.states)):
            if kind not in self.states:
                raise CheckpointError(f"state: {quoted(kind)} is no state here; {nearest(kind, self.states)}")
            there = {name: states[kind] for name, states in saved.state.items() if kind in states}
            calls += _copying(f"state {kind!r}", self.states[kind], there)
        for part in PARTS:
            here, there = getattr(self, part), getattr(saved, part)
            if here is None and not there and not self.layout.shapes:
                continue
            if (here is None) != (there is None):
                has, lacks = "the checkpoint", "this optimizer"
                if there is None:
                    has, lacks = lacks, has
                raise CheckpointError(f"{part}: {has} has it and {lacks} has not")
            if here is not None:
                calls += _copying(part, here, there)
        if saved.params is not None:
            calls += _copying("params", self.parameters(), saved.params)
        return calls


def flat_and_layout(params: FlatBuffer | np.ndarray) -> tuple[np.ndarray, Layout]:
    """The memory of parameters and their places; TypeError or ValueError if kernels cannot write to it."""
    if isinstance(params, FlatBuffer):
        return check_array("params", params.flat, writable=True), params.layout
    flat = check_array("params", params, writable=True).view(np.ndarray)
    return flat, Layout({"params": flat.shape})


def _copying(what: str, here: Any, there: dict[str, Source]) -> list[Call]:
    for name in there:
        if name not in here:
            raise CheckpointError(f"{what}: no parameter {quoted(name)} here; {nearest(name, here)}")
    calls: list[Call] = []
    for name, array in here.items():
        if name not in there:
            raise CheckpointError(f"{what}: there is none for {quoted(name)}")
        given = there[name]
        if given.dtype != array.dtype:
            raise CheckpointError(f"{what}: {quoted(name)} is {given.dtype}, not {array.dtype} as here")
        if given.shape != array.shape:
            shape = quoted(given.shape)
            raise CheckpointError(f"{what}: {quoted(name)} has the shape {shape}, not {array.shape} as here")
        calls += given.into(array)
    return calls
