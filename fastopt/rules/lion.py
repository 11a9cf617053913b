"""Lion."""

from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule


class Lion(Rule):
    """Lion: the sign of an interpolated momentum. Chen et al., NeurIPS 2023, arXiv:2302.06675, Algorithm 2::

        c = beta1 m + (1 - beta1) g
        p = p - lr (sign(c) + weight_decay p)
        m = beta2 m + (1 - beta2) g

    with m the state ``exp_avg``. The weight decay is decoupled.

    Elsewhere: optax decays by 1e-3 unless told otherwise.
    """

    lr: LearningRate = 1e-4
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.99)
    weight_decay: NonNegative = 0.0

    ulp = 128
    kernel = "lion"
    decoupled_weight_decay: ClassVar = True

    @property
    def states(self):
        return {"exp_avg": 0.0}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        return self.common(lr) | {
            "step_size": lr,
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "zero": 0.0,
        }

    def reference(self, step, p, g, exp_avg):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        p, g = self.decayed(lr, p, g)
        direction = np.sign(beta1 * exp_avg + (1 - beta1) * g)
        return p - lr * direction, {"exp_avg": beta2 * exp_avg + (1 - beta2) * g}
