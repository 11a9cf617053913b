"""What is saved of an optimizer, as plain data: the schema, checked whole before any of it is used.

A state dict is ``{"step", "micro_step", "seed", "groups", "state", "ema", "accumulated", "master", "copy",
"lookahead"}``. What is not float32 or float64 is a mapping there, as ``{"storage": "float8_signed", "codes": ...,
"scales": ...}``: see ``fastopt/storages/README.md``. A file holds the same: its arrays under the keys ``params/NAME``,
``state/KIND/NAME``, ``ema/NAME`` and so on, the rest as a description. An array that is one part of several has a key
such as ``state.float8_signed.codes/KIND/NAME``.

Files of format 1 have neither seed nor master nor copy, and nothing but float32 and float64; nor have state dicts of
that time.
"""

import math
from collections.abc import Collection, Mapping
from operator import setitem
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastopt.backend.program import Call
from fastopt.buffers import PARTS, as_array, name_of
from fastopt.declared import real
from fastopt.errors import CheckpointError, nearest, quoted
from fastopt.rule import Rule
from fastopt.schedules import SCHEDULES, Schedule
from fastopt.storages import STORAGES

FORMAT = 2

#: What says how far an optimizer has come.
PROGRESS = ("step", "micro_step", "groups", "seed")

#: What there was not before, and its value then.
_SINCE_2: dict[str, Any] = dict.fromkeys(("seed", "master", "copy", "lookahead"))
_GROUP = ("rule", "hyperparameters", "step", "frozen", "parameters")
_SCHEDULE = ("schedule", "fields", "progress")
_MOST = 2**53  # float64 tells the steps up to it apart


class Source(Protocol):
    """An array that is saved somewhere."""

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def storage(self) -> str:
        """What the dtype is called: for 16-bit codes the name of their storage."""

    def into(self, array: np.ndarray) -> list[Call]:
        """The calls, of functions implemented in C, that fill an array of that dtype and shape with it."""


class InMemory(NamedTuple):
    """An array of a state dict."""

    array: np.ndarray

    @property
    def storage(self) -> str:
        return name_of(self.array.dtype)

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def into(self, array: np.ndarray) -> list[Call]:
        return [(setitem, array, ..., self.array)]


class Stored(NamedTuple):
    """A member of a buffer: the name of its storage, and the storage's parts, all or some: arrays, or sources of them.

    Parts that have an item for each element have the member's shape: the parameter's, but for states for which
    :meth:`fastopt.Rule.state_shape` says otherwise.
    """

    storage: str
    parts: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The member's shape."""
        names = (part.name for part in STORAGES[self.storage].parts if part.every == 1)
        return next(self.parts[name].shape for name in names if name in self.parts)

    def check_parts(self, what: str, here: Mapping[str, np.ndarray]) -> None:
        """CheckpointError if these parts are not such as there are here."""
        if self.parts.keys() != here.keys():
            raise CheckpointError(f"{what} has {_words(self.parts)}, not {_words(here)} as here")
        for part, array in here.items():
            given = self.parts[part]
            its = "" if part == "values" else f" {part} of"
            if given.dtype != array.dtype:
                raise CheckpointError(f"{what} has{its} {given.dtype}, not {array.dtype} as here")
            if given.shape != array.shape:
                shape = quoted(given.shape)
                raise CheckpointError(f"{what} has{its} the shape {shape}, not {array.shape} as here")


def _words(parts: Mapping[str, Any]) -> str:
    return " and ".join(parts) or "no parts"


def plain(array: np.ndarray) -> Stored:
    """An array that is a storage of its own: one of float32, float64, float16 or bfloat16."""
    storage = STORAGES.get(name_of(array.dtype))
    if storage is None:
        return Stored(str(array.dtype), {"values": array})
    part = storage.parts[0]
    return Stored(storage.name, {part.name: array.view(part.dtype)})


def in_state_dict(stored: Stored) -> np.ndarray | dict[str, Any]:
    """A copy of what is stored, as a state dict has it."""
    if stored.parts.keys() == {"values"}:
        return stored.parts["values"].copy()
    return {"storage": stored.storage} | {part: array.copy() for part, array in stored.parts.items()}


class SavedGroup(NamedTuple):
    """What is saved of a group: the name of its rule, values by hyperparameter (see :func:`_revive`), where it is."""

    rule: str
    hyperparameters: dict[str, Any]
    step: int
    frozen: bool
    parameters: list[str]
    #: The rule's running numbers; None where there are none, or who saved it had none of them.
    scalars: dict[str, float] | None = None


