"""The handlers of the library that XLA calls, as functions of JAX arrays."""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastopt.backend.process import resolve_threads
from fastopt.capi import get_library
from fastopt.jax import rows
from fastopt.rule import Rule


@cache
def register() -> None:
    """Makes the handlers known to XLA, once. BackendError, which says why, if there is no C backend."""
    library = ctypes.CDLL(get_library())
    library.fastopt_xla_set_rows(rows.fill, rows.adapt, rows.advance)
    for name in ("fastopt_xla_step", "fastopt_xla_adapted_step", "fastopt_xla_row", "fastopt_xla_advance"):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")


def row(source: rows.Source, step: jax.Array, given: Sequence[jax.Array], size: int, dtype: np.dtype) -> jax.Array:
    """The row of coefficients of a step (an int32, from 1), of which there are ``size``.

    ``given`` are what is a number of the program's: the learning rate, and the rule's scalars, as in
    :func:`first_scalars`.
    """
    call = jax.ffi.ffi_call("fastopt_xla_row", jax.ShapeDtypeStruct((size,), dtype), vmap_method="sequential")
    return call(step, *given, rule=source.name, window=np.int64(source.ahead))


def first_scalars(rule: Rule) -> np.ndarray:
    """A rule's scalars before the first step: float64, which programs need not know, as pairs of uint32."""
    return np.array([*rule.scalars.values()], np.float64).view(np.uint32).reshape(-1, 2)


def advance(source: rows.Source, step: jax.Array, given: Sequence[jax.Array]) -> jax.Array:
    """The scalars after a step, given the learning rate, and them before it."""
    result = jax.ShapeDtypeStruct(given[1].shape, np.uint32)
    return jax.ffi.ffi_call("fastopt_xla_advance", result, vmap_method="sequential")(step, *given, rule=source.name)


class Required(NamedTuple):
    """What must be zero when a program runs, or the step is refused with this sentence."""

    sentence: str
    number: jax.Array


def update(
    kernel: str,
    row: Callable[[np.dtype], jax.Array],
    spans: Sequence[Sequence[Any]],
    *,
    reads: bool = True,
    required: Required | None = None,
    threads: int | None = None,
) -> list[list[jax.Array]]:
    """Applies a kernel to parameters, each with its gradient and its states: for each, new parameters and states.

    One call for each dtype that is computed in, whose coefficients ``row`` gives; in place where XLA may overwrite.
    Unless it ``reads`` parameters the kernel gives the step alone, as if they were zero, in new memory and in the dtype
    to which JAX promotes gradients and states.
    """
    attributes: dict[str, Any] = {"kernel": kernel, "reads": np.int64(reads)} | _engine(threads)
    after: list[jax.Array] = []
    if required is not None:
        after.append(jnp.asarray(required.number, jnp.float32))
        attributes["required"] = required.sentence
    found: list[list[jax.Array]] = [[]] * len(spans)
    dtypes = [computes(_dtype(span, reads)) for span in spans]
    for dtype in sorted(set(dtypes), key=str):
        places = [place for place, each in enumerate(dtypes) if each == dtype]
        new, _ = _call("fastopt_xla_step", [row(dtype)], [spans[place] for place in places], after, [], attributes)
        for place, each in zip(places, new, strict=True):
            found[place] = each
    return found


def adapted_update(
    rule: Rule,
    source: rows.Source,
    step: jax.Array,
    given: Sequence[jax.Array],
    spans: Sequence[Sequence[Any]],
    threads: int | None,
) -> tuple[list[list[jax.Array]], list[jax.Array]]:
    """As :func:`update`, by a rule whose coefficients follow from sums over each parameter: see :attr:`Rule.sums`.

    ``step`` and ``given`` are those of :func:`row`. The scalars after the step come second, if they are among these.
    """
    attributes: dict[str, Any] = {"kernel": rule.kernel, "sum": rule.sums, "rule": source.name} | _engine(threads)
    scalars = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in given if each.dtype == np.uint32]
    before, count = [step, *given], {"given": np.int64(len(given))}
    return _call("fastopt_xla_adapted_step", before, spans, [], scalars, attributes | count)


def _engine(threads: int | None) -> dict[str, np.int64]:
    return {"threads": np.int64(min(resolve_threads(threads), 2**31 - 1)), "isa": np.int64(_isa())}


def _call(
    target: str,
    before: list[jax.Array],
    spans: Sequence[Sequence[Any]],
    after: list[jax.Array],
    others: list[jax.ShapeDtypeStruct],
    attributes: dict[str, Any],
) -> tuple[list[list[jax.Array]], list[jax.Array]]:
    """New parameters and states by a handler, and its ``others`` results. Operands are these besides the spans'."""
    reads = attributes.get("reads", True)
    operands = list(before)
    results: list[jax.ShapeDtypeStruct] = []
    aliases: dict[int, int] = {}
    ends = []
    for p, g, *states in spans:
        first, place = len(operands), len(results)
        if reads:
            aliases[first] = place
        for index in range(len(states)):
            aliases[first + 2 + index] = place + 1 + index
        operands += map(jnp.asarray, (p, g, *states))
        results.append(jax.ShapeDtypeStruct(jnp.shape(p), _dtype((p, g, *states), reads)))
        results += [jax.ShapeDtypeStruct(jnp.shape(each), jnp.result_type(each)) for each in states]
        ends.append(len(results))
    call = jax.ffi.ffi_call(target, [*results, *others], vmap_method="sequential", input_output_aliases=aliases)
    flat = call(*operands, *after, **attributes)
    return [list(flat[start:end]) for start, end in zip([0, *ends], ends, strict=False)], list(flat[len(results) :])


def _dtype(span: Sequence[Any], reads: bool) -> np.dtype:
    """That of new parameters."""
    return jnp.result_type(span[0]) if reads else jnp.result_type(*span[1:])


def following(count: jax.Array) -> jax.Array:
    """One more, but no more than the largest number."""
    last = jnp.iinfo(jnp.int32).max
    return jnp.where(count < last, count + 1, last)


def coefficients(kernel: str) -> tuple[str, ...]:
    """The names of a kernel's coefficients, in order."""
    from fastopt.backend import c

    return c.kernels()[kernel][1]


def computes(leaf: Any) -> np.dtype:
    """The dtype in which kernels compute for parameters that are stored so."""
    return np.dtype(np.float64 if jnp.result_type(leaf) == np.float64 else np.float32)


def _isa() -> int:
    """The instruction set of ``FASTOPT_ISA``, or -1: the best one of the processor that the program will run on."""
    from fastopt.backend import c

    return c.isa() if os.environ.get("FASTOPT_ISA") else -1
