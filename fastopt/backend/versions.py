"""Versions of a kernel: for rows of coefficients in which every term is there, and for those that lack some.

``term(c, x)`` asks for every element whether its coefficient is zero. In the cache that may take nearly as long as all
the rest of a loop. So a kernel is compiled for the :class:`Terms` that its row leaves, and only when a row needs it.
Kernels' files know nothing of that: the two functions through which coefficients go are replaced.

Rows change at every step, and hardly ever the version that they need. So each version looks at its row before it writes
anything, and refuses, by :class:`OtherTerms`, one that another version is for.
"""

import dis
from collections.abc import Iterable
from enum import Enum
from functools import cache, reduce
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.backend.memory import number_at
from fastopt.backend.program import OtherTerms
from fastopt.kernels.term import term


class Terms(Enum):
    """Which terms a row of coefficients leaves in a kernel."""

    NO_L2 = "no_l2"  # all but that of coupled weight decay: the usual case
    ALL = "all"
    SOME = "some"  # others are missing, too: the kernel has to ask


class Watched(NamedTuple):
    """The places in a row of the coefficients that stand in a kernel's terms."""

    l2: int | None
    others: tuple[int, ...]


@cache
def watched(kernel: Any) -> Watched:
    """The coefficients of a kernel's terms, as its code says: the first arguments of ``term``."""
    code = kernel.py_func.__code__
    instructions = dis.get_instructions(code)
    found = set()
    for each in instructions:
        if each.opname == "LOAD_GLOBAL" and each.argval == "term":
            name = next(each.argval for each in instructions if each.opname.startswith("LOAD_FAST"))
            found.add(name if isinstance(name, str) else name[0])  # Python 3.13 loads two at once
    places = {name: place for place, name in enumerate(code.co_varnames[code.co_argcount :]) if name in found}
    return Watched(places.pop("l2", None), tuple(places.values()))


def terms(kernel: Any, k: np.ndarray) -> Terms:
    """Which terms a row leaves in a kernel."""
    values, (l2, others) = k.tolist(), watched(kernel)
    if not all(map(values.__getitem__, others)):  # an interrupt within a generator that is left early is lost
        return Terms.SOME
    return Terms.NO_L2 if l2 is not None and not values[l2] else Terms.ALL


def replacements(kernel: Any, terms: Terms, *, refusing: bool = True) -> dict[str, Any]:
    """What a kernel's version for these terms calls instead of the functions of these names.

    One that is not ``refusing`` trusts that somebody else looks at its rows.
    """
    load = _loading(terms, watched(kernel), refusing)
    return {"to_fixed_tuple": load, "term": term if terms is Terms.SOME else _there}


@intrinsic
def _there(typing_context, c, x):
    """``c * x``; or, where ``c`` comes as the bits of a number, that number: its term is not there."""

    def generate(context, builder, signature, values):
        coefficient, number = values
        if isinstance(c, types.Integer):
            return builder.bitcast(coefficient, number.type)
        return builder.fmul(coefficient, number)

    return x(c, x), generate


def _loading(terms: Terms, watched: Watched, refusing: bool) -> Any:
    """``to_fixed_tuple``, but it refuses rows with other terms, and gives ``l2`` as its bits for ``Terms.NO_L2``."""

    l2, others = watched

    @intrinsic(prefer_literal=True)
    def load(typing_context, k, count):
        loaded = [k.dtype] * count.literal_value
        if terms is Terms.NO_L2:
            loaded[l2] = types.Integer.from_bitwidth(k.dtype.bitwidth)
        row = types.Tuple(loaded)

        def generate(context, builder, signature, values):
            data = context.make_array(k)(context, builder, values[0]).data
            numbers = [builder.load(cgutils.gep_inbounds(builder, data, place)) for place in range(len(loaded))]
            if refusing:
                zeros = [builder.fcmp_ordered("==", number, number.type(0)) for number in numbers]
                missing = reduce(builder.or_, (zeros[place] for place in others), cgutils.false_bit)
                no_l2 = cgutils.false_bit if l2 is None else zeros[l2]
                refused = {
                    Terms.NO_L2: builder.or_(missing, builder.not_(no_l2)),
                    Terms.ALL: builder.or_(missing, no_l2),
                    Terms.SOME: builder.not_(missing),
                }[terms]
                with builder.if_then(refused, likely=False):
                    context.call_conv.return_user_exc(builder, OtherTerms, ())
            if terms is Terms.NO_L2:
                numbers[l2] = builder.bitcast(numbers[l2], context.get_value_type(loaded[l2]))
            return context.make_tuple(builder, row, numbers)

        return row(k, count), generate

    return load


@numba.njit(_nrt=False)
def look(coefficients):
    """Raises OtherTerms if one of the coefficients that :func:`places` lists has got to be, or not to be, zero."""
    for each in range(coefficients.shape[0]):
        address, itemsize, zero = coefficients[each]
        c = number_at(address, np.float64(0)) if itemsize == 8 else np.float64(number_at(address, np.float32(0)))
        if (c == 0) != (zero != 0):
            raise OtherTerms


def places(rows: Iterable[tuple[Any, np.ndarray]]) -> np.ndarray:
    """The address, size and whether it is zero now, of every coefficient that kernels watch in their rows."""
    found = []
    for kernel, k in rows:
        start, zeros = k.__array_interface__["data"][0], (k == 0).tolist()
        l2, others = watched(kernel)
        found += [
            (start + place * k.itemsize, k.itemsize, zeros[place]) for place in (l2, *others) if place is not None
        ]
    return np.array(found, np.int64).reshape(-1, 3)
