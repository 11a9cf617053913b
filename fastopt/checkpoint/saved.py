"""What is saved of an optimizer, as plain data: the schema, checked whole before any of it is used.

A state dict is ``{"step", "micro_step", "groups", "state", "ema", "accumulated"}``. A file holds the same: its arrays
under the keys ``params/NAME``, ``state/KIND/NAME``, ``ema/NAME`` and ``accumulated/NAME``, the rest as a description.
"""

from collections.abc import Collection, Mapping
from operator import setitem
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastopt.backend.program import Call
from fastopt.buffers import as_array
from fastopt.errors import CheckpointError, nearest, quoted
from fastopt.rule import Rule
from fastopt.schedules import SCHEDULES, Schedule

FORMAT = 1

#: Buffers that an optimizer may have beside its states.
PARTS = ("ema", "accumulated")

_PROGRESS = ("step", "micro_step", "groups")
_GROUP = ("rule", "hyperparameters", "step", "frozen", "parameters")
_SCHEDULE = ("schedule", "fields", "progress")
_MOST = 2**53  # float64 tells the steps up to it apart


class Source(Protocol):
    """An array that is saved somewhere."""

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def into(self, array: np.ndarray) -> list[Call]:
        """The calls, of functions implemented in C, that fill an array of that dtype and shape with it."""


class InMemory(NamedTuple):
    """An array of a state dict."""

    array: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def into(self, array: np.ndarray) -> list[Call]:
        return [(setitem, array, ..., self.array)]


class SavedGroup(NamedTuple):
    """What is saved of a group: the name of its rule, values by hyperparameter (see :func:`_revive`), where it is."""

    rule: str
    hyperparameters: dict[str, Any]
    step: int
    frozen: bool
    parameters: list[str]


class Saved(NamedTuple):
    """What is saved of an optimizer, checked; parameters and their layout are in files alone."""

    step: int
    micro_step: int
    groups: dict[str, SavedGroup]
    state: dict[str, dict[str, Source]]
    ema: dict[str, Source] | None
    accumulated: dict[str, Source] | None
    layout: dict[str, tuple[int, ...]] | None = None
    params: dict[str, Source] | None = None


# From an optimizer


def describe_rule(rule: Rule) -> dict[str, Any]:
    """A rule by its name and its hyperparameters, as JSON has them; None for a callable that is the user's own."""
    return {"rule": type(rule).__name__, "hyperparameters": {name: _describe(value) for name, value in rule}}


def _describe(value: Any) -> Any:
    if isinstance(value, Schedule) and SCHEDULES.get(type(value).__name__) is type(value):
        return {"schedule": type(value).__name__, "fields": dict(value), "progress": value.progress()}
    return None if callable(value) else value


