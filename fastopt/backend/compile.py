"""Kernels as machine code: compiled once a signature, cached on disk, and run with fewer threads if asked for."""

import atexit
import os
import threading
from _thread import start_new_thread
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import numba
import numpy as np
from numba import get_num_threads, set_num_threads

from fastopt.backend import drivers
from fastopt.backend.memory import Array, Constant, Number, arguments, call, function_address, parts
from fastopt.backend.program import Call
from fastopt.backend.versions import Terms, replacements
from fastopt.codecs import CODECS
from fastopt.kernels import twin
from fastopt.kernels.blend import blend
from fastopt.sizes import CHUNK, LANES
from fastopt.storages import STORAGES
from fastopt.sums import SUMS


class Way(Enum):
    """How a loop gets at the numbers that a kernel computes with."""

    IN_PLACE = "in place"
    BFLOAT16 = "bfloat16"  #: all of them are stored so, and a chunk of them is decoded, stepped and encoded at once
    MIXED = "mixed"  #: some are stored so, and the others in place
    TILES = "tiles"


#: The loop over pieces, and that of one thread.
_LOOPS = {
    Way.IN_PLACE: (drivers.spans, drivers.spans_of_share),
    Way.BFLOAT16: (drivers.spans, drivers.spans_of_share),
    Way.MIXED: (drivers.tiles, drivers.mixed_of_share),
    Way.TILES: (drivers.tiles, drivers.tiles_of_share),
}

_TABLE, _NUMBERS = numba.int64[:, ::1], numba.int64[::1]

#: Held in parallel regions: of two at once, numba's threading layer "workqueue" ends the process.
region = threading.Lock()

_lock = threading.Lock()
dispatchers: dict[Any, Any] = {}


def specialize(kernel: Any, dtype: np.dtype, signature: tuple, parallel: bool, terms: Terms | None = None) -> Any:
    """A dispatcher with one signature: so no two processes write different machine code to one cache entry.

    With ``terms``, that of the kernel's version for rows that leave these terms.
    """
    return once((kernel, dtype, parallel, terms), _specialize, kernel, dtype, signature, parallel, terms)


def driver(
    kernel: Any, dtype: np.dtype, buffers: int, parallel: bool, terms: Terms | None, way: Way
) -> tuple[Any, int]:
    """A loop of :mod:`fastopt.backend.drivers` for a kernel of so many buffers.

    Comes with its last argument, the kernel's address. One of the user's own is compiled into its loop, and has none.
    """
    if terms is None:
        return once(
            ("own", kernel, dtype, buffers, parallel, way), _own_driver, kernel, dtype, buffers, parallel, way
        ), 0
    loop = once(("driver", parallel, way), _driver, parallel, way)
    address = _chunks_address if way is Way.BFLOAT16 else _kernel_address
    return loop, once((address, kernel, dtype, terms), address, kernel, dtype, buffers, terms)[0]


def sum_driver(name: str, dtype: np.dtype, parallel: bool) -> Any:
    """The loop :func:`fastopt.backend.drivers.sums` over a sum, computed in a dtype."""
    return once(("sums", name, dtype, parallel), _sum_driver, name, dtype, parallel)


def codec_address(name: str, loop: str, dtype: np.dtype) -> int:
    """The address of a compiled ``loop``, a field of :class:`fastopt.codecs.Codec`, of a storage and for a dtype."""
    return once((name, loop, dtype), _codec_address, name, loop, dtype)[0]


def blend_address(dtype: np.dtype) -> int:
    """The address of the compiled kernel ``blend`` for a dtype."""
    return once((blend, dtype), _blend_address, dtype)[0]


def learn(arrays: Iterable[np.ndarray]) -> None:
    """Has numba look up the types of arrays, which it does once for each kind of them in a process.

    It does so in Python code, when a dispatcher is called with one. In a step, an interrupt could come in between.
    """
    for array in arrays:
        once((_nothing, array.dtype, array.ndim), _learn, array)


