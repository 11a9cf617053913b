"""A gradient comes in: checked, and read where it lies."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, repeat
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fastopt.backend.program import Spans
from fastopt.buffers import DTYPES, FlatBuffer, check_array, check_unmasked, is_known
from fastopt.encoded import of_array
from fastopt.errors import nearest, quoted
from fastopt.rows import Merged, Rows, check_rows
from fastopt.state import OptimizerState
from fastopt.storage import Stream

#: Elements of a parameter, on the average, from which on it takes longer to copy gradients than to bind them anew.
_WORTH_BINDING = 100_000


class Piece(NamedTuple):
    """A run of parameters without gaps, by the first and the last name: its place in flat buffers, and its gradient.

    ``spans`` say to which elements the gradient belongs, if not to all.
    """

    first: str
    last: str
    place: slice
    array: np.ndarray
    spans: Spans | None = None

    def stream(self, computes: np.dtype) -> np.ndarray | Stream:
        """The gradient as engines take it, where kernels compute in that dtype."""
        return of_array(self.array, computes)

    def measured(self) -> np.ndarray | Stream:
        """The gradient as engines take it to measure it: float64 numbers as such."""
        return of_array(self.array, self.array.dtype if self.array.itemsize > 2 else np.dtype(np.float32))


class Flat(NamedTuple):
    """A gradient in one array, laid out as the parameters are."""

    state: OptimizerState
    array: np.ndarray
    rows: Mapping[str, tuple[Merged, ...]] = MappingProxyType({})  # there are none

    @property
    def itemsize(self) -> int:
        """Bytes of the widest of its numbers."""
        return self.array.itemsize

    def pieces(self, runs: Sequence[Sequence[str]]) -> list[Piece]:
        """The gradients of some parameters, a piece for each of these runs without gaps that has elements."""
        places = self.state.layout.places
        pieces = []
        for run in runs:
            place = slice(places[run[0]].start, places[run[-1]].stop)
            if place.stop > place.start:
                pieces.append(Piece(run[0], run[-1], place, self.array[place]))
        return pieces

    @property
    def whole(self) -> list[Piece]:
        """All of it."""
        names = [*self.state.layout.shapes]
        return self.pieces([names] if names else [])


class Apart(NamedTuple):
    """A gradient in an array for each parameter, contiguous all of them; ``rows`` has those of which there are few."""

    state: OptimizerState
    arrays: Mapping[str, np.ndarray]
    rows: Mapping[str, tuple[Merged, ...]] = MappingProxyType({})

    @property
    def itemsize(self) -> int:
        """Bytes of the widest of its numbers."""
        few = (part.array for parts in self.rows.values() for part in parts)
        return max((array.itemsize for array in chain(self.arrays.values(), few)), default=0)

    def pieces(self, runs: Sequence[Sequence[str]]) -> list[Piece]:
        """The gradients of some parameters, a piece each, or one for each part of its rows."""
        places, found = self.state.layout.places, []
        for name in chain.from_iterable(runs):
            if name in self.rows:
                found += [Piece(name, name, places[name], part.array, part.spans) for part in self.rows[name]]
            else:
                found.append(Piece(name, name, places[name], self.arrays[name].reshape(-1).view(np.ndarray)))
        return [piece for piece in found if piece.array.size and (piece.spans is None or piece.spans.starts.size)]

    @property
    def whole(self) -> list[Piece]:
        """All of it that was given."""
        return self.pieces([list(self.arrays)])


def check_flat(grads: Any, state: OptimizerState) -> Flat:
    """A flat buffer or a 1-D array of the parameters' size, of any dtype of buffers, in memory of its own."""
    if isinstance(grads, FlatBuffer):
        difference = "" if grads.layout is state.layout else state.layout.difference(grads.layout)
        if difference:
            raise ValueError(f"grads is laid out otherwise than the parameters: {difference}")
        array = grads.flat
    else:
        array = check_array("grads", grads, writable=False).view(np.ndarray)
    if array.shape != state.flat.shape:
        raise ValueError(f"grads must have the parameters' size {state.flat.size}, not {array.size}")
    for name, buffer in state.written():
        if np.may_share_memory(array, buffer):
            raise ValueError(f"grads overlaps {name}: a gradient needs memory of its own")
    return Flat(state, array)


def check_mapping(
    grads: Mapping[str, Any], state: OptimizerState, needed: Collection[str]
) -> tuple[dict[str, np.ndarray], dict[str, Rows], set[np.dtype]]:
    """Arrays of the parameters' shapes by name, of any dtype of buffers, and rows, for all that are ``needed``.

    Beside them stand the dtypes of the arrays.
    """
    shapes = state.layout.shapes
    arrays, rows, dtypes = dict(grads), dict[str, Rows](), set[np.dtype]()
    before = None  # the dtype of the last array
    for name, array in arrays.items():
        if type(array) is np.ndarray and array.dtype is before and array.shape == shapes.get(name):
            continue  # as most of them
        if name not in shapes:
            raise ValueError(f"grads: no parameter {quoted(name)}; {nearest(name, shapes)}")
        if type(array) is Rows:
            check_rows(f"grads[{name!r}]", array, shapes[name])
            rows[name] = array
            continue
        if not isinstance(array, np.ndarray) or not is_known(array.dtype):
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"grads[{name!r}] must be an array of {' or '.join(DTYPES)}, not {kind}")
        if type(array) is not np.ndarray:
            check_unmasked(f"grads[{name!r}]", array)
        if array.shape != shapes[name]:
            raise ValueError(f"grads[{name!r}] must have the shape {shapes[name]}, not {quoted(array.shape)}")
        before = array.dtype
        dtypes.add(before)
    if not all(map(arrays.__contains__, needed)):
        missing = next(name for name in needed if name not in arrays)
        raise ValueError(f"grads has no gradient for {missing!r}: give one, or freeze its group")
    for name in rows:
        del arrays[name]
    return arrays, rows, dtypes


def worth_reading_in_place(arrays: Mapping[str, np.ndarray], state: OptimizerState) -> bool:
    """Whether kernels can read the arrays where they lie, and whether that takes less time than to copy them first."""
    if state.flat.size < _WORTH_BINDING * len(arrays) or not arrays:
        return False
    written = [buffer for _, buffer in state.written()]
    return all(map(is_readable, arrays.values(), repeat(written)))


def is_readable(array: np.ndarray, written: Sequence[np.ndarray]) -> bool:
    """Whether kernels can read an array where it lies, while steps write to that memory."""
    return (
        array.flags.c_contiguous and array.flags.aligned and not any(map(np.may_share_memory, repeat(array), written))
    )
