"""What is saved in other storages than an optimizer has, converted to those: only where somebody asks for it."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from fastopt.backend.program import make_all
from fastopt.checkpoint.saved import InMemory, Saved, Stored
from fastopt.errors import CheckpointError, quoted
from fastopt.storages import STORAGES

Shapes = Mapping[str, tuple[int, ...]]
Members = dict[str, Stored]


def converted(saved: Saved, described: Mapping[str, Any], params: Mapping[str, Stored], shapes: Shapes) -> Saved:
    """What is saved, as an optimizer would have it that describes itself so: numbers are rounded to nearest.

    What is stored as here is left as it is, and so is what is missing, or unknown here. CheckpointError if something
    that is to be converted is damaged.
    """
    state: dict[str, Members] = {}
    for name, kinds in saved.state.items():
        mine = described["state"].get(name, {})
        state[name] = {
            kind: _as_stored(f"state {kind!r}: {quoted(name)}", stored, mine.get(kind))
            for kind, stored in kinds.items()
        }
    parts = dict(saved.parts)
    for part in ("ema", "accumulated", "lookahead"):
        parts[part] = _members(part, parts[part], described[part])
    if saved.params is None:
        for part in ("master", "copy"):
            parts[part] = _members(part, parts[part], described[part])
        return saved._replace(state=state, parts=parts)
    return _with_parameters(saved._replace(state=state, parts=parts), described, params, shapes)


def _with_parameters(saved: Saved, described: Mapping[str, Any], params: Mapping[str, Stored], shapes: Shapes) -> Saved:
    """With parameters, master and copy as here: where they differ, made of the numbers that steps there updated."""
    there = _storages(saved.params), _storages(saved.parts["master"]), _storages(saved.parts["copy"])
    if there == (_storages(params), _storages(described["master"]), _storages(described["copy"])):
        return saved
    made, masters, copies = dict(saved.params or {}), {}, {}
    for name, stored in (saved.params or {}).items():
        if name not in params:
            continue
        shape = shapes[name]
        values = _exact(name, stored, (saved.parts["master"] or {}).get(name), shape)
        made[name] = _encoded(values, params[name].storage, shape)
        if described["copy"] is not None:
            copies[name] = _encoded(values, described["copy"][name].storage, shape)
        if described["master"] is not None:
            masters[name] = _encoded(values, described["master"][name].storage, shape)
            if masters[name].storage == "split":
                made[name] = Stored(params[name].storage, {"codes": masters[name].parts["upper"]})
                masters[name] = Stored("split", {"lower": masters[name].parts["lower"]})
    parts = {
        "master": None if described["master"] is None else masters,
        "copy": None if described["copy"] is None else copies,
    }
    return saved._replace(params=made, parts=saved.parts | parts)


def _storages(members: Mapping[str, Stored] | None) -> dict[str, str] | None:
    return None if members is None else {name: stored.storage for name, stored in members.items()}


def _members(part: str, theirs: Members | None, here: Mapping[str, Stored] | None) -> Members | None:
    if theirs is None or here is None:
        return theirs
    return {name: _as_stored(f"{part}: {quoted(name)}", stored, here.get(name)) for name, stored in theirs.items()}


def _as_stored(what: str, stored: Stored, here: Stored | None) -> Stored:
    """A member in the storage that it has here; as it is, if it is in that already or nobody knows it here."""
    if here is None or here.storage == stored.storage:
        return stored
    return _encoded(_decoded(what, stored, here.shape), here.storage, here.shape)


def _exact(name: str, stored: Stored, master: Stored | None, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a parameter that steps updated: the master's, if there was one."""
    what = f"params: {quoted(name)}"
    if master is None:
        return _decoded(what, stored, shape)
    if master.storage == "split" and stored.storage == "bfloat16":
        master = Stored("split", {"upper": stored.parts.get("codes"), **master.parts})
    return _decoded(f"master: {quoted(name)}", master, shape)


def _decoded(what: str, stored: Stored, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a member, 1-D. CheckpointError if its parts are not as its storage has them."""
    storage = STORAGES.get(stored.storage)
    if storage is None:
        raise CheckpointError(f"{what} is {stored.storage}, which cannot be converted")
    like = {
        part.name: np.empty(shape if part.every == 1 else length, part.dtype)
        for part, length in zip(storage.parts, storage.lengths(prod(shape)), strict=True)
    }
    stored.check_parts(what, like)
    for part, array in like.items():
        make_all(stored.parts[part].into(array))
    return storage.decode(*(array.reshape(-1) for array in like.values()))


def _encoded(values: np.ndarray, storage: str, shape: tuple[int, ...]) -> Stored:
    found = STORAGES[storage]
    arrays = zip(found.parts, found.encode(values), strict=True)
    return Stored(
        storage,
        {part.name: InMemory(array.reshape(shape) if part.every == 1 else array) for part, array in arrays},
    )
