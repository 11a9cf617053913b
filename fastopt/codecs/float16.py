"""float16 in numba, which has no such type: by integers, as ``csrc/codecs/float16.h`` says, or by the instructions of
x86-64's F16C, which give the same bits."""

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from fastopt.codecs.bits import INFINITY, MAGNITUDE, QUIET, biased, random_bits, shifted

_13, _16 = np.uint32(13), np.uint32(16)
_HALF_INFINITY = np.uint32(0x7C00)
_HALF_SIGN = np.uint32(0x8000)
_REBIAS = np.uint32(112 << 23)  # added to the exponent: 127 - 15
_NORMAL = biased(-14)  # from here on a half has a leading one
_LEAST = np.float32(2.0**-14)
_POINT, _POINT_BITS = np.float32(0.5), biased(-1)
_OVERFLOW = biased(16)


#: Whether numba compiles for a processor that has F16C. It is asked for by name: on others LLVM would call a function.
#: Older versions of LLVM do not vectorize its instructions: 15 does not, 22 does.
_F16C = binding.llvm_version_info[0] >= 22 and "+f16c" in cpu_target.target_context.codegen().magic_tuple()[2].split(
    ","
)


@intrinsic
def _half_of(typing_context, value):
    def generate(context, builder, signature, values):
        return builder.bitcast(builder.fptrunc(values[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def _float_of(typing_context, half):
    def generate(context, builder, signature, values):
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@numba.njit
def decode_by_instructions(codes, values):
    for i in range(values.size):
        values[i] = _float_of(codes[i])


@numba.njit
def encode_by_instructions(values, codes):
    for i in range(values.size):
        codes[i] = _half_of(np.float32(values[i]))


@numba.njit
def decode_by_integers(codes, values):
    for i in range(values.size):
        half = np.uint32(codes[i])
        magnitude = np.uint32(half & np.uint32(0x7FFF))
        bits = np.uint32(np.uint32(magnitude << _13) + _REBIAS)
        normal = np.uint32(bits).view(np.float32)
        subnormal = normal + normal - _LEAST  # read as if it had a leading one, taken twice, less both ones
        finite = np.float32(subnormal if subnormal < normal else normal).view(np.uint32)
        infinite = np.uint32(bits + _REBIAS)
        quieted = np.uint32(infinite | QUIET)
        found = quieted if magnitude > _HALF_INFINITY else (finite if magnitude < _HALF_INFINITY else infinite)
        values[i] = np.uint32(found | np.uint32(np.uint32(half & _HALF_SIGN) << _16)).view(np.float32)


@numba.njit
def encode_by_integers(values, codes):
    for i in range(values.size):
        value = np.float32(values[i])
        bits = value.view(np.uint32)
        magnitude = np.uint32(bits & MAGNITUDE)
        # The sum has as many bits behind the point as a subnormal half, and is rounded to nearest even.
        point = np.float32(abs(value) + _POINT)
        subnormal = np.uint32(point.view(np.uint32) - _POINT_BITS)
        codes[i] = _with_sign(bits, subnormal if magnitude < _NORMAL else shifted(_in_range(magnitude), _13))


@numba.njit
def encode_stochastic(values, codes, noise, shift):
    for i in range(values.size):
        value = np.float32(values[i])
        bits = value.view(np.uint32)
        magnitude = np.uint32(bits & MAGNITUDE)
        point = np.float32(abs(value) + _LEAST)
        subnormal = np.uint32(point.view(np.uint32) - _NORMAL)
        fixed = subnormal if magnitude < _NORMAL else _in_range(magnitude)
        random = np.uint32(random_bits(noise[i], shift) >> np.uint32(3))
        codes[i] = _with_sign(bits, np.uint32(np.uint32(fixed + random) >> _13))


@numba.njit
def _in_range(magnitude):
    """Rebiased; what is above every finite half becomes infinity."""
    return np.uint32((magnitude if magnitude < _OVERFLOW else _OVERFLOW) - _REBIAS)


@numba.njit
def _with_sign(bits, magnitude):
    payload = np.uint32(np.uint32(np.uint32(bits | QUIET) >> _13) & np.uint32(0x3FF))
    found = np.uint32(_HALF_INFINITY | payload) if np.uint32(bits & MAGNITUDE) > INFINITY else magnitude
    return np.uint16(np.uint32(np.uint32(bits >> _16) & _HALF_SIGN) | found)


decode = decode_by_instructions if _F16C else decode_by_integers
encode = encode_by_instructions if _F16C else encode_by_integers
