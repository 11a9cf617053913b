"""Lion."""

from typing import ClassVar

import numpy as np

from fastopt import cautious
from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule


class Lion(Rule):
    """Lion: the sign of an interpolated momentum. Chen et al., NeurIPS 2023, arXiv:2302.06675, Algorithm 2::

        c = beta1 m + (1 - beta1) g
        p = p - lr (sign(c) + weight_decay p)
        m = beta2 m + (1 - beta2) g

    with m the state ``exp_avg``. The weight decay is decoupled.

    With ``cautious`` only elements step in which c has the sign of g: see :class:`fastopt.Adam`.

    Elsewhere: optax decays by 1e-3 unless told otherwise.
    """

    lr: LearningRate = 1e-4
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.99)
    weight_decay: NonNegative = 0.0
    cautious: bool = False

    ulp = 128
    decoupled_weight_decay: ClassVar = True

    @property
    def kernel(self):
        return "cautious_lion" if self.cautious else "lion"

    @property
    def sums(self):
        return "cautious" if self.cautious else None

    states: ClassVar = {"exp_avg": 0.0}

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

    def measured(self, step, values):
        return cautious.measured(values, values["beta1"], values["one_minus_beta1"])

    def adapted(self, step, values, sizes, counts):
        return {"step_size": values["step_size"] * cautious.larger(sizes, counts)}

    def reference(self, step, p, g, exp_avg):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        p, g = self.decayed(lr, p, g)
        direction = np.sign(beta1 * exp_avg + (1 - beta1) * g)
        if self.cautious:
            direction = cautious.masked(direction, direction, g)
        return p - lr * direction, {"exp_avg": beta2 * exp_avg + (1 - beta2) * g}
