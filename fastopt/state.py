"""All that a step may change: parameters, states, averages, copies, counts. A checkpoint holds it."""

import math
from collections.abc import Iterator
from operator import setitem
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt.backend.program import Call
from fastopt.buffers import PARTS, FlatBuffer, Layout, bfloat16, check_array, name_of
from fastopt.encoded import EncodedBuffer, between, joins, of_array
from fastopt.errors import CheckpointError, nearest, quoted
from fastopt.groups import Group
from fastopt.precision import Precision
from fastopt.rule import Rule
from fastopt.storage import Stream
from fastopt.storages import STORAGES

if TYPE_CHECKING:
    from fastopt.checkpoint.saved import Saved, Stored

#: Where the counters stand in OptimizerState.counts; those of the groups follow.
STEP, MICRO_STEP, GROUPS = 0, 1, 2


_ALL = slice(None)


class Aside:
    """The parameters, as the user reads them, and their copy, kept aside while others are in their place.

    ``words`` say to whom it matters what to do then.
    """

    def __init__(self, state: "OptimizerState", words: str) -> None:
        self._state, self.words = state, words
        self._kept = [(array, np.empty_like(array)) for array in state.shown()]

    @property
    def kept(self) -> bool:
        """Whether others are in their place now."""
        return self._state.out_of_place is self

    def keep(self) -> list[Call]:
        """The calls that keep them."""
        calls: list[Call] = [(setitem, kept, _ALL, array) for array, kept in self._kept]
        return [*calls, (self._state.__dict__.update, {"out_of_place": self})]

    def put_back(self) -> list[Call]:
        """The calls after which they are what they were."""
        calls: list[Call] = [(setitem, array, _ALL, kept) for array, kept in self._kept]
        return [*calls, (self._state.__dict__.update, {"out_of_place": None})]


