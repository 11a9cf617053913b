"""The formats are what they are defined to be: against ml_dtypes, NumPy and a search among all codes."""

import math

import numpy as np
import pytest
from cases import hard
from engines import DEFINITION, ROUNDED, assert_same

from fastopt.storages import STORAGES, minifloat, noise
from fastopt.storages.float8 import LEAST_SCALE

MANTISSAS = {"float8_signed": 3, "float8_unsigned": 4}
FLOAT8 = list(MANTISSAS)


def test_values_of_a_format():
    """Four bits of the exponent and three of the mantissa, written out."""
    found = minifloat.values(128, 3, 7)
    for code in range(129):
        exponent, fraction = code // 8, code % 8
        assert found[code] == ((1 + fraction / 8) * 2.0 ** (exponent - 7) if exponent else fraction / 8 * 2.0**-6)


@pytest.mark.parametrize("name", FLOAT8)
def test_rounding_is_to_the_nearest_value(name):
    """A million magnitudes: no other code's value is nearer, and of two that are as near it is the even one."""
    values = minifloat.values(16 << MANTISSAS[name], MANTISSAS[name], 7)
    rng = np.random.default_rng(0)
    magnitudes = np.concatenate([np.exp(rng.uniform(-8, math.log(512), 900_000)), rng.uniform(0, 2**-5, 100_000)])
    magnitudes = np.minimum(magnitudes, values[-1]).astype(np.float32).astype(np.float64)
    codes = minifloat.nearest(magnitudes, values).astype(int)
    distance = abs(values[codes] - magnitudes)
    for other in (np.maximum(codes - 1, 0), np.minimum(codes + 1, values.size - 1)):
        assert (distance <= abs(values[other] - magnitudes)).all()
    middles = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    codes = minifloat.nearest(middles, values)
    assert (codes % 2 == 0).all()
    assert (minifloat.nearest(np.nextafter(middles, np.float32(0)), values) == np.arange(middles.size)).all()
    assert (minifloat.nearest(np.nextafter(middles, np.float32(np.inf)), values) == np.arange(middles.size) + 1).all()
    assert (minifloat.nearest(values, values) == np.arange(values.size)).all()


