"""SparseAdam."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class SparseAdam(Rule):
    """SparseAdam: Adam for gradients of few rows. Kingma & Ba, ICLR 2015, arXiv:1412.6980, end of section 2::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - lr sqrt(1 - beta2^step) / (1 - beta1^step) m / (sqrt(v) + eps)

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``. Unlike in :class:`Adam`, eps is added to the root of v
    before v is corrected. Other rules take :class:`fastopt.Rows`, too; this one has torch.optim.SparseAdam's numbers.
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-8

    ulp = 32
    kernel = "adam"
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        root = 1 / sqrt(1 - beta2**step)
        return self.common(lr) | {
            "step_size": lr / (1 - beta1**step),
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": root,
            "eps": self.eps * root,
        }

    def reference(self, step, p, g, exp_avg, exp_avg_sq):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        state = {
            "exp_avg": beta1 * exp_avg + (1 - beta1) * g,
            "exp_avg_sq": beta2 * exp_avg_sq + (1 - beta2) * g**2,
        }
        step_size = lr * np.sqrt(1 - beta2**step) / (1 - beta1**step)
        return p - step_size * state["exp_avg"] / (np.sqrt(state["exp_avg_sq"]) + self.eps), state
