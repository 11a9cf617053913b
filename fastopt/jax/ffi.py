"""The two handlers of the library that XLA calls, as functions of JAX arrays."""

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np

from fastopt.backend.process import resolve_threads
from fastopt.capi import get_library
from fastopt.jax import rows

#: How numbers of parameters, gradients and states may be stored.
STORED = ("float32", "float64", "bfloat16", "float16")


@cache
def register() -> None:
    """Makes the handlers known to XLA, once. BackendError, which says why, if there is no C backend."""
    library = ctypes.CDLL(get_library())
    library.fastopt_xla_set_rows(rows.fill)
    for name in ("fastopt_xla_step", "fastopt_xla_row"):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")


def row(source: rows.Source, step: jax.Array, lr: Any, size: int, dtype: np.dtype) -> jax.Array:
    """The row of coefficients of a step (an int32, from 1), of which there are ``size``.

    ``lr`` is the learning rate where the source is traced, or else None.
    """
    call = jax.ffi.ffi_call("fastopt_xla_row", jax.ShapeDtypeStruct((size,), dtype), vmap_method="sequential")
    operands = (step,) if lr is None else (step, lr)
    return call(*operands, rule=source.name, window=np.int64(source.ahead))


def update(
    kernel: str, k: jax.Array, spans: Sequence[Sequence[jax.Array]], *, reads: bool = True, threads: int | None = None
) -> list[list[jax.Array]]:
    """Applies a kernel to parameters, each with its gradient and its states: for each, new parameters and states.

    All in one call, in place where XLA may overwrite them. Without ``reads`` the kernel gives the step alone, as if
    parameters were zero, and in new memory.
    """
    width = len(spans[0]) - 1 if spans else 0  # results of each: without the gradient
    operands, results, aliases = [k], [], {}
    for span in spans:
        p, g, *states = span
        first, place = len(operands), len(results)
        if reads:
            aliases[first] = place
        for index in range(len(states)):
            aliases[first + 2 + index] = place + 1 + index
        operands += [p, g, *states]
        results += [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (p, *states)]
    call = jax.ffi.ffi_call("fastopt_xla_step", results, vmap_method="sequential", input_output_aliases=aliases)
    options = {"threads": np.int64(min(resolve_threads(threads), 2**31 - 1)), "isa": np.int64(_isa())}
    flat = call(*operands, kernel=kernel, reads=np.int64(reads), **options)
    return [list(flat[start : start + width]) for start in range(0, len(flat), width)] if spans else []


def _isa() -> int:
    """The instruction set of ``FASTOPT_ISA``, or -1: the best one of the processor that the program will run on."""
    from fastopt.backend import c

    return c.isa() if os.environ.get("FASTOPT_ISA") else -1
