"""Buffers whose numbers are stored otherwise than kernels compute them: named arrays in any storage."""

from collections.abc import Collection, Iterator, Mapping
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fastopt.buffers import FlatBuffer, Layout, aligned_empty, as_array, name_of
from fastopt.errors import nearest
from fastopt.storage import Storage, Stream
from fastopt.storages import STORAGES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_NO_PARTS: Mapping[str, np.ndarray] = MappingProxyType({})


class Decoded(np.ndarray):
    """A copy of numbers that are stored otherwise. It is read-only: what is written to it would be lost.

    ``parts`` are the arrays that the numbers are stored in, by name, as they lie in memory: ``codes`` of 8 or 16 bits
    and ``scales``, as ``fastopt/storages/README.md`` describes. What is computed of the copy has none.
    """

    parts: Mapping[str, np.ndarray]

    def __array_finalize__(self, other: Any) -> None:
        self.parts = _NO_PARTS


class EncodedBuffer(Mapping[str, np.ndarray]):
    """Named arrays, each in a storage: a mapping from names to decoded copies, or to views where nothing is encoded.

    ``buffer[name] = array`` encodes an array, each number rounded to the nearest code.

    Parameters
    ----------
    layout
        Names and shapes, in the order in which they lie in memory.
    storages
        The storage of each.
    computes
        The dtype of decoded numbers.
    stochastic
        The names of the storages to which steps round stochastically.
    arrays
        The memory: for each storage by name an array for each of its parts, which hold all names of that storage one
        after the other. If None it is made, uninitialized, 64-byte aligned.
    """

    __slots__ = ("_places", "arrays", "computes", "layout", "stochastic", "storages")

    def __init__(
        self,
        layout: Layout,
        storages: Mapping[str, Storage],
        computes: np.dtype,
        stochastic: Collection[str] = (),
        arrays: Mapping[str, tuple[np.ndarray, ...]] | None = None,
    ) -> None:
        self.layout, self.storages, self.computes = layout, dict(storages), computes
        self.stochastic = frozenset(stochastic)
        self._places: dict[str, tuple[slice, ...]] = {}
        ends: dict[str, tuple[int, ...]] = {}
        for name, shape in layout.shapes.items():
            storage = self.storages[name]
            starts = ends.get(storage.name, (0,) * len(storage.parts))
            lengths = storage.lengths(prod(shape))
            places = tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))
            self._places[name], ends[storage.name] = places, tuple(place.stop for place in places)
        if arrays is None:
            arrays = {
                name: tuple(map(aligned_empty, stops, (part.dtype for part in STORAGES[name].parts)))
                for name, stops in ends.items()
            }
        #: The memory, by storage.
        self.arrays = dict(arrays)

    def parts(self, name: str) -> dict[str, np.ndarray]:
        """The arrays that hold one of the members, by the names of the parts, 1-D."""
        storage = self.storages[name]
        arrays = zip(storage.parts, self.arrays[storage.name], self._places[name], strict=True)
        return {part.name: array[place] for part, array, place in arrays}

    def stream(self, first: str, last: str) -> np.ndarray | Stream:
        """The numbers of the members from one to another, which lie in memory one after the other, in one storage."""
        storage = self.storages[first]
        ends = zip(self.arrays[storage.name], self._places[first], self._places[last], strict=True)
        arrays = tuple(array[start.start : stop.stop] for array, start, stop in ends)
        size = self.layout.places[last].stop - self.layout.places[first].start
        return native(Stream(storage, arrays, size, storage.name in self.stochastic), self.computes)

    def memory(self) -> Iterator[np.ndarray]:
        """All arrays."""
        for arrays in self.arrays.values():
            yield from arrays

    def fill(self, name: str, value: float) -> None:
        """Encodes one number in all places of a member."""
        storage = self.storages[name]
        size = prod(self.layout.shapes[name])
        codes = storage.encode(np.full(min(size, storage.block), value, self.computes))
        for array, code in zip(self.parts(name).values(), codes, strict=True):
            array[...] = code[:1]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.storages:
            raise KeyError(f"no parameter {name!r}; {nearest(name, self.storages)}")
        stream, shape = self.stream(name, name), self.layout.shapes[name]
        if not isinstance(stream, Stream):
            return stream.reshape(shape)
        found = stream.decode().astype(self.computes, copy=False).reshape(shape).view(Decoded)
        found.parts = MappingProxyType(self.parts(name))
        found.flags.writeable = False
        return found

    def __setitem__(self, name: str, value: "ArrayLike") -> None:
        if name not in self.storages:
            raise KeyError(f"no parameter {name!r}; {nearest(name, self.storages)}")
        values = np.empty(self.layout.shapes[name], self.computes)
        try:
            values[...] = as_array(name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        codes = self.storages[name].encode(values.reshape(-1))
        for array, code in zip(self.parts(name).values(), codes, strict=True):
            array[...] = code

    def __iter__(self) -> Iterator[str]:
        return iter(self.storages)

    def __len__(self) -> int:
        return len(self.storages)

    def __contains__(self, name: object) -> bool:
        return name in self.storages

    __eq__ = object.__eq__  # buffers are memory, not values
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        kinds = " and ".join(dict.fromkeys(storage.name for storage in self.storages.values()))
        return f"EncodedBuffer({self.layout.size} x {kinds})"

    def copy(self) -> Self:
        """A buffer of the same values in memory of its own."""
        made = type(self)(self.layout, self.storages, self.computes, self.stochastic)
        for name, arrays in made.arrays.items():
            for array, here in zip(arrays, self.arrays[name], strict=True):
                array[...] = here
        return made

    __copy__ = copy

    def __deepcopy__(self, memo: dict) -> Self:
        return self.copy()

    def __reduce__(self) -> tuple:
        names = {name: storage.name for name, storage in self.storages.items()}
        return _restore, (type(self), self.layout.shapes, names, self.computes, self.stochastic, self.arrays)


def _restore(cls: Any, shapes: Any, names: dict[str, str], computes: Any, stochastic: Any, arrays: Any) -> Any:
    storages = {name: STORAGES[storage] for name, storage in names.items()}
    return cls(Layout(shapes), storages, computes, stochastic, arrays).copy()  # aligned again


def native(stream: Stream, computes: np.dtype) -> np.ndarray | Stream:
    """A stream as engines take it: an array where its numbers are stored as kernels compute."""
    return stream.parts[0] if stream.storage.name == name_of(computes) else stream


def of_array(array: np.ndarray, computes: np.dtype, *, stochastic: bool = False) -> np.ndarray | Stream:
    """A 1-D array of one of the dtypes of parameters as engines take it, where kernels compute in ``computes``."""
    storage = STORAGES[name_of(array.dtype)]
    return native(Stream(storage, (array.view(storage.parts[0].dtype),), array.size, stochastic), computes)


def between(
    buffer: "FlatBuffer | EncodedBuffer", first: str, last: str, computes: np.dtype, *, stochastic: bool = False
) -> np.ndarray | Stream:
    """The members of a buffer from one to another as engines take them."""
    if isinstance(buffer, EncodedBuffer):
        return buffer.stream(first, last)
    places = buffer.layout.places
    return of_array(buffer.flat[places[first].start : places[last].stop], computes, stochastic=stochastic)


def joins(buffer: "FlatBuffer | EncodedBuffer", names: Collection[str]) -> bool:
    """Whether members of a buffer that lie in memory one after the other may be taken for one.

    Not where blocks, or the noise of stochastic rounding, are counted from the start of each.
    """
    if not isinstance(buffer, EncodedBuffer):
        return True
    kinds = {storage.name: storage for name, storage in buffer.storages.items() if name in names}
    return len(kinds) <= 1 and all(
        storage.block == 1 and storage.name not in buffer.stochastic for storage in kinds.values()
    )


def block_of(buffer: "FlatBuffer | EncodedBuffer", name: str) -> int:
    """How many elements of a member are encoded together."""
    return buffer.storages[name].block if isinstance(buffer, EncodedBuffer) else 1
