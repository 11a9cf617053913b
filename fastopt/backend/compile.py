"""Kernels as machine code: compiled once a signature, cached on disk, and run with fewer threads if asked for."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numba import get_num_threads, set_num_threads

from fastopt.backend.program import Call
from fastopt.backend.versions import Terms, replacements
from fastopt.kernels import twin

#: Held in parallel regions: of two at once, numba's threading layer "workqueue" ends the process.
region = threading.Lock()

_lock = threading.Lock()
dispatchers: dict[Any, Any] = {}


def specialize(kernel: Any, dtype: np.dtype, signature: tuple, parallel: bool, terms: Terms | None = None) -> Any:
    """A dispatcher with one signature: so no two processes write different machine code to one cache entry.

    With ``terms``, that of the kernel's version for rows that leave these terms.
    """
    return once((kernel, dtype, parallel, terms), _compile, kernel, dtype, signature, parallel, terms)


def once(key: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function that compiles gives; it is called once for each key, in a thread of its own.

    Signal handlers run in the main thread alone. An exception of one within a compilation can end the process.
    """
    if key not in dispatchers:
        with _lock:
            pass  # until a compilation that an interrupt has left behind is done
        with ThreadPoolExecutor(1, "fastopt-compiler") as thread:
            thread.submit(_keep, key, function, arguments).result()
    return dispatchers[key]


def _keep(key: Any, function: Callable[..., Any], arguments: tuple) -> None:
    with _lock:
        if key not in dispatchers:
            dispatchers[key] = function(*arguments)


def _compile(kernel: Any, dtype: np.dtype, signature: tuple, parallel: bool, terms: Terms | None) -> Any:
    variant, options = ("parallel", {"parallel": True}) if parallel else ("serial", {"nogil": True})
    variant, replaced = f"{variant}.{dtype.name}", {}
    if terms:
        variant, replaced = f"{variant}.{terms.value}", replacements(kernel, terms)
        # Such kernels allocate nothing. So numba need not count references to arrays, which takes a third of a call,
        # and which an exception would leave behind.
        options["_nrt"] = False
    dispatcher = twin(kernel, variant, replaced, **options)
    try:
        dispatcher.enable_caching()
        dispatcher.compile(signature)
    except Exception:  # no writable cache directory, a damaged cache, a full disk: compile without it
        dispatcher = twin(kernel, variant, replaced, **options)
        dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


def with_threads(threads: int, calls: list[Call]) -> list[Call]:
    """The calls of parallel kernels, made with at most so many threads."""
    if threads >= numba.config.NUMBA_NUM_THREADS:
        return calls
    lower, restore = once(_thread_limiters, _thread_limiters)
    before = np.zeros(1, np.int64)
    return [(lower, threads, before), *calls, (restore, before)]


def _thread_limiters() -> tuple[Any, Any]:
    """Functions that lower and restore the number of threads, which belongs to the thread that calls.

    They are compiled, so that :func:`fastopt.backend.program.run` is not interrupted in them. numba cannot cache them.
    """

    @numba.njit("(int64, int64[::1])")
    def lower(threads, before):
        before[0] = get_num_threads()
        set_num_threads(min(threads, before[0]))

    @numba.njit("(int64[::1],)")
    def restore(before):
        set_num_threads(before[0])

    lower(1, before := np.zeros(1, np.int64))  # the first call runs Python code, to learn the types
    restore(before)
    return lower, restore
