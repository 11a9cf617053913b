"""How each storage is read and written, in numba: loops over contiguous 1-D arrays, callable from nopython code.

``decode(*parts, values)`` fills float32 or float64 values, ``encode(values, *parts)`` rounds to the nearest code, and
``encode_stochastic(values, *parts, noise, shift)`` up or down at random, by the 16 bits from ``shift`` (0 or 16) of
each word of noise. Parts start at a block of the storage. A float64 is rounded to float32 first. The formats are
defined in :mod:`fastopt.storages`, and both engines give the bits of that definition.
"""

from typing import Any, NamedTuple

from fastopt.codecs import bfloat16, float8, float16, native, split


class Codec(NamedTuple):
    """The loops of a storage, and what they take besides: arguments that come last."""

    decode: Any
    encode: Any
    encode_stochastic: Any = None  # where every value has a code
    arguments: tuple = ()


#: By the names of the storages, in the order of their numbers.
CODECS = {
    "float32": Codec(native.decode, native.encode),
    "float64": Codec(native.decode, native.encode),
    "bfloat16": Codec(bfloat16.decode, bfloat16.encode, bfloat16.encode_stochastic),
    "float16": Codec(float16.decode, float16.encode, float16.encode_stochastic),
    "split": Codec(split.decode, split.encode),
    "float8_signed": Codec(float8.decode, float8.encode, float8.encode_stochastic, (float8.SIGNED,)),
    "float8_unsigned": Codec(float8.decode, float8.encode, float8.encode_stochastic, (float8.UNSIGNED,)),
}
