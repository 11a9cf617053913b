"""Numbers by the address of their storage, in numba: which codec reads and writes them is known when it runs.

So what works on streams is compiled once, and not once for each mix of storages.
"""

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from fastopt.codecs import bfloat16, float8, float16, native, split
from fastopt.storages import NUMBERS

_FLOAT32, _FLOAT64 = NUMBERS["float32"], NUMBERS["float64"]
_BFLOAT16, _FLOAT16, _SPLIT = NUMBERS["bfloat16"], NUMBERS["float16"], NUMBERS["split"]
_SIGNED, _UNSIGNED = NUMBERS["float8_signed"], NUMBERS["float8_unsigned"]
_BLOCK = float8.BLOCK


@intrinsic
def address_of(typing_context, array):
    """Where an array begins, as an int64."""

    def generate(context, builder, signature, values):
        data = context.make_array(array)(context, builder, values[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.int64))

    return types.int64(array), generate


@intrinsic
def array_at(typing_context, address, size, dtype):
    """The array of ``size`` items of a dtype that begins at an address. It keeps nothing alive."""
    item = dtype.dtype if isinstance(dtype, types.DType) else dtype.instance_type
    found = types.Array(item, 1, "C")

    def generate(context, builder, signature, values):
        address, size, _ = values
        array = context.make_array(found)(context, builder)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(item)))
        data = builder.inttoptr(address, array.data.type)
        populate_array(array, data=data, shape=[size], strides=[itemsize], itemsize=itemsize, meminfo=None)
        return array._getvalue()

    return found(types.int64, types.int64, dtype), generate


@numba.njit
def decode(storage, first, second, start, values):
    """Fills ``values`` with the numbers from element ``start`` of the storage whose parts begin at two addresses.

    ``start`` is a multiple of the storage's block.
    """
    size = values.size
    if storage == _BFLOAT16:
        bfloat16.decode(array_at(first + 2 * start, size, np.uint16), values)
    elif storage == _FLOAT16:
        float16.decode(array_at(first + 2 * start, size, np.uint16), values)
    elif storage == _SPLIT:
        split.decode(
            array_at(first + 2 * start, size, np.uint16), array_at(second + 2 * start, size, np.uint16), values
        )
    elif storage == _SIGNED:
        float8.decode(
            array_at(first + start, size, np.uint8),
            array_at(second + 4 * (start // _BLOCK), -(-size // _BLOCK), np.float32),
            values,
            float8.SIGNED,
        )
    elif storage == _UNSIGNED:
        float8.decode(
            array_at(first + start, size, np.uint8),
            array_at(second + 4 * (start // _BLOCK), -(-size // _BLOCK), np.float32),
            values,
            float8.UNSIGNED,
        )
    elif storage == _FLOAT32:
        native.decode(array_at(first + 4 * start, size, np.float32), values)
    else:
        native.decode(array_at(first + 8 * start, size, np.float64), values)


@numba.njit
def encode(storage, first, second, start, values):
    """Writes ``values`` from element ``start`` of a storage, each to the nearest code: see :func:`decode`."""
    size = values.size
    if storage == _BFLOAT16:
        bfloat16.encode(values, array_at(first + 2 * start, size, np.uint16))
    elif storage == _FLOAT16:
        float16.encode(values, array_at(first + 2 * start, size, np.uint16))
    elif storage == _SPLIT:
        split.encode(
            values, array_at(first + 2 * start, size, np.uint16), array_at(second + 2 * start, size, np.uint16)
        )
    elif storage == _SIGNED:
        float8.encode(
            values,
            array_at(first + start, size, np.uint8),
            array_at(second + 4 * (start // _BLOCK), -(-size // _BLOCK), np.float32),
            float8.SIGNED,
        )
    elif storage == _UNSIGNED:
        float8.encode(
            values,
            array_at(first + start, size, np.uint8),
            array_at(second + 4 * (start // _BLOCK), -(-size // _BLOCK), np.float32),
            float8.UNSIGNED,
        )
    elif storage == _FLOAT32:
        native.encode(values, array_at(first + 4 * start, size, np.float32))
    else:
        native.encode(values, array_at(first + 8 * start, size, np.float64))


@numba.njit
def encode_stochastic(storage, first, second, start, values, noise, shift):
    """Writes ``values``, up or down at random by 16 bits of each word of noise, where the storage rounds at all."""
    size = values.size
    if storage == _BFLOAT16:
        bfloat16.encode_stochastic(values, array_at(first + 2 * start, size, np.uint16), noise, shift)
    elif storage == _FLOAT16:
        float16.encode_stochastic(values, array_at(first + 2 * start, size, np.uint16), noise, shift)
    elif storage == _SIGNED:
        codes, scales = (
            array_at(first + start, size, np.uint8),
            array_at(second + 4 * (start // _BLOCK), -(-size // _BLOCK), np.float32),
        )
        float8.encode_stochastic(values, codes, scales, noise, shift, float8.SIGNED)
    elif storage == _UNSIGNED:
        codes, scales = (
            array_at(first + start, size, np.uint8),
            array_at(second + 4 * (start // _BLOCK), -(-size // _BLOCK), np.float32),
        )
        float8.encode_stochastic(values, codes, scales, noise, shift, float8.UNSIGNED)
    else:
        encode(storage, first, second, start, values)
