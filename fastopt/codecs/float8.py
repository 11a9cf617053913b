"""float8 in numba: floating point in a byte, in blocks that have a scale, as in ``csrc/codecs/float8.h``."""

import numba
import numpy as np

from fastopt.codecs.bits import INFINITY, MAGNITUDE, QUIET, biased, left, random_bits, right

BLOCK = 256

#: Bits that a mantissa of three, or of four, drops from that of a float32.
SIGNED, UNSIGNED = np.uint32(20), np.uint32(19)

_ZERO, _ONE, _16, _23, _24, _32 = np.uint32(0), np.uint32(1), np.uint32(16), np.uint32(23), np.uint32(24), np.uint32(32)
_TWICE_ONE = np.uint32(2 * int(biased(0)))
_SEVEN_OCTAVES, _EIGHT_OCTAVES = np.uint32(7 << 23), np.uint32(8 << 23)
_SIGN, _BYTE, _RANDOM = np.uint32(0x80000000), np.uint32(0xFF), np.uint32(0xFFFF)
_MANTISSA_AND_EXPONENT = np.uint32((1 << 27) - 1)
_BIAS = biased(-7)
_NORMAL, _LEAST = biased(-6), np.float32(2.0**-6)  # from here on a code has a leading one
_NORMAL_TO_NEAREST = biased(1)  # the same, where values are measured by 2^-7
_LEAST_OCTAVE, _LEAST_SCALE = biased(-108), biased(-116)


@numba.njit(forceinline=True)
def decode(codes, scales, values, dropped):
    for block in range(scales.size):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        _decode(codes[part], scales[block], values[part], dropped)


@numba.njit(forceinline=True)
def _decode(codes, scale, values, dropped):
    signed = dropped == SIGNED
    for i in range(values.size):
        # The sign of a code is extended, so that it is widened once.
        code = np.uint32(np.int32(np.int8(codes[i]))) if signed else np.uint32(codes[i])
        bits = left(code, dropped)
        magnitude = np.float32(scale * _value(np.uint32(bits & _MANTISSA_AND_EXPONENT))).view(np.uint32)
        values[i] = np.uint32(magnitude | np.uint32(bits & _SIGN)).view(np.float32)


@numba.njit(forceinline=True)
def encode(values, codes, scales, dropped):
    _find_scales(values, scales, left(_ONE, np.uint32(dropped - _ONE)))
    for block in range(scales.size):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        scale = np.float32(scales[block]).view(np.uint32)
        if scale > INFINITY:
            codes[part] = 0
        else:
            inverse = np.uint32(np.uint32(_TWICE_ONE + _SEVEN_OCTAVES) - scale).view(np.float32)
            _encode(values[part], codes[part], inverse, dropped)


@numba.njit(forceinline=True)
def _encode(values, codes, inverse, dropped):
    signed = dropped == SIGNED
    for i in range(values.size):
        bits = np.float32(values[i]).view(np.uint32)
        magnitude = np.uint32(bits & MAGNITUDE)
        code = _nearest(np.float32(inverse * magnitude.view(np.float32)), dropped)
        codes[i] = _with_sign(code, bits) if signed else _at_least_one(code, magnitude)


@numba.njit(forceinline=True)
def encode_stochastic(values, codes, scales, noise, shift, dropped):
    _find_scales(values, scales, np.uint32(left(_ONE, dropped) - _ONE))
    for block in range(scales.size):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        scale = np.float32(scales[block]).view(np.uint32)
        if scale > INFINITY:
            codes[part] = 0
        else:
            inverse = np.uint32(_TWICE_ONE - scale).view(np.float32)
            if shift == _ZERO:  # each loop knows the shift
                _encode_stochastic(values[part], codes[part], inverse, noise[part], _ZERO, dropped)
            else:
                _encode_stochastic(values[part], codes[part], inverse, noise[part], _16, dropped)


