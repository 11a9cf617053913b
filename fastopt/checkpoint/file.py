"""A checkpoint as one safetensors file: written and read as a stream, so that no copy of it comes to lie in memory.

The file is eight bytes with the length of a header, the header in JSON, and the arrays end to end, little-endian. The
header holds the place of every array, and as text the description, with a checksum of each array and of itself.
"""

import json
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from errno import EIO
from io import FileIO
from itertools import starmap
from operator import call
from typing import Any, NamedTuple

import numpy as np

from fastopt.backend.program import Call, make_all
from fastopt.checkpoint.saved import PROGRESS, Saved, Stored, check_description, parse_file, to_file
from fastopt.errors import CheckpointError, quoted
from fastopt.files import replacing

_CHUNK = 2**20  # bytes of an array that are read or written at once, and that Ctrl-C waits for
_PIECE = 2**30  # bytes that one system call reads: Linux reads no more than 2**31
_DEEPEST = 100  # levels of lists and dictionaries

_HALF = "The optimizer holds a part of it: load again"

#: What safetensors calls a dtype, what it is called here, and NumPy's dtype of its items.
_DTYPES: dict[str, tuple[str, np.dtype]] = {
    "F64": ("float64", np.dtype(np.float64)),
    "F32": ("float32", np.dtype(np.float32)),
    "F16": ("float16", np.dtype(np.uint16)),
    "BF16": ("bfloat16", np.dtype(np.uint16)),
    "U8": ("uint8", np.dtype(np.uint8)),
    "U16": ("uint16", np.dtype(np.uint16)),
    "U32": ("uint32", np.dtype(np.uint32)),
}
_NAMES = {name: theirs for theirs, (name, _) in _DTYPES.items()}


# Writing


def save(
    path: str | os.PathLike,
    described: dict[str, Any],
    params: Mapping[str, Stored],
    shapes: Mapping[str, tuple[int, ...]],
    extra: Any = None,
) -> None:
    """Writes what an optimizer says of itself, its parameters with their shapes by name, and ``extra``.

    See :meth:`fastopt.Optimizer.save`.
    """
    _check_extra("extra", extra)
    description, arrays = to_file(described, params, shapes)
    checksums = {key: _checksum(_chunks(array)) for key, (_, array) in arrays.items()}
    text = json.dumps(description | {"checksums": checksums, "extra": extra})
    header = _header(arrays, {"fastopt": text, "fastopt.checksum": str(zlib.crc32(text.encode()))})
    with replacing(path) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for _, array in arrays.values():
            for chunk in _chunks(array):
                file.write(chunk)


def _check_extra(where: str, value: Any, depth: int = 0) -> None:
    """Raises TypeError or ValueError for a value that would come back otherwise, or not at all."""
    if depth > _DEEPEST:
        raise ValueError(f"extra must not be nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {quoted(key)} is not JSON serializable as it is: keys must be text")
            _check_extra(f"{where}[{quoted(key)}]", each, depth + 1)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _check_extra(f"{where}[{index}]", each, depth + 1)
    elif isinstance(value, int):
        try:
            str(value)
        except ValueError as error:  # of more digits than Python reads
            raise ValueError(f"{where}: {error}") from None
    elif value is not None and not isinstance(value, (float, str)):
        kinds = "None, bool, int, float, str, list or dict"
        raise TypeError(f"{where}: {type(value).__name__} is not JSON serializable as it is: it must be {kinds}")


