"""optax's transformations that keep moments, each by a kernel with the coefficients of optax's formula."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax import GradientTransformation

from fastopt.errors import quoted
from fastopt.jax import ffi
from fastopt.jax.trees import leaves_like

Number = Any  # a number, or an array that stands for one in a program
Values = Mapping[str, Number]

_COUNTS = ("count", "count_m2", "t")  # what optax calls the number of updates in its states


def by_kernel(
    kernel: str,
    like: GradientTransformation,
    coefficients: Values | Callable[..., Values],
    *,
    required: ffi.Required | None = None,
    states: Sequence[str] = (),
) -> GradientTransformation:
    """optax's transformation ``like`` by a kernel.

    The kernel's states are the arrays of optax's state in its order, or its fields ``states``. ``coefficients`` may
    follow from the number of the update, from 1, or from several, where the state has several counts. What they leave
    out is 1 for ``grad_scale``, or else 0: no weight decay, and a direction in the place of new parameters.
    """
    ffi.register()
    order = ffi.coefficients(kernel)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        counts = {name: ffi.following(getattr(state, name)) for name in state._fields if name in _COUNTS}
        names = states or [name for name in state._fields if name not in counts]
        gradients, tree = jax.tree.flatten(updates)
        kept = [leaves_like(f"state.{name}", getattr(state, name), "updates", gradients, tree) for name in names]
        values = {"grad_scale": 1.0, "l2": 0.0, "shrink": 0.0, "zero": 0.0}
        values |= coefficients(*counts.values()) if callable(coefficients) else coefficients

        def row(dtype: np.dtype) -> jax.Array:
            return jnp.stack([jnp.asarray(values[name]).astype(dtype) for name in order])

        spans = list(zip(gradients, gradients, *kept, strict=True))  # parameters are not read
        found = ffi.update(kernel, row, spans, reads=False, required=required)
        new, *after = (jax.tree.unflatten(tree, [each[index] for each in found]) for index in range(1 + len(names)))
        return new, state._replace(**counts, **dict(zip(names, after, strict=True)))

    return GradientTransformation(like.init, update)


def betas(**values: Number) -> dict[str, Number]:
    """Betas, and one minus each."""
    return values | {f"one_minus_{name}": 1 - value for name, value in values.items()}


def corrected(b1: Number, b2: Number, count: Number, *, nesterov: bool = False) -> dict[str, Number]:
    """What kernels of corrected moments take in common. Step sizes are negative: kernels subtract."""
    values = betas(beta1=b1, beta2=b2) | {"root": 1 / jnp.sqrt(1 - b2**count), "step_size": -1 / (1 - b1**count)}
    if nesterov:  # optax corrects the momentum with the next count
        values |= {"grad_size": -(1 - b1) / (1 - b1**count), "momentum_size": -b1 / (1 - b1 ** ffi.following(count))}
    return values


def refuse(name: str, **flags: bool) -> None:
    """ValueError if one of an optimizer's flags is set, for which it has no kernel."""
    for flag, value in flags.items():
        if value:
            raise ValueError(f"{name}: {flag} must be False, not {quoted(value)}: there is no kernel for it")


def required(sentence: str, value: Number, other: Number) -> ffi.Required | None:
    """That two numbers are the same: looked at now, or where they are a program's, when that runs."""
    difference = value - other
    if isinstance(difference, jax.core.Tracer):
        return ffi.Required(sentence, difference)
    if difference != 0:
        raise ValueError(f"{sentence}, not {quoted(value)}: there is no kernel for it")
    return None


def no_eps_root(name: str, eps_root: Number) -> ffi.Required | None:
    """As :func:`required`, that nothing is added in the root, where an optimizer's kernel has no place for it."""
    return required(f"{name}: eps_root must be 0", eps_root, 0.0)
