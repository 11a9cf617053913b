"""Tables of works for numba's loops of :mod:`fastopt.backend.drivers`: a row for each piece that a thread works on."""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np

from fastopt.backend import drivers
from fastopt.backend.compile import Way, blend_address, codec_address
from fastopt.backend.program import GRADIENT, Follower, Work
from fastopt.buffers import aligned_empty, name_of
from fastopt.sizes import GRAIN, LINE, TILE
from fastopt.storage import Stream
from fastopt.storages import EXACT


class Table(NamedTuple):
    """The pieces, the first piece of each share and the end, and a row of scratch memory for each share, if needed.

    ``works`` has the number of each piece's work, ``sizes`` its elements. In ``column``, its row has the address of its
    gradient, ``offsets`` bytes after the one where the work's gradient starts.
    """

    rows: np.ndarray
    bounds: np.ndarray
    works: np.ndarray
    sizes: np.ndarray
    column: int
    offsets: np.ndarray
    scratch: tuple[np.ndarray, ...] = ()

    def read(self, addresses: np.ndarray) -> None:
        """Has the works read these addresses, :func:`reads` of each. One whose gradient is at 0 is left out."""
        starts, k, keys = addresses[self.works].T
        self.rows[:, self.column] = starts + self.offsets
        self.rows[:, drivers.SIZE] = self.sizes * (starts != 0)
        self.rows[:, drivers.K] = k
        if self.scratch:
            self.rows[:, drivers.KEYS] = keys


class Piece(NamedTuple):
    """A run of the elements of the work of that number."""

    number: int
    work: Work
    start: int
    stop: int


def way_of(work: Work) -> Way:
    """By tiles, unless a kernel can work on all streams as they lie in memory, or all but those are bfloat16."""
    dtype, streams, followers = work.k.dtype, work.streams, work.followers
    if not followers and all(map(is_native, streams, repeat(dtype))):
        return Way.IN_PLACE
    if not isinstance(work.kernel, str) or dtype != np.float32:
        return Way.TILES
    if not followers and all(map(_is_bfloat16, streams)):
        return Way.BFLOAT16
    copies = len(followers) <= 1 and all(each.k is None and _is_bfloat16(each.stream) for each in followers)
    return Way.MIXED if copies and all(is_native(each, dtype) or _is_bfloat16(each) for each in streams) else Way.TILES


def _is_bfloat16(stream: np.ndarray | Stream) -> bool:
    return isinstance(stream, Stream) and stream.storage.name == "bfloat16" and not stream.stochastic


def is_native(stream: np.ndarray | Stream, dtype: np.dtype) -> bool:
    """Whether numbers are stored as kernels that compute in this dtype read them."""
    return not isinstance(stream, Stream) or stream.storage.name == name_of(dtype)


def array_of(stream: np.ndarray | Stream) -> np.ndarray:
    """The array of a stream that is stored in one."""
    return stream.parts[0] if isinstance(stream, Stream) else stream


def size_of(work: Work) -> int:
    """How many elements a work has."""
    return work.streams[0].size if work.spans is None else int(work.spans.lengths.sum())


def address(array: np.ndarray) -> int:
    """Where an array's items are."""
    return array.__array_interface__["data"][0]


def reads(work: Work) -> tuple[int, int, int]:
    """Where a work's gradient starts, whose numbers are one array, its row of coefficients, and its keys or 0."""
    gradient = work.streams[GRADIENT]
    start = address(gradient.parts[0] if isinstance(gradient, Stream) else gradient)
    return start, address(work.k), 0 if work.keys is None else address(work.keys)


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
                pieces.append(Piece(next_work, work, start, stop))
                done += stop - start
            start = stop
            if stop < size_of(work):
                break
            next_work, start = next_work + 1, 0
        yield pieces


def span_table(works: Sequence[Work], shares: int) -> Table:
    """The table of works whose streams are all stored alike, in one array each."""
    itemsize = array_of(works[0].streams[0]).itemsize

    def row(piece: Piece) -> list[int]:
        _, work, start, stop = piece
        buffers = [address(array_of(stream)) + start * itemsize for stream in work.streams]
        item = 0 if work.spans is None else itemsize
        return [stop - start, address(work.k), work.k.size, item, *buffers]

    return _table(works, shares, LINE, row, [drivers.BUFFERS + GRADIENT])