def _header(arrays: Mapping[str, tuple[str, np.ndarray]], metadata: dict[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for key, (name, array) in arrays.items():
        stop = start + array.nbytes
        entries[key] = {"dtype": _NAMES[name], "shape": array.shape, "data_offsets": (start, stop)}
        start = stop
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)  # so that arrays are aligned


def _chunks(array: np.ndarray) -> Iterator[memoryview]:
    """An array's bytes as they lie in the file."""
    flat = array.reshape(-1)
    step = _CHUNK // array.itemsize
    for start in range(0, flat.size, step):
        chunk = flat[start : start + step]
        yield memoryview(chunk.astype(chunk.dtype.newbyteorder("<"), copy=False).view(np.uint8))


def _checksum(chunks: Iterator[memoryview]) -> int:
    checksum = 0
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
    return checksum


# Reading


class _Reader:
    """A checkpoint that is open, with the checksums that it was written with.

    ``done`` and ``expected`` are what the calls that read its arrays give, and what they must give.
    """

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.done: list[int] = []
        self.expected: list[int] = []
        self._status = self._look()
        metadata, places = _parse_header(self._header(), self._status.st_size)
        text = metadata.get("fastopt")
        if text is None:
            raise CheckpointError("a safetensors file, but not one that fastopt wrote")
        if metadata.get("fastopt.checksum") != str(zlib.crc32(text.encode(errors="surrogatepass"))):
            raise CheckpointError("corrupted: its description has another checksum than when it was written")
        self.description = check_description(_json("its description", text))
        self.arrays = {key: InFile(self, *place) for key, place in places.items()}
        if self.description["checksums"] != {key: _checksum(array.chunks()) for key, array in self.arrays.items()}:
            raise CheckpointError("corrupted: its arrays have other checksums than when they were written")

    def _look(self) -> os.stat_result:
        return os.fstat(self.file.fileno())

    def _header(self) -> bytes:
        size = int.from_bytes(self.read(8), "little")
        if size > self._status.st_size - 8:
            raise CheckpointError(f"no checkpoint, or truncated: its header would have {size} bytes")
        return self.read(size)

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data = self.file.read(size)
        if len(data) != size:
            raise CheckpointError("no checkpoint, or truncated")
        return data

    def check_unchanged(self) -> None:
        """Raises CheckpointError if somebody has written to the file since it was opened."""
        now = self._look()
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise CheckpointError("it was written to while it was read")


class InFile(NamedTuple):
    """An array in a file that is open."""

    reader: _Reader
    storage: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    def into(self, array: np.ndarray) -> list[Call]:
        memory = memoryview(array.reshape(-1).view(np.uint8))
        pieces = [memory[start : start + _PIECE] for start in range(0, len(memory), _PIECE)]
        file = self.reader.file
        reads = [(file.seek, self.start), *((file.readinto, piece) for piece in pieces)]
        self.reader.expected += [self.start, *map(len, pieces)]
        calls: list[Call] = [(self.reader.done.extend, starmap(call, reads))]
        return calls if sys.byteorder == "little" else [*calls, (array.byteswap, True)]

    def chunks(self) -> Iterator[memoryview]:
        """The bytes, read now; each chunk is gone when the next one comes."""
        left = self.stop - self.start
        memory = memoryview(bytearray(min(_CHUNK, left)))
        self.reader.file.seek(self.start)
        while left:
            count = self.reader.file.readinto(memory[:left])
            if not count:
                raise CheckpointError("truncated while it was read")
            left -= count
            yield memory[:count]

    def array(self) -> np.ndarray:
        """The array, read now; of bfloat16, which NumPy has not, the codes."""
        made = np.empty(self.shape, self.dtype)
        flat = made.reshape(-1).view(np.uint8)
        place = 0
        for chunk in self.chunks():
            flat[place : place + len(chunk)] = chunk
            place += len(chunk)
        made = made if sys.byteorder == "little" else made.byteswap()
        return made.view(np.float16) if self.storage == "float16" else made


def load(path: str | os.PathLike, adopting: Callable[[Saved], list[Call]]) -> Any:
    """Runs the calls by which an optimizer takes over what a file holds, and returns the ``extra``.

    The file is read twice: first to compare every checksum, then into the optimizer's own arrays. See
    :meth:`fastopt.Optimizer.load`.
    """
    with _opened(path) as reader:
        calls = adopting(parse_file(reader.description, reader.arrays))
        reader.check_unchanged()
        try:
            make_all(calls)
        except OSError as error:  # of a disk that has failed since the checksums were compared
            raise OSError(error.errno, f"{error.strerror}. {_HALF}") from error
        if reader.done != reader.expected:
            raise OSError(EIO, f"Truncated while it was loaded. {_HALF}")
        return reader.description["extra"]


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """See :func:`fastopt.checkpoint.read`."""
    with _opened(path) as reader:
        return reader.description, {key: array.array() for key, array in reader.arrays.items()}


def state_dict(path: str | os.PathLike) -> dict[str, Any]:
    """What a file holds, but for the parameters, as a state dict: see :func:`fastopt.checkpoint.read`."""
    with _opened(path) as reader:
        saved = parse_file(reader.description, reader.arrays)
        state = {name: _members(kinds) for name, kinds in saved.state.items()}
        parts = {part: None if members is None else _members(members) for part, members in saved.parts.items()}
        reader.check_unchanged()
        return {key: reader.description[key] for key in PROGRESS} | {"state": state} | parts


def _members(members: Mapping[str, Stored]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, stored in members.items():
        parts = {part: source.array().view(source.dtype) for part, source in stored.parts.items()}
        found[name] = parts["values"] if parts.keys() == {"values"} else {"storage": stored.storage, **parts}
    return found


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[_Reader]:
    """A checkpoint, open; errors name it."""
    path = os.fsdecode(path)
    try:
        with open(path, "rb", buffering=0) as file:
            yield _Reader(file)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        error.filename = path
        raise


def _parse_header(header: bytes, size: int) -> tuple[dict[str, str], dict[str, tuple]]:
    """The metadata, and the place of each array in a file of so many bytes: see :class:`InFile`."""
    entries = _json("its header", header)
    if not isinstance(entries, dict):
        raise CheckpointError("no checkpoint: its header is no JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("no checkpoint: its metadata is not text")
    first = 8 + len(header)
    places = {key: _parse_place(key, entry, first) for key, entry in entries.items()}
    end = first
    for key, (*_, start, stop) in sorted(places.items(), key=lambda item: item[1][3:]):
        if start != end:
            raise CheckpointError(f"no checkpoint: the array {quoted(key)} does not start where the one before it ends")
        end = stop
    if end != size:
        raise CheckpointError(f"no checkpoint, or truncated: it has {size} bytes and its arrays end at {end}")
    return metadata, places


def _parse_place(key: str, entry: Any, first: int) -> tuple[str, np.dtype, tuple[int, ...], int, int]:
    try:
        (name, dtype), shape = _DTYPES[entry["dtype"]], entry["shape"]
        start, stop = entry["data_offsets"]
        whole = [*shape, start, stop]
    except (TypeError, ValueError, KeyError):
        raise CheckpointError(f"no checkpoint: the header's entry {quoted(key)} is {quoted(entry)}") from None
    fits = len(shape) <= 64 and all(type(number) is int and 0 <= number < 2**63 for number in whole)
    # NumPy asks for the steps from one element to the next of an empty array, too.
    fits = fits and math.prod(filter(None, shape)) * dtype.itemsize < 2**63
    if not fits or stop - start != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"no checkpoint: the header's entry {quoted(key)} is {quoted(entry)}")
    return name, dtype, tuple(shape), first + start, first + stop


def _json(what: str, text: str | bytes) -> Any:
    """A JSON value. CheckpointError if it is none, or says something twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands there twice")
        return found

    try:
        return json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # of a number of very many digits, too
        raise CheckpointError(f"no checkpoint, or truncated: {what} is no JSON: {error}") from None
