"""QHAdam."""

from typing import ClassVar

import numpy as np

from fastopt.declared import ClosedUnitInterval, LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class QHAdam(Rule):
    """QHAdam: quasi-hyperbolic Adam, between moments and gradient. Ma & Yarats, ICLR 2019, arXiv:1810.06801::

        m, v as in Adam;  mhat = m / (1 - beta1^step);  vhat = v / (1 - beta2^step)
        p = p - lr ((1 - nu1) g + nu1 mhat) / (sqrt((1 - nu2) g^2 + nu2 vhat) + eps)

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``. The defaults are Adam; the paper recommends
    ``betas=(0.995, 0.999), nus=(0.7, 1.0)``. The authors' code keeps mhat and vhat as states.
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    nus: tuple[ClosedUnitInterval, ClosedUnitInterval] = (1.0, 1.0)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False

    ulp = 64
    kernel = "qhadam"
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        nu1, nu2 = self.nus
        return self.common(lr) | {
            "grad_size": lr * (1 - nu1),
            "momentum_size": lr * nu1 / (1 - beta1**step),
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "square_part": 1 - nu2,
            "moment_part": nu2 / (1 - beta2**step),
            "eps": self.eps,
        }

    def reference(self, step, p, g, exp_avg, exp_avg_sq):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        nu1, nu2 = self.nus
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        numerator = (1 - nu1) * g + nu1 * exp_avg / (1 - beta1**step)
        square = (1 - nu2) * g**2 + nu2 * exp_avg_sq / (1 - beta2**step)
        return p - lr * numerator / (np.sqrt(square) + self.eps), {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
