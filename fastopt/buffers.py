"""Flat buffers: one aligned 1-D array that holds every parameter, with a named view for each."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fastopt.errors import nearest, quoted
from fastopt.sizes import LINE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

#: The dtypes of parameters and gradients, by name.
DTYPES = ("float32", "float64", "bfloat16", "float16")

#: Buffers that an optimizer may have beside its states, by their names in it.
PARTS = ("ema", "accumulated", "master", "copy", "lookahead")

ALIGNMENT = LINE  # bytes: a cache line, and the widest vector register

_KINDS_BY_NAME = "float32, float64, bfloat16 or float16"


@lru_cache(maxsize=64)
def name_of(dtype: np.dtype) -> str:
    """A dtype's name. NumPy puts it together anew each time it is asked for, in Python."""
    return dtype.name


@lru_cache(maxsize=64)
def is_known(dtype: np.dtype) -> bool:
    """Whether a dtype is one of :data:`DTYPES`, in native byte order."""
    return dtype.name in DTYPES and dtype.isnative


def aligned_empty(size: int, dtype: np.dtype) -> np.ndarray:
    """An uninitialized 1-D array whose first element starts a cache line."""
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)


def bfloat16(name: str) -> np.dtype:
    """ml_dtypes' bfloat16, which NumPy has not; ImportError, for the argument of that name, where it is missing."""
    try:
        import ml_dtypes  # only when somebody needs it
    except ImportError as error:
        words = f"{name}: for bfloat16, NumPy needs ml_dtypes ({error}): pip install ml_dtypes"
        raise type(error)(words, name="ml_dtypes") from error
    return np.dtype(ml_dtypes.bfloat16)


def is_floating(dtype: np.dtype) -> bool:
    """Whether an array of the dtype holds real floating-point numbers; NumPy does not know it of bfloat16."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def check_dtype(name: str, dtype: "DTypeLike") -> np.dtype:
    """The dtype if it is one of :data:`DTYPES`; else TypeError, or ImportError where ml_dtypes is missing."""
    try:
        found = bfloat16(name) if isinstance(dtype, str) and dtype == "bfloat16" else np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name} must be {_KINDS_BY_NAME}, not {quoted(dtype)}") from None
    if not is_known(found):
        raise TypeError(f"{name} must be {_KINDS_BY_NAME} in native byte order, not {found.str} ({found})")
    return found


def check_array(name: str, array: Any, *, writable: bool) -> np.ndarray:
    """The array if a kernel can run over its memory as it is; TypeError or ValueError that names it otherwise."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, not {type(array).__name__}")
    check_unmasked(name, array)
    check_dtype(f"{name}: its dtype", array.dtype)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be contiguous, not strided by {array.strides[0]} bytes: copy it first")
    if not array.flags.aligned:
        raise ValueError(f"{name} must be aligned: its address must be a multiple of {array.itemsize}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} must be writable, not read-only")
    return array


def check_unmasked(name: str, array: Any) -> None:
    """Raises TypeError for a masked array: nothing here heeds a mask."""
    masked = sys.modules.get("numpy.ma")  # NumPy imports it when somebody uses it
    if masked is not None and isinstance(array, masked.MaskedArray):
        raise TypeError(f"{name} must be a plain array, not a masked one: fill it first, as array.filled(0) does")