def tile_table(works: Sequence[Work], shares: int) -> Table:
    """The table of works that are done by tiles."""
    followers = max(len(work.followers) for work in works)

    def row(piece: Piece) -> list[int]:
        _, work, start, stop = piece
        keys = 0 if work.keys is None else address(work.keys)
        found = [stop - start, address(work.k), work.k.size, start, keys, len(work.streams)]
        for number, stream in enumerate(work.streams):
            found += _entry(stream, work.k.dtype, start, number)
        for follower in work.followers:
            found += _following(follower, work.k.dtype, start)
        return found + [0] * drivers.ENTRY * (followers - len(work.followers))

    words = drivers.scratch_words(len(works[0].streams) + followers)
    scratch = aligned_empty(shares * words, np.dtype(np.int64)).reshape(shares, words)
    entry = drivers.ENTRIES + GRADIENT * drivers.ENTRY
    gradient = [entry + drivers.FIRST, entry + drivers.SECOND]
    return _table(works, shares, TILE, row, gradient)._replace(scratch=(scratch,))


def sum_table(works: Sequence[Work], first: int, count: int) -> np.ndarray:
    """The rows of works for :func:`fastopt.backend.drivers.sums`, which reads so many streams from the first on."""
    rows = []
    for work in works:
        found = [size_of(work), address(work.k), work.k.size, 0, 0, count]
        for stream in work.streams[first : first + count]:
            found += _entry(stream, work.k.dtype, 0, GRADIENT)
        rows.append(found)
    return np.array(rows, np.int64).reshape(len(works), drivers.ENTRIES + drivers.ENTRY * count)


def _table(
    works: Sequence[Work], shares: int, unit: int, row: Callable[[Piece], list[int]], gradient: list[int]
) -> Table:
    """The table of works that all have spans, or all have none. ``gradient``: the columns of the gradient's parts."""
    column = gradient[0]
    if works[0].spans is not None:
        found = [_rows_of_spans(Piece(number, work, 0, TILE), row, gradient) for number, work in enumerate(works)]
        rows = np.concatenate(found)
        numbers = np.repeat(np.arange(len(works)), list(map(len, found)))
        ends = np.cumsum(rows[:, drivers.SIZE])
        bounds = np.searchsorted(ends, ends[-1] * np.arange(shares + 1) // shares).astype(np.int64)
        bounds[-1] = len(rows)
    else:
        shared_out = list(shared(works, shares, unit))
        pieces = [piece for share in shared_out for piece in share]
        bounds = np.cumsum([0, *map(len, shared_out)], dtype=np.int64)
        rows = np.array([row(piece) for piece in pieces] or [[0] * (column + 1)], np.int64)[: len(pieces)]
        numbers = np.array([piece.number for piece in pieces], np.intp)
    starts = np.array([reads(work)[0] for work in works], np.int64)
    return Table(rows, bounds, numbers, rows[:, drivers.SIZE].copy(), column, rows[:, column] - starts[numbers])


def _rows_of_spans(first: Piece, row: Callable[[Piece], list[int]], gradient: list[int]) -> np.ndarray:
    """The rows of a work's spans: as that of its first tile, but so much further on in memory."""
    assert first.work.spans is not None
    starts, sources, lengths = first.work.spans.cut(GRAIN)
    base = np.array(row(first), np.int64)
    further = np.array(row(first._replace(start=TILE, stop=2 * TILE)), np.int64) - base  # by a tile
    rows = np.repeat(base[np.newaxis], lengths.size, axis=0)
    rows[:, drivers.SIZE] = lengths
    for each in np.flatnonzero(further):
        numbers, size = sources if each in gradient else starts, further[each]
        rows[:, each] += numbers // (TILE // size) if size < TILE else numbers * (size // TILE)
    return rows


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