def once(key: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function that compiles gives; it is called once for each key, in a thread of its own.

    Signal handlers run in the main thread alone. An exception of one within a compilation can end the process; and one
    within a wait for a future or an event of Python's can leave a lock taken for ever, on which the thread then hangs,
    and the process at its end. So the thread is waited for by a bare lock.
    """
    if key not in dispatchers:
        _finish_compiling()
        done = threading.Lock()
        failures: list[BaseException] = []
        done.acquire()
        start_new_thread(_keep, (key, function, arguments, failures, done.release))
        done.acquire()
        if failures:
            raise failures.pop()
    return dispatchers[key]


def _keep(key: Any, function: Callable[..., Any], arguments: tuple, failures: list, done: Callable[[], None]) -> None:
    try:
        with _lock:
            if key not in dispatchers:
                dispatchers[key] = function(*arguments)
    except BaseException as error:
        failures.append(error)
    finally:
        done()


@atexit.register
def _finish_compiling() -> None:
    """Waits for a compilation that an interrupt has left behind."""
    with _lock:
        pass


def _renew_lock() -> None:
    """In a forked child the thread that compiles does not go on: it would never give its lock back."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _specialize(kernel: Any, dtype: np.dtype, signature: tuple, parallel: bool, terms: Terms | None) -> Any:
    return _compile(kernel, dtype, signature, parallel, replacements(kernel, terms) if terms else {}, terms)


def _nothing(array):
    """Takes an array of any type."""


def _learn(array: np.ndarray) -> Any:
    dispatcher = _compile(_nothing, array.dtype, (numba.typeof(array),), False, {}, variant=f"{array.ndim}d")
    dispatcher(array)
    return dispatcher


def _driver(parallel: bool, way: Way) -> Any:
    if way is not Way.MIXED:
        return _loop(parallel, way, {"apply": call}, Terms.ALL)
    names = {"apply": call, **_codec_of_chunks(Terms.ALL)}
    return _loop(parallel, way, {"chunk": _inlined(drivers.step_mixed, "kernels", names, Terms.ALL)}, Terms.ALL)


def _own_driver(kernel: Any, dtype: np.dtype, buffers: int, parallel: bool, way: Way) -> Any:
    called = twin(kernel, _variant(dtype, False, None), {}, **_options(False, None))
    names = {"kernel": called, "arguments": arguments(_kernel_arguments(dtype, buffers))}
    name = f"{called.py_func.__module__}.{called.py_func.__qualname__}"
    return _loop(parallel, way, {"apply": twin(drivers.applied, name, names, **_options(False, None))}, None, name)


def _loop(parallel: bool, way: Way, names: dict[str, Any], terms: Terms | None, variant: str = "kernels") -> Any:
    loop, share = _LOOPS[way]
    work = twin(share, variant, names, **_options(False, terms))
    signature: tuple = (_TABLE, _NUMBERS, _TABLE, *(_TABLE,) * (loop is drivers.tiles), numba.int64)
    return _compile(loop, np.dtype(np.int64), signature, parallel, {"work": work}, terms, variant)


def _sum_driver(name: str, dtype: np.dtype, parallel: bool) -> Any:
    wanted = SUMS[name]
    taken = [Array(dtype, drivers.BUFFERS + place) for place in range(len(wanted.streams))]
    taken += [Array(dtype, drivers.K, drivers.K_SIZE)]
    options: dict[str, Any] = {"nogil": True, "_nrt": False}
    # It is called for a row of lanes: in the loop that calls it, or it would take longer to call than to run.
    called = twin(wanted.loop, _variant(dtype, False, None), forceinline=True, **options)
    variant = f"{called.py_func.__module__}.{called.py_func.__qualname__}"
    names = {"kernel": called, "arguments": parts(taken), "numbers": len(wanted.numbers)}
    names |= {"all_lanes": LANES * len(wanted.numbers), "all_contributed": drivers.STRETCH * len(wanted.numbers)}
    work = twin(drivers.sums_of_share, variant, names, **options)
    signature = _TABLE, _NUMBERS, numba.float64[:, ::1], numba.float64[:, ::1], _TABLE
    return _compile(drivers.sums, dtype, signature, parallel, {"work": work}, variant=variant)


def _codec_address(name: str, loop: str, dtype: np.dtype) -> tuple[int, Any]:
    codec, storage = CODECS[name], STORAGES[name]
    values = Array(dtype, drivers.VALUES)
    parts = [Array(part.dtype, drivers.PART + place, every=part.every) for place, part in enumerate(storage.parts)]
    taken: list[Any] = [*parts, values] if loop == "decode" else [values, *parts]
    if loop == "encode_stochastic":
        taken += [Array(np.dtype(np.uint32), drivers.NOISE), Number(np.dtype(np.uint32), drivers.NOISE_SHIFT)]
    taken += map(Constant, codec.arguments)
    return _address(f"{name}.{loop}", dtype, getattr(codec, loop), taken)


def _kernel_address(kernel: Any, dtype: np.dtype, buffers: int, terms: Terms) -> tuple[int, Any]:
    names = replacements(kernel, terms, refusing=False)
    called = twin(kernel, _variant(dtype, False, terms), names, **_options(False, terms))
    name = f"{called.py_func.__module__}.{called.py_func.__qualname__}"
    return _address(name, dtype, called, _kernel_arguments(dtype, buffers), terms)


def _chunks_address(kernel: Any, dtype: np.dtype, buffers: int, terms: Terms) -> tuple[int, Any]:
    """As :func:`_kernel_address`, of a loop over numbers that all are bfloat16."""
    names = replacements(kernel, terms, refusing=False)
    called = _inlined(kernel, _variant(dtype, False, terms), names, terms)
    name = f"{called.py_func.__module__}.{called.py_func.__qualname__}"
    names = {"kernel": called, "streams": buffers, **_codec_of_chunks(terms)}
    names["arguments"] = arguments([Array(dtype, drivers.K, drivers.K_SIZE)])
    names = {"chunk": _inlined(drivers.step_chunk, name, names, terms), "all_numbers": CHUNK * buffers}
    dispatcher = _compile(drivers.chunks, dtype, (numba.int64,), False, names, terms, variant=name)
    return function_address(dispatcher), dispatcher


def _codec_of_chunks(terms: Terms) -> dict[str, Any]:
    return {each: _inlined(getattr(CODECS["bfloat16"], each), "inlined", {}, terms) for each in ("decode", "encode")}


def _inlined(function: Any, variant: str, names: dict[str, Any], terms: Terms) -> Any:
    return twin(function, variant, names, forceinline=True, **_options(False, terms))


def _kernel_arguments(dtype: np.dtype, buffers: int) -> list[Array]:
    """Those that a row has for a kernel."""
    places = [drivers.BUFFERS + place for place in range(buffers)]
    return [*(Array(dtype, place) for place in places), Array(dtype, drivers.K, drivers.K_SIZE)]


def _blend_address(dtype: np.dtype) -> tuple[int, Any]:
    taken = [Array(dtype, each) for each in (drivers.VALUES, drivers.PART, drivers.OTHER_PART)]
    return _address("blend", dtype, twin(blend, _variant(dtype, False, None), nogil=True), taken)


def _address(name: str, dtype: np.dtype, function: Any, taken: list, terms: Terms | None = None) -> tuple[int, Any]:
    """The address of a function that takes a row's, and the dispatcher, which keeps it alive."""
    names = {"codec": function, "arguments": arguments(taken)}
    dispatcher = _compile(drivers.coded, dtype, (numba.int64,), False, names, terms, variant=name)
    return function_address(dispatcher), dispatcher


def _variant(dtype: np.dtype, parallel: bool, terms: Terms | None) -> str:
    return ".".join(["parallel" if parallel else "serial", dtype.name, *([terms.value] if terms else [])])


def _options(parallel: bool, terms: Terms | None) -> dict[str, bool]:
    """What numba is told. Kernels that come with fastopt allocate nothing: so it need not count references to arrays,
    which takes a third of a call, and which an exception would leave behind."""
    return ({"parallel": True} if parallel else {"nogil": True}) | ({"_nrt": False} if terms else {})


def _compile(
    function: Any,
    dtype: np.dtype,
    signature: tuple,
    parallel: bool,
    names: dict[str, Any],
    terms: Terms | None = None,
    variant: str = "",
) -> Any:
    variant = ".".join(filter(None, [_variant(dtype, parallel, terms), variant]))
    dispatcher = twin(function, variant, names, **_options(parallel, terms))
    try:
        dispatcher.enable_caching()
        dispatcher.compile(signature)
    except Exception:  # no writable cache directory, a damaged cache, a full disk: compile without it
        dispatcher = twin(function, variant, names, **_options(parallel, terms))
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
