"""Whose checkpoint a source is."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from fastopt.checkpoint import file, optax, torch, zipped
from fastopt.errors import CheckpointError

_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"


def read(source: Any, like: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """See :func:`fastopt.checkpoint.read`."""
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        try:
            return _read_file(path, like, names)
        except CheckpointError as error:
            raise CheckpointError(str(error) if str(error).startswith(path) else f"{path}: {error}") from None
    return _read_value(source, like, names)


def _read_file(path: str, like: Any, names: Sequence[str] | None) -> dict[str, Any]:
    with open(path, "rb") as opened:
        first = opened.read(8)
        opened.seek(0)
        if first.startswith(_HDF5) or (first.startswith(_ZIP) and path.endswith(".keras")):
            from fastopt.checkpoint import keras

            return keras.read(opened, like, names)
        if first.startswith(_ZIP):
            return _read_value(zipped.read(opened), like, names)
    return file.state_dict(path)


def _read_value(value: Any, like: Any, names: Sequence[str] | None) -> dict[str, Any]:
    if isinstance(value, Mapping) and {"groups", "state", "step"} <= value.keys():
        return dict(value)
    found = _state_dicts(value)
    if len(found) == 1:
        return torch.read(found[0], like, names)
    if found:
        raise CheckpointError(f"it has {len(found)} state dicts of optimizers: give one of them")
    return optax.read(value, like)


def _state_dicts(value: Any, depth: int = 2) -> list[Mapping[str, Any]]:
    """The state dicts of torch's optimizers that a value is, or has within mappings and lists."""
    if torch.is_state_dict(value):
        return [value]
    if depth and isinstance(value, Mapping):
        return [found for each in value.values() for found in _state_dicts(each, depth - 1)]
    if depth and type(value) is list:
        return [found for each in value for found in _state_dicts(each, depth - 1)]
    return []
