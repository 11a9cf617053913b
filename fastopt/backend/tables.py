"""Tables of works for numba's loops of :mod:`fastopt.backend.drivers`: a row for each piece that a thread works on."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fastopt.backend import drivers
from fastopt.backend.compile import blend_address, codec_address
from fastopt.backend.program import Follower, Work
from fastopt.buffers import aligned_empty
from fastopt.sizes import BLOCK, LINE, TILE
from fastopt.storage import Stream
from fastopt.storages import EXACT

#: The number of the gradient among a kernel's streams: it is read only.
GRADIENT = 1


class Table(NamedTuple):
    """The pieces, the first piece of each share and the end, and a row of scratch memory for each share, if needed."""

    rows: np.ndarray
    bounds: np.ndarray
    scratch: tuple[np.ndarray, ...] = ()


class Piece(NamedTuple):
    """A run of a work's elements."""

    work: Work
    start: int
    stop: int


def is_tiled(work: Work) -> bool:
    """Whether a kernel cannot work on all streams as they lie in memory, or something follows it."""
    return bool(work.followers) or not all(is_native(stream, work.k.dtype) for stream in work.streams)


def is_native(stream: np.ndarray | Stream, dtype: np.dtype) -> bool:
    """Whether numbers are stored as kernels that compute in this dtype read them."""
    return not isinstance(stream, Stream) or stream.storage.name == dtype.name


def array_of(stream: np.ndarray | Stream) -> np.ndarray:
    """The array of a native stream."""
    return stream.parts[0] if isinstance(stream, Stream) else stream


def size_of(work: Work) -> int:
    """How many elements a work has."""
    return work.streams[0].size


def address(array: np.ndarray) -> int:
    """Where an array's items are."""
    return array.__array_interface__["data"][0]


def shared(works: Sequence[Work], shares: int, unit: int) -> Iterator[list[Piece]]:
    """The pieces of each share, of as many elements as the others', cut at multiples of a unit."""
    total, done, next_work, start = sum(map(size_of, works)), 0, 0, 0
    for share in range(1, shares + 1):
        pieces: list[Piece] = []
        while next_work < len(works):
            work = works[next_work]
            left = total * share // shares - done
            stop = size_of(work) if share == shares else min(size_of(work), start + -(-left // unit) * unit)
            if stop > start:
                pieces.append(Piece(work, start, stop))
                done += stop - start
            start = stop
            if stop < size_of(work):
                break
            next_work, start = next_work + 1, 0
        yield pieces


def span_table(works: Sequence[Work], shares: int) -> Table:
    """The table of works whose streams are all native."""

    def row(piece: Piece) -> list[int]:
        work, start, stop = piece
        offset = start * work.k.itemsize
        buffers = [address(array_of(stream)) + offset for stream in work.streams]
        return [stop - start, address(work.k), work.k.size, *buffers]

    pieces = list(shared(works, shares, LINE))
    return Table(*_rows([[row(piece) for piece in share] for share in pieces]))


def tile_table(works: Sequence[Work], shares: int) -> Table:
    """The table of works that are done by tiles."""
    followers = max(len(work.followers) for work in works)

    def row(piece: Piece) -> list[int]:
        work, start, stop = piece
        keys = 0 if work.keys is None else address(work.keys)
        found = [stop - start, address(work.k), work.k.size, start, keys, len(work.streams)]
        for number, stream in enumerate(work.streams):
            found += _entry(stream, work.k.dtype, start, number)
        for follower in work.followers:
            found += _following(follower, work.k.dtype, start)
        return found + [0] * drivers.ENTRY * (followers - len(work.followers))

    rows, bounds = _rows([[row(piece) for piece in share] for share in shared(works, shares, TILE)])
    words = drivers.scratch_words(len(works[0].streams) + followers)
    scratch = aligned_empty(shares * words, np.dtype(np.int64)).reshape(shares, words)
    return Table(rows, bounds, (scratch,))


def squares_table(stream: Stream, shares: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What :func:`fastopt.backend.drivers.squares` takes: a stream, and rows and blocks of scratch memory."""
    dtype = np.dtype(np.float32)
    found = _entry(stream, dtype, 0, GRADIENT)
    rows = np.zeros((shares, LINE // 8), np.int64)
    return np.array([*found, stream.size], np.int64), rows, np.empty((shares, BLOCK), dtype)


def _rows(shares: list[list[list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    bounds = np.cumsum([0, *map(len, shares)], dtype=np.int64)
    rows = [row for share in shares for row in share]
    return np.array(rows or [[]], np.int64)[: len(rows)], bounds


def _entry(stream: np.ndarray | Stream, dtype: np.dtype, start: int, number: int) -> list[int]:
    """What a table says of a kernel's stream of that number, from element ``start``."""
    found = _place(stream, start)
    if isinstance(stream, Stream) and not is_native(stream, dtype):
        found[drivers.DECODE] = codec_address(stream.storage.name, "decode", dtype)
        if number != GRADIENT:
            found[drivers.ENCODE] = codec_address(stream.storage.name, _encoding(stream), dtype)
            if _encoding(stream) == "encode_stochastic":
                found[drivers.SHIFT] = 16 * (number % 2)
    return found


def _following(follower: Follower, dtype: np.dtype, start: int) -> list[int]:
    """What a table says of a follower, from element ``start``."""
    stream, k = follower
    found = _place(stream, start)
    name = stream.storage.name if isinstance(stream, Stream) else stream.dtype.name
    if k is not None:
        found[drivers.COEFFICIENTS], found[drivers.BLEND] = address(k), blend_address(dtype)
    if k is None or not is_native(stream, dtype):
        found[drivers.ENCODE] = codec_address(name, "encode", dtype)
        if k is not None:
            found[drivers.DECODE] = codec_address(name, "decode", dtype)
    return found


def _encoding(stream: Stream) -> str:
    return "encode_stochastic" if stream.stochastic and stream.storage.name not in EXACT else "encode"


def _place(stream: np.ndarray | Stream, start: int) -> list[int]:
    """Where an entry's parts are, from element ``start``, and that nothing is to be decoded or encoded."""
    found = [0] * drivers.ENTRY
    found[drivers.SHIFT] = -1
    if isinstance(stream, Stream):
        parts = [(array, part.every) for array, part in zip(stream.parts, stream.storage.parts, strict=True)]
    else:
        parts = [(stream, 1)]
    for column, (array, every) in zip((drivers.FIRST, drivers.SECOND), parts, strict=False):
        found[column : column + 2] = address(array) + start // every * array.itemsize, TILE // every * array.itemsize
    return found