class Saved(NamedTuple):
    """What is saved of an optimizer, checked; parameters and their layout are in files alone."""

    step: int
    micro_step: int
    groups: dict[str, SavedGroup]
    #: The seed, or None if it was not saved.
    seed: int | None
    state: dict[str, dict[str, Stored]]
    #: For each of the :data:`fastopt.buffers.PARTS`, what it holds, or None.
    parts: dict[str, dict[str, Stored] | None]
    layout: dict[str, tuple[int, ...]] | None = None
    params: dict[str, Stored] | None = None


# From an optimizer


def describe_rule(rule: Rule) -> dict[str, Any]:
    """A rule by its name and its hyperparameters, as JSON has them; None for a callable that is the user's own."""
    return {"rule": type(rule).__name__, "hyperparameters": {name: _describe(value) for name, value in rule}}


def _describe(value: Any) -> Any:
    if isinstance(value, Schedule) and SCHEDULES.get(type(value).__name__) is type(value):
        return {"schedule": type(value).__name__, "fields": dict(value), "progress": value.progress()}
    return None if callable(value) else value


def to_file(
    described: dict[str, Any], params: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Any], dict[str, tuple[str, np.ndarray]]]:
    """What an optimizer says of itself, and its parameters, as the description and the arrays of a file.

    Beside each array stands what its dtype is called: for 16-bit codes the name of their storage.
    """
    arrays: dict[str, tuple[str, np.ndarray]] = {}

    def add(section: str, name: str, stored: Stored) -> None:
        if len(STORAGES[stored.storage].parts) == 1:
            (array,) = stored.parts.values()
            arrays[f"{section}/{name}"] = stored.storage, array
        else:
            for part, array in stored.parts.items():
                arrays[f"{section}.{stored.storage}.{part}/{name}"] = array.dtype.name, array

    for name, stored in params.items():
        add("params", name, stored)
    for name, states in described["state"].items():
        for kind, stored in states.items():
            add("state", f"{kind}/{name}", stored)
    for part in PARTS:
        for name, stored in (described[part] or {}).items():
            add(part, name, stored)
    layout = {name: list(shape) for name, shape in shapes.items()}
    kept = {key: described[key] for key in PROGRESS}
    return kept | {"format": FORMAT, "layout": layout}, arrays


# From anywhere


def parse(state_dict: Any) -> Saved:
    """A state dict. CheckpointError, which names the part, if it is none."""
    given = _SINCE_2 | members("state_dict", state_dict)
    _check_keys("state_dict", given, (*PROGRESS, "state", *PARTS))
    state = members("state", given["state"])
    return Saved(
        *_progress(given),
        {name: _arrays(f"state[{quoted(name)}]", states) for name, states in state.items()},
        {part: None if given[part] is None else _arrays(part, given[part]) for part in PARTS},
    )


def parse_file(description: dict[str, Any], arrays: Mapping[str, Source]) -> Saved:
    """The description and the arrays of a file. CheckpointError, which names the part, if they are not as they must be.

    Where there are no parameters, no array says whether there is an average: then it is empty and not None.
    """
    layout = {
        name: tuple(count(f"layout[{quoted(name)}][{axis}]", size) for axis, size in enumerate(_axes(name, shape)))
        for name, shape in members("layout", description["layout"]).items()
    }
    state: dict[str, dict[str, Stored]] = {name: {} for name in layout}
    parts: dict[str, dict[str, Stored]] = {"params": {}, **{part: {} for part in PARTS}}
    for key, array in arrays.items():
        section, _, name = key.partition("/")
        section, *coded = section.split(".")
        if section == "state":
            kind, _, name = name.partition("/")
            here = state.get(name, {})
        else:
            kind, here = name, parts.get(section, {})
        storage, part = coded if len(coded) == 2 else (array.storage, _only_part(array.storage))
        known = not coded or (len(coded) == 2 and part in _parts(storage))
        if name not in layout or (section != "state" and section not in parts) or not known:
            raise CheckpointError(f"an array has the unknown name {quoted(key)}")
        stored = here.setdefault(kind, Stored(storage, {}))
        if stored.storage != storage:
            raise CheckpointError(f"an array has the name {quoted(key)}, and there is one as {stored.storage}")
        stored.parts[part] = array  # type: ignore[index]
    found = {part: parts[part] if parts[part] or not layout else None for part in PARTS}
    return Saved(*_progress(description), state, found, layout, parts["params"])


def _parts(storage: str) -> tuple[str, ...]:
    return tuple(part.name for part in STORAGES[storage].parts) if storage in STORAGES else ()


def _only_part(storage: str) -> str:
    return (*_parts(storage), "values")[0]


