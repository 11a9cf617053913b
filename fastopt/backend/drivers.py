"""numba's loops over many spans, and over the tiles of streams that are not stored as kernels compute.

What a loop has to do is a table of int64 with a row for each *piece*: a run of elements that one thread works on. Where
all streams are native, the kernel runs over each piece as it lies in memory; where all are bfloat16, so does
:func:`chunks`, into which the kernel is compiled. Else it runs over one tile after the other: what is encoded is
decoded into scratch memory, the kernel runs as it is, what it has written is encoded, and then come the followers.
Where some streams are native and some bfloat16, so that codecs need not be called, :func:`mixed_of_share` does so.
Kernels and codecs are called by the addresses of compiled functions, which the table of a loop or its last argument,
``function``, hold. So a loop is compiled once, and neither for each kernel or dtype, nor for each format or mix of
them. A kernel of the user's own may raise: that one is compiled into a loop of its own.

``apply``, ``kernel``, ``codec``, ``arguments`` and ``work`` get their meaning in :mod:`fastopt.backend.compile`: what
has a kernel work on what a row says, a kernel, a loop of a codec, the function from a row's address to the arguments of
either, and the loop over the pieces of one thread. So do ``chunk``, ``decode`` and ``encode``, the step of a chunk and
what it calls; ``streams`` and ``all_numbers``, how many a kernel and a chunk have; ``numbers``, how many a sum has, and
``all_lanes`` and ``all_contributed``, its lanes and contributions of a stretch of elements.
"""

from typing import Any

import numba
import numpy as np
from numba import prange

from fastopt.backend.memory import (
    add_to,
    address_of,
    array_at,
    call,
    clear,
    fetch,
    folded,
    number_at,
    on_stack,
    rows_of,
)
from fastopt.backend.versions import look
from fastopt.codecs.noise import fill_noise
from fastopt.sizes import AHEAD, BLOCK, CHUNK, FETCH, LANES, LINE, TILE

_njit = numba.njit(error_model="numpy", _nrt=False)
_inlined = numba.njit(error_model="numpy", _nrt=False, forceinline=True)

apply: Any = None
kernel: Any = None
codec: Any = None
chunk: Any = None
decode: Any = None
encode: Any = None
arguments: Any = None
work: Any = None
streams: Any = None
all_numbers: Any = None
numbers: Any = None
all_lanes: Any = None
all_contributed: Any = None

# The row that a kernel's arguments come from; columns for its streams follow. ITEM is the bytes of an element where
# the next rows are to be fetched ahead: rows of a table lie anywhere, and no processor guesses where. Else it is 0.
SIZE, K, K_SIZE, ITEM, BUFFERS = range(5)

# The row of a piece that is worked on by tiles starts as a kernel's; an entry for each stream and follower comes after.
ELEMENT, KEYS, STREAMS, ENTRIES = range(3, 7)

# An entry: both parts of a stream, each with the bytes of a tile, and the addresses of codecs, zero where there is
# nothing to decode or encode. SHIFT says which half of a word of noise rounds the numbers, or is negative. A follower
# that is a moving average has its coefficients and the address of the kernel ``blend``.
FIRST, FIRST_BYTES, SECOND, SECOND_BYTES, DECODE, ENCODE, SHIFT, COEFFICIENTS, BLEND, ENTRY = range(10)

# The row that a codec's arguments come from.
CODEC_SIZE, VALUES, PART, OTHER_PART, NOISE, NOISE_SHIFT = range(6)

# Elements that contribute to a sum in one loop, whose contributions stay in the first-level cache: whole rows of lanes.
STRETCH = 8 * LANES

# The scratch memory of a thread, in words of 64 bits: a row for kernels, one for codecs, noise, a tile for each entry.
# Tiles do not lie a power of two apart, or they would share lines of the cache.
CODEC_ROW = 56
NOISE_WORDS = 64
TILES_WORDS = NOISE_WORDS + TILE // 2
TILE_WORDS = TILE + 3 * LINE // 8


def scratch_words(entries: int) -> int:
    """How much scratch memory a thread needs for so many streams and followers, in words."""
    return TILES_WORDS + entries * TILE_WORDS


def spans(table, bounds, watched, function):
    """Runs the kernel over all pieces. ``bounds`` has each share's first piece, ``watched`` is for :func:`look`."""
    look(watched)
    for share in prange(bounds.size - 1):
        work(table, bounds[share], bounds[share + 1], function)


def spans_of_share(table, start, stop, function):
    for piece in range(start, stop):
        if piece + AHEAD < stop and table[piece + AHEAD, SIZE] <= TILE:
            fetch_row(table[piece + AHEAD])
        apply(function, address_of(table) + 8 * piece * table.shape[1])


def tiles(table, bounds, watched, scratch, function):
    """As :func:`spans`, but by tiles. ``scratch`` has a row for each share."""
    look(watched)
    for share in prange(bounds.size - 1):
        work(table, bounds[share], bounds[share + 1], scratch, share, function)


