"""Checkpoints: an optimizer as a dictionary keyed by parameter name, and as a safetensors file."""

import json
import os
import stat
import zlib
from collections.abc import Mapping
from contextlib import suppress
from operator import setitem
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt.backend.program import Call, run
from fastopt.errors import CheckpointError, nearest
from fastopt.rule import Rule
from fastopt.schedules import SCHEDULES, Schedule

if TYPE_CHECKING:
    from fastopt.groups import Group
    from fastopt.optimizer import Optimizer

FORMAT = 1

_PARTS = ("ema", "accumulated")  # buffers that an optimizer may have beside its states


def state_dict(optimizer: "Optimizer") -> dict[str, Any]:
    """See :meth:`fastopt.Optimizer.state_dict`."""
    state: dict[str, dict[str, np.ndarray]] = {name: {} for name in optimizer.layout.shapes}
    for kind, buffer in optimizer.state.items():
        for name, array in buffer.items():
            state[name][kind] = array.copy()
    parts = {part: getattr(optimizer, part) for part in _PARTS}
    return {
        "step": optimizer.counts[0],
        "micro_step": optimizer.counts[1],
        "groups": {pattern: _describe_group(group) for pattern, group in optimizer.groups.items()},
        "state": state,
    } | {
        part: None if buffer is None else {name: array.copy() for name, array in buffer.items()}
        for part, buffer in parts.items()
    }


def load_state_dict(optimizer: "Optimizer", saved: Mapping[str, Any]) -> None:
    """See :meth:`fastopt.Optimizer.load_state_dict`."""
    calls = _restoring(optimizer, saved)
    optimizer._forget()
    run(calls)


def save(optimizer: "Optimizer", path: str | os.PathLike, extra: Any = None) -> None:
    """See :meth:`fastopt.Optimizer.save`."""
    from safetensors.numpy import save as pack

    saved = state_dict(optimizer)
    tensors = {f"params/{name}": array for name, array in _parameters(optimizer).items()}
    for name, states in saved.pop("state").items():
        tensors |= {f"state/{kind}/{name}": array for kind, array in states.items()}
    for part in _PARTS:
        arrays = saved.pop(part)
        tensors |= {f"{part}/{name}": array for name, array in (arrays or {}).items()}
    saved |= {
        "format": FORMAT,
        "layout": {name: list(shape) for name, shape in optimizer.layout.shapes.items()},
        "checksums": {key: zlib.crc32(array) for key, array in tensors.items()},
        "extra": extra,
    }
    text = json.dumps(saved)
    metadata = {"fastopt": text, "fastopt.checksum": str(zlib.crc32(text.encode()))}
    _write_atomically(os.fspath(path), pack(tensors, metadata))


def load(optimizer: "Optimizer", path: str | os.PathLike) -> Any:
    """See :meth:`fastopt.Optimizer.load`."""
    saved, tensors = read(path)
    layout = {name: tuple(shape) for name, shape in saved["layout"].items()}
    difference = optimizer.layout.difference(type(optimizer.layout)(layout))
    if difference:
        raise CheckpointError(f"{os.fspath(path)}: the checkpoint's parameters differ: {difference}")
    parts: dict[str, Any] = {"params": {}, "state": {name: {} for name in layout}} | dict.fromkeys(_PARTS)
    for key, array in tensors.items():
        part, _, rest = key.partition("/")
        if part == "state":
            kind, _, name = rest.partition("/")
            parts["state"][name][kind] = array
        else:
            parts[part] = (parts[part] or {}) | {rest: array}
    try:
        calls = _restoring(optimizer, saved | parts)
        calls += _copying(optimizer, "params", _parameters(optimizer), parts["params"])
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from None
    optimizer._forget()
    run(calls)
    return saved["extra"]


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A checkpoint's description and arrays, after every checksum has been compared.

    Raises CheckpointError if the file is no checkpoint or is damaged, OSError if it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    with open(path, "rb"):  # safetensors' own errors for a missing file do not name it
        pass
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: no checkpoint, or truncated: {error}") from error
    text = metadata.get("fastopt")
    if text is None:
        raise CheckpointError(f"{path}: a safetensors file, but not one that fastopt wrote")
    if metadata.get("fastopt.checksum") != str(zlib.crc32(text.encode())):
        raise CheckpointError(f"{path}: corrupted: its description has another checksum than when it was written")
    saved = json.loads(text)
    if saved["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {saved['format']}, not {FORMAT}: another version of fastopt wrote it")
    if saved["checksums"] != {key: zlib.crc32(np.ascontiguousarray(array)) for key, array in tensors.items()}:
        raise CheckpointError(f"{path}: corrupted: its arrays have other checksums than when they were written")
    return saved, tensors


def _parameters(optimizer: "Optimizer") -> dict[str, np.ndarray]:
    layout = optimizer.layout
    return {name: optimizer.flat[layout.places[name]].reshape(shape) for name, shape in layout.shapes.items()}


def _write_atomically(path: str, data: bytes) -> None:
    """Writes a file under another name and renames it when it is on the disk."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _describe_group(group: "Group") -> dict[str, Any]:
    return {
        "rule": type(group.rule).__name__,
        "hyperparameters": {name: _describe_value(value) for name, value in group.rule},
        "step": group.step,
        "frozen": group.frozen,
        "parameters": list(group.names),
    }


def _describe_value(value: Any) -> Any:
    """A hyperparameter as a JSON value; None for a callable that is the user's own."""
    if isinstance(value, Schedule) and type(value).__name__ in SCHEDULES:
        return {"schedule": type(value).__name__, "fields": dict(value), "progress": value.progress()}
    return None if callable(value) else value


