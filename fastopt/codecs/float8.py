"""float8 in numba: floating point in a byte, in blocks that have a scale, as in ``csrc/codecs/float8.h``."""

import numba
import numpy as np

from fastopt.codecs.bits import INFINITY, MAGNITUDE, QUIET, biased, left, random_bits, right, shifted

BLOCK = 256

#: Bits that a mantissa of three, or of four, drops from that of a float32.
SIGNED, UNSIGNED = np.uint32(20), np.uint32(19)

_ONE, _16, _24 = np.uint32(1), np.uint32(16), np.uint32(24)
_NO_SIGN = np.uint32(0)
_ONE_BITS = biased(0)
_TWICE_ONE = np.uint32(2 * int(_ONE_BITS))
_BIAS = biased(-7)
_NORMAL, _LEAST = biased(-6), np.float32(2.0**-6)  # from here on a code has a leading one
_LEAST_OCTAVE, _LEAST_SCALE = biased(-108), biased(-116)
_EIGHT_OCTAVES = np.uint32(8 << 23)


@numba.njit
def decode(codes, scales, values, dropped):
    sign = _sign_of(dropped)
    for block in range(scales.size):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        _decode(codes[part], scales[block], values[part], dropped, sign)


@numba.njit
def _decode(codes, scale, values, dropped, sign):
    for i in range(values.size):
        code = np.uint32(codes[i])
        magnitude = np.float32(scale * _value(np.uint32(code & ~sign), dropped)).view(np.uint32)
        values[i] = np.uint32(magnitude | np.uint32(np.uint32(code & sign) << _24)).view(np.float32)


@numba.njit
def encode(values, codes, scales, dropped):
    sign = _sign_of(dropped)
    margin = left(_ONE, np.uint32(dropped - _ONE))
    for block in range(scales.size):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        scale = _scale(_largest(values[part]), margin)
        scales[block] = np.uint32(scale).view(np.float32)
        if scale > INFINITY:
            codes[part] = 0
        else:
            _encode(values[part], codes[part], np.uint32(_TWICE_ONE - scale).view(np.float32), dropped, sign)


@numba.njit
def _encode(values, codes, inverse, dropped, sign):
    for i in range(values.size):
        bits = np.float32(values[i]).view(np.uint32)
        magnitude = np.float32(inverse * np.uint32(bits & MAGNITUDE).view(np.float32))
        code = _at_least(_nearest(magnitude, dropped), bits, sign)
        codes[i] = np.uint8(code | np.uint32(np.uint32(bits >> _24) & sign))


@numba.njit
def encode_stochastic(values, codes, scales, noise, shift, dropped):
    sign = _sign_of(dropped)
    margin = np.uint32(left(_ONE, dropped) - _ONE)
    for block in range(scales.size):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        scale = _scale(_largest(values[part]), margin)
        scales[block] = np.uint32(scale).view(np.float32)
        if scale > INFINITY:
            codes[part] = 0
        else:
            inverse = np.uint32(_TWICE_ONE - scale).view(np.float32)
            _encode_stochastic(values[part], codes[part], inverse, noise[part], shift, dropped, sign)


@numba.njit
def _encode_stochastic(values, codes, inverse, noise, shift, dropped, sign):
    for i in range(values.size):
        bits = np.float32(values[i]).view(np.uint32)
        magnitude = np.float32(inverse * np.uint32(bits & MAGNITUDE).view(np.float32))
        code = _at_least(_stochastic(magnitude, dropped, random_bits(noise[i], shift)), bits, sign)
        codes[i] = np.uint8(code | np.uint32(np.uint32(bits >> _24) & sign))


@numba.njit
def _sign_of(dropped):
    """The bit of a code that is its sign."""
    return np.uint32(0x80) if dropped == SIGNED else np.uint32(0)


@numba.njit
def _value(code, dropped):
    """A code without its sign, as a float."""
    normal = np.uint32(left(code, dropped) + _BIAS).view(np.float32)
    subnormal = normal + normal - _LEAST  # read as if it had a leading one, taken twice, less both ones
    return subnormal if subnormal < normal else normal


@numba.njit
def _nearest(value, dropped):
    """The nearest code of a value without its sign, both measured by the block's scale; ties go to the even one."""
    bits = np.float32(value).view(np.uint32)
    # The sum has as many bits behind the point as a subnormal code.
    point = np.uint32(_ONE_BITS + np.uint32(np.uint32(dropped - np.uint32(6)) << np.uint32(23)))
    sum_ = np.float32(value + np.uint32(point).view(np.float32)).view(np.uint32)
    return np.uint32(sum_ - point) if bits < _NORMAL else shifted(np.uint32(bits - _BIAS), dropped)


@numba.njit
def _stochastic(value, dropped, random):
    """The code below a value, or the one above it if the 16 random bits, added to the bits that are dropped, carry."""
    bits = np.float32(value).view(np.uint32)
    sum_ = np.float32(value + _LEAST).view(np.uint32)
    fixed = np.uint32(sum_ - _NORMAL) if bits < _NORMAL else np.uint32(bits - _BIAS)
    return right(np.uint32(fixed + left(random, np.uint32(dropped - _16))), dropped)


@numba.njit
def _at_least(code, bits, sign):
    """The code, or the smallest one for a number that would become zero, where there is no sign."""
    least = _ONE if sign == _NO_SIGN and np.uint32(bits & MAGNITUDE) > _NO_SIGN else _NO_SIGN
    return least if code < least else code


@numba.njit
def _largest(values):
    """The bits of the largest magnitude, NaN above infinity: exact in any order, hence vectorized."""
    largest = np.uint32(0)
    for i in range(values.size):
        magnitude = np.uint32(np.float32(values[i]).view(np.uint32) & MAGNITUDE)
        largest = magnitude if magnitude > largest else largest
    return largest


@numba.njit
def _scale(largest, margin):
    """The bits of a block's scale: see ``float8_scale`` in ``csrc/codecs/float8.h``."""
    octave = np.uint32(np.uint32(largest + margin) & INFINITY)
    scale = _LEAST_SCALE if octave < _LEAST_OCTAVE else np.uint32(octave - _EIGHT_OCTAVES)
    return scale if largest < INFINITY else np.uint32(INFINITY | QUIET)
