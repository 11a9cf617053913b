"""A rule's step over pytrees of JAX arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastopt.backend.process import resolve_threads
from fastopt.errors import quoted
from fastopt.jax import ffi, rows
from fastopt.rule import Rule

_LAST = 2**31 - 1


class StepState(NamedTuple):
    """What a step keeps: how many there were (an int32), and by its name each state, a pytree like the parameters."""

    step: jax.Array
    states: dict[str, Any]


def step(rule: Rule, *, threads: int | None = None) -> "Step":
    """A rule's step for pytrees: ``params, state = step(params, grads, state)``, with ``state = step.init(params)``.

    Leaves are float32, float64, bfloat16 or float16 arrays, gradients any of these. It works within ``jax.jit``,
    ``lax.scan`` and ``jax.vmap``, and writes in place what is donated. The bits are those of :class:`fastopt.Optimizer`;
    16-bit parameters have float32 states there and are rounded to nearest.

    Where ``rule.lr`` is a number or one of :mod:`fastopt.schedules`, coefficients are those that the rule computes in
    float64. Any other schedule is traced: it is called with the step (an int32, counted from 1) as part of the program.

    TypeError if the rule is none that the C backend has a kernel for. BackendError without the C backend.
    """
    return Step(rule, threads)


class Step:
    """What :func:`step` returns."""

    def __init__(self, rule: Rule, threads: int | None = None) -> None:
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be a rule, such as fastopt.AdamW(), not {quoted(rule)}")
        if not isinstance(rule.kernel, str):
            raise TypeError(f"rule must have a kernel of the C backend, not {quoted(rule)}, whose kernel is for numba")
        resolve_threads(threads)
        ffi.register()
        self.rule, self.threads = rule, threads
        self._source = rows.source(rule)
        self._size = len((rule.replace(lr=0.0) if self._source.traced else rule).coefficients(1))
        if self._source.traced and rule.scalars:
            raise TypeError(
                f"{type(rule).__name__}: lr must be a number or one of fastopt.schedules, not a function to trace: "
                f"the rule keeps {', '.join(rule.scalars)} between steps"
            )

    def init(self, params: Any) -> StepState:
        """The state before the first step of parameters, whose shapes it has."""
        leaves, tree = jax.tree.flatten(params)
        for leaf in leaves:
            _check_dtype("params", leaf)
        states = {
            name: tree.unflatten([jnp.full(jnp.shape(leaf), first, _computes(leaf)) for leaf in leaves])
            for name, first in self.rule.states.items()
        }
        return StepState(jnp.zeros((), jnp.int32), states)

    def __call__(self, params: Any, grads: Any, state: StepState) -> tuple[Any, StepState]:
        """The parameters and the state after a step. TypeError or ValueError, which name what does not fit."""
        leaves, tree = jax.tree.flatten(params)
        gradients = _leaves_like("grads", grads, leaves, tree)
        kept = []
        if not isinstance(state, StepState) or set(state.states) != set(self.rule.states):
            expected = ", ".join(self.rule.states) or "none"
            raise TypeError(f"state must be a StepState with the states {expected}, not {quoted(state)}")
        for name in self.rule.states:
            kept.append(_leaves_like(f"state.states[{name!r}]", state.states[name], leaves, tree))
        number = jnp.where(state.step < _LAST, state.step + 1, _LAST)
        lr = self._rate(number)
        spans = [list(map(jnp.asarray, span)) for span in zip(leaves, gradients, *kept, strict=True)]
        found: list[list[jax.Array]] = [[]] * len(spans)
        for dtype in sorted({_computes(leaf) for leaf in leaves}, key=str):
            places = [place for place, leaf in enumerate(leaves) if _computes(leaf) == dtype]
            k = ffi.row(self._source, number, lr, self._size, dtype)
            updated = ffi.update(self.rule.kernel, k, [spans[place] for place in places], threads=self.threads)
            for place, each in zip(places, updated, strict=True):
                found[place] = each
        params, *states = (tree.unflatten([each[index] for each in found]) for index in range(1 + len(kept)))
        return params, StepState(number, dict(zip(self.rule.states, states, strict=True)))

    def _rate(self, number: jax.Array) -> Any:
        """The learning rate of a step where it is traced: a float32, or float64 where JAX has that; or else None."""
        if not self._source.traced:
            return None
        lr = jnp.asarray(self.rule.lr(number))  # type: ignore[operator]
        if lr.shape != () or not jnp.issubdtype(lr.dtype, jnp.number):
            raise TypeError(f"{type(self.rule).__name__}: lr must give a number, not {quoted(lr)}")
        return lr.astype(jnp.result_type(float))


def _name(leaf: Any) -> str:
    return jnp.result_type(leaf).name


def _check_dtype(name: str, leaf: Any) -> None:
    if not hasattr(leaf, "dtype") or _name(leaf) not in ffi.STORED:
        shown = f"an array of {_name(leaf)}" if hasattr(leaf, "dtype") else quoted(leaf)
        raise TypeError(f"{name} must have arrays of {', '.join(ffi.STORED)}, not {shown}")


def _computes(leaf: Any) -> np.dtype:
    """The dtype in which kernels compute, and states are, for parameters that are stored so."""
    return np.dtype(np.float64 if _name(leaf) == "float64" else np.float32)


def _leaves_like(name: str, given: Any, leaves: list, tree: Any) -> list:
    """The leaves of a pytree that must be like that of the parameters: of its structure and its shapes."""
    found, structure = jax.tree.flatten(given)
    if structure != tree:
        raise ValueError(f"{name} must have the structure of params, {tree}, not {structure}")
    for leaf, like in zip(found, leaves, strict=True):
        _check_dtype("params", like)
        _check_dtype(name, leaf)
        if jnp.shape(leaf) != jnp.shape(like):
            raise ValueError(f"{name} must have the shapes of params, {jnp.shape(like)}, not {jnp.shape(leaf)}")
    return found
