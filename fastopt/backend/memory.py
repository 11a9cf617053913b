"""Memory by its address, in numba: how compiled loops read a table of int64, and call functions that it names.

Nobody counts references to these arrays: whoever makes the table keeps their memory alive.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array


class Array(NamedTuple):
    """An argument: an array whose address is in a column of a row, and its size in another, of so many elements.

    It has an item for ``every`` so many elements.
    """

    dtype: np.dtype
    column: int
    size: int = 0
    every: int = 1


class Number(NamedTuple):
    """An argument: a number that is in a column of a row."""

    dtype: np.dtype
    column: int


class Constant(NamedTuple):
    """An argument that is the same for every row."""

    value: np.generic


def arguments(wanted: Sequence[Array | Number | Constant]) -> Any:
    """A function for numba from a row's address to the tuple of arguments that the row describes."""
    kinds = [
        types.Array(from_dtype(each.dtype), 1, "C") if isinstance(each, Array)
        else from_dtype(each.dtype if isinstance(each, Number) else each.value.dtype)
        for each in wanted
    ]  # fmt: skip

    @intrinsic
    def load(typing_context, row):
        def generate(context, builder, signature, values):
            int64 = context.get_value_type(types.int64)
            columns = builder.inttoptr(values[0], int64.as_pointer())
            found = []
            for each, kind in zip(wanted, kinds, strict=True):
                if isinstance(each, Constant):
                    found.append(context.get_constant(kind, each.value.item()))
                    continue
                number = builder.load(cgutils.gep_inbounds(builder, columns, each.column))
                if isinstance(each, Number):
                    found.append(context.cast(builder, number, types.int64, kind))
                    continue
                size = builder.load(cgutils.gep_inbounds(builder, columns, each.size))
                if each.every > 1:
                    size = builder.sdiv(builder.add(size, int64(each.every - 1)), int64(each.every))
                found.append(_array(context, builder, kind, number, size))
            return context.make_tuple(builder, signature.return_type, found)

        return types.Tuple(kinds)(types.int64), generate

    return load


def _array(context, builder, kind, address, size):
    array = context.make_array(kind)(context, builder)
    itemsize = size.type(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    populate_array(
        array,
        data=builder.inttoptr(address, array.data.type),
        shape=cgutils.pack_array(builder, [size]),
        strides=cgutils.pack_array(builder, [itemsize]),
        itemsize=itemsize,
        meminfo=None,
    )
    return array._getvalue()


@intrinsic
def array_at(typing_context, address, size, like):
    """The 1-D array of so many items, of the type of ``like``, at an address."""
    kind = types.Array(like, 1, "C")

    def generate(context, builder, signature, values):
        return _array(context, builder, kind, values[0], values[1])

    return kind(types.int64, types.int64, like), generate


@intrinsic
def number_at(typing_context, address, like):
    """The number, of the type of ``like``, at an address."""

    def generate(context, builder, signature, values):
        return builder.load(builder.inttoptr(values[0], values[1].type.as_pointer()))

    return like(types.int64, like), generate


@intrinsic
def address_of(typing_context, array):
    """Where an array's items are."""

    def generate(context, builder, signature, values):
        data = context.make_array(array)(context, builder, values[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.int64))

    return types.int64(array), generate


@intrinsic
def call(typing_context, function, row):
    """Calls the compiled function at an address with the address of a row."""

    def generate(context, builder, signature, values):
        int64 = context.get_value_type(types.int64)
        builder.call(builder.inttoptr(values[0], ir.FunctionType(int64, [int64]).as_pointer()), [values[1]])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), generate


def function_address(dispatcher: Any) -> int:
    """Where the machine code of a function for :func:`call` is: that for callers who are not numba's."""
    (compiled,) = dispatcher.overloads.values()
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
