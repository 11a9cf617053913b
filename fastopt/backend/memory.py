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

from fastopt.sizes import LINE

#: Items of a vector: what loops store piece by piece is read again in pieces that are no larger, or it would take long.
_VECTOR = 4

_int32 = ir.IntType(32)


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


def parts(wanted: Sequence[Array]) -> Any:
    """As :func:`arguments`, but arrays whose size is in the first column are ``count`` items from the one ``first``."""
    kinds = [types.Array(from_dtype(each.dtype), 1, "C") for each in wanted]

    @intrinsic
    def load(typing_context, row, first, count):
        def generate(context, builder, signature, values):
            row, first, count = values
            columns = builder.inttoptr(row, count.type.as_pointer())
            found = []
            for each, kind in zip(wanted, kinds, strict=True):
                start = builder.load(cgutils.gep_inbounds(builder, columns, each.column))
                size = count
                if each.size:
                    size = builder.load(cgutils.gep_inbounds(builder, columns, each.size))
                else:
                    start = builder.add(start, builder.mul(first, count.type(each.dtype.itemsize)))
                found.append(_array(context, builder, kind, start, size))
            return context.make_tuple(builder, signature.return_type, found)

        return types.Tuple(kinds)(types.int64, types.int64, types.int64), generate

    return load


def _array(context, builder, kind, address, size):
    array = context.make_array(kind)(context, builder)
    itemsize = size.type(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    data = address if isinstance(address.type, ir.PointerType) else builder.inttoptr(address, array.data.type)
    populate_array(
        array,
        data=data,
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


@intrinsic(prefer_literal=True)
def on_stack(typing_context, size, like):
    """An array of so many items, of the type of ``like``, that lasts until the function returns."""
    kind, count = types.Array(like, 1, "C"), size.literal_value

    def generate(context, builder, signature, values):
        int64 = context.get_value_type(types.int64)
        memory = cgutils.alloca_once(builder, context.get_data_type(like), size=int64(count))
        memory.align = LINE
        return _array(context, builder, kind, memory, int64(count))

    return kind(size, like), generate


@intrinsic(prefer_literal=True)
def rows_of(typing_context, array, count):
    """The rows of an array that has so many of them."""
    kind, rows = types.UniTuple(array, count.literal_value), count.literal_value

    def generate(context, builder, signature, values):
        whole = context.make_array(array)(context, builder, values[0])
        (size,) = cgutils.unpack_tuple(builder, whole.shape, 1)
        size = builder.sdiv(size, size.type(rows))
        starts = [builder.gep(whole.data, [builder.mul(size, size.type(row))]) for row in range(rows)]
        return context.make_tuple(builder, kind, [_array(context, builder, array, start, size) for start in starts])

    return kind(array, count), generate


@intrinsic(prefer_literal=True)
def clear(typing_context, array, count):
    """Sets the first ``count`` items, a literal, to zero."""

    def generate(context, builder, signature, values):
        for vector, aligned in _vectors(context, builder, signature, values[0]):
            builder.store(ir.Constant(vector.type.pointee, None), vector, aligned)
        return context.get_dummy_value()

    return types.none(array, count), generate


@intrinsic(prefer_literal=True)
def add_to(typing_context, array, first, other, other_first, count):
    """Adds ``count`` items, a literal, of another array to those of one; ``first`` and ``other_first`` come first."""

    def generate(context, builder, signature, values):
        one, more = (_vectors(context, builder, signature, *each) for each in (values[:2], values[2:4]))
        for (vector, aligned), (added, _) in zip(one, more, strict=True):
            loaded = (builder.load(each, align=aligned) for each in (vector, added))
            builder.store(builder.fadd(*loaded), vector, aligned)
        return context.get_dummy_value()

    return types.none(array, types.int64, array, types.int64, count), generate


@intrinsic(prefer_literal=True)
def folded(typing_context, array, rows, count):
    """The sum of each of the ``rows`` of the first ``count`` items, both literals: halves are added to each other."""

    def generate(context, builder, signature, values):
        vectors, sums = _vectors(context, builder, signature, values[0]), []
        width = len(vectors) // rows.literal_value
        for row in range(rows.literal_value):
            left = [builder.load(vector, align=aligned) for vector, aligned in vectors[row * width : (row + 1) * width]]
            (vector,) = _halved(builder, left)
            sums += _halved(builder, [builder.extract_element(vector, _int32(place)) for place in range(_VECTOR)])
        return context.make_tuple(builder, signature.return_type, sums)

    return types.UniTuple(array.dtype, rows.literal_value)(array, rows, count), generate


def _halved(builder, left):
    while len(left) > 1:
        half = len(left) // 2
        left = list(map(builder.fadd, left[:half], left[half:]))
    return left


def _vectors(context, builder, signature, array, first=None):
    """Vectors of an array's items from ``first`` on, as many of these as an intrinsic's last argument says.

    Pointers and alignment.
    """
    data = context.make_array(signature.args[0])(context, builder, array).data
    data = data if first is None else builder.gep(data, [first])
    vector = ir.VectorType(data.type.pointee, _VECTOR).as_pointer()
    places = range(0, signature.args[-1].literal_value, _VECTOR)
    aligned = context.get_abi_sizeof(data.type.pointee)
    return [(builder.bitcast(cgutils.gep_inbounds(builder, data, place), vector), aligned) for place in places]


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
def fetch(typing_context, address):
    """Has memory send the cache line of an address to the second-level cache, which waits for more at once."""

    def generate(context, builder, signature, values):
        pointer = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.VoidType(), [pointer, _int32, _int32, _int32])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], function)
        read, second_level, data = _int32(0), _int32(2), _int32(1)
        builder.call(prefetch, [builder.inttoptr(values[0], pointer), read, second_level, data])
        return context.get_dummy_value()

    return types.none(types.int64), generate


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
