"""A gradient comes in: checked, and read where it lies."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastopt.buffers import FlatBuffer, check_array, check_unmasked
from fastopt.errors import nearest, quoted
from fastopt.state import OptimizerState

#: Elements of a parameter, on the average, from which on it takes longer to copy gradients than to bind them anew.
_WORTH_BINDING = 100_000


class Piece(NamedTuple):
    """A run of parameters without gaps: the first one's name, its place in the flat buffer, and its gradient there."""

    first: str
    place: slice
    array: np.ndarray


class Flat(NamedTuple):
    """A gradient in one array, laid out as the parameters are."""

    state: OptimizerState
    array: np.ndarray

    def pieces(self, names: Sequence[str]) -> list[Piece]:
        """The gradients of some parameters, in as few pieces as there are."""
        places = self.state.layout.places
        pieces = []
        for run in self.state.layout.runs(names):
            place = slice(places[run[0]].start, places[run[-1]].stop)
            pieces.append(Piece(run[0], place, self.array[place]))
        return pieces

    @property
    def whole(self) -> list[Piece]:
        """All of it."""
        return [Piece("", slice(0, self.array.size), self.array)]


class Apart(NamedTuple):
    """A gradient in an array for each parameter, contiguous all of them."""

    state: OptimizerState
    arrays: Mapping[str, np.ndarray]

    def pieces(self, names: Sequence[str]) -> list[Piece]:
        """The gradients of some parameters, a piece each."""
        places = self.state.layout.places
        arrays = [(name, self.arrays[name].reshape(-1).view(np.ndarray)) for name in names]
        return [Piece(name, places[name], array) for name, array in arrays if array.size]

    @property
    def whole(self) -> list[Piece]:
        """All of it that was given."""
        return self.pieces(list(self.arrays))


def check_flat(grads: Any, state: OptimizerState) -> Flat:
    """A flat buffer or a 1-D array of the parameters' size and dtype, in memory of its own."""
    if isinstance(grads, FlatBuffer):
        difference = "" if grads.layout is state.layout else state.layout.difference(grads.layout)
        if difference:
            raise ValueError(f"grads is laid out otherwise than the parameters: {difference}")
        array = grads.flat
    else:
        array = check_array("grads", grads, writable=False).view(np.ndarray)
    if array.dtype != state.dtype:
        raise TypeError(f"grads must be {state.dtype} as the parameters are, not {array.dtype}")
    if array.shape != state.flat.shape:
        raise ValueError(f"grads must have the parameters' size {state.flat.size}, not {array.size}")
    for name, buffer in state.written():
        if np.may_share_memory(array, buffer):
            raise ValueError(f"grads overlaps {name}: a gradient needs memory of its own")
    return Flat(state, array)


def check_mapping(grads: Mapping[str, Any], state: OptimizerState, needed: Collection[str]) -> dict[str, np.ndarray]:
    """Arrays of the parameters' shapes and dtype by name, at least for those that are ``needed``."""
    shapes, dtype = state.layout.shapes, state.dtype
    arrays = dict(grads)
    for name, array in arrays.items():
        if name not in shapes:
            raise ValueError(f"grads: no parameter {quoted(name)}; {nearest(name, shapes)}")
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"grads[{name!r}] must be an array of {dtype} as the parameters are, not {kind}")
        if type(array) is not np.ndarray:
            check_unmasked(f"grads[{name!r}]", array)
        if array.shape != shapes[name]:
            raise ValueError(f"grads[{name!r}] must have the shape {shapes[name]}, not {quoted(array.shape)}")
    for name in needed:
        if name not in arrays:
            raise ValueError(f"grads has no gradient for {name!r}: give one, or freeze its group")
    return arrays


def worth_reading_in_place(arrays: Mapping[str, np.ndarray], state: OptimizerState) -> bool:
    """Whether kernels can read the arrays where they lie, and whether that takes less time than to copy them first."""
    if state.flat.size < _WORTH_BINDING * len(arrays) or not arrays:
        return False
    written = [buffer for _, buffer in state.written()]
    return all(
        array.flags.c_contiguous
        and array.flags.aligned
        and not any(np.may_share_memory(array, buffer) for buffer in written)
        for array in arrays.values()
    )
