"""The part of a checkpoint that says what was trained, read before there is anything to load it into."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import fastopt
from fastopt import checkpoint
from fastopt.backend.choice import CHOICES
from fastopt.buffers import DTYPES
from fastopt.errors import quoted
from fastopt.precision import COMPRESSED, MASTER, ROUNDING

LARGEST = 10**9  # epochs and the like: more would take longer than anybody waits


class Kind(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]
    optional: bool = False  # files of earlier versions lack it


def _whole(low: int, high: int = LARGEST) -> Kind:
    return Kind(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _list_of(kind: Kind, least: int) -> Kind:
    def holds(value: Any) -> bool:
        return isinstance(value, list) and len(value) >= least and all(map(kind.holds, value))

    return Kind(f"a list of {least} or more, each {kind.words}", holds)


def _or_null(kind: Kind, optional: bool = False) -> Kind:
    return Kind(f"{kind.words}, or null", lambda value: value is None or kind.holds(value), optional)


def _one_of(*words: str) -> Kind:
    return Kind("one of " + ", ".join(words), lambda value: isinstance(value, str) and value in words)


def _number(low: float) -> Kind:
    def holds(value: Any) -> bool:
        return type(value) in (int, float) and low <= value <= sys.float_info.max

    return Kind(f"a finite number >= {low:g}", holds)


TEXT = Kind("a text", lambda value: isinstance(value, str))
POSITIVE = Kind("a finite number > 0", lambda value: _number(0).holds(value) and value > 0)
SEED = Kind("a whole number >= 0", lambda value: type(value) is int and value >= 0)

ENTRY = {
    "epoch": _whole(1),
    "steps": _whole(1, 2**63),
    "lr": _number(0),
    "train_loss": _number(0),
    "val_loss": _number(0),
    "val_accuracy": _number(0),
    "val_precision": _number(0),
    "val_recall": _number(0),
}
#: What `fastopt train` writes, by name; a file that holds anything else was not written by it.
EXTRA: dict[str, Any] = {
    "settings": {
        "optimizer": TEXT,
        "schedule": _or_null(TEXT),
        "hidden": _list_of(_whole(1), 0),
        "batch_size": _or_null(_whole(1)),
        "dtype": _one_of(*DTYPES),
        "master": _or_null(_one_of(*MASTER), optional=True),
        "state_dtype": _or_null(_one_of(*COMPRESSED), optional=True),
        "rounding": _one_of(*ROUNDING.words)._replace(optional=True),
        "seed": SEED,
        "max_norm": _or_null(POSITIVE),
        "switch_to": _or_null(TEXT),
        "switch_at": _or_null(_whole(1)),
        "epochs": _whole(1),
    },
    "data": TEXT,
    "position": {"epoch": _whole(1), "batch": _whole(0), "loss_sum": _number(0), "phase": _whole(0, 1)},
    "history": [ENTRY],
    "seconds": {"network": _number(0), "optimizer": _number(0), "validation": _number(0)},
    "notes": Kind("a mapping", lambda value: isinstance(value, dict)),  # the caller's own
}
#: The notes of the command line.
NOTES = {
    "source": TEXT,
    "target": _or_null(TEXT),
    "decimal": _or_null(_one_of(".", ","), optional=True),
    "drop": _list_of(TEXT, 0)._replace(optional=True),
    "optimizers": _list_of(TEXT, 1),
    "epochs": _whole(1),
    "tolerance": _or_null(POSITIVE),
    "backend": _one_of(*CHOICES),
    "threads": _or_null(_whole(1)),
}


def read_extra(path: str | os.PathLike) -> dict[str, Any]:
    """The ``extra`` that a run of ``fastopt train`` saved with its checkpoint; every part of it is of its kind.

    Raises fastopt.CheckpointError if the file is missing, damaged, or not from such a run.
    """
    path = os.fspath(path)
    try:
        extra = checkpoint.read(path)[0]["extra"]
    except OSError as error:
        raise fastopt.CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(extra, dict) or not extra.keys() >= EXTRA.keys():
        raise fastopt.CheckpointError(f"{path} is not a checkpoint of `fastopt train`")
    try:
        _check("extra", extra, EXTRA)
        last = extra["position"]["epoch"] - 1
        epochs = [entry["epoch"] for entry in extra["history"]]
        if len(epochs) != last or epochs != list(range(1, last + 1)):
            raise ValueError(f"extra.history must have the epochs up to {last}, not {quoted(epochs)}")
    except ValueError as error:
        raise fastopt.CheckpointError(f"{path}: {error}") from None
    return extra


def read_notes(path: str | os.PathLike, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line has noted in the ``extra`` of ``path``. Raises fastopt.CheckpointError if it has not."""
    try:
        _check("extra.notes", extra["notes"], NOTES)
    except ValueError as error:
        raise fastopt.CheckpointError(f"{os.fspath(path)}: {error}") from None
    return {"decimal": None, "drop": []} | extra["notes"]


def _check(name: str, value: Any, kinds: Any) -> None:
    """Raises ValueError, with the name of the part, unless a value is of the kinds."""
    if isinstance(kinds, Kind):
        if not kinds.holds(value):
            raise ValueError(f"{name} must be {kinds.words}, not {quoted(value)}")
    elif isinstance(kinds, list):
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, not {quoted(value)}")
        for place, each in enumerate(value):
            _check(f"{name}[{place}]", each, kinds[0])
    else:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a mapping, not {quoted(value)}")
        missing = [key for key, kind in kinds.items() if key not in value and not getattr(kind, "optional", False)]
        unknown = [key for key in value if key not in kinds]
        if missing or unknown:
            wrong = f"lacks {missing[0]!r}" if missing else f"holds {quoted(unknown[0])}"
            raise ValueError(f"{name} must hold {', '.join(kinds)}; it {wrong}")
        for key, each in value.items():
            _check(f"{name}.{key}", each, kinds[key])
