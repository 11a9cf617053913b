"""optax's optimizers over fastopt's kernels: ``fastopt.jax.optax.adamw(1e-3)`` in the place of ``optax.adamw(1e-3)``.

Each is optax's own chain, in which one call of the C library takes the place of the transformation that keeps moments.
Its states are optax's tuples, so a run can change over at any step, either way; ``optax.chain``,
``optax.inject_hyperparams``, ``optax.masked``, flax's ``TrainState`` and Orbax's checkpoints see nothing else.
Formulas, defaults and schedules (called with the count from 0) are optax's, and numbers agree to rounding: the program
computes corrections in float32, as there, and kernels work on 16-bit numbers in float32. Weight decay, the learning
rate, norms and ``optax.apply_updates`` are left to XLA, which makes one loop of what is elementwise.

=======================  =================================  ===================================================
here                     kernels                            other than in optax
=======================  =================================  ===================================================
``adabelief``            ``adabelief``                      ``eps_root`` must be ``eps``; no ``nesterov``
``adadelta``             ``adadelta``
``adagrad``              ``adagrad``
``adam(w)``              ``adam``, ``nadam``                ``eps_root`` must be 0
``adamax(w)``            ``adamax``
``adan``                 ``adan``
``ademamix``             ``ademamix``                       ``eps_root`` must be 0
``adopt``                ``adopt``                          no ``nesterov``
``amsgrad``              ``amsgrad``                        ``eps_root`` must be 0
``lamb``                 ``adam``                           ``eps_root`` must be 0
``lars``                 ``momentum``, ``nesterov``
``lion``, ``signum``     ``lion``
``madgrad``              ``madgrad``
``nadam(w)``             ``nadam``                          ``eps_root`` must be 0
``radam``                ``adam``, ``nadam``                ``eps_root`` must be 0
``rmsprop``              ``rmsprop``, ``rmsprop_centered``  no ``bias_correction`` with ``centered``
``rprop``                ``rprop``                          ``learning_rate`` must lie between the step sizes
``schedule_free_adamw``  ``rmsprop``
``sgd``                  ``momentum``, ``nesterov``
``yogi``                 ``yogi``
=======================  =================================  ===================================================

``adopt`` and the like, which are in ``optax.contrib``, stand beside the others here. Use ``optax`` for what is not in
the table: what keeps nothing between steps (``sign_sgd``, ``fromage``) has nothing for a kernel to do, and no kernel
computes the rest (``adafactor``, ``muon``, ``novograd``, ``prodigy``, ``sm3``, ``sophia``). Of the rules of
``fastopt`` those with other formulas than optax are in :func:`fastopt.jax.step`. Complex parameters are refused.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation, GradientTransformationExtraArgs

from fastopt.jax.moments import Number, Values, betas, by_kernel, corrected, no_eps_root, refuse, required

__all__ = [
    "adabelief", "adadelta", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "ademamix", "adopt", "amsgrad",
    "lamb", "lars", "lion", "madgrad", "nadam", "nadamw", "radam", "rmsprop", "rprop", "schedule_free_adamw", "sgd",
    "signum", "yogi",
]  # fmt: skip

_RateOrSchedule = Any


def adam(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.adam``. ValueError if ``eps_root`` is not 0."""
    moments = _adam("nadam" if nesterov else "adam", b1, b2, eps, eps_root, mu_dtype, nesterov)
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


