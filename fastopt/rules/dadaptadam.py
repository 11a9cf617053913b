"""DAdaptAdam."""

from math import isfinite, sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import AtLeastOne, LearningRate, NonNegative, Positive, UnitInterval
from fastopt.rule import Rule, State


class DAdaptAdam(Rule):
    """DAdaptAdam: Adam that finds its step size, by D-Adaptation. Defazio & Mishchenko, ICML 2023, arXiv:2301.07733::

        a = d lr, or d lr sqrt(1 - beta2^step) / (1 - beta1^step) if use_bias_correction;  b = sqrt(beta2)
        n = b n + (1 - b) a <g, s / (sqrt(v) + eps)>
        s = b s + (1 - b) a g
        m = beta1 m + (1 - beta1) a g
        v = beta2 v + (1 - beta2) g^2
        e = n / ((1 - b) ||s||_1)
        d = max(d, min(e, growth_rate d))          (for the next step)
        p = p - a weight_decay p
        p = p - m / (sqrt(v) + eps)

    with m the state ``exp_avg``, v the state ``exp_avg_sq``, and s itself a state: Algorithm 5 of the paper. Running
    numbers are d and n, as ``numerator_weighted``: d0 and 0 at first. Leave ``lr`` at 1, or let a schedule take it from
    1 to 0; what is in m goes on while it is zero. d only grows, and without a ``growth_rate`` at once.

    The product and the norm are over all parameters that a step updates by a DAdaptAdam, of whatever group. Each group,
    in torch each parameter, has running numbers of its own. They are the same where betas, d0, growth_rate, lr and the
    steps that were made are. Sums that are not finite leave them as they are, and an s of zero leaves d.

    Elsewhere: dadaptation makes no step while lr is zero, says ``decouple`` for ``decoupled_weight_decay``, and has
    ``layer_scale`` of groups. ``dadapt_adamw`` of optax always corrects biases and limits no growth.
    """

    lr: LearningRate = 1.0
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False
    use_bias_correction: bool = False
    d0: Positive = 1e-6
    growth_rate: AtLeastOne | None = None

    ulp = 32
    kernel = "dadapt_adam"
    sums = "dadapt_adam"
    totals: ClassVar = True
    torch_float64: ClassVar = ("d", "numerator_weighted")
    states: ClassVar = {"s": 0.0, "exp_avg_sq": State(signed=False), "exp_avg": 0.0}

    @property
    def scalars(self):
        return {"d": self.d0, "numerator_weighted": 0.0}

    def advance(self, step, d, numerator_weighted, totals=None):
        if totals is not None and all(map(isfinite, totals)):
            number = type(d)
            product, size = totals
            root = sqrt(self.betas[1])
            numerator_weighted = number(root * numerator_weighted + (1 - root) * product)
            norm = (1 - root) * size  # zero of a size that is a subnormal number, too
            if norm:
                found = numerator_weighted / norm
                most = found if self.growth_rate is None else min(found, d * self.growth_rate)
                d = max(d, number(most))
        return {"d": d, "numerator_weighted": numerator_weighted}

    def _size(self, step: int, d: float | None) -> float:
        """The step size, a above."""
        beta1, beta2 = self.betas
        corrected = sqrt(1 - beta2**step) / (1 - beta1**step) if self.use_bias_correction else 1.0
        return (self.d0 if d is None else float(d)) * self.rate(step) * corrected

    def coefficients(self, step, d=None, numerator_weighted=None):
        size = self._size(step, d)
        beta1, beta2 = self.betas
        root = sqrt(beta2)
        return self.common(size) | {
            "root": root,
            "sum_size": (1 - root) * size,
            "beta1": beta1,
            "gradient_size": (1 - beta1) * size,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "eps": self.eps,
        }

    def measured(self, step, values, d=None, numerator_weighted=None):
        names = ("grad_scale", "l2", "root", "sum_size", "eps")
        return {name: values[name] for name in names} | {"weight": self._size(step, d)}

    def adapted(self, step, values, d, numerator_weighted):
        return {}

    def reference(self, step, p, g, s, exp_avg_sq, exp_avg, d, numerator_weighted):
        beta1, beta2 = self.betas
        root = beta2**0.5
        size = d * self.rate(step)
        if self.use_bias_correction:
            size = size * np.sqrt(1 - beta2**step) / (1 - beta1**step)
        p, g = self.decayed(size, p, g)
        product = size * (g * np.divide(s, np.sqrt(exp_avg_sq) + self.eps, where=s != 0, out=np.zeros_like(s))).sum()
        s = root * s + (1 - root) * size * g
        exp_avg = beta1 * exp_avg + (1 - beta1) * size * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        norm = abs(s).sum()
        if np.isfinite(product) and np.isfinite(norm):
            numerator_weighted = root * numerator_weighted + (1 - root) * product
            if norm > 0:
                estimate = numerator_weighted / ((1 - root) * norm)
                d = max(d, estimate if self.growth_rate is None else min(estimate, d * self.growth_rate))
        states = {"s": s, "exp_avg_sq": exp_avg_sq, "exp_avg": exp_avg}
        moved = p - exp_avg / (np.sqrt(exp_avg_sq) + self.eps)
        return moved, states | {"d": d, "numerator_weighted": numerator_weighted}