class OptimizerState:
    """What an optimizer owns and its steps change.

    ``params`` is what the user gave; ``flat`` is its memory, and ``layout`` says which parameter lies where.
    ``members`` gives each pattern its rule and its parameters, ``precision`` says how numbers are stored.
    """

    #: What holds the parameters exactly, where they are stored in 16 bits: a buffer of float32, or both halves of them.
    master: FlatBuffer | EncodedBuffer | None

    def __init__(
        self,
        params: FlatBuffer | np.ndarray,
        members: dict[str, tuple[Rule, tuple[str, ...]]],
        *,
        accumulate: int,
        ema_decay: float | None,
        lookahead: tuple[int, float] | None,
        precision: Precision,
        seed: int,
    ) -> None:
        self.params = params
        self.flat, self.layout = flat_and_layout(params)
        #: In which kernels compute.
        self.dtype = STORAGES[self.flat.dtype.name].computes
        #: What keeps the parameters that steps update, while others are in their place; else None.
        self.out_of_place: Aside | None = None
        #: How numbers are stored, and what stochastic rounding is seeded with.
        self.precision, self.seed = precision, seed
        #: The lower halves of parameters whose upper halves the user has.
        self.lower = FlatBuffer.empty(self.layout, np.uint16) if precision.master == "split" else None
        if self.lower is not None:
            self.lower.flat.fill(0)
        self.master = self._split() if precision.master == "split" else None
        if precision.master == "float32":
            self.master = self._filled(self.dtype)
        #: After how many gradients parameters are updated, and the weight of the past in the moving average.
        self.accumulate, self.ema_decay = accumulate, ema_decay
        #: Counters, replaced as a whole when a step has been made: see ``STEP`` and the like.
        self.counts = [0] * (GROUPS + len(members))
        self.groups = {
            pattern: Group(
                pattern,
                rule,
                {name: self.layout.shapes[name] for name in names},
                self.dtype,
                self.counts,
                GROUPS + index,
            )
            for index, (pattern, (rule, names)) in enumerate(members.items())
        }
        #: Buffers that hold those parameters whose rule keeps the state.
        self.states = self._first_states()
        #: The moving average of the parameters, or None.
        self.ema = None if ema_decay is None else self._filled(self.dtype)
        #: The steps of a stride of lookahead and how far the slow weights follow then, and these weights; or None.
        self.stride = lookahead
        self.lookahead = None if lookahead is None else self._filled(self.dtype)
        #: A copy of the parameters in 16 bits, or None.
        self.copy: FlatBuffer | None = None
        if precision.copy is not None:
            self.copy = self._filled(bfloat16("copy") if precision.copy == "bfloat16" else np.dtype(np.float16))
        #: The sum of the gradients since the last update, or None if every step is an update.
        self.accumulated = None if accumulate == 1 else FlatBuffer.empty(self.layout, self.dtype)
        if self.accumulated is not None:
            self.accumulated.flat.fill(0)

    def check_in_place(self, what: str) -> None:
        """RuntimeError, for a method of that name, if the parameters are not those that steps update."""
        if self.out_of_place is not None:
            raise RuntimeError(f"{what}: {self.out_of_place.words}")

    def shown(self) -> list[np.ndarray]:
        """The memory in which the user reads the parameters: theirs, and that of the copy."""
        return [self.flat, *(() if self.copy is None else (self.copy.flat,))]

    def _split(self) -> EncodedBuffer:
        assert self.lower is not None
        split = STORAGES["split"]
        halves = {split.name: (self.flat.view(np.uint16), self.lower.flat)}
        return EncodedBuffer(self.layout, dict.fromkeys(self.layout.shapes, split), self.dtype, (), halves)

    def _filled(self, dtype: np.dtype) -> FlatBuffer:
        """A buffer of the parameters as they are."""
        buffer = FlatBuffer.empty(self.layout, dtype)
        with np.errstate(all="ignore"):
            buffer.flat[...] = self.flat if dtype.itemsize > 2 else self.flat.astype(np.float32, copy=False)
        return buffer

    def _first_states(self) -> dict[str, FlatBuffer | EncodedBuffer]:
        firsts: dict[str, dict[str, float]] = {}
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for group in self.groups.values():
            for state, first in group.rule.states.items():
                if float(np.finfo(self.dtype).max) < first < math.inf:
                    start = f"{state!r} starts as {float(first)}"
                    raise ValueError(f"rule: {quoted(group.rule)}: too large for {self.dtype}: {start}")
                kept = {name: group.rule.state_shape(state, self.layout.shapes[name]) for name in group.names}
                found = {name: shape for name, shape in kept.items() if shape is not None}
                if state in group.rule.kernel_states and kept != {name: self.layout.shapes[name] for name in kept}:
                    raise ValueError(f"rule: {group.rule!r}: its kernel needs {state!r} in the shape of each parameter")
                shapes.setdefault(state, {}).update(found)
                firsts.setdefault(state, {}).update(dict.fromkeys(found, first))
        states: dict[str, FlatBuffer | EncodedBuffer] = {}
        for state, members in firsts.items():
            layout = Layout({name: shapes[state][name] for name in self.layout.shapes if name in members})
            if state in self.precision.states:
                states[state] = self._first_encoded(state, layout, members)
            else:
                states[state] = buffer = FlatBuffer.empty(layout, self.dtype)
                for name, first in members.items():
                    buffer[name].fill(first)
        return states

    def _first_encoded(self, state: str, layout: Layout, members: dict[str, float]) -> EncodedBuffer:
        precision = self.precision
        storages = {
            name: precision.state_storage(state, members[name], math.prod(shape), self.dtype)
            for name, shape in layout.shapes.items()
        }
        stochastic = {storage.name for storage in storages.values() if precision.is_stochastic(storage)}
        buffer = EncodedBuffer(layout, storages, self.dtype, stochastic)
        for name, first in members.items():
            buffer.fill(name, first)
        return buffer

    def __getstate__(self) -> dict[str, Any]:
        self.check_in_place("copy or pickle")
        left = {"flat", "layout"} | ({"master"} if self.lower is not None else set())
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.flat, self.layout = flat_and_layout(self.params)
        if self.lower is not None:
            self.master = self._split()

    # Streams

    def numbers(self, first: str, last: str) -> np.ndarray | Stream:
        """The parameters from one to another as kernels update them: the master, if there is one."""
        if self.master is not None:
            return between(self.master, first, last, self.dtype)
        return self.given(first, last)

    def given(self, first: str, last: str) -> np.ndarray | Stream:
        """The parameters from one to another as the user has them."""
        places = self.layout.places
        array = self.flat[places[first].start : places[last].stop]
        return of_array(array, self.dtype, stochastic=self._rounds_parameters)

    @property
    def _rounds_parameters(self) -> bool:
        """Whether steps round the parameters stochastically. A master's are copied, to nearest."""
        return self.master is None and self.precision.is_stochastic(STORAGES[name_of(self.flat.dtype)])

    @property
    def rounds_stochastically(self) -> bool:
        """Whether steps round parameters or a state stochastically."""
        encoded = [buffer for buffer in self.states.values() if isinstance(buffer, EncodedBuffer)]
        return self._rounds_parameters or any(buffer.stochastic for buffer in encoded)

    def runs(self, group: Group) -> list[tuple[str, ...]]:
        """The parameters of a group that a kernel may take for one: those that lie one after the other.

        Where there is a stage, or a sum is taken over each, or blocks, or the noise of stochastic rounding, are counted
        from the start of each, that is each by itself.
        """
        states = [self.states[name] for name in group.rule.kernel_states]
        apart = group.rule.stage is not None or group.adapted or self._rounds_parameters
        if apart or not all(joins(buffer, group.names) for buffer in states):
            return [(name,) for name in group.names]
        return self.layout.runs(group.names)

    def written(self) -> Iterator[tuple[str, np.ndarray]]:
        """The memory that steps write to, with names for messages."""
        yield "params", self.flat
        for name, buffer in self.states.items():
            for array in _memory(buffer):
                yield f"the state {name!r}", array
        for part in PARTS:
            buffer = getattr(self, part)
            if buffer is not None:
                for array in _memory(buffer):
                    yield part, array

    def storages_of(self, group: Group) -> dict[str, str]:
        """How parameters, states, copies and averages of a group are stored, by name, in words."""
        buffers: dict[str, Any] = {name: self.states[name] for name in group.rule.states}
        for part in ("master", "copy", "ema", "lookahead"):
            if part != "master" or self.lower is None:
                buffers[part] = getattr(self, part)
        params = "split" if self.lower is not None else self.flat.dtype.name
        found = {"params": f"{params}, stochastic" if self._rounds_parameters else params}
        for name, buffer in buffers.items():
            if isinstance(buffer, EncodedBuffer):
                kinds = dict.fromkeys(buffer.storages[each].name for each in group.names if each in buffer)
                words = [f"{kind}, stochastic" if kind in buffer.stochastic else kind for kind in kinds]
                found[name] = " and ".join(words)
            elif buffer is not None:
                found[name] = buffer.dtype.name
        return found

    # Checkpoints

    def parameters(self) -> "dict[str, Stored]":
        """The memory of the parameters by name."""
        from fastopt.checkpoint.saved import plain

        flat = self.flat
        return {
            name: plain(flat[self.layout.places[name]].reshape(shape)) for name, shape in self.layout.shapes.items()
        }

    def part(self, part: str) -> "dict[str, Stored] | None":
        """The memory of one of the :data:`PARTS` by name, or None. Of split parameters it is what the user has not."""
        if part == "master" and self.lower is not None:
            from fastopt.checkpoint.saved import Stored

            return {name: Stored("split", {"lower": array}) for name, array in self.lower.items()}
        buffer = getattr(self, part)
        return None if buffer is None else _stored(buffer)

    def describe(self) -> dict[str, Any]:
        """What a state dict holds, with the memory itself and no copies."""
        state: dict[str, dict[str, Stored]] = {name: {} for name in self.layout.shapes}
        for kind, buffer in self.states.items():
            for name, stored in _stored(buffer).items():
                state[name][kind] = stored
        return {
            "step": self.counts[STEP],
            "micro_step": self.counts[MICRO_STEP],
            "seed": self.seed,
            "groups": {pattern: group.describe() for pattern, group in self.groups.items()},
            "state": state,
        } | {part: self.part(part) for part in PARTS}

    def adopting(self, saved: "Saved") -> list[Call]:
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
        if saved.seed is not None:
            calls.append((self.__dict__.update, {"seed": saved.seed}))
        return [*self._adopting_arrays(saved), *calls, (setitem, self.counts, slice(None), counts)]

    def _adopting_arrays(self, saved: "Saved") -> list[Call]:
        calls: list[Call] = []
        for name in saved.state:
            if name not in self.layout.shapes:
                raise CheckpointError(f"state: no parameter {quoted(name)} here; {nearest(name, self.layout.shapes)}")
        kinds = {kind for states in saved.state.values() for kind in states}
        for kind in sorted(kinds | set(self.states)):
            if kind not in self.states:
                raise CheckpointError(f"state: {quoted(kind)} is no state here; {nearest(kind, self.states)}")
            there = {name: states[kind] for name, states in saved.state.items() if kind in states}
            calls += _copying(f"state {kind!r}", _stored(self.states[kind]), there)
        for part in PARTS:
            mine, its = self.part(part), saved.parts[part]
            if mine is None and not its and not self.layout.shapes:
                continue
            if (mine is None) != (its is None):
                has, lacks = "the checkpoint", "this optimizer"
                if its is None:
                    has, lacks = lacks, has
                raise CheckpointError(f"{part}: {has} has it and {lacks} has not")
            if mine is not None and its is not None:
                calls += _copying(part, mine, its)
        if saved.params is not None:
            calls += _copying("params", self.parameters(), saved.params)
        return calls


