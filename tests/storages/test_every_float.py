"""All 2^32 bit patterns of float32, encoded in C by every instruction set: as ml_dtypes and NumPy encode them."""

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from engines import assert_same, c_engines, library

from fastopt.storages import NUMBERS

CHUNK = 2**23  # a binade

pytestmark = [pytest.mark.skipif(not c_engines(), reason="the C backend is not installed"), pytest.mark.compiled]


def every_float() -> Iterator[np.ndarray]:
    """All floats, a binade at a time, in the same array; infinity comes with every NaN of its sign."""
    bits = np.arange(CHUNK, dtype=np.uint32)
    for first in range(0, 2**32, CHUNK):
        if first:
            bits += np.uint32(CHUNK)
        yield bits.view(np.float32)


def into(values: np.ndarray, name: str, isa: bytes, *parts: np.ndarray) -> None:
    """Encodes values into parts that are there."""
    addresses = (ctypes.c_void_p * 2)(*(part.ctypes.data for part in parts))
    library().encode(
        isa, 0, NUMBERS[name], ctypes.c_void_p(values.ctypes.data), values.size, addresses, 0, None, 0, 0
    )  # fmt: skip


def same(computed: np.ndarray, expected: np.ndarray, engine) -> None:
    if not np.array_equal(computed.view(np.uint64), expected.view(np.uint64)):
        assert_same([computed], [expected], engine.name)


def quieted(values: np.ndarray, mantissa: int, infinity: int) -> np.ndarray:
    """NaN in 16 bits: its sign, and the upper bits of its payload, of which the first says that it is quiet."""
    bits = values.view(np.uint32)
    payload = bits >> (23 - mantissa) & (1 << mantissa) - 1 | 1 << (mantissa - 1)
    return (bits >> 16 & 0x8000 | infinity | payload).astype(np.uint16)


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = np.empty(CHUNK, np.uint16)
    for values in every_float():
        with np.errstate(over="ignore", invalid="ignore"):
            theirs = values.astype(ml_dtypes.bfloat16)
        if np.isnan(values[-1]):
            expected = np.where(np.isnan(values), quieted(values, 7, 0x7F80), theirs.view(np.uint16))
        else:
            expected = theirs.view(np.uint16)
        for engine in c_engines():
            into(values, "bfloat16", engine.isa, codes)
            same(codes, expected, engine)


def half(values: np.ndarray) -> np.ndarray:
    """As float16: by NumPy where that is fast, else by the definition, which is the same."""
    bits = np.abs(values[[0, -1]]).view(np.uint32)
    sign = np.uint16(0x8000) * np.signbit(values[0])
    low, high = bits.min(), bits.max()
    if high < 0x33000000:  # below half of the least subnormal number
        return np.full(values.size, sign)
    if high < 0x38800000:  # subnormal: multiples of 2^-24
        return np.rint(np.abs(values) * np.float32(2**24)).astype(np.uint16) + sign
    if low >= 0x47800000 and high < 0x7F800000:  # from 2^16 on
        return np.full(values.size, 0x7C00 + sign, np.uint16)
    if np.isnan(values[-1]):
        return np.where(np.isnan(values), quieted(values, 10, 0x7C00), 0x7C00 + sign).astype(np.uint16)
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint16)


def test_float16():
    codes = np.empty(CHUNK, np.uint16)
    for values in every_float():
        expected = half(values)
        for engine in c_engines():
            into(values, "float16", engine.isa, codes)
            same(codes, expected, engine)


def test_float16_as_numpy_rounds_below_the_normal_numbers():
    """Where the test above uses the definition, because NumPy takes 200 ns for each of them."""
    rng = np.random.default_rng(0)
    values = rng.integers(0x33000000 - 2**20, 0x38800000, 200_000, np.uint32).view(np.float32)
    with np.errstate(under="ignore"):
        assert_same([half(values[[0]])], [values[[0]].astype(np.float16).view(np.uint16)], "one")
        assert_same([half(values)], [values.astype(np.float16).view(np.uint16)], "NumPy")


def test_split():
    """By the best instruction set alone: the others are the same on every edge and sample in test_codecs.py."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    engine = c_engines()[-1]
    upper, lower = np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint16)
    restored = np.empty(CHUNK, np.float32)
    addresses = (ctypes.c_void_p * 2)(upper.ctypes.data, lower.ctypes.data)
    for values in every_float():
        into(values, "split", engine.isa, upper, lower)
        library().decode(engine.isa, 0, NUMBERS["split"], addresses, 0, CHUNK, ctypes.c_void_p(restored.ctypes.data))
        if np.isnan(values[-1]):
            assert (np.isnan(restored) == np.isnan(values)).all()
            assert (np.isnan(upper.view(ml_dtypes.bfloat16)) == np.isnan(values)).all()
            restored[np.isnan(values)] = values[np.isnan(values)]
        same(restored, values, engine)