@numba.njit(forceinline=True)
def _encode_stochastic(values, codes, inverse, noise, shift, dropped):
    signed = dropped == SIGNED
    for i in range(values.size):
        bits = np.float32(values[i]).view(np.uint32)
        magnitude = np.uint32(bits & MAGNITUDE)
        code = _stochastic(np.float32(inverse * magnitude.view(np.float32)), dropped, random_bits(noise[i], shift))
        codes[i] = _with_sign(code, bits) if signed else _at_least_one(code, magnitude)


@numba.njit(forceinline=True)
def _with_sign(code, bits):
    return np.uint8(np.uint32(np.uint32(np.uint32(code << _24) | np.uint32(bits & _SIGN)) >> _24))


@numba.njit(forceinline=True)
def _at_least_one(code, magnitude):
    """The code, or the smallest one for a number that would become zero."""
    larger = code if code > _ONE else _ONE
    return np.uint8(larger if magnitude > _ZERO else _ZERO)


@numba.njit(forceinline=True)
def _value(magnitude):
    """The bits of a code's value from those of its exponent and mantissa, where a float has them."""
    normal = np.uint32(magnitude + _BIAS)
    # Read as if it had a leading one, taken twice, less both ones.
    subnormal = np.float32(np.uint32(magnitude + _NORMAL).view(np.float32) - _LEAST).view(np.uint32)
    return np.uint32(subnormal if subnormal < normal else normal).view(np.float32)


@numba.njit(forceinline=True)
def _nearest(value, dropped):
    """The nearest code of a value without its sign, measured by the block's scale and 2^-7; ties go to the even one.

    So the exponents of octaves that have codes with a leading one are 0 modulo 256.
    """
    own = np.uint32(np.float32(value).view(np.uint32) & INFINITY)
    octave = own if own > _NORMAL_TO_NEAREST else _NORMAL_TO_NEAREST
    # The sum has as many bits behind the point as the code, and they are its lowest.
    point = np.uint32(octave + np.uint32(dropped << _23)).view(np.float32)
    sum_ = np.float32(value + point).view(np.uint32)
    return np.uint32(np.uint32(sum_ + right(octave, dropped)) & _BYTE)


@numba.njit(forceinline=True)
def _stochastic(value, dropped, random):
    """The code below a value, or the one above it if the 16 random bits, added to the bits that are dropped, carry."""
    normal = np.int32(np.float32(value).view(np.int32))
    # Half of the sum is above subnormal values, and below all others.
    half = np.int32(np.uint32(np.float32(value + _LEAST).view(np.uint32) - np.uint32(1 << 23)))
    larger = np.uint32(half if half > normal else normal)
    added = np.uint32(left(random, np.uint32(dropped - _16)) - _BIAS)
    return right(np.uint32(larger + added), dropped)


@numba.njit(forceinline=True)
def _find_scales(values, scales, margin):
    """All scales first: no block waits for the largest magnitude of its own."""
    for block in range(scales.size):
        scale = _scale(_largest(values[block * BLOCK : (block + 1) * BLOCK]), margin)
        scales[block] = np.uint32(scale).view(np.float32)


@numba.njit(forceinline=True)
def _largest(values):
    """The bits of the largest magnitude, NaN above infinity: exact in any order, hence vectorized."""
    largest = np.uint32(0)
    for i in range(values.size):
        magnitude = np.uint32(np.float32(values[i]).view(np.uint32) & MAGNITUDE)
        largest = magnitude if magnitude > largest else largest
    return largest


@numba.njit(forceinline=True)
def _scale(largest, margin):
    """The bits of a block's scale: see ``float8_scale`` in ``csrc/codecs/float8.h``."""
    octave = np.uint32(np.uint32(largest + margin) & INFINITY)
    scale = _LEAST_SCALE if octave < _LEAST_OCTAVE else np.uint32(octave - _EIGHT_OCTAVES)
    return scale if largest < INFINITY else np.uint32(INFINITY | QUIET)
