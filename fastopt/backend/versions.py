"""Versions of a kernel: for rows of coefficients in which every term is there, and for those that lack some.

``term(c, x)`` asks for every element whether its coefficient is zero. In the cache that may take nearly as long as all
the rest of a loop. So a kernel is compiled for the :class:`Terms` that its row leaves, and only when a row needs it.
Kernels' files know nothing of that: the two functions through which coefficients go are replaced.

Rows change at every step, and hardly ever the version that they need. So each version looks at its row before it writes
anything, and refuses, by :class:`OtherTerms`, one that another version is for.
"""

from collections.abc import Iterable
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.backend.program import OtherTerms
from fastopt.kernels.term import term

#: Where every row has the coefficient of coupled weight decay.
L2 = 1

#: Coefficients that stand in no term, though they may be zero.
NO_TERMS = {"grad_scale", "keep", "zero"}


class Terms(Enum):
    """Which terms a row of coefficients leaves in a kernel."""

    NO_L2 = "no_l2"  # all but that of coupled weight decay: the usual case
    ALL = "all"
    SOME = "some"  # others are missing, too: the kernel has to ask


def terms(kernel: Any, k: np.ndarray) -> Terms:
    """Which terms a row leaves in a kernel."""
    values = k.tolist()
    if not all(values[place] for place in watched(kernel)):
        return Terms.SOME
    return Terms.ALL if values[L2] else Terms.NO_L2


@cache
def watched(kernel: Any) -> tuple[int, ...]:
    """The places in a row of the coefficients that may stand in terms, without ``l2``."""
    code = kernel.py_func.__code__
    names = code.co_varnames[code.co_argcount :]
    names = names[: names.index("i")]  # the loop's variable follows the coefficients
    return tuple(place for place, name in enumerate(names) if place != L2 and name not in NO_TERMS)


def replacements(kernel: Any, terms: Terms) -> dict[str, Any]:
    """What a kernel's version for these terms calls instead of the functions of these names."""
    return {"to_fixed_tuple": _loading(terms, watched(kernel)), "term": term if terms is Terms.SOME else _there}


@intrinsic
def _there(typing_context, c, x):
    """``c * x``; or, where ``c`` comes as the bits of a number, that number: its term is not there."""

    def generate(context, builder, signature, values):
        coefficient, number = values
        if isinstance(c, types.Integer):
            return builder.bitcast(coefficient, number.type)
        return builder.fmul(coefficient, number)

    return x(c, x), generate


def _loading(terms: Terms, watched: tuple[int, ...]) -> Any:
    """``to_fixed_tuple``, but it refuses rows with other terms, and gives ``l2`` as its bits for ``Terms.NO_L2``."""

    @intrinsic(prefer_literal=True)
    def load(typing_context, k, count):
        loaded = [k.dtype] * count.literal_value
        if terms is Terms.NO_L2:
            loaded[L2] = types.Integer.from_bitwidth(k.dtype.bitwidth)
        row = types.Tuple(loaded)

        def generate(context, builder, signature, values):
            data = context.make_array(k)(context, builder, values[0]).data
            numbers = [builder.load(cgutils.gep_inbounds(builder, data, place)) for place in range(len(loaded))]
            zeros = [builder.fcmp_ordered("==", number, number.type(0)) for number in numbers]
            missing = cgutils.false_bit
            for place in watched:
                missing = builder.or_(missing, zeros[place])
            refused = {
                Terms.NO_L2: builder.or_(missing, builder.not_(zeros[L2])),
                Terms.ALL: builder.or_(missing, zeros[L2]),
                Terms.SOME: builder.not_(missing),
            }[terms]
            with builder.if_then(refused, likely=False):
                context.call_conv.return_user_exc(builder, OtherTerms, ())
            if terms is Terms.NO_L2:
                numbers[L2] = builder.bitcast(numbers[L2], context.get_value_type(loaded[L2]))
            return context.make_tuple(builder, row, numbers)

        return row(k, count), generate

    return load


def look(coefficients):
    """Raises OtherTerms if one of the coefficients that :func:`places` lists has got to be, or not to be, zero."""
    for each in range(coefficients.shape[0]):
        address, itemsize, zero = coefficients[each]
        c = _number_at(address, np.float64(0)) if itemsize == 8 else np.float64(_number_at(address, np.float32(0)))
        if (c == 0) != (zero != 0):
            raise OtherTerms


def places(rows: Iterable[tuple[Any, np.ndarray]]) -> np.ndarray:
    """The address, size and whether it is zero now, of every coefficient that kernels watch in their rows."""
    found = []
    for kernel, k in rows:
        start, zeros = k.__array_interface__["data"][0], (k == 0).tolist()
        found += [(start + place * k.itemsize, k.itemsize, zeros[place]) for place in (L2, *watched(kernel))]
    return np.array(found, np.int64)


@intrinsic
def _number_at(typing_context, address, like):
    """The number of the type of ``like`` that lies at an address."""

    def generate(context, builder, signature, values):
        return builder.load(builder.inttoptr(values[0], values[1].type.as_pointer()))

    return like(address, like), generate
