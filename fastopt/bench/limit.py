"""The limit: loops that read and write the same memory as a step and compute next to nothing."""

import types
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
import numpy as np
from numba import prange

#: Bytes of a cache line.
LINE = 64

#: Elements that are worth a thread, as in ``fastopt.sizes``: the limit uses the threads that a step uses.
GRAIN = 65536

# One addition each, lest the compiler leave out a load; all other values only change places.


def traffic_0(p, g):
    for i in prange(p.size):
        p[i] = p[i] + g[i]


def traffic_1(p, g, a):
    for i in prange(p.size):
        first, second = p[i], a[i]
        p[i] = second + g[i]
        a[i] = first


def traffic_2(p, g, a, b):
    for i in prange(p.size):
        first, second, third = p[i], a[i], b[i]
        p[i] = third + g[i]
        a[i] = first
        b[i] = second


def traffic_3(p, g, a, b, c):
    for i in prange(p.size):
        first, second, third, fourth = p[i], a[i], b[i], c[i]
        p[i] = fourth + g[i]
        a[i] = first
        b[i] = second
        c[i] = third


def traffic_4(p, g, a, b, c, d):
    for i in prange(p.size):
        first, second, third, fourth, fifth = p[i], a[i], b[i], c[i], d[i]
        p[i] = fifth + g[i]
        a[i] = first
        b[i] = second
        c[i] = third
        d[i] = fourth


#: The loops by the number of states.
TRAFFIC = (traffic_0, traffic_1, traffic_2, traffic_3, traffic_4)


def line_aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """An uninitialized 1-D array whose first element starts a cache line. The library's own would make the limit
    depend on the commit that it measures."""
    raw = np.empty(size * dtype.itemsize + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size * dtype.itemsize].view(dtype)


def bind(size: int, dtype: Any, states: int, threads: int) -> Callable[[], None]:
    """A call of the limit of a step: ``size`` parameters of a dtype, a number of states, at most so many threads.

    It runs over buffers of its own, ``(3 + 2 * states) * size`` elements of traffic.
    """
    useful = min(threads, max(1, size // GRAIN))
    buffers = [line_aligned(size, np.dtype(dtype)) for _ in range(2 + states)]
    for buffer in buffers:
        buffer.fill(1e-3)
    call = partial(compiled(states, useful > 1), *buffers)
    call()
    if useful in (1, numba.config.NUMBA_NUM_THREADS):  # type: ignore[attr-defined]
        return call

    def masked() -> None:
        before = numba.get_num_threads()
        numba.set_num_threads(useful)
        call()
        numba.set_num_threads(before)

    return masked


@cache
def compiled(states: int, parallel: bool) -> Any:
    """A loop as a numba function. numba's cache knows it by its qualified name, which hence tells apart what differs:
    the options, and the name by which the module was imported (asv's benchmarks have one of their own)."""
    loop = TRAFFIC[states]
    copy = types.FunctionType(loop.__code__, loop.__globals__, loop.__name__)
    copy.__module__ = loop.__module__
    copy.__qualname__ = f"{loop.__name__}.{'parallel' if parallel else 'serial'}.{loop.__module__.replace('.', '_')}"
    dispatcher = numba.njit(parallel=parallel, error_model="numpy")(copy)
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # no writable directory for the cache
        dispatcher = numba.njit(parallel=parallel, error_model="numpy")(copy)
    return dispatcher
