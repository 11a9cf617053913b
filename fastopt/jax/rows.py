"""Rows of coefficients for compiled programs: XLA knows a step's number only when it runs.

A rule computes its coefficients in Python, in float64, and they are rounded once: no program of XLA's would give the
same bits. So the library has a handler for a row, which asks Python for the rows of many steps in advance. Only where
the learning rate is a number of the program's does it ask in every step.
"""

import ctypes
import itertools
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastopt.rule import Row, Rule
from fastopt.schedules import Schedule
from fastopt.totals import total

_DTYPES = np.dtype(np.float32), np.dtype(np.float64)  # by their number in fastopt.h
_known: dict[str, Rule] = {}  # all there ever were: nobody knows how long a compiled program will ask for its rule
_names: dict[tuple[str, Rule, int | None], str] = {}
_numbers: dict[str, Iterator[int]] = {}  # the next one of those that look alike
_scalars: dict[str, tuple[int, dict[str, float]]] = {}  # of rules that keep some, after so many steps


class Source(NamedTuple):
    """Where a rule's rows come from: the name by which :func:`_fill` knows it, and what they follow from.

    ``traced`` says that the learning rate is given with each step, ``ahead`` that rows follow from the step alone.
    """

    name: str
    traced: bool
    ahead: bool


def source(rule: Rule) -> Source:
    """Makes a rule's rows available to compiled programs.

    The name is the rule's text, so that a program from JAX's compilation cache finds the same rule in another process,
    or none.
    """
    lr = rule.lr
    if callable(lr) and not isinstance(lr, Schedule):
        return Source(_name(rule.replace(lr=0.0)), traced=True, ahead=False)
    return Source(_name(rule), traced=False, ahead=not (isinstance(lr, Schedule) and lr.progress()))


def _name(rule: Rule) -> str:
    """The rule's text; with a number, where another rule has it: what a schedule has learnt is not among its fields."""
    text = repr(rule)
    learns = isinstance(rule.lr, Schedule) and rule.lr.progress()
    key = text, rule, id(rule.lr) if learns else None
    name = _names.get(key)
    if name is None:
        number = next(_numbers.setdefault(text, itertools.count(1)))
        name = _names.setdefault(key, text if number == 1 else f"{text} {number}")
        _known[name] = rule
    return name


def _scalars_before(name: str, rule: Rule, step: int) -> dict[str, float]:
    """The scalars before a step of a run with this rule alone; quickly, if the step before was asked for."""
    if not rule.scalars:
        return {}
    steps, scalars = _scalars.get(name, (None, {}))
    if steps != step - 1:  # several rows of one step are asked for
        scalars = rule.advance(step - 1, **scalars) if steps == step - 2 else rule.scalars_after(step - 1)
    _scalars[name] = step - 1, scalars
    return scalars


def _found(name: int, size: int, step: int, lr: Any, scalars: Any, count: int) -> tuple[str, Rule, dict[str, float]]:
    """The rule whose name is at an address, with the learning rate and the scalars before the step, if they are given.

    If there are none these are those of a run with this rule alone.
    """
    text = ctypes.string_at(name, size).decode()
    rule = _known.get(text)
    if rule is None:
        raise LookupError("this program was compiled in another process: trace the function again")
    if lr:
        rule = rule.replace(lr=lr[0])
    if scalars:
        return text, rule, dict(zip(rule.scalars, scalars[:count], strict=True))
    return text, rule, _scalars_before(text, rule, step)


def _array(address: int, dtype: np.dtype, *shape: int) -> np.ndarray:
    """The array at an address."""
    memory = (ctypes.c_char * (prod(shape) * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)


def _report(error: BaseException, message: int, room: int) -> int:
    """Writes what is wrong to an address: no exception can go through XLA."""
    text = f"{type(error).__name__}: {error}".encode()[: room - 1] + b"\0"
    ctypes.memmove(message, text, len(text))
    return 1


def _fill(name, size, step, count, lr, given, givens, dtype, coefficients, rows, message, room) -> int:
    """Fills rows at an address. Returns zero, or writes what is wrong."""
    try:
        text, rule, scalars = _found(name, size, step, lr, given, givens)
        for index, array in enumerate(_array(rows, _DTYPES[dtype], count, coefficients)):
            scalars = _scalars_before(text, rule, step + index) if index else scalars
            rule.fill(Row(array), step + index, 1.0, scalars)
        return 0
    except BaseException as error:
        return _report(error, message, room)


def _adapt(
    name, size, step, lr, given, givens, dtype, count, sizes, numbers, width, after, coefficients, rows, message, room
) -> int:
    """Fills at an address the row of a rule's sum, or from its numbers a row for each parameter. Else as _fill."""
    try:
        _, rule, scalars = _found(name, size, step, lr, given, givens)
        array = _array(rows, _DTYPES[dtype], count, coefficients)
        if sizes:
            sums = _array(numbers, np.dtype(np.float64), count, width)
            values = rule.scaled(step, scalars=scalars)
            following = dict(zip(rule.scalars, after[:givens], strict=True)) if after else {}
            rule.fill_adapted(array, step, values, _array(sizes, np.dtype(np.int64), count), sums, following)
        else:
            rule.fill_measured(Row(array[0]), step, 1.0, scalars)
        return 0
    except BaseException as error:
        return _report(error, message, room)


def _advance(name, size, step, lr, given, givens, count, numbers, width, after, message, room) -> int:
    """Writes a rule's scalars after a step to an address, given the numbers of its sum if it has one. Else as _fill."""
    try:
        _, rule, scalars = _found(name, size, step, lr, given, givens)
        totals = {}
        if rule.totals:
            totals["totals"] = total([_array(numbers, np.dtype(np.float64), count, width)])
        _array(after, np.dtype(np.float64), givens)[:] = list(rule.advance(step, **totals, **scalars).values())
        return 0
    except BaseException as error:
        return _report(error, message, room)


_NUMBER, _DTYPE, _ADDRESS, _DOUBLES = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_double)
_GIVEN = _DOUBLES, _DOUBLES, _NUMBER  # the learning rate, the scalars and how many there are
_NUMBERS = _ADDRESS, _NUMBER  # those of a sum, and how many each parameter has
_MESSAGE = _ADDRESS, _NUMBER

#: These functions for C, for as long as the process lives.
fill: Any = ctypes.CFUNCTYPE(
    ctypes.c_int32, _ADDRESS, _NUMBER, _NUMBER, _NUMBER, *_GIVEN, _DTYPE, _NUMBER, _ADDRESS, *_MESSAGE
)(_fill)
adapt: Any = ctypes.CFUNCTYPE(
    ctypes.c_int32, _ADDRESS, _NUMBER, _NUMBER, *_GIVEN, _DTYPE, _NUMBER, _ADDRESS, *_NUMBERS, _DOUBLES, _NUMBER,
    _ADDRESS, *_MESSAGE,
)(_adapt)  # fmt: skip
advance: Any = ctypes.CFUNCTYPE(
    ctypes.c_int32, _ADDRESS, _NUMBER, _NUMBER, *_GIVEN, _NUMBER, *_NUMBERS, _ADDRESS, *_MESSAGE
)(_advance)
