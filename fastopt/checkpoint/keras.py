"""Keras's files of weights, in which the optimizer's variables have numbers for names. Needs h5py."""

import zipfile
from collections.abc import Sequence
from io import BufferedReader
from typing import Any

import numpy as np

from fastopt.checkpoint.foreign import Member, fitted, named, number, whole
from fastopt.errors import CheckpointError, quoted

#: How Keras orders states: those of a tuple lie together for each parameter, and the tuples one after the other.
_ORDERS: dict[frozenset[str], tuple[tuple[str, ...], ...]] = {
    frozenset(kinds): (kinds,)
    for kinds in [
        (),
        ("exp_avg",),
        ("exp_avg", "exp_avg_sq"),
        ("exp_avg", "exp_inf"),
        ("momentum_buffer",),
        ("square_avg",),
        ("square_avg", "acc_delta"),
        ("sum",),
    ]
} | {
    frozenset(kind for kinds in order for kind in kinds): order
    for order in [
        (("exp_avg", "exp_avg_sq"), ("max_exp_avg_sq",)),
        (("square_avg",), ("momentum_buffer",)),
        (("square_avg",), ("grad_avg",)),
        (("square_avg",), ("momentum_buffer",), ("grad_avg",)),
    ]
}


def read(file: BufferedReader, like: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """See :func:`fastopt.checkpoint.read`. Variables are the step, the learning rate, and the states of each parameter.

    Keras multiplies momentum by the learning rate when it comes in, and torch, as is done here, when it goes out.
    """
    variables = _variables(file)
    if len(variables) < 2 or variables[0].shape or variables[1].shape:
        raise CheckpointError(
            f"it has no optimizer that begins with its step and learning rate, but {len(variables)} arrays"
        )
    step, lr, *arrays = variables
    kinds = {tuple(group.rule.states) for group in like.groups.values()}
    order = _ORDERS.get(frozenset(*kinds)) if len(kinds) == 1 else None
    if order is None:
        raise CheckpointError(f"states {quoted([*kinds])} are not known to be in one of Keras's files")
    names = list(named("the file", [*like.layout.shapes] if names is None else names, names))
    places = [(name, kind) for kinds in order for name in names for kind in kinds]
    if len(places) != len(arrays):
        raise CheckpointError(f"it has {len(arrays)} states, and {quoted(names)} have {len(places)} here")
    count, rate = whole("its step", step), number("its learning rate", lr)
    states: dict[str, dict[str, Any]] = {name: {} for name in names}
    for (name, kind), array in zip(places, arrays, strict=True):
        if kind == "momentum_buffer":
            array = _without_rate(name, array, rate if "square_avg" in states[name] else -rate)
        states[name][kind] = array
    members = {name: Member(state, count, {}, {"lr": rate}) for name, state in states.items()}
    return fitted("the file", members, like)


def _without_rate(name: str, array: np.ndarray, rate: float) -> np.ndarray:
    with np.errstate(all="ignore"):
        found = np.where(array == 0, array, array / np.asarray(rate, array.dtype))
    if not np.array_equal(np.isfinite(found), np.isfinite(array)):
        raise CheckpointError(f"its learning rate {abs(rate)} is too small to be taken out of the momentum of {name!r}")
    return found


def _variables(file: BufferedReader) -> list[np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise type(error)(f"files of Keras's need h5py ({error}): pip install h5py", name="h5py") from error
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive, archive.open("model.weights.h5") as inner:
                return _arrays(h5py, inner)
        return _arrays(h5py, file)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile and h5py have many for what is not what it says
        raise CheckpointError(f"no file of Keras's weights with an optimizer, or damaged: {error}") from None


def _arrays(h5py: Any, file: Any) -> list[np.ndarray]:
    with h5py.File(file, "r") as opened:
        variables = opened["optimizer/vars"]
        if not isinstance(variables, h5py.Group):
            raise CheckpointError("optimizer/vars must be a group of arrays, not one array")
        found = []
        for place in map(str, range(len(variables))):
            if not isinstance(variables.get(place, getlink=True), h5py.HardLink):
                raise CheckpointError(f"the variable {place} is not in this file")
            if not isinstance(variables[place], h5py.Dataset) or variables[place].dtype.kind not in "iuf":
                raise CheckpointError(f"the variable {place} must be an array of numbers, not {variables[place]}")
            found.append(np.asarray(variables[place]))
        return found