def as_array(name: str, value: Any) -> np.ndarray:
    """An array-like as an array; TypeError or ValueError that names it if it is none."""
    check_unmasked(name, value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:  # a ragged list, or an object that cannot be converted
        raise type(error)(f"{name} must be an array, not {quoted(value)}: {error}") from None


class Layout:
    """The names, shapes and places of the parameters in a flat buffer, in order and without gaps."""

    __slots__ = ("places", "shapes", "size")

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self.places: dict[str, slice] = {}
        self.size = 0
        for name, shape in self.shapes.items():
            stop = self.size + math.prod(shape)
            self.places[name] = slice(self.size, stop)
            self.size = stop

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and list(self.shapes.items()) == list(other.shapes.items())

    __hash__ = None  # type: ignore[assignment]

    def difference(self, other: "Layout") -> str:
        """How another layout differs from this one, in words; empty if it does not."""
        for name, shape in other.shapes.items():
            if name not in self.shapes:
                return f"it has {quoted(name)}, which is unknown here; {nearest(name, self.shapes)}"
            if shape != self.shapes[name]:
                return f"{name!r} has the shape {quoted(shape)} there and {self.shapes[name]} here"
        missing = [name for name in self.shapes if name not in other.shapes]
        if missing:
            return f"it has no {missing[0]!r}"
        return "" if self == other else f"its order is {quoted(list(other.shapes))}, not {quoted(list(self.shapes))}"

    def runs(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Names, grouped where their places join without a gap."""
        runs: list[list[str]] = []
        wanted = set(names)
        previous = False
        for name in self.shapes:
            if name in wanted:
                if previous:
                    runs[-1].append(name)
                else:
                    runs.append([name])
            previous = name in wanted
        return [tuple(run) for run in runs]


class FlatBuffer(Mapping[str, np.ndarray]):
    """Named arrays in one contiguous, 64-byte aligned 1-D array: a mapping from names to views.

    Parameters
    ----------
    arrays
        Names and array-likes of floats, of any shape, zero-sized ones too. They are copied once. Names are
        non-empty strings; their order is the order in memory.
    dtype
        ``float32``, ``float64``, ``bfloat16`` (of ml_dtypes, which must be installed) or ``float16``. If None, the
        arrays must share one of them.

    Raises
    ------
    TypeError
        An array is no array of real floating-point numbers, or no dtype is given and they differ.
    ImportError
        The dtype is ``bfloat16`` and ml_dtypes is not installed.
    ValueError
        A name is empty or no text that UTF-8 can hold (a lone surrogate), or a list is ragged.

    Examples
    --------
    >>> params = FlatBuffer({"w": np.ones((2, 3)), "b": np.zeros(3)}, dtype="float32")
    >>> params.flat.shape, params["w"].shape
    ((9,), (2, 3))
    >>> params["b"] += 1
    >>> params.flat[-3:]
    array([1., 1., 1.], dtype=float32)
    """

    __slots__ = ("_views", "flat", "layout")

    layout: Layout
    flat: np.ndarray

    def __init__(self, arrays: "Mapping[str, ArrayLike]", dtype: "DTypeLike | None" = None) -> None:
        if not isinstance(arrays, Mapping):
            raise TypeError(f"arrays must be a mapping of names to arrays, not {type(arrays).__name__}")
        wanted = None if dtype is None else check_dtype("dtype", dtype)
        found = {_checked_name(name): _checked_floats(name, array) for name, array in arrays.items()}
        if wanted is None:
            kinds = sorted({array.dtype.name for array in found.values()})
            if len(kinds) != 1:
                raise TypeError(f"dtype must be given: the arrays have {' and '.join(kinds) or 'no dtype'}")
            wanted = check_dtype("dtype", next(iter(found.values())).dtype)
        self._fill(Layout({name: array.shape for name, array in found.items()}), wanted)
        for name, array in found.items():
            self._views[name][...] = array

    def _fill(self, layout: Layout, dtype: np.dtype) -> None:
        self.layout = layout
        self.flat = aligned_empty(layout.size, dtype)
        self._views = {name: self.flat[layout.places[name]].reshape(shape) for name, shape in layout.shapes.items()}

    @classmethod
    def empty(cls, layout: Layout, dtype: "DTypeLike") -> Self:
        """An uninitialized buffer of a layout."""
        buffer = cls.__new__(cls)
        buffer._fill(layout, np.dtype(dtype))
        return buffer

    @property
    def dtype(self) -> np.dtype:
        """``float32``, ``float64``, ``float16`` or ml_dtypes' ``bfloat16``."""
        return self.flat.dtype

    @property
    def size(self) -> int:
        """The number of elements of all parameters together."""
        return self.layout.size

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._views[name]
        except KeyError:
            raise KeyError(f"no parameter {name!r}; {nearest(name, self._views)}") from None

    def __setitem__(self, name: str, value: "ArrayLike") -> None:
        view = self[name]
        if value is not view:
            array = as_array(name, value)
            try:
                view[...] = array
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __contains__(self, name: object) -> bool:
        return name in self._views

    __eq__ = object.__eq__  # buffers are memory, not values
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {shape}" for name, shape in list(self.layout.shapes.items())[:8])
        more = ", ..." if len(self) > 8 else ""
        return f"FlatBuffer({self.size} x {self.dtype.name}; {shapes}{more})"

    def zeros_like(self) -> Self:
        """A buffer of the same layout and dtype, filled with zeros."""
        buffer = self.empty(self.layout, self.dtype)
        buffer.flat.fill(0)
        return buffer

    def copy(self) -> Self:
        """A buffer of the same layout, dtype and values in memory of its own."""
        buffer = self.empty(self.layout, self.dtype)
        buffer.flat[...] = self.flat
        return buffer

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: dict) -> Self:
        made = self.copy()
        memo[id(self.flat)] = made.flat  # so that views which are copied along stay views of this memory
        memo |= {id(view): made[name] for name, view in self._views.items()}
        return made

    def __reduce__(self) -> tuple:
        return _restore, (type(self), self.layout.shapes, self.flat)


def _restore(cls: type[FlatBuffer], shapes: dict[str, tuple[int, ...]], flat: np.ndarray) -> FlatBuffer:
    buffer = cls.empty(Layout(shapes), flat.dtype)
    buffer.flat[...] = flat
    return buffer


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"arrays: names must be strings, not {quoted(name)} ({type(name).__name__})")
    if not name:
        raise ValueError("arrays: a name must not be empty")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"arrays: names must be text that UTF-8 can hold, not {quoted(name)}") from None
    return name


def _checked_floats(name: str, array: "ArrayLike") -> np.ndarray:
    found = as_array(f"arrays[{name!r}]", array)
    if not is_floating(found.dtype):
        raise TypeError(f"arrays[{name!r}] must hold floating-point numbers, not {found.dtype}: convert it first")
    return found