def _revive_value(name: str, value: Any, present: Any, calls: list[Call]) -> Any:
    """A hyperparameter from its description. A schedule that is here already stays, and the calls give it its progress:
    the run may hold it, to report metrics to it."""
    if value is None:
        if not callable(present):
            raise ValueError(f"{name} was a callable, which no checkpoint holds: give the optimizer one")
        return present
    if isinstance(value, Mapping):
        schedule = SCHEDULES[value["schedule"]](**value["fields"])
        schedule.resume(value["progress"])
        if schedule != present:
            return schedule
        calls.append((present.__dict__.update, schedule.__dict__))
        return present
    return tuple(value) if isinstance(value, list) else value


def _restoring(optimizer: "Optimizer", saved: Mapping[str, Any]) -> list[Call]:
    """The calls that bring an optimizer to a saved state. CheckpointError, before any of them, if it does not fit."""
    _check_mapping("state_dict", saved)
    keys = ("step", "micro_step", "groups", "state", *_PARTS)
    missing = [key for key in keys if key not in saved]
    if missing:
        raise CheckpointError(f"state_dict has no {missing[0]!r}; it has {list(saved)}")
    _check_mapping("groups", saved["groups"])
    _check_mapping("state", saved["state"])
    if list(saved["groups"]) != list(optimizer.groups):
        raise CheckpointError(f"groups: the patterns are {list(saved['groups'])}, not {list(optimizer.groups)} as here")
    counts = [_count("step", saved["step"]), _count("micro_step", saved["micro_step"])]
    calls: list[Call] = []
    for pattern, group in optimizer.groups.items():
        described = saved["groups"][pattern]
        try:
            rule = _revive_rule(group, described, calls)
            counts.append(_count("step", described["step"]))
            frozen = bool(described["frozen"])
        except KeyError as error:
            raise CheckpointError(f"groups[{pattern!r}]: there is no {error}") from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"groups[{pattern!r}]: {error}") from error
        calls += [(setattr, group, "_rule", rule), (setattr, group, "frozen", frozen)]
    calls.append((setitem, optimizer.counts, slice(None), counts))
    known = optimizer.layout.shapes
    for name, states in saved["state"].items():
        if name not in known:
            raise CheckpointError(f"state: no parameter {name!r} here; {nearest(name, known)}")
        _check_mapping(f"state[{name!r}]", states)
    kinds = {kind for states in saved["state"].values() for kind in states}
    for kind in sorted(kinds | set(optimizer.state)):
        if kind not in optimizer.state:
            raise CheckpointError(f"state: {kind!r} is no state here; {nearest(kind, optimizer.state)}")
        arrays = {name: states[kind] for name, states in saved["state"].items() if kind in states}
        calls += _copying(optimizer, f"state {kind!r}", optimizer.state[kind], arrays)
    for part in _PARTS:
        here, there = getattr(optimizer, part), saved[part]
        if (here is None) != (there is None):
            has, lacks = ("the checkpoint", "this optimizer") if here is None else ("this optimizer", "the checkpoint")
            raise CheckpointError(f"{part}: {has} has it and {lacks} has not")
        if here is not None:
            calls += _copying(optimizer, part, here, there)
    return calls


def _check_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{name} must be a mapping, not {type(value).__name__}")


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise CheckpointError(f"{name} must be a whole number >= 0, not {value!r}")
    return value


def _revive_rule(group: "Group", described: Mapping[str, Any], calls: list[Call]) -> Rule:
    if described["rule"] != type(group.rule).__name__:
        raise ValueError(f"the rule is {described['rule']}, not {type(group.rule).__name__} as here")
    if list(described["parameters"]) != list(group.names):
        raise ValueError(f"it holds {list(described['parameters'])}, not {list(group.names)} as here")
    present = dict(group.rule)
    for name in described["hyperparameters"]:
        if name not in present:
            raise ValueError(f"no hyperparameter {name!r}; {nearest(name, present)}")
    values = {
        name: _revive_value(name, value, present[name], calls) for name, value in described["hyperparameters"].items()
    }
    return group.replacement(group.rule.replace(**values))


def _copying(optimizer: "Optimizer", what: str, here: Mapping[str, np.ndarray], there: Mapping[str, Any]) -> list[Call]:
    _check_mapping(what, there)
    for name in there:
        if name not in here:
            raise CheckpointError(f"{what}: no parameter {name!r} here; {nearest(name, here)}")
    calls: list[Call] = []
    for name, array in here.items():
        if name not in there:
            raise CheckpointError(f"{what}: there is none for {name!r}")
        given = np.asarray(there[name])
        if given.dtype != optimizer.dtype:
            raise CheckpointError(f"{what}: {name!r} is {given.dtype}, not {optimizer.dtype} as here")
        if given.shape != array.shape:
            raise CheckpointError(f"{what}: {name!r} has the shape {given.shape}, not {array.shape} as here")
        calls.append((setitem, array, ..., given))
    return calls
