"""Signum."""

from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule


class Signum(Rule):
    """Signum: the sign of a momentum. Bernstein et al., ICML 2018, arXiv:1802.04434, Algorithm 2::

        m = momentum m + (1 - momentum) g
        p = p - lr (sign(m) + weight_decay p)

    with m the state ``exp_avg``. It is Lion with two equal betas, and signSGD without momentum. The weight decay is
    decoupled.
    """

    lr: LearningRate = 1e-4
    momentum: UnitInterval = 0.9
    weight_decay: NonNegative = 0.0

    ulp = 128
    kernel = "lion"
    decoupled_weight_decay: ClassVar = True
    states: ClassVar = {"exp_avg": 0.0}

    def coefficients(self, step):
        lr = self.rate(step)
        return self.common(lr) | {
            "step_size": lr,
            "beta1": self.momentum,
            "one_minus_beta1": 1 - self.momentum,
            "beta2": self.momentum,
            "one_minus_beta2": 1 - self.momentum,
            "zero": 0.0,
        }

    def reference(self, step, p, g, exp_avg):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        exp_avg = self.momentum * exp_avg + (1 - self.momentum) * g
        return p - lr * np.sign(exp_avg), {"exp_avg": exp_avg}