def test_signed_codes_are_those_of_e4m3():
    """Where that has them: its highest code is NaN."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = np.delete(np.arange(256, dtype=np.uint8), [0x7F, 0xFF])
    theirs = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    ours = DEFINITION.decode("float8_signed", [codes, np.ones(1, np.float32)])
    assert_same([ours], [theirs], "decoded")
    values = np.random.default_rng(1).standard_normal(255).astype(np.float32)
    values = np.append(values * np.float32(100), np.float32(300))[None].repeat(4000, 0)
    values[:, :-1] *= np.exp(np.random.default_rng(2).uniform(-9, 0, (4000, 255)))
    values = np.clip(values, -464, 464).ravel().astype(np.float32)
    codes, scales = DEFINITION.encode("float8_signed", values)
    assert (scales == 1).all()
    assert (codes == values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))[abs(values) < 464].all()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_halves_decode_as_elsewhere(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = np.arange(2**16, dtype=np.uint16)
    theirs = codes.view(ml_dtypes.bfloat16 if name == "bfloat16" else np.float16).astype(np.float32)
    ours = DEFINITION.decode(name, [codes])
    assert (np.isnan(ours) == np.isnan(theirs)).all()
    number = ~np.isnan(ours)
    assert_same([ours[number]], [theirs[number]], name)
    assert (np.signbit(ours) == (codes >= 0x8000)).all()
    quiet = ours.view(np.uint32) & 0x400000 != 0
    assert quiet[np.isnan(ours)].all() or name == "bfloat16"  # which is shifted, nothing else


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_halves_encode_as_elsewhere(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = hard(np.random.default_rng(3), 100_000, "float32")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        theirs = values.astype(ml_dtypes.bfloat16 if name == "bfloat16" else np.float16).view(np.uint16)
    (ours,) = DEFINITION.encode(name, values)
    number = ~np.isnan(values)
    assert_same([ours[number]], [theirs[number]], name)
    assert np.isnan(DEFINITION.decode(name, [ours])[~number]).all()


@pytest.mark.parametrize("name", FLOAT8)
def test_a_block_has_the_scale_of_its_largest_number(name):
    mantissa = MANTISSAS[name]
    last = 2 - 2.0**-mantissa  # the largest significand that has a code
    for exponent in (-149, -126, -110, -109, -108, -107, -1, 0, 1, 126):
        for significand in (1, 1.4, last, last + 2.0 ** -(mantissa + 1) - 2**-20):
            values = np.array([significand * 2.0**exponent], np.float32)
            _, scales = DEFINITION.encode(name, values)
            assert scales[0] == max(2.0 ** (exponent - 8), LEAST_SCALE), (exponent, significand)
        values = np.array([(last + 2.0 ** -(mantissa + 1)) * 2.0**exponent], np.float32)
        codes, scales = DEFINITION.encode(name, values)  # a tie that goes up
        assert scales[0] == max(2.0 ** (exponent - 7), LEAST_SCALE)
        assert exponent < -108 or DEFINITION.decode(name, [codes, scales])[0] == 2.0 ** (exponent + 1)
    _, scales = DEFINITION.encode(name, np.full(3, last + 2**-20, np.float32), np.zeros(3, np.uint32))
    assert scales[0] == 2.0**-7  # it could go up


@pytest.mark.parametrize("name", FLOAT8)
def test_what_is_decoded_is_encoded_as_it_was(name):
    """So a state that a step does not change keeps its bits."""
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 256, 256 * 1000).astype(np.uint8)
    codes[::256] = 255  # in the highest octave, as every block that was encoded has one
    scales = np.exp2(rng.integers(-116, 119, 1000)).astype(np.float32)
    values = DEFINITION.decode(name, [codes, scales])
    assert_same(DEFINITION.encode(name, values), [codes, scales], "nearest")
    random = noise.words(5, 0, values.size)
    assert_same(DEFINITION.encode(name, values, random), [codes, scales], "stochastic")


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("random", [None, 0, 0xFFFFFFFF])
def test_zero_stays_zero(name, random):
    rng = np.random.default_rng(5)
    values = np.exp(rng.uniform(-100, 80, 256 * 64)).astype(np.float32) * rng.choice([-1, 1], 256 * 64)
    values[rng.random(values.size) < 0.5] = 0
    values[:300] = 0
    values[5] = -0.0
    words = None if random is None else np.full(values.size, random, np.uint32)
    found = DEFINITION.decode(name, DEFINITION.encode(name, values, words))
    assert (found[values == 0] == 0).all()
    if name != "float8_unsigned":
        assert np.signbit(found[5])


@pytest.mark.parametrize("random", [None, 0, 0xFFFFFFFF])
def test_without_a_sign_only_zero_becomes_zero(random):
    """A second moment of zero under a first that is not zero would make a step of any size."""
    rng = np.random.default_rng(6)
    values = np.exp(rng.uniform(-103, 80, 256 * 64)).astype(np.float32)
    values[:256] = np.float32(2**-149)
    values[rng.random(values.size) < 0.1] = 0
    words = None if random is None else np.full(values.size, random, np.uint32)
    codes, _ = DEFINITION.encode("float8_unsigned", values, words)
    assert ((codes == 0) == (values == 0)).all()
    assert (codes == 1).any()


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("random", [None, 0, 0xFFFFFFFF])
def test_infinity_and_nan_stay(name, random):
    values = np.ones(768, np.float32)
    values[[3, 4, 5, 300, 301]] = np.inf, -np.inf, np.nan, -np.inf, np.inf
    words = None if random is None else np.full(values.size, random, np.uint32)
    found = DEFINITION.decode(name, DEFINITION.encode(name, values, words))
    if name in FLOAT8:  # there is no code for them: the whole block is NaN
        assert np.isnan(found[:512]).all()
        assert (found[512:] == 1).all()
    else:
        np.testing.assert_array_equal(found, values)


def test_split_is_bfloat16_to_read():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = hard(np.random.default_rng(6), 100_000, "float32")
    upper, lower = STORAGES["split"].encode(values)
    np.testing.assert_array_equal(STORAGES["split"].decode(upper, lower), values)
    seen = upper.view(ml_dtypes.bfloat16).astype(np.float64)
    assert (np.isnan(seen) == np.isnan(values)).all()
    finite = np.isfinite(values) & np.isfinite(seen)
    exact = values[finite].astype(np.float64)
    with np.errstate(over="ignore"):
        other = values[finite].astype(ml_dtypes.bfloat16).astype(np.float64)
    distance = abs(seen[finite] - exact)
    assert (distance[np.isfinite(other)] == abs(other - exact)[np.isfinite(other)]).all()  # as near as the nearest
    half = np.array([0x3F808000, 0xBF808000], np.uint32).view(np.float32)
    assert STORAGES["split"].encode(half)[0].tolist() == [0x3F81, 0xBF81]  # half away from zero