def tiles_of_share(table, start, stop, scratch, share, function):
    row = address_of(scratch) + 8 * np.int64(share) * scratch.shape[1]
    coding_row, noise, values = row + 8 * CODEC_ROW, row + 8 * NOISE_WORDS, row + 8 * TILES_WORDS
    buffers, coding = array_at(row, CODEC_ROW, start), array_at(coding_row, NOISE_WORDS - CODEC_ROW, start)
    coding[NOISE] = noise
    entries = (table.shape[1] - ENTRIES) // ENTRY
    for piece in range(start, stop):
        size, streams = table[piece, SIZE], table[piece, STREAMS]
        buffers[K], buffers[K_SIZE] = table[piece, K], table[piece, K_SIZE]
        for tile in range((size + TILE - 1) // TILE):
            count = min(TILE, size - tile * TILE)
            buffers[SIZE] = coding[CODEC_SIZE] = count
            for entry in range(streams):
                buffers[BUFFERS + entry] = opened(table[piece], entry, tile, coding, values + 8 * TILE_WORDS * entry)
            apply(function, row)
            filled = -1
            for entry in range(entries):
                at = ENTRIES + entry * ENTRY
                if entry < streams:
                    place(table[piece], entry, tile, coding)
                    coding[VALUES] = buffers[BUFFERS + entry]
                elif table[piece, at + FIRST] == 0:  # this work has fewer followers than another one
                    break
                elif table[piece, at + BLEND] == 0:
                    place(table[piece], entry, tile, coding)
                    coding[VALUES] = buffers[BUFFERS]
                else:
                    average = opened(table[piece], entry, tile, coding, values + 8 * TILE_WORDS * entry)
                    coding[VALUES], coding[PART] = average, buffers[BUFFERS]
                    coding[OTHER_PART] = table[piece, at + COEFFICIENTS]
                    call(table[piece, at + BLEND], coding_row)
                    place(table[piece], entry, tile, coding)
                if table[piece, at + ENCODE] == 0:
                    continue
                shift = table[piece, at + SHIFT]
                if shift >= 0 and filled != entry // 2:
                    filled = entry // 2
                    key = number_at(table[piece, KEYS] + 8 * filled, np.uint64(0))
                    words = array_at(noise, count, np.uint32(0))
                    fill_noise(key, table[piece, ELEMENT] + tile * TILE, words)
                coding[NOISE_SHIFT] = shift
                call(table[piece, at + ENCODE], coding_row)


def mixed_of_share(table, start, stop, scratch, share, function):
    """As :func:`tiles_of_share`, where what is encoded is bfloat16, by chunks and without a call of a codec."""
    row = address_of(scratch) + 8 * np.int64(share) * scratch.shape[1]
    buffers = array_at(row, CODEC_ROW, start)
    for piece in range(start, stop):
        size = table[piece, SIZE]
        buffers[K], buffers[K_SIZE] = table[piece, K], table[piece, K_SIZE]
        for first in range(0, size - size % CHUNK, CHUNK):
            chunk(table[piece], first, CHUNK, row, function)
        if size % CHUNK:
            chunk(table[piece], size - size % CHUNK, size % CHUNK, row, function)


def step_mixed(piece, start, count, row, function):
    buffers, streams = array_at(row, CODEC_ROW, start), piece[STREAMS]
    buffers[SIZE] = count
    for entry in range(streams):
        place = element_at(piece, entry, start)
        if piece[ENTRIES + entry * ENTRY + DECODE] != 0:
            codes, place = place, row + 8 * (TILES_WORDS + TILE_WORDS * entry)
            decode(array_at(codes, count, np.uint16(0)), array_at(place, count, np.float32(0)))
        buffers[BUFFERS + entry] = place
    apply(function, row)
    for entry in range((piece.size - ENTRIES) // ENTRY):
        if piece[ENTRIES + entry * ENTRY + ENCODE] != 0:
            place = buffers[BUFFERS + entry if entry < streams else BUFFERS]  # what follows is a copy of the parameters
            codes = element_at(piece, entry, start)
            encode(array_at(place, count, np.float32(0)), array_at(codes, count, np.uint16(0)))


@_inlined
def element_at(piece, entry, start):
    """Where the element ``start`` of an entry's stream is, which is stored in one part."""
    at = ENTRIES + entry * ENTRY
    return piece[at + FIRST] + start * piece[at + FIRST_BYTES] // TILE


@_njit
def fetch_row(piece):
    """Has memory send what a kernel will read."""
    for column in range(BUFFERS, piece.size):
        for byte in range(0, piece[SIZE] * piece[ITEM], LINE):
            fetch(piece[column] + byte)


@_njit
def ask_ahead(work, entry, tile):
    """Asks memory for what comes FETCH bytes after a tile of an entry's stream."""
    at = ENTRIES + entry * ENTRY
    size = work[at + FIRST_BYTES]
    for byte in range(0, size, LINE):
        fetch(work[at + FIRST] + tile * size + byte + FETCH)


@_njit
def place(piece, entry, tile, coding):
    """Has codecs work on a tile of an entry's stream."""
    at = ENTRIES + entry * ENTRY
    coding[PART] = piece[at + FIRST] + tile * piece[at + FIRST_BYTES]
    coding[OTHER_PART] = piece[at + SECOND] + tile * piece[at + SECOND_BYTES]


@_njit
def opened(piece, entry, tile, coding, scratch):
    """Where the numbers of a tile are: as they lie in memory, or decoded, in scratch memory."""
    place(piece, entry, tile, coding)
    decode = piece[ENTRIES + entry * ENTRY + DECODE]
    if decode == 0:
        return coding[PART]
    coding[VALUES] = scratch
    call(decode, address_of(coding))
    return scratch


def applied(function, row):
    """Calls a kernel of the user's own."""
    kernel(*arguments(row))


def coded(row):
    """Calls a loop of a codec, or a kernel."""
    codec(*arguments(row))
    return 0


def chunks(row):
    """Decodes, steps and encodes numbers that all lie in memory as codes of 16 bits, a chunk after the other.

    Without a call in between, the processor works on one chunk while it waits for another.
    """
    size, numbers = number_at(row, np.int64(0)), on_stack(all_numbers, np.float32(0))
    clear(numbers, all_numbers)
    for start in range(0, size - size % CHUNK, CHUNK):
        chunk(row, start, CHUNK, numbers)
    if size % CHUNK:
        chunk(row, size - size % CHUNK, size % CHUNK, numbers)
    return 0


def step_chunk(row, start, count, numbers):
    for stream in range(streams):
        codes, values = places_in_chunk(row, stream, start, numbers)
        decode(array_at(codes, count, np.uint16(0)), array_at(values, count, np.float32(0)))
    kernel(*(rows_of(numbers, streams) + arguments(row)))
    for stream in range(streams):
        if stream != 1:  # the gradient
            codes, values = places_in_chunk(row, stream, start, numbers)
            encode(array_at(values, count, np.float32(0)), array_at(codes, count, np.uint16(0)))


@_inlined
def places_in_chunk(row, stream, start, numbers):
    """Where the codes of a stream's chunk are, and where its numbers are to be."""
    codes = number_at(row + 8 * (BUFFERS + stream), np.int64(0)) + 2 * start
    return codes, address_of(numbers) + 4 * CHUNK * stream


def sums(table, starts, partials, numbers, scratch):
    """The numbers of a sum over each work, a row of ``numbers`` for each, and of ``partials`` for each block of them.

    ``table`` has a row for each work, as for :func:`tiles` but of the streams that are read; ``starts`` has each work's
    first block and the end, ``scratch`` a row for each share.
    """
    shares = scratch.shape[0]
    for share in prange(shares):
        number, blocks = np.int64(share), partials.shape[0]
        work(table, starts, partials, scratch, number, blocks * number // shares, blocks * (number + 1) // shares)
    for each in range(table.shape[0]):
        blocks = (table[each, SIZE] + BLOCK - 1) // BLOCK
        for number in range(numbers.shape[1]):
            numbers[each, number] = 0
            for block in range(starts[each], starts[each] + blocks):
                numbers[each, number] += partials[block, number]


def sums_of_share(table, starts, partials, scratch, share, first, last):
    row = address_of(scratch) + 8 * share * scratch.shape[1]
    coding_row, values = row + 8 * CODEC_ROW, row + 8 * TILES_WORDS
    buffers, coding = array_at(row, CODEC_ROW, share), array_at(coding_row, NOISE_WORDS - CODEC_ROW, share)
    # A row of lanes for each number, and what some rows of elements contribute to it. On the stack nothing else can be
    # meant, and registers take the place of lanes.
    lanes, contributed = on_stack(all_lanes, np.float64(0)), on_stack(all_contributed, np.float64(0))
    for each in range(table.shape[0]):
        size, streams = table[each, SIZE], table[each, STREAMS]
        buffers[K], buffers[K_SIZE] = table[each, K], table[each, K_SIZE]
        for block in range(max(first, starts[each]), min(last, starts[each] + (size + BLOCK - 1) // BLOCK)):
            start = (block - starts[each]) * (BLOCK // TILE)
            clear(lanes, all_lanes)
            for tile in range(start, min(start + BLOCK // TILE, (size + TILE - 1) // TILE)):
                coding[CODEC_SIZE] = count = min(TILE, size - tile * TILE)
                for entry in range(streams):
                    ask_ahead(table[each], entry, tile)
                    buffers[BUFFERS + entry] = opened(table[each], entry, tile, coding, values + 8 * TILE_WORDS * entry)
                for at in range(0, count, STRETCH):
                    stretch = min(STRETCH, count - at)
                    kernel(*(arguments(row, at, stretch) + rows_of(contributed, numbers)))
                    whole = stretch - stretch % LANES
                    for number in range(numbers):
                        for first_lane in range(0, whole, LANES):
                            add_to(lanes, number * LANES, contributed, number * STRETCH + first_lane, LANES)
                        for lane in range(stretch - whole):
                            lanes[number * LANES + lane] += contributed[number * STRETCH + whole + lane]
            sums = folded(lanes, numbers, all_lanes)
            for number in range(numbers):
                partials[block, number] = sums[number]
