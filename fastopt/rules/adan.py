"""Adan."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class Adan(Rule):
    """Adan: adaptive Nesterov momentum, by differences of gradients.

    Xie et al., TPAMI 2024, arXiv:2208.06677, Algorithm 1::

        d = g - h;  h = g    (d = 0 in the first step)
        m = beta1 m + (1 - beta1) g
        n = beta2 n + (1 - beta2) d
        v = beta3 v + (1 - beta3) (g + beta2 d)^2
        u = (m / (1 - beta1^step) + beta2 n / (1 - beta2^step)) / (sqrt(v / (1 - beta3^step)) + eps)
        p = (p - lr u) / (1 + lr weight_decay)

    with m the state ``exp_avg``, n ``exp_avg_diff``, v ``exp_avg_sq`` and h ``previous_grad``. The weight decay is
    decoupled, and with ``no_prox`` that of AdamW: ``p = (1 - lr weight_decay) p - lr u``.

    Elsewhere: the paper's own betas are one minus these, which are those of its authors' code. optax has these, too,
    and yet the paper's factor ``1 - beta2`` where beta2 stands before d and n: that is another rule unless beta2 is
    0.5. It also adds 1e-8 under the root, and decays as ``no_prox`` does.
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval, UnitInterval] = (0.98, 0.92, 0.99)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    no_prox: bool = False

    ulp = 64
    kernel = "adan"
    decoupled_weight_decay: ClassVar = True
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_diff": 0.0, "exp_avg_sq": State(signed=False), "previous_grad": 0.0}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2, beta3 = self.betas
        closer = 1.0 if self.no_prox else 1 / (1 + lr * self.weight_decay)
        common = self.common(lr)
        return (common if self.no_prox else common | {"shrink": closer}) | {
            "step_size": closer * lr / (1 - beta1**step),
            "diff_size": closer * lr * beta2 / (1 - beta2**step),
            "keep": 0.0 if step == 1 else 1.0,
            "ahead_size": beta2,
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "beta3": beta3,
            "one_minus_beta3": 1 - beta3,
            "root": 1 / sqrt(1 - beta3**step),
            "eps": self.eps,
            "eps_root": 0.0,
        }

    def reference(self, step, p, g, exp_avg, exp_avg_diff, exp_avg_sq, previous_grad):
        lr, decay = self.rate(step), self.weight_decay
        beta1, beta2, beta3 = self.betas
        g = -g if self.maximize else g
        difference = g - previous_grad if step > 1 else np.zeros_like(g)
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_diff = beta2 * exp_avg_diff + (1 - beta2) * difference
        exp_avg_sq = beta3 * exp_avg_sq + (1 - beta3) * (g + beta2 * difference) ** 2
        direction = exp_avg / (1 - beta1**step) + beta2 * exp_avg_diff / (1 - beta2**step)
        update = lr * direction / (np.sqrt(exp_avg_sq / (1 - beta3**step)) + self.eps)
        p = p * (1 - lr * decay) - update if self.no_prox else (p - update) / (1 + lr * decay)
        state = {"exp_avg": exp_avg, "exp_avg_diff": exp_avg_diff, "exp_avg_sq": exp_avg_sq, "previous_grad": g}
        return p, state
