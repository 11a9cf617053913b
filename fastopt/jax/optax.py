"""optax's optimizers over fastopt's kernels: ``fastopt.jax.optax.adamw(1e-3)`` in the place of ``optax.adamw(1e-3)``.

Each is optax's own chain, in which one call of the C library takes the place of the transformation that keeps moments.
Its states are optax's tuples, so a run can change over at any step, either way; ``optax.chain``,
``optax.inject_hyperparams``, ``optax.masked``, flax's ``TrainState`` and Orbax's checkpoints see nothing else.
Formulas, defaults and schedules (called with the count from 0) are optax's, and numbers agree to rounding: the program
computes corrections in float32, as there, and kernels work on 16-bit numbers in float32. Weight decay, the learning
rate and ``optax.apply_updates`` are left to XLA, which makes one loop of them.

================  =================================  ===================================================
here              kernels                            other than in optax
================  =================================  ===================================================
``adabelief``     ``adabelief``                      ``eps_root`` must be ``eps``, as it is by default; no ``nesterov``
``adadelta``      ``adadelta``
``adam(w)``       ``adam``, ``nadam``                ``eps_root`` must be 0
``adamax(w)``     ``adamax``
``lion``          ``lion``
``nadam(w)``      ``nadam``                          ``eps_root`` must be 0
``radam``         ``adam``, ``nadam``                ``eps_root`` must be 0
``rmsprop``       ``rmsprop``, ``rmsprop_centered``  ``eps_in_sqrt`` must be False; no ``bias_correction``
``sgd``           ``momentum``, ``nesterov``
``yogi``          ``yogi``
================  =================================  ===================================================

No kernel computes what optax does in ``adagrad`` (eps under the root), ``adan`` (looks ahead by 1 - b2, eps under the
root), ``amsgrad`` (the largest of corrected moments), ``rprop`` and the rest: use ``optax`` for them, or
:func:`fastopt.jax.step` for the rules of that name, which follow torch and the papers. Complex parameters are refused.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation, GradientTransformationExtraArgs

from fastopt.errors import quoted
from fastopt.jax import ffi

__all__ = [
    "adabelief", "adadelta", "adam", "adamax", "adamaxw", "adamw", "lion", "nadam", "nadamw", "radam", "rmsprop", "sgd",
    "yogi",
]  # fmt: skip

_Number = Any  # a number, or an array that stands for one in a program
_RateOrSchedule = Any
_Values = Mapping[str, _Number]


def adam(
    learning_rate: _RateOrSchedule,
    b1: _Number = 0.9,
    b2: _Number = 0.999,
    eps: _Number = 1e-8,
    eps_root: _Number = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.adam``. ValueError if ``eps_root`` is not 0."""
    moments = _scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov)
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