def to_file(state_dict: dict[str, Any], params: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A state dict and the parameters as the description and the arrays of a file."""
    arrays = {f"params/{name}": array for name, array in params.items()}
    for name, states in state_dict["state"].items():
        arrays |= {f"state/{kind}/{name}": array for kind, array in states.items()}
    for part in PARTS:
        arrays |= {f"{part}/{name}": array for name, array in (state_dict[part] or {}).items()}
    layout = {name: list(array.shape) for name, array in params.items()}
    return {key: state_dict[key] for key in _PROGRESS} | {"format": FORMAT, "layout": layout}, arrays


# From anywhere


def parse(state_dict: Any) -> Saved:
    """A state dict. CheckpointError, which names the part, if it is none."""
    given = _members("state_dict", state_dict)
    _check_keys("state_dict", given, (*_PROGRESS, "state", *PARTS))
    state = _members("state", given["state"])
    return Saved(
        *_progress(given),
        {name: _arrays(f"state[{quoted(name)}]", states) for name, states in state.items()},
        ema=None if given["ema"] is None else _arrays("ema", given["ema"]),
        accumulated=None if given["accumulated"] is None else _arrays("accumulated", given["accumulated"]),
    )


def parse_file(description: dict[str, Any], arrays: Mapping[str, Source]) -> Saved:
    """The description and the arrays of a file. CheckpointError, which names the part, if they are not as they must be.

    Where there are no parameters, no array says whether there is an average: then it is empty and not None.
    """
    layout = {
        name: tuple(_count(f"layout[{quoted(name)}][{axis}]", size) for axis, size in enumerate(_axes(name, shape)))
        for name, shape in _members("layout", description["layout"]).items()
    }
    state: dict[str, dict[str, Source]] = {name: {} for name in layout}
    parts: dict[str, dict[str, Source]] = {"params": {}, **{part: {} for part in PARTS}}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        if part == "state":
            kind, _, name = name.partition("/")
            here = state.get(name, {})
        else:
            kind, here = name, parts.get(part, {})
        if name not in layout or (part != "state" and part not in parts):
            raise CheckpointError(f"an array has the unknown name {quoted(key)}")
        here[kind] = array
    ema, accumulated = (parts[part] if parts[part] or not layout else None for part in PARTS)
    return Saved(*_progress(description), state, ema, accumulated, layout, parts["params"])


def check_description(description: Any) -> dict[str, Any]:
    """A file's description if it is of this format. Otherwise CheckpointError."""
    given = _members("description", description)
    found = given.get("format")
    if type(found) is not int or found != FORMAT:
        raise CheckpointError(f"format {quoted(found)}, not {FORMAT}: another version of fastopt wrote it")
    _check_keys("description", given, (*_PROGRESS, "format", "layout", "checksums", "extra"))
    return given


def _progress(given: dict[str, Any]) -> tuple[int, int, dict[str, SavedGroup]]:
    groups = {pattern: _group(pattern, group) for pattern, group in _members("groups", given["groups"]).items()}
    return _count("step", given["step"]), _count("micro_step", given["micro_step"]), groups


def _group(pattern: str, value: Any) -> SavedGroup:
    where = f"groups[{quoted(pattern)}]: "
    given = _members(f"{where}it", value)
    _check_keys(where, given, _GROUP)
    if not isinstance(given["rule"], str):
        raise CheckpointError(f"{where}rule must be text, not {quoted(given['rule'])}")
    if not isinstance(given["frozen"], bool):
        raise CheckpointError(f"{where}frozen must be True or False, not {quoted(given['frozen'])}")
    names = given["parameters"]
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{where}parameters must be a list of names, not {quoted(names)}")
    values = _members(f"{where}hyperparameters", given["hyperparameters"])
    return SavedGroup(
        given["rule"],
        {name: _revive(where, name, value) for name, value in values.items()},
        _count(f"{where}step", given["step"]),
        given["frozen"],
        list(names),
    )


def _revive(where: str, name: str, value: Any) -> Any:
    """A hyperparameter: a number, a word, a tuple of these, a schedule, or None for a callable of the user's own."""
    if isinstance(value, Mapping):
        return _schedule(where, name, value)
    if isinstance(value, (list, tuple)):
        return tuple(value)
    if callable(value):
        raise CheckpointError(f"{where}{name} must be plain data, not {quoted(value)}")
    return value


def _schedule(where: str, name: str, value: Any) -> Schedule:
    given = _members(f"{where}{name}", value)
    kind = given.get("schedule")
    if not isinstance(kind, str) or kind not in SCHEDULES:
        raise CheckpointError(f"{where}there is no {quoted(kind)} for {name}; {nearest(quoted(kind), SCHEDULES)}")
    _check_keys(f"{where}{name}: ", given, _SCHEDULE)
    try:
        schedule = SCHEDULES[kind](**_members("fields", given["fields"]))
        schedule.resume(_members("progress", given["progress"]))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}{name}: {error}") from None
    return schedule


def _members(where: str, value: Any) -> dict[str, Any]:
    """A mapping whose keys are text, as a dictionary."""
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where} must be a mapping, not {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            raise CheckpointError(f"{where} must have text for keys, not {quoted(key)}")
    return dict(value)


def _check_keys(where: str, given: dict[str, Any], allowed: Collection[str]) -> None:
    """That a mapping has all the keys that are allowed, and no other."""
    named = f"{where}there is" if where.endswith(" ") else f"{where} has"
    for key in allowed:
        if key not in given:
            raise CheckpointError(f"{named} no {key!r}; it has {quoted(list(given))}")
    for key in given:
        if key not in allowed:
            raise CheckpointError(f"{named} the unknown {quoted(key)}; {nearest(key, allowed)}")


def _axes(name: str, shape: Any) -> list[Any]:
    if not isinstance(shape, list) or len(shape) > 64:  # of NumPy's arrays no one has more
        raise CheckpointError(f"layout[{quoted(name)}] must be a list of whole numbers, not {quoted(shape)}")
    return shape


def _count(where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise CheckpointError(f"{where} must be a whole number >= 0, not {quoted(value)}")
    if value >= _MOST:
        raise CheckpointError(f"{where} must be less than 2**53, not {quoted(value)}")
    return value


def _arrays(where: str, value: Any) -> dict[str, Source]:
    arrays: dict[str, Source] = {}
    for name, array in _members(where, value).items():
        try:
            arrays[name] = InMemory(as_array(f"{where}[{quoted(name)}]", array))
        except (TypeError, ValueError) as error:
            raise CheckpointError(str(error)) from None
    return arrays
