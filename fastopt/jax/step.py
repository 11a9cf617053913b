"""A rule's step over pytrees of JAX arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastopt.backend.process import resolve_threads
from fastopt.errors import quoted
from fastopt.jax import ffi, rows
from fastopt.jax.trees import check_dtype, leaves_like
from fastopt.rule import Rule


class StepState(NamedTuple):
    """What a step keeps: how many there were (an int32), and by its name each state, a pytree like the parameters.

    Where the rule keeps numbers between steps that do not follow from their count, because a schedule is traced or
    because they follow from gradients, these are ``scalars``, in the rule's order: each a float64, as two uint32, which
    ``numpy.asarray(state.scalars).view("float64")`` reads.
    """

    step: jax.Array
    states: dict[str, Any]
    scalars: Any = ()


def step(rule: Rule, *, threads: int | None = None) -> "Step":
    """A rule's step for pytrees: ``params, state = step(params, grads, state)``, with ``state = step.init(params)``.

    Leaves are float32, float64, bfloat16 or float16 arrays, gradients any of these. It works within ``jax.jit``,
    ``lax.scan`` and ``jax.vmap``, and writes in place what is donated. The bits are those of an
    :class:`fastopt.Optimizer` with ``rounding="nearest"``: of 16-bit parameters states are float32.

    Where ``rule.lr`` is a number or one of :mod:`fastopt.schedules`, coefficients are those that the rule computes in
    float64. Any other schedule is traced: it is called with the step (an int32, counted from 1) as part of the program;
    numbers that the rule keeps between steps are then a part of the state. The rule is kept for as long as the process
    lives: programs ask for it by its text.

    Sums over all parameters, as Prodigy has them, are those over all leaves, with :func:`jax.vmap` over those of each
    model by itself.

    TypeError if the C backend has no kernel for the rule, or if it has a stage. BackendError without the C backend.
    """
    return Step(rule, threads)


class Step:
    """What :func:`step` returns."""

    def __init__(self, rule: Rule, threads: int | None = None) -> None:
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be a rule, such as fastopt.AdamW(), not {quoted(rule)}")
        if not isinstance(rule.kernel, str):
            raise TypeError(f"rule must have a kernel of the C backend, not {quoted(rule)}, whose kernel is for numba")
        if rule.stage is not None:
            raise TypeError(f"rule must be one without a stage, which is NumPy's work, not {quoted(rule)}")
        resolve_threads(threads)
        ffi.register()
        self.rule, self.threads = rule, threads
        self._source = rows.source(rule)
        row, _ = (rule.replace(lr=0.0) if self._source.traced else rule).rows(np.dtype(np.float64))
        self._size = row.array.size
        self._runs = bool(rule.scalars) and (self._source.traced or rule.totals)

    def __reduce__(self) -> tuple:  # so that another process knows the rule, and XLA the handlers
        return Step, (self.rule, self.threads)

    def init(self, params: Any) -> StepState:
        """The state before the first step of parameters, whose shapes it has."""
        leaves, tree = jax.tree.flatten(params)
        for leaf in leaves:
            check_dtype("params", leaf)
        states = {
            name: jax.tree.unflatten(
                tree, [jnp.full(jnp.shape(leaf), float(first), ffi.computes(leaf)) for leaf in leaves]
            )
            for name, first in self.rule.states.items()
        }
        return StepState(
            jnp.zeros((), jnp.int32), states, jnp.array(ffi.first_scalars(self.rule)) if self._runs else ()
        )

    def __call__(self, params: Any, grads: Any, state: StepState) -> tuple[Any, StepState]:
        """The parameters and the state after a step. TypeError or ValueError, which name what does not fit."""
        leaves, tree = jax.tree.flatten(params)
        gradients = leaves_like("grads", grads, "params", leaves, tree)
        kept = []
        if not isinstance(state, StepState) or set(state.states) != set(self.rule.states):
            expected = ", ".join(self.rule.states) or "none"
            raise TypeError(f"state must be a StepState with the states {expected}, not {quoted(state)}")
        if self._runs and getattr(state.scalars, "shape", None) != (len(self.rule.scalars), 2):
            raise TypeError(
                f"state must be a StepState with the scalars {', '.join(self.rule.scalars)}, not {quoted(state)}"
            )
        for name in self.rule.states:
            kept.append(leaves_like(f"state.states[{name!r}]", state.states[name], "params", leaves, tree))
        count = jnp.asarray(state.step)
        if count.shape != () or not jnp.issubdtype(count.dtype, jnp.integer):
            raise TypeError(f"state.step must be a whole number, not {quoted(state.step)}")
        number = ffi.following(count.astype(jnp.int32))
        given = self._given(number, state)

        def row(dtype: np.dtype) -> jax.Array:
            return ffi.row(self._source, number, given, self._size, dtype)

        spans = list(zip(leaves, gradients, *kept, strict=True))
        if self.rule.sums is None:
            found = ffi.update(self.rule.kernel, row, spans, threads=self.threads)
            after = [ffi.advance(self._source, number, given)] if self._runs else []
        else:
            found, after = ffi.adapted_update(self.rule, self._source, number, given, spans, self.threads)
        new, *states = (jax.tree.unflatten(tree, [each[index] for each in found]) for index in range(1 + len(kept)))
        return new, StepState(number, dict(zip(self.rule.states, states, strict=True)), *after)

    def _given(self, number: jax.Array, state: StepState) -> list[jax.Array]:
        """What of a step is traced: the learning rate, a float32, or float64 where JAX has that, and the scalars."""
        scalars = [state.scalars] if self._runs else []
        if not self._source.traced:
            return scalars
        lr = jnp.asarray(self.rule.lr(number))  # type: ignore[operator, arg-type]
        if lr.shape != () or not jnp.issubdtype(lr.dtype, jnp.number):
            raise TypeError(f"{type(self.rule).__name__}: lr must give a number, not {quoted(lr)}")
        return [lr.astype(jnp.result_type(float)), *scalars]