def flat_and_layout(params: FlatBuffer | np.ndarray) -> tuple[np.ndarray, Layout]:
    """The memory of parameters and their places; TypeError or ValueError if kernels cannot write to it."""
    if isinstance(params, FlatBuffer):
        return check_array("params", params.flat, writable=True), params.layout
    flat = check_array("params", params, writable=True).view(np.ndarray)
    return flat, Layout({"params": flat.shape})


def _memory(buffer: FlatBuffer | EncodedBuffer) -> Iterator[np.ndarray]:
    if isinstance(buffer, EncodedBuffer):
        yield from buffer.memory()
    else:
        yield buffer.flat


def _stored(buffer: FlatBuffer | EncodedBuffer) -> "dict[str, Stored]":
    """The memory of a buffer by name; arrays of an item for each element have the member's shape."""
    from fastopt.checkpoint.saved import Stored, plain

    if not isinstance(buffer, EncodedBuffer):
        return {name: plain(array) for name, array in buffer.items()}
    found = {}
    for name, storage in buffer.storages.items():
        shape = buffer.layout.shapes[name]
        arrays = zip(storage.parts, buffer.parts(name).items(), strict=True)
        parts = {key: array.reshape(shape) if part.every == 1 else array for part, (key, array) in arrays}
        found[name] = Stored(storage.name, parts)
    return found


def _copying(what: str, here: "dict[str, Stored]", there: "dict[str, Stored]") -> list[Call]:
    for name in there:
        if name not in here:
            raise CheckpointError(f"{what}: no parameter {quoted(name)} here; {nearest(name, here)}")
    calls: list[Call] = []
    for name, stored in here.items():
        if name not in there:
            raise CheckpointError(f"{what}: there is none for {quoted(name)}")
        given = there[name]
        if given.storage != stored.storage:
            way = "; convert=True has it converted" if given.storage in STORAGES else ""
            raise CheckpointError(f"{what}: {quoted(name)} is {given.storage}, not {stored.storage} as here{way}")
        given.check_parts(f"{what}: {quoted(name)}", stored.parts)
        for part, array in stored.parts.items():
            calls += given.parts[part].into(array)
    return calls