def adamw(
    learning_rate: _RateOrSchedule,
    b1: _Number = 0.9,
    b2: _Number = 0.999,
    eps: _Number = 1e-8,
    eps_root: _Number = 0.0,
    mu_dtype: Any = None,
    weight_decay: _RateOrSchedule = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.adamw``. ValueError if ``eps_root`` is not 0."""
    moments = _scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov)
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(moments, decay, optax.scale_by_learning_rate(learning_rate))


nadam = partial(adam, nesterov=True)
nadam.__doc__ = """``optax.nadam``. ValueError if ``eps_root`` is not 0."""
nadamw = partial(adamw, nesterov=True)
nadamw.__doc__ = """``optax.nadamw``. ValueError if ``eps_root`` is not 0."""


def adabelief(
    learning_rate: _RateOrSchedule,
    b1: _Number = 0.9,
    b2: _Number = 0.999,
    eps: _Number = 1e-16,
    eps_root: _Number = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.adabelief``. ValueError if ``eps_root`` is not ``eps``, or with ``nesterov``."""
    _refuse("adabelief", nesterov=nesterov)
    required = _required("adabelief: eps_root must be eps", eps_root, eps)

    def coefficients(count: _Number) -> _Values:
        return _moments(b1, b2, count) | {"eps": eps}

    like = optax.scale_by_belief(b1, b2, eps, eps_root)
    return optax.chain(
        _counted("adabelief", like, ("mu", "nu"), coefficients, required),
        optax.scale_by_learning_rate(learning_rate),
    )


def adadelta(
    learning_rate: _RateOrSchedule | None = None,
    rho: _Number = 0.9,
    eps: _Number = 1e-6,
    weight_decay: _RateOrSchedule = 0.0,
    weight_decay_mask: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.adadelta``."""
    values = {"step_size": -1.0, "rho": rho, "one_minus_rho": 1 - rho, "eps": eps}
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=weight_decay_mask),
        _transformation("adadelta", optax.scale_by_adadelta(rho, eps), ("e_g", "e_x"), lambda state: values),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamax(
    learning_rate: _RateOrSchedule, b1: _Number = 0.9, b2: _Number = 0.999, eps: _Number = 1e-8
) -> GradientTransformationExtraArgs:
    """``optax.adamax``."""
    return optax.chain(_scale_by_adamax(b1, b2, eps), optax.scale_by_learning_rate(learning_rate))


def adamaxw(
    learning_rate: _RateOrSchedule,
    b1: _Number = 0.9,
    b2: _Number = 0.999,
    eps: _Number = 1e-8,
    weight_decay: _RateOrSchedule = 1e-4,
    mask: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.adamaxw``."""
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(_scale_by_adamax(b1, b2, eps), decay, optax.scale_by_learning_rate(learning_rate))


def lion(
    learning_rate: _RateOrSchedule,
    b1: _Number = 0.9,
    b2: _Number = 0.99,
    mu_dtype: Any = None,
    weight_decay: _RateOrSchedule = 1e-3,
    mask: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.lion``."""

    def coefficients(count: _Number) -> _Values:
        return _betas(b1, b2) | {"step_size": -1.0}

    return optax.chain(
        _counted("lion", optax.scale_by_lion(b1, b2, mu_dtype), ("mu",), coefficients),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def radam(
    learning_rate: _RateOrSchedule,
    b1: _Number = 0.9,
    b2: _Number = 0.999,
    eps: _Number = 1e-8,
    eps_root: _Number = 0.0,
    threshold: _Number = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.radam``. ValueError if ``eps_root`` is not 0."""
    required = _required("radam: eps_root must be 0", eps_root, 0.0)
    longest = 2.0 / (1.0 - b2) - 1.0

    def coefficients(count: _Number) -> _Values:
        power = b2**count
        length = longest - 2 * count * power / (1 - power)
        tractable = length >= threshold
        rectified = jnp.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
        values = _moments(b1, b2, count, nesterov=nesterov)
        sizes = {name: value * jnp.where(tractable, rectified, 1.0) for name, value in values.items() if "size" in name}
        root = jnp.where(tractable, values["root"], 0.0)
        return values | sizes | {"root": root, "eps": jnp.where(tractable, eps, 1.0)}

    like = optax.scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov)
    return optax.chain(
        _counted("nadam" if nesterov else "adam", like, ("mu", "nu"), coefficients, required),
        optax.scale_by_learning_rate(learning_rate),
    )


def rmsprop(
    learning_rate: _RateOrSchedule,
    decay: _Number = 0.9,
    eps: _Number = 1e-8,
    initial_scale: _Number = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: _Number | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.rmsprop``. ValueError if ``eps_in_sqrt`` is not False, or with ``bias_correction``."""
    _refuse("rmsprop", eps_in_sqrt=eps_in_sqrt, bias_correction=bias_correction)
    values = {"step_size": -1.0, "alpha": decay, "one_minus_alpha": 1 - decay, "eps": eps}
    if centered:
        like = optax.scale_by_stddev(decay, eps, initial_scale, eps_in_sqrt=False)
        scaled = _transformation("rmsprop_centered", like, ("nu", "mu"), lambda state: values)
    else:
        like = optax.scale_by_rms(decay, eps, initial_scale, eps_in_sqrt=False)
        scaled = _transformation("rmsprop", like, ("nu",), lambda state: values)
    ahead = optax.identity() if momentum is None else _trace(momentum, nesterov)
    return optax.chain(scaled, optax.scale_by_learning_rate(learning_rate), ahead)


def sgd(
    learning_rate: _RateOrSchedule,
    momentum: _Number | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.sgd``."""
    moments = optax.identity() if momentum is None else _trace(momentum, nesterov, accumulator_dtype)
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


def yogi(
    learning_rate: _RateOrSchedule, b1: _Number = 0.9, b2: _Number = 0.999, eps: _Number = 1e-3
) -> GradientTransformationExtraArgs:
    """``optax.yogi``."""

    def coefficients(count: _Number) -> _Values:
        return _moments(b1, b2, count) | {"eps": eps}

    return optax.chain(
        _counted("yogi", optax.scale_by_yogi(b1, b2, eps), ("mu", "nu"), coefficients),
        optax.scale_by_learning_rate(learning_rate),
    )


# The transformations that keep moments


def _scale_by_adam(
    b1: _Number, b2: _Number, eps: _Number, eps_root: _Number, mu_dtype: Any, nesterov: bool
) -> GradientTransformation:
    required = _required("eps_root must be 0", eps_root, 0.0)

    def coefficients(count: _Number) -> _Values:
        return _moments(b1, b2, count, nesterov=nesterov) | {"eps": eps}

    like = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return _counted("nadam" if nesterov else "adam", like, ("mu", "nu"), coefficients, required)


def _scale_by_adamax(b1: _Number, b2: _Number, eps: _Number) -> GradientTransformation:
    def coefficients(count: _Number) -> _Values:
        return _moments(b1, b2, count) | {"eps": eps}

    return _counted("adamax", optax.scale_by_adamax(b1, b2, eps), ("mu", "nu"), coefficients)


def _trace(decay: _Number, nesterov: bool, accumulator_dtype: Any = None) -> GradientTransformation:
    values = {"step_size": -1.0, "momentum": decay, "one_minus_dampening": 1.0}
    like = optax.trace(decay, nesterov, accumulator_dtype)
    return _transformation("nesterov" if nesterov else "momentum", like, ("trace",), lambda state: values)


def _betas(b1: _Number, b2: _Number) -> dict[str, _Number]:
    return {"beta1": b1, "one_minus_beta1": 1 - b1, "beta2": b2, "one_minus_beta2": 1 - b2}


def _moments(b1: _Number, b2: _Number, count: _Number, *, nesterov: bool = False) -> dict[str, _Number]:
    """What kernels of corrected moments take in common. Step sizes are negative: kernels subtract."""
    values = _betas(b1, b2) | {"root": 1 / jnp.sqrt(1 - b2**count), "step_size": -1 / (1 - b1**count)}
    if nesterov:  # optax corrects the momentum with the next count
        values |= {"grad_size": -(1 - b1) / (1 - b1**count), "momentum_size": -b1 / (1 - b1 ** ffi.following(count))}
    return values


def _counted(
    kernel: str,
    like: GradientTransformation,
    names: tuple[str, ...],
    coefficients: Callable[[_Number], _Values],
    required: ffi.Required | None = None,
) -> GradientTransformation:
    """A transformation whose coefficients follow from the count of updates, from 1."""
    return _transformation(kernel, like, names, lambda state: coefficients(state.count), required)


def _transformation(
    kernel: str,
    like: GradientTransformation,
    names: tuple[str, ...],
    coefficients: Callable[[Any], _Values],
    required: ffi.Required | None = None,
) -> GradientTransformation:
    """optax's transformation ``like`` by a kernel, whose states are the fields ``names`` of optax's state, in order.

    ``coefficients`` takes the state with the count, if there is one, of this update. What it leaves out is 1 for
    ``grad_scale``, or else 0: no weight decay, and a direction in the place of new parameters.
    """
    ffi.register()
    order = ffi.coefficients(kernel)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if "count" in state._fields:
            state = state._replace(count=ffi.following(state.count))
        gradients, tree = ffi.flatten(updates)
        kept = [ffi.leaves_like(f"state.{name}", getattr(state, name), "updates", gradients, tree) for name in names]
        values = {"grad_scale": 1.0, "l2": 0.0, "shrink": 0.0, "zero": 0.0} | dict(coefficients(state))

        def row(dtype: np.dtype) -> jax.Array:
            return jnp.stack([jnp.asarray(values[name]).astype(dtype) for name in order])

        spans = list(zip(gradients, gradients, *kept, strict=True))  # parameters are not read
        found = ffi.update(kernel, row, spans, reads=False, required=required)
        new, *states = (tree.unflatten([each[index] for each in found]) for index in range(1 + len(names)))
        return new, state._replace(**dict(zip(names, states, strict=True)))

    return GradientTransformation(like.init, update)


def _refuse(name: str, **flags: bool) -> None:
    for flag, value in flags.items():
        if value:
            raise ValueError(f"{name}: {flag} must be False, not {quoted(value)}: there is no kernel for it")


def _required(sentence: str, value: _Number, other: _Number) -> ffi.Required | None:
    """That two numbers are the same: looked at now, or where they are a program's, when that runs."""
    difference = value - other
    if isinstance(difference, jax.core.Tracer):
        return ffi.Required(sentence, difference)
    if difference != 0:
        raise ValueError(f"{sentence}, not {quoted(value)}: there is no kernel for it")
    return None