def check_description(description: Any) -> dict[str, Any]:
    """A file's description if it is of this format. Otherwise CheckpointError."""
    given = members("description", description)
    found = given.get("format")
    if type(found) is not int or found not in (1, FORMAT):
        raise CheckpointError(f"format {quoted(found)}, not {FORMAT}: another version of fastopt wrote it")
    if found == 1:
        given.setdefault("seed", None)
    _check_keys("description", given, (*PROGRESS, "format", "layout", "checksums", "extra"))
    return given


def _progress(given: dict[str, Any]) -> tuple[int, int, dict[str, SavedGroup], int | None]:
    groups = {pattern: _group(pattern, group) for pattern, group in members("groups", given["groups"]).items()}
    seed = given["seed"]
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**64):
        raise CheckpointError(f"seed must be a whole number in [0, 2**64), not {quoted(seed)}")
    return count("step", given["step"]), count("micro_step", given["micro_step"]), groups, seed


def _group(pattern: str, value: Any) -> SavedGroup:
    where = f"groups[{quoted(pattern)}]: "
    given = members(f"{where}it", value)
    _check_keys(where, given, _GROUP if "scalars" not in given else (*_GROUP, "scalars"))
    if not isinstance(given["rule"], str):
        raise CheckpointError(f"{where}rule must be text, not {quoted(given['rule'])}")
    if not isinstance(given["frozen"], bool):
        raise CheckpointError(f"{where}frozen must be True or False, not {quoted(given['frozen'])}")
    names = given["parameters"]
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{where}parameters must be a list of names, not {quoted(names)}")
    values = members(f"{where}hyperparameters", given["hyperparameters"])
    return SavedGroup(
        given["rule"],
        {name: _revive(where, name, value) for name, value in values.items()},
        count(f"{where}step", given["step"]),
        given["frozen"],
        list(names),
        _scalars(f"{where}scalars", given["scalars"]) if "scalars" in given else None,
    )


def _scalars(where: str, value: Any) -> dict[str, float]:
    """Running numbers by name."""
    return {name: finite(f"{where}[{quoted(name)}]", given) for name, given in members(where, value).items()}


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
    given = members(f"{where}{name}", value)
    kind = given.get("schedule")
    if not isinstance(kind, str) or kind not in SCHEDULES:
        raise CheckpointError(f"{where}there is no {quoted(kind)} for {name}; {nearest(quoted(kind), SCHEDULES)}")
    _check_keys(f"{where}{name}: ", given, _SCHEDULE)
    try:
        schedule = SCHEDULES[kind](**members("fields", given["fields"]))
        schedule.resume(members("progress", given["progress"]))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}{name}: {error}") from None
    return schedule


def members(where: str, value: Any) -> dict[str, Any]:
    """A mapping whose keys are text, as a dictionary. Otherwise CheckpointError, which begins with ``where``."""
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


def count(where: str, value: Any) -> int:
    """A whole number >= 0 that a float64 holds. Otherwise CheckpointError, which begins with ``where``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise CheckpointError(f"{where} must be a whole number >= 0, not {quoted(value)}")
    if value >= _MOST:
        raise CheckpointError(f"{where} must be less than 2**53, not {quoted(value)}")
    return value


def finite(where: str, value: Any) -> float:
    """A finite number. Otherwise CheckpointError, which begins with ``where``."""
    try:
        number = real(where, value, "a finite number")
    except (TypeError, ValueError) as error:
        raise CheckpointError(str(error)) from None
    if not math.isfinite(number):
        raise CheckpointError(f"{where} must be a finite number, not {quoted(value)}")
    return number


def _arrays(where: str, value: Any) -> dict[str, Stored]:
    return {name: _stored(f"{where}[{quoted(name)}]", each) for name, each in members(where, value).items()}


def _stored(where: str, value: Any) -> Stored:
    if hasattr(value, "into"):  # a source of its own
        return Stored(value.storage, {"values": value})
    if not isinstance(value, Mapping):
        stored = plain(_array(where, value))
        return Stored(stored.storage, {part: InMemory(array) for part, array in stored.parts.items()})
    given = members(where, value)
    storage = given.pop("storage", None)
    if not isinstance(storage, str) or storage not in STORAGES:
        raise CheckpointError(f"{where}: storage must be one of {', '.join(STORAGES)}, not {quoted(storage)}")
    for part in given:
        if part not in _parts(storage):
            raise CheckpointError(f"{where} has the unknown part {quoted(part)}; {nearest(part, _parts(storage))}")
    return Stored(storage, {part: InMemory(_array(f"{where}: {part}", array)) for part, array in given.items()})


def _array(where: str, value: Any) -> np.ndarray:
    try:
        return as_array(where, value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(str(error)) from None
