"""Optimizers for JAX: whole steps over pytrees in one call of the compiled library, inside ``jax.jit``.

    import fastopt
    import fastopt.jax as fj

    step = fj.step(fastopt.AdamW(lr=1e-3))
    state = step.init(params)

    @partial(jax.jit, donate_argnums=(0, 2))
    def train(params, batch, state):
        grads = jax.grad(loss)(params, batch)
        return step(params, grads, state)  # in place, where params and state are donated

``fj.optax`` has optax's optimizers, with its states, over the same kernels: see :mod:`fastopt.jax.optax`.

It needs the C backend: XLA calls the library, and nothing is compiled but by XLA itself. CPU only.
"""

from typing import TYPE_CHECKING, Any

from fastopt.jax.step import Step, StepState, step

if TYPE_CHECKING:
    from fastopt.jax import optax

__all__ = ["Step", "StepState", "optax", "step"]


def __getattr__(name: str) -> Any:
    if name == "optax":  # which need not be installed for the rest
        from importlib import import_module

        return import_module("fastopt.jax.optax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
