"""Prodigy."""

from math import isfinite, sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import AtLeastOne, LearningRate, NonNegative, Positive, UnitInterval
from fastopt.rule import Rule, State


class Prodigy(Rule):
    """Prodigy: Adam that finds its step size. Mishchenko & Defazio, ICML 2024, arXiv:2306.06101, Algorithm 4::

        a = d lr, or d lr sqrt(1 - beta2^step) / (1 - beta1^step) if use_bias_correction
        n = beta3 n + (d / d0) a <g, p0 - p>
        s = beta3 s + (d / d0) a g                 (safeguard_warmup: d in the place of a)
        m = beta1 m + (1 - beta1) d g
        v = beta2 v + (1 - beta2) d^2 g^2
        e = d_coef n / ||s||_1
        d = max(d, e) while d = d0;  d_max = max(d_max, e);  d = min(d_max, growth_rate d)
        p = p - a weight_decay p
        p = p - a m / (sqrt(v) + d eps)            (a as above, d the new one)

    with m the state ``exp_avg``, v the state ``exp_avg_sq``, s itself a state, and p0 the state that holds the
    parameters before the first step. Running numbers are d, ``d_max`` and n, as ``d_numerator``: d0, d0 and 0 at first.
    ``beta3`` is the root of beta2 unless given, and without a ``growth_rate`` d = d_max. Leave ``lr`` at 1, or let a
    schedule take it from 1 to 0; with a warm-up there is ``safeguard_warmup``.

    The product and the norm are over all parameters that a step updates by a Prodigy, of whatever group. Each group, in
    torch each parameter, has running numbers of its own. They are the same where betas, d0, d_coef, growth_rate, lr and
    the steps that were made are. Sums that are not finite leave them as they are, and an s of zero leaves d.

    p0 - p is small beside what it is the difference of: where ``state_dtype`` compresses states, leave out s and p0.

    Elsewhere: prodigyopt makes no step while lr is zero, says ``decouple`` for ``decoupled_weight_decay``, takes the
    new d for a gradient where beta1 is zero, and has ``slice_p``. optax always corrects biases and limits no growth.
    """

    lr: LearningRate = 1.0
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    beta3: UnitInterval | None = None
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = True
    use_bias_correction: bool = False
    safeguard_warmup: bool = False
    d0: Positive = 1e-6
    d_coef: Positive = 1.0
    growth_rate: AtLeastOne | None = None

    ulp = 32
    kernel = "prodigy"
    sums = "prodigy"
    totals: ClassVar = True
    starts_from_parameters: ClassVar = True
    torch_float64: ClassVar = ("d", "d_max", "d_numerator")
    states: ClassVar = {"s": 0.0, "p0": 0.0, "exp_avg": 0.0, "exp_avg_sq": State(signed=False)}

    @property
    def scalars(self):
        return {"d": self.d0, "d_max": self.d0, "d_numerator": 0.0}

    def advance(self, step, d, d_max, d_numerator, totals=None):
        if totals is not None and all(map(isfinite, totals)):
            number = type(d)
            product, size = totals
            d_numerator = number(self._beta3 * d_numerator + product)
            if size:
                found = number(self.d_coef * d_numerator / size)
                d = max(d, found) if d == self.d0 else d
                d_max = max(d_max, found)
                d = d_max if self.growth_rate is None else min(d_max, number(d * self.growth_rate))
        return {"d": d, "d_max": d_max, "d_numerator": d_numerator}

    @property
    def _beta3(self) -> float:
        return sqrt(self.betas[1]) if self.beta3 is None else self.beta3

    def _size(self, step: int, d: float) -> float:
        """The step size, a above."""
        beta1, beta2 = self.betas
        corrected = sqrt(1 - beta2**step) / (1 - beta1**step) if self.use_bias_correction else 1.0
        return float(d) * self.rate(step) * corrected

    def coefficients(self, step, d=None, d_max=None, d_numerator=None):
        d = self.d0 if d is None else float(d)
        size = self._size(step, d)
        beta1, beta2 = self.betas
        return self.common(size) | {
            "step_size": size,
            "beta3": self._beta3,
            "sum_size": d / self.d0 * (d if self.safeguard_warmup else size),
            "keep": 0.0 if step == 1 else 1.0,
            "beta1": beta1,
            "gradient_size": (1 - beta1) * d,
            "beta2": beta2,
            "square_size": (1 - beta2) * d**2,
            "eps": self.eps * d,
        }

    def measured(self, step, values, d=None, d_max=None, d_numerator=None):
        names = ("grad_scale", "l2", "beta3", "sum_size", "keep")
        d = self.d0 if d is None else float(d)
        return {name: values[name] for name in names} | {"weight": d / self.d0 * values["step_size"]}

    def adapted(self, step, values, d, d_max, d_numerator):
        return {"eps": self.eps * float(d)}

    def reference(self, step, p, g, s, p0, exp_avg, exp_avg_sq, d, d_max, d_numerator):
        beta1, beta2 = self.betas
        beta3 = beta2**0.5 if self.beta3 is None else self.beta3
        size = d * self.rate(step)
        if self.use_bias_correction:
            size = size * np.sqrt(1 - beta2**step) / (1 - beta1**step)
        p0 = p if step == 1 else p0
        shrunk, g = self.decayed(size, p, g)
        product = (g * np.subtract(p0, p, where=p0 != p, out=np.zeros_like(p))).sum()  # inf - inf is NaN
        s = beta3 * s + d / self.d0 * (d if self.safeguard_warmup else size) * g
        exp_avg = beta1 * exp_avg + (1 - beta1) * d * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * d**2 * g**2
        if np.isfinite(product) and np.isfinite(abs(s).sum()):
            d_numerator = beta3 * d_numerator + d / self.d0 * size * product
            if abs(s).sum() > 0:
                estimate = self.d_coef * d_numerator / abs(s).sum()
                d = max(d, estimate) if d == self.d0 else d
                d_max = max(d_max, estimate)
                d = d_max if self.growth_rate is None else min(d_max, d * self.growth_rate)
        moved = shrunk - size * exp_avg / (np.sqrt(exp_avg_sq) + d * self.eps)
        states = {"s": s, "p0": p0, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        return moved, states | {"d": d, "d_max": d_max, "d_numerator": d_numerator}
