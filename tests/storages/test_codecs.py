"""numba, C with every instruction set and the definition give the same bits."""

import numpy as np
import pytest
from cases import easy, hard
from engines import DEFINITION, ENGINES, FORMATS, ROUNDED, SHIFTS, assert_same

from fastopt.codecs import CODECS
from fastopt.storages import NUMBERS, STORAGES, find, minifloat, noise

pytestmark = pytest.mark.compiled

SIZES = (0, 1, 2, 7, 8, 9, 31, 33, 255, 256, 257, 511, 1023, 1024)


def data(seed: int, size: int) -> np.ndarray:
    """Ordinary numbers of many magnitudes in a part of the blocks, and hard ones among them in the others."""
    rng = np.random.default_rng(seed)
    values = easy(rng, size, "float32") * np.exp(rng.uniform(-14, 0, size)).astype(np.float32)
    difficult = rng.random(size) < np.repeat(rng.choice([0, 0.01, 0.5], -(-size // 256)), 256)[:size]
    return np.where(difficult, hard(rng, size, "float32"), values)


def edges() -> np.ndarray:
    """Every value of the 16-bit formats and every point between two of them, with their neighbours, of both signs."""
    found = [np.arange(0x8000, dtype=np.uint32) << 16, (np.arange(0x8000, dtype=np.uint32) << 16) + 0x8000]
    halves = minifloat.values(0x7C00, 10, 15)
    middles = (halves[1:] + halves[:-1]) / 2
    found += [array.astype(np.float32).view(np.uint32) for array in (halves, middles)]
    magnitudes = np.concatenate(found)
    neighbours = np.concatenate([magnitudes - 1, magnitudes, magnitudes + 1]) & 0x7FFFFFFF
    return np.concatenate([neighbours, neighbours | 0x80000000]).view(np.float32)


def words(size: int, seed: int = 0) -> np.ndarray:
    return noise.words(noise.key(seed, 1, 1), 0, size)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request):
    return request.param


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size(engine, name, size):
    for seed in range(20):
        values = data(seed, size)
        parts = DEFINITION.encode(name, values)
        assert_same(engine.encode(name, values), parts, name)
        assert_same([engine.decode(name, parts)], [DEFINITION.decode(name, parts)], name)


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_at_random(engine, name, size, shift):
    for seed in range(10):
        values = data(seed, size)
        expected = DEFINITION.encode(name, values, words(size, seed), shift)
        assert_same(engine.encode(name, values, words(size, seed), shift), expected, name)


@pytest.mark.parametrize("name", FORMATS)
def test_float64(engine, name):
    values = data(1, 1000).astype(np.float64) * (1 + 2**-30)
    parts = DEFINITION.encode(name, values)
    assert_same(engine.encode(name, values), parts, name)
    assert_same([engine.decode(name, parts, "float64")], [DEFINITION.decode(name, parts, "float64")], name)
    if name in ROUNDED:
        expected = DEFINITION.encode(name, values, words(1000))
        assert_same(engine.encode(name, values, words(1000)), expected, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_native_dtypes(engine, name, dtype):
    values = data(2, 1000).astype(dtype)
    with np.errstate(over="ignore"):
        assert_same(engine.encode(name, values), [values.astype(name)], name)
        stored = data(3, 1000).astype(name)
        assert_same([engine.decode(name, [stored], dtype)], [stored.astype(dtype)], name)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_every_code_of_16_bits(engine, name):
    codes = np.arange(2**16, dtype=np.uint16)
    assert_same([engine.decode(name, [codes])], [DEFINITION.decode(name, [codes])], name)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "split"])
def test_every_edge_of_16_bits(engine, name):
    values = edges()
    assert_same(engine.encode(name, values), DEFINITION.encode(name, values), name)
    if name in ROUNDED:
        random = words(values.size)
        assert_same(engine.encode(name, values, random), DEFINITION.encode(name, values, random), name)
        for constant in (0, 0xFFFFFFFF):
            random = np.full(values.size, constant, np.uint32)
            assert_same(engine.encode(name, values, random), DEFINITION.encode(name, values, random), name)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "split"])
def test_a_sample_of_all_floats(engine, name):
    for first in range(0, 2**32, 2**28):
        values = np.arange(first, first + 2**28, 4099, dtype=np.uint32).view(np.float32)
        assert_same(engine.encode(name, values), DEFINITION.encode(name, values), name)


@pytest.mark.parametrize("name", ["float8_signed", "float8_unsigned"])
def test_every_code_of_8_bits_with_every_scale(engine, name):
    codes = np.tile(np.arange(256, dtype=np.uint8), 256)
    scales = np.arange(256, dtype=np.uint32) << 23  # all powers of two, zero and infinity
    parts = [codes, scales.view(np.float32)]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = DEFINITION.decode(name, parts)
    assert_same([engine.decode(name, parts)[:65280]], [expected[:65280]], name)
    assert (np.isnan(engine.decode(name, parts)) == np.isnan(expected)).all()


@pytest.mark.parametrize("first", [0, 1, 255, 2**31 - 3, 2**32 - 100, 2**32, 2**40 + 5])
def test_noise(engine, first):
    for size in SIZES:
        key = noise.key(first, size, 3)
        assert_same([engine.noise(key, first, size)], [DEFINITION.noise(key, first, size)], engine.name)


def test_lists_are_in_one_order():
    assert list(CODECS) == list(STORAGES)
    for name, codec in CODECS.items():
        assert (codec.encode_stochastic is not None) == (name in ROUNDED)
    for engine in ENGINES:
        if engine.name.startswith("c"):
            from engines import library

            assert {name: library().find_codec(name.encode()) for name in STORAGES} == NUMBERS
            assert library().find_codec(b"float4") == -1


def test_names_that_users_write():
    assert find("bfloat16") is STORAGES["bfloat16"]
    assert find("8bit") is STORAGES["float8_signed"]
    assert find("8bit", signed=False) is STORAGES["float8_unsigned"]
    with pytest.raises(ValueError, match=r"storage must be one of .*8bit, not 'bfloat'; did you mean"):
        find("bfloat")
    with pytest.raises(ValueError, match="storage must be one of"):
        find("float8_signed")


def test_bytes():
    assert {name: storage.nbytes(1000) for name, storage in STORAGES.items()} == {
        "float32": 4000,
        "float64": 8000,
        "bfloat16": 2000,
        "float16": 2000,
        "split": 4000,
        "float8_signed": 1016,
        "float8_unsigned": 1016,
    }
    assert [storage.block for storage in STORAGES.values()] == [1, 1, 1, 1, 1, 256, 256]
    assert STORAGES["float8_signed"].lengths(257) == (257, 2)


def test_float16_by_integers():
    """Where a processor has instructions for it, nothing else runs numba's loops by integers."""
    float16 = pytest.importorskip("fastopt.codecs.float16", exc_type=ImportError)
    halves = np.arange(2**16, dtype=np.uint16)
    found, expected = np.empty((2, halves.size), np.float32)
    float16.decode_by_integers(halves, found)
    float16.decode(halves, expected)
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    values = np.arange(0, 2**32, 2**10 - 1, dtype=np.uint64).astype(np.uint32).view(np.float32)
    codes, expected_codes = np.empty((2, values.size), np.uint16)
    float16.encode_by_integers(values, codes)
    float16.encode(values, expected_codes)
    np.testing.assert_array_equal(codes, expected_codes)
