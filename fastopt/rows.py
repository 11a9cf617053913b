"""Some rows of a gradient: what an embedding, of which a batch has used a few rows, has in place of a dense one."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastopt.backend.program import Backend, Spans, Work, run
from fastopt.buffers import DTYPES, as_array, check_unmasked, is_known
from fastopt.encoded import of_array
from fastopt.errors import quoted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_KINDS = " or ".join(DTYPES)


class Rows:
    """Some rows of a gradient: a step touches these rows of the parameter and of its states, and no others.

    ``optimizer.step({"table": Rows(indices, values)})`` gives them the same bits as a step by a dense gradient. What
    such a step would do where the gradient is zero (decay, moving averages that fade, momentum) does not happen: it is
    *lazy*. The group's step count goes on for all of its rows.

    Parameters
    ----------
    indices
        The numbers of the rows: a 1-D array of whole numbers, in any order. Those that come twice are added, in the
        order in which they come.
    values
        Their gradients: an array of the shape ``(len(indices), *parameter.shape[1:])``, of any dtype that flat buffers
        have. Both arrays are kept, not copied.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described. Whether the rows fit the parameter is looked at in the step.

    Examples
    --------
    >>> params = FlatBuffer({"table": np.ones((4, 2))}, dtype="float32")
    >>> optimizer = Optimizer(params, fastopt.SGD(lr=0.5))
    >>> optimizer.step({"table": Rows([3, 1, 3], np.ones((3, 2), np.float32))})
    StepReport(step=1, grad_norm=None, skipped=False)
    >>> params["table"][:, 0]
    array([1. , 0.5, 1. , 0. ], dtype=float32)
    """

    __slots__ = ("indices", "values")

    indices: np.ndarray
    values: np.ndarray

    def __init__(self, indices: "ArrayLike", values: np.ndarray) -> None:
        self.indices, self.values = _checked_indices(indices), _checked_values(values)
        if len(self.values) != self.indices.size:
            raise ValueError(f"values must have {self.indices.size} rows, one for each index, not {len(self.values)}")

    def __repr__(self) -> str:
        return f"Rows({self.indices.size} of shape {self.values.shape[1:]}, {self.values.dtype})"


def _checked_indices(given: "ArrayLike") -> np.ndarray:
    indices = as_array("indices", given)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices must be whole numbers, not {indices.dtype}")
    if indices.ndim != 1:
        raise ValueError(f"indices must be one-dimensional, not of shape {indices.shape}")
    return indices


def _checked_values(values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray) or not is_known(values.dtype):
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise TypeError(f"values must be an array of {_KINDS}, not {kind}")
    check_unmasked("values", values)
    if not values.ndim:
        raise ValueError("values must have at least one dimension, that of the rows")
    return values


def check_rows(name: str, rows: Rows, shape: tuple[int, ...]) -> None:
    """Raises ValueError, which names them so, if rows do not fit a parameter of that shape."""
    if not shape:
        raise ValueError(f"{name} must be an array: a parameter without dimensions has no rows")
    wanted = (rows.indices.size, *shape[1:])
    if rows.values.shape != wanted:
        raise ValueError(f"{name}: values must have the shape {wanted}, not {quoted(rows.values.shape)}")
    if rows.indices.size:
        for index in (rows.indices.min(), rows.indices.max()):
            if not 0 <= index < shape[0]:
                raise ValueError(f"{name}: indices must be from 0 to {shape[0] - 1}, not {index}")


class Merged(NamedTuple):
    """Rows of a gradient after those that came twice were added: each index once, in ascending order.

    ``spans`` say where their numbers are in the 1-D ``array``, and where the parameter's are that belong to them.
    """

    indices: np.ndarray
    array: np.ndarray
    spans: Spans


def merged(
    indices: np.ndarray, values: np.ndarray, count: int, computes: np.dtype, backend: Backend, *, gathered: bool
) -> Merged:
    """The rows of a parameter that has ``count`` of them, where kernels compute in a dtype.

    ``values`` are contiguous. They are read in place where no row comes twice, unless they are to be ``gathered``: in
    the order of the indices, without gaps. What is added is added in float64, if values are that, or in ``computes``.
    """
    width = values.size // max(indices.size, 1)
    found, flat = _order(indices, count), values.reshape(-1).view(np.ndarray)
    if not (gathered or found.more.size):
        return Merged(found.indices, flat, _spans(found.indices, found.firsts, width))
    return _added(found, flat, width, computes, backend)


def divided(
    indices: np.ndarray, values: np.ndarray, count: int, computes: np.dtype, backend: Backend
) -> tuple[Merged, ...]:
    """As :func:`merged`, in two parts where rows come twice: those that come once, read in place, and the sums."""
    width = values.size // max(indices.size, 1)
    found, flat = _order(indices, count), values.reshape(-1).view(np.ndarray)
    if not found.more.size:
        return (Merged(found.indices, flat, _spans(found.indices, found.firsts, width)),)
    several = np.zeros(found.indices.size, bool)
    several[found.into] = True
    into = (np.cumsum(several) - 1)[found.into]
    once, several = np.flatnonzero(~several), np.flatnonzero(several)
    in_place = Merged(found.indices[once], flat, _spans(found.indices[once], found.firsts[once], width))
    rest = _Order(found.indices[several], found.firsts[several], found.more, into)
    return in_place, _added(rest, flat, width, computes, backend)


def _added(found: "_Order", flat: np.ndarray, width: int, computes: np.dtype, backend: Backend) -> Merged:
    """Rows in new memory, in the order of their indices."""
    made = np.take(flat.reshape(-1, width), found.firsts, axis=0).reshape(-1) if width else flat[:0]
    if found.more.size and width:
        made = made.astype(flat.dtype if flat.itemsize == 8 else computes, copy=False)
        streams = made, of_array(flat, made.dtype)
        work = Work("blend", streams, np.ones(2, made.dtype), spans=_spans(found.into, found.more, width))
        program = backend.bind([work], 1)  # a thread does its spans in order
        run(program)
    return Merged(found.indices, made, _spans(found.indices, np.arange(found.indices.size), width))


def others(indices: np.ndarray, width: int, size: int) -> Spans:
    """All other rows of a parameter of that size, whose rows have so many elements: spans of it and of one like it."""
    starts = np.append(0, (indices + 1) * width)
    lengths = np.append(indices * width, size) - starts
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    return Spans(starts, starts, lengths)


def consecutive(indices: np.ndarray, width: int) -> Spans:
    """These rows of a parameter, whose rows have so many elements, and where they are one after the other."""
    return _spans(indices, np.arange(indices.size), width)


class _Order(NamedTuple):
    """Rows by their indices: ``indices`` has each once, in ascending order.

    ``firsts`` says where each comes first. The others, in the order in which they are to be added, are at ``more``, and
    belong to the indices at ``into``.
    """

    indices: np.ndarray
    firsts: np.ndarray
    more: np.ndarray
    into: np.ndarray


def _order(indices: np.ndarray, count: int) -> _Order:
    indices, places = indices.astype(np.int64, copy=False), np.arange(indices.size)
    if not (indices[1:] > indices[:-1]).all():
        places = _sorted(indices, count)
        indices = indices[places]
    new = np.ones(indices.size, bool)
    np.not_equal(indices[1:], indices[:-1], out=new[1:])
    if new.all():
        return _Order(indices, places, places[:0], places[:0])
    first, again = np.flatnonzero(new), np.flatnonzero(~new)
    return _Order(indices[first], places[first], places[again], again - np.arange(1, again.size + 1))


def _sorted(indices: np.ndarray, count: int) -> np.ndarray:
    """Where indices below ``count`` are in ascending order, equal ones as they come.

    NumPy sorts 16 bits stably in linear time, and wider numbers several times as slowly as two halves of them.
    """
    places = np.argsort(indices.astype(np.uint16), kind="stable")
    for shift in range(16, (count - 1).bit_length(), 16):
        places = places[np.argsort((indices[places] >> shift).astype(np.uint16), kind="stable")]
    return places


def _spans(starts: np.ndarray, sources: np.ndarray, width: int) -> Spans:
    return Spans(starts * width, sources * width, np.full(starts.size, width))