def adamw(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    weight_decay: _RateOrSchedule = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.adamw``. ValueError if ``eps_root`` is not 0."""
    moments = _adam("nadamw" if nesterov else "adamw", b1, b2, eps, eps_root, mu_dtype, nesterov)
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(moments, decay, optax.scale_by_learning_rate(learning_rate))


nadam = partial(adam, nesterov=True)
nadam.__doc__ = """``optax.nadam``. ValueError if ``eps_root`` is not 0."""
nadamw = partial(adamw, nesterov=True)
nadamw.__doc__ = """``optax.nadamw``. ValueError if ``eps_root`` is not 0."""


def adabelief(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-16,
    eps_root: Number = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.adabelief``. ValueError if ``eps_root`` is not ``eps``, or with ``nesterov``."""
    refuse("adabelief", nesterov=nesterov)
    same = required("adabelief: eps_root must be eps", eps_root, eps)
    like = optax.scale_by_belief(b1, b2, eps, eps_root)
    moments = by_kernel("adabelief", like, lambda t: corrected(b1, b2, t) | {"eps": eps}, required=same)
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


def adadelta(
    learning_rate: _RateOrSchedule | None = None,
    rho: Number = 0.9,
    eps: Number = 1e-6,
    weight_decay: _RateOrSchedule = 0.0,
    weight_decay_mask: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.adadelta``."""
    moments = by_kernel("adadelta", optax.scale_by_adadelta(rho, eps), betas(rho=rho) | {"step_size": -1.0, "eps": eps})
    decay = optax.add_decayed_weights(weight_decay, mask=weight_decay_mask)
    return optax.chain(decay, moments, optax.scale_by_learning_rate(learning_rate))


def adagrad(
    learning_rate: _RateOrSchedule, initial_accumulator_value: Number = 0.1, eps: Number = 1e-7
) -> GradientTransformationExtraArgs:
    """``optax.adagrad``."""
    values = {"step_size": -1.0, "eps_root": eps, "eps": _NO_EPS}
    moments = by_kernel("adagrad", optax.scale_by_rss(initial_accumulator_value, eps), values)
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


def adamax(
    learning_rate: _RateOrSchedule, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8
) -> GradientTransformationExtraArgs:
    """``optax.adamax``."""
    return optax.chain(_adamax(b1, b2, eps), optax.scale_by_learning_rate(learning_rate))


def adamaxw(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    weight_decay: _RateOrSchedule = 1e-4,
    mask: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.adamaxw``."""
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(_adamax(b1, b2, eps), decay, optax.scale_by_learning_rate(learning_rate))


def adan(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.98,
    b2: Number = 0.92,
    b3: Number = 0.99,
    eps: Number = 1e-8,
    eps_root: Number = 1e-8,
    weight_decay: _RateOrSchedule = 0.0,
    mask: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.adan``."""

    def coefficients(t: Number) -> Values:
        ahead, second = 1 - b2, 1 - b3**t
        return betas(beta1=b1, beta2=b2, beta3=b3) | {
            "step_size": -1 / (1 - b1**t),
            "diff_size": -ahead / (1 - b2**t),
            "keep": jnp.where(t == 1, 0.0, 1.0),
            "ahead_size": ahead,
            "root": 1 / jnp.sqrt(second),
            "eps": eps,
            "eps_root": eps_root * second,  # added before the correction
        }

    moments = by_kernel("adan", optax.scale_by_adan(b1, b2, b3, eps, eps_root), coefficients)
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(moments, decay, optax.scale_by_learning_rate(learning_rate))


def ademamix(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    b3: _RateOrSchedule = 0.9999,
    alpha: _RateOrSchedule = 5.0,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    weight_decay: Number = 0.0,
    mask: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.contrib.ademamix``. ValueError if ``eps_root`` is not 0."""

    def coefficients(t: Number, slow: Number) -> Values:
        beta3, size = (value(slow - 1) if callable(value) else value for value in (b3, alpha))
        return corrected(b1, b2, t) | betas(beta3=beta3) | {"slow_size": -size, "eps": eps}

    none = no_eps_root("ademamix", eps_root)
    like = optax.contrib.scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype)
    moments = by_kernel("ademamix", like, coefficients, required=none)
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(moments, decay, optax.scale_by_learning_rate(learning_rate))


def adopt(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.9999,
    eps: Number = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[jax.Array], jax.Array] = lambda x: x**0.25,
) -> GradientTransformationExtraArgs:
    """``optax.contrib.adopt``. ValueError with ``nesterov``."""
    refuse("adopt", nesterov=nesterov)

    def coefficients(t: Number) -> Values:
        first = t == 1  # in which there is no second moment to divide by, and parameters stay
        kept = betas(beta1=jnp.where(first, 1.0, b1), beta2=jnp.where(first, 0.0, b2))
        largest = clip_value_fn(t - 1) if use_clipping else jnp.inf
        return kept | {"step_size": -1.0, "eps": eps, "largest": largest}

    moments = by_kernel("adopt", optax.contrib.scale_by_adopt(b1, b2, eps, mu_dtype), coefficients)
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


def amsgrad(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> GradientTransformationExtraArgs:
    """``optax.amsgrad``. ValueError if ``eps_root`` is not 0."""

    def coefficients(t: Number) -> Values:
        return betas(beta1=b1, beta2=b2) | {
            "step_size": -1 / (1 - b1**t) if bias_correction_mu else -1.0,
            "correction": 1 / (1 - b2**t) if bias_correction_nu else 1.0,  # before the maximum is taken
            "root": 1.0,
            "eps": eps,
        }

    none = no_eps_root("amsgrad", eps_root)
    moments = by_kernel("amsgrad", optax.scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype), coefficients, required=none)
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


def lamb(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-6,
    eps_root: Number = 0.0,
    weight_decay: _RateOrSchedule = 0.0,
    mask: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.lamb``. ValueError if ``eps_root`` is not 0."""
    moments = _adam("lamb", b1, b2, eps, eps_root, None, nesterov=False)
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(moments, decay, optax.scale_by_trust_ratio(), optax.scale_by_learning_rate(learning_rate))


def lars(
    learning_rate: _RateOrSchedule,
    weight_decay: _RateOrSchedule = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: Number = 0.001,
    eps: Number = 0.0,
    trust_ratio_mask: Any = True,
    momentum: Number = 0.9,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.lars``."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=weight_decay_mask),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps), trust_ratio_mask),
        optax.scale_by_learning_rate(learning_rate),
        _trace(momentum, nesterov),
    )


def lion(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.99,
    mu_dtype: Any = None,
    weight_decay: _RateOrSchedule = 1e-3,
    mask: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.lion``."""
    moments = by_kernel("lion", optax.scale_by_lion(b1, b2, mu_dtype), betas(beta1=b1, beta2=b2) | {"step_size": -1.0})
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(moments, decay, optax.scale_by_learning_rate(learning_rate))


def madgrad(
    learning_rate: _RateOrSchedule, momentum: float = 0.9, weight_decay: float = 0.0, eps: float = 1e-6
) -> GradientTransformationExtraArgs:
    """``optax.contrib.madgrad``."""

    def coefficients(t: Number) -> Values:
        lr = learning_rate(t - 1) if callable(learning_rate) else learning_rate
        kept = {"keep": 1.0, "one_minus_momentum": 1 - momentum}
        return kept | {"weight": (lr + eps) * jnp.sqrt(t), "eps": eps}

    averaged = by_kernel("madgrad", optax.contrib.scale_by_madgrad(learning_rate, momentum, eps), coefficients)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("madgrad: params must be given: the step is towards a point")
        towards, state = averaged.update(updates, state)
        return jax.tree.map(lambda z, p: z - (1 - momentum) * p, towards, params), state

    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, GradientTransformation(averaged.init, update))


def radam(
    learning_rate: _RateOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    threshold: Number = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.radam``. ValueError if ``eps_root`` is not 0."""
    longest = 2.0 / (1.0 - b2) - 1.0

    def coefficients(t: Number) -> Values:
        power = b2**t
        length = longest - 2 * t * power / (1 - power)
        tractable = length >= threshold
        rectified = jnp.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
        values = corrected(b1, b2, t, nesterov=nesterov)
        sizes = {name: value * jnp.where(tractable, rectified, 1.0) for name, value in values.items() if "size" in name}
        root = jnp.where(tractable, values["root"], 0.0)
        return values | sizes | {"root": root, "eps": jnp.where(tractable, eps, 1.0)}

    none = no_eps_root("radam", eps_root)
    like = optax.scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov)
    moments = by_kernel("nadam" if nesterov else "adam", like, coefficients, required=none)
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


def rmsprop(
    learning_rate: _RateOrSchedule,
    decay: Number = 0.9,
    eps: Number = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Number | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformationExtraArgs:
    """``optax.rmsprop``. ValueError if both ``centered`` and ``bias_correction``."""
    if centered:
        refuse("rmsprop, centered", bias_correction=bias_correction)
        like = optax.scale_by_stddev(decay, eps, initial_scale, eps_in_sqrt)
        values = betas(alpha=decay) | {"step_size": -1.0, **_eps(eps, eps_in_sqrt)}
        scaled = by_kernel("rmsprop_centered", like, values, states=("nu", "mu"))
    else:
        scaled = _rms(decay, eps, initial_scale, eps_in_sqrt, bias_correction)
    ahead = optax.identity() if momentum is None else _trace(momentum, nesterov)
    return optax.chain(scaled, optax.scale_by_learning_rate(learning_rate), ahead)


def rprop(
    learning_rate: Number,
    eta_minus: Number = 0.5,
    eta_plus: Number = 1.2,
    min_step_size: Number = 1e-6,
    max_step_size: Number = 50.0,
) -> GradientTransformationExtraArgs:
    """``optax.rprop``. ValueError if ``learning_rate`` is not between ``min_step_size`` and ``max_step_size``."""
    sentence = "rprop: learning_rate must lie between min_step_size and max_step_size"
    within = required(sentence, learning_rate, jnp.clip(learning_rate, min_step_size, max_step_size))
    like = optax.scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size)
    sizes = {"smallest": min_step_size, "largest": max_step_size, "one": 1.0}
    values = sizes | {"eta_minus": eta_minus, "eta_plus": eta_plus}
    stepped = by_kernel("rprop", like, values, required=within, states=("prev_updates", "step_sizes"))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        before = state.prev_updates
        steps, state = stepped.update(updates, state)
        state = state._replace(prev_updates=jax.tree.map(jnp.negative, steps))  # the kernel would keep gradients
        # optax makes the step of the gradient before, unless signs differ.
        return jax.tree.map(lambda g, step: jnp.where(g * step < 0, 0, step), updates, before), state

    return optax.chain(GradientTransformation(stepped.init, update), optax.scale(-1.0))


def schedule_free_adamw(
    learning_rate: Number = 0.0025,
    warmup_steps: int | None = None,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    weight_lr_power: Number = 2.0,
    state_dtype: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.contrib.schedule_free_adamw``."""
    lr = learning_rate
    if warmup_steps is not None:
        lr = optax.warmup_constant_schedule(init_value=0, peak_value=learning_rate, warmup_steps=warmup_steps)
    moments = _rms(b2, eps, initial_scale=0.0, eps_in_sqrt=False, bias_correction=True)
    base = optax.chain(moments, optax.add_decayed_weights(weight_decay), optax.scale_by_learning_rate(lr))
    return optax.contrib.schedule_free(base, lr, b1, weight_lr_power, state_dtype)


def sgd(
    learning_rate: _RateOrSchedule,
    momentum: Number | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> GradientTransformationExtraArgs:
    """``optax.sgd``."""
    moments = optax.identity() if momentum is None else _trace(momentum, nesterov, accumulator_dtype)
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


def signum(
    learning_rate: _RateOrSchedule, beta: Number = 0.9, accumulator_dtype: Any = None
) -> GradientTransformationExtraArgs:
    """``optax.signum``."""
    like = optax.ema(beta, debias=False, accumulator_dtype=accumulator_dtype)
    signs = by_kernel("lion", like, betas(beta1=beta, beta2=beta) | {"step_size": -1.0})
    return optax.chain(signs, optax.identity(), optax.scale_by_learning_rate(learning_rate))  # the kernel took the sign


def yogi(
    learning_rate: _RateOrSchedule, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-3
) -> GradientTransformationExtraArgs:
    """``optax.yogi``."""
    moments = by_kernel("yogi", optax.scale_by_yogi(b1, b2, eps), lambda t: corrected(b1, b2, t) | {"eps": eps})
    return optax.chain(moments, optax.scale_by_learning_rate(learning_rate))


# The transformations that several of them share

_NO_EPS = float(np.finfo(np.float32).tiny)  # less than a rounding beside any root, but that nothing is divided by zero


def _adam(
    name: str, b1: Number, b2: Number, eps: Number, eps_root: Number, mu_dtype: Any, nesterov: bool
) -> GradientTransformation:
    none = no_eps_root(name, eps_root)
    like = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)

    def coefficients(t: Number) -> Values:
        return corrected(b1, b2, t, nesterov=nesterov) | {"eps": eps}

    return by_kernel("nadam" if nesterov else "adam", like, coefficients, required=none)


def _adamax(b1: Number, b2: Number, eps: Number) -> GradientTransformation:
    return by_kernel("adamax", optax.scale_by_adamax(b1, b2, eps), lambda t: corrected(b1, b2, t) | {"eps": eps})


def _rms(
    decay: Number, eps: Number, initial_scale: Number, eps_in_sqrt: bool, bias_correction: bool
) -> GradientTransformation:
    def coefficients(t: Number = None) -> Values:
        second = 1 - decay**t if bias_correction else 1.0
        root = jnp.sqrt(second)  # which stands before the kernel's root, and so before all else
        added = _eps(eps * second if eps_in_sqrt else eps * root, eps_in_sqrt)
        return betas(alpha=decay) | {"step_size": -root, **added}

    like = optax.scale_by_rms(decay, eps, initial_scale, eps_in_sqrt=eps_in_sqrt, bias_correction=bias_correction)
    return by_kernel("rmsprop", like, coefficients)


def _eps(eps: Number, in_root: bool) -> Values:
    return {"eps": _NO_EPS, "eps_root": eps} if in_root else {"eps": eps, "eps_root": 0.0}


def _trace(decay: Number, nesterov: bool, accumulator_dtype: Any = None) -> GradientTransformation:
    values = {"step_size": -1.0, "momentum": decay, "one_minus_dampening": 1.0}
    return by_kernel("nesterov" if nesterov else "momentum", optax.trace(decay, nesterov, accumulator_dtype), values)
