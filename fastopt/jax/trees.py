"""Pytrees whose leaves kernels can read."""

from typing import Any

import jax
import jax.numpy as jnp

from fastopt.buffers import DTYPES
from fastopt.errors import quoted


def check_dtype(name: str, leaf: Any) -> None:
    """TypeError, which names the argument, if a leaf is no array that kernels can read."""
    if not hasattr(leaf, "dtype"):
        raise TypeError(f"{name} must have arrays of {', '.join(DTYPES)}, not {quoted(leaf)}")
    if jnp.result_type(leaf).name not in DTYPES:
        raise TypeError(f"{name} must have arrays of {', '.join(DTYPES)}, not of {jnp.result_type(leaf).name}")


def leaves_like(name: str, given: Any, model: str, leaves: list, tree: Any) -> list:
    """The leaves of a pytree that must be like another one, ``model``: of its structure and its shapes.

    TypeError or ValueError, which name the argument, if they are not.
    """
    found, structure = jax.tree.flatten(given)
    if structure != tree:
        raise ValueError(f"{name} must have the structure of {model}, {tree}, not {structure}")
    for leaf, like in zip(found, leaves, strict=True):
        check_dtype(model, like)
        check_dtype(name, leaf)
        if jnp.shape(leaf) != jnp.shape(like):
            raise ValueError(f"{name} must have the shapes of {model}, {jnp.shape(like)}, not {jnp.shape(leaf)}")
    return found
