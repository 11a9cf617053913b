"""numba's loops over many spans, and over the tiles of spans whose numbers are not stored as kernels compute.

A table says what to do: a row of int64 for each span, laid out as :class:`Columns` says. The work is divided by tiles,
counted from the start of each span, so that neither threads nor splits show. ``kernel``, ``piece`` and ``share`` are
globals that :mod:`fastopt.backend.compile` replaces: numba compiles and caches a driver for each kernel.
"""

import numba
import numpy as np
from numba import prange
from numba.cpython.unsafe.tuple import tuple_setitem

from fastopt.codecs.memory import address_of, array_at, decode, encode, encode_stochastic
from fastopt.codecs.noise import fill_noise
from fastopt.kernels.blend import blend as blend_kernel
from fastopt.kernels.sgd import sgd as kernel  # any one: it is replaced
from fastopt.sizes import TILE

# A row: elements; address and length of the row of coefficients; address of the keys of stochastic rounding; followers;
# then FIELDS numbers for each stream, and as many for each follower.
LENGTH, K, K_SIZE, KEYS, FOLLOWERS, STREAMS = range(6)
# Of a stream: the number of its storage, whether it is rounded stochastically, the addresses of its parts. Of a
# follower, in place of the second: the address of the average's coefficients, or 0 for a copy.
STORAGE, STOCHASTIC, FIRST, SECOND, FIELDS = range(5)
AVERAGE = STOCHASTIC

#: In place of a storage's number: the kernel reads and writes the memory itself.
NATIVE = -1

blend = numba.njit(blend_kernel.py_func, error_model="numpy")


@numba.njit(error_model="numpy")
def native_piece(row, like, start, stop, scratch):
    """Applies the kernel to a span of streams that all are native, from element ``start`` to ``stop``."""
    buffers = like
    for stream in range(len(like)):
        first = row[STREAMS + stream * FIELDS + FIRST]
        buffers = tuple_setitem(
            buffers, stream, array_at(first + start * like[0].itemsize, stop - start, like[0].dtype)
        )
    kernel(*buffers, array_at(row[K], row[K_SIZE], like[0].dtype))


@numba.njit(error_model="numpy")
def tiled_piece(row, like, start, stop, scratch):
    """Decodes, applies the kernel, encodes what it wrote and writes what follows, tile by tile."""
    streams, dtype = len(like), like[0].dtype
    k, keys = array_at(row[K], row[K_SIZE], dtype), array_at(row[KEYS], streams, np.uint64)
    buffers = like
    for begin in range(start, stop, TILE):
        end = min(begin + TILE, stop)
        for stream in range(streams):
            at = STREAMS + stream * FIELDS
            if row[at + STORAGE] == NATIVE:
                buffers = tuple_setitem(
                    buffers, stream, array_at(row[at + FIRST] + begin * like[0].itemsize, end - begin, like[0].dtype)
                )
            else:
                values = array_at(scratch + stream * TILE * like[0].itemsize, end - begin, dtype)
                decode(row[at + STORAGE], row[at + FIRST], row[at + SECOND], begin, values)
                buffers = tuple_setitem(buffers, stream, values)
        kernel(*buffers, k)
        filled = -1
        for stream in range(streams):
            at = STREAMS + stream * FIELDS
            if stream == 1 or row[at + STORAGE] == NATIVE:  # no kernel writes to the gradient
                continue
            storage, first, second = row[at + STORAGE], row[at + FIRST], row[at + SECOND]
            if row[at + STOCHASTIC]:
                words = array_at(scratch + (streams + 1) * TILE * like[0].itemsize, end - begin, np.uint32)
                if filled != stream // 2:
                    filled = stream // 2
                    fill_noise(keys[filled], begin, words)
                encode_stochastic(storage, first, second, begin, buffers[stream], words, np.uint32(stream % 2 * 16))
            else:
                encode(storage, first, second, begin, buffers[stream])
        for follower in range(row[FOLLOWERS]):
            at = STREAMS + (streams + follower) * FIELDS
            storage, first, second = row[at + STORAGE], row[at + FIRST], row[at + SECOND]
            if row[at + AVERAGE] == 0:
                encode(storage, first, second, begin, buffers[0])
            elif storage == NATIVE:
                blend(
                    array_at(first + begin * like[0].itemsize, end - begin, like[0].dtype),
                    buffers[0],
                    array_at(row[at + AVERAGE], 2, dtype),
                )
            else:
                values = array_at(scratch + streams * TILE * like[0].itemsize, end - begin, dtype)
                decode(storage, first, second, begin, values)
                blend(values, buffers[0], array_at(row[at + AVERAGE], 2, dtype))
                encode(storage, first, second, begin, values)


piece = native_piece


@numba.njit(nogil=True, error_model="numpy")
def share(table, like, scratch, number, count):
    """Works on one of ``count`` equal shares of all tiles.

    ``like`` holds an array of the kernel's dtype for each stream, and ``scratch`` bytes for each share.
    """
    tiles = 0
    for span in range(table.shape[0]):
        tiles += _tiles(table[span, LENGTH])
    first, last = tiles * number // count, tiles * (number + 1) // count
    before, memory = 0, address_of(scratch) + number * scratch.shape[1]
    for span in range(table.shape[0]):
        row = table[span]
        tiles = _tiles(row[LENGTH])
        start, stop = max(first - before, 0), min(last - before, tiles)
        if start < stop:
            piece(row, like, start * TILE, min(stop * TILE, row[LENGTH]), memory)
        before += tiles


@numba.njit
def _tiles(length):
    return (length + TILE - 1) // TILE


@numba.njit(parallel=True, error_model="numpy")
def shares(table, like, scratch, count):
    """All shares, each on a thread."""
    for number in prange(count):
        share(table, like, scratch, number, count)
