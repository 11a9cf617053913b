"""RAdam."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class RAdam(Rule):
    """RAdam: rectified Adam. Liu et al., ICLR 2020, arXiv:1908.03265, Algorithm 2::

        m, v as in Adam;  mhat = m / (1 - beta1^step)
        rho_inf = 2 / (1 - beta2) - 1;  rho = rho_inf - 2 step beta2^step / (1 - beta2^step)
        rho > 5:   r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
                   p = p - lr r mhat sqrt(1 - beta2^step) / (sqrt(v) + eps)
        otherwise: p = p - lr mhat

    The threshold 5 and the place of eps are those of ``torch.optim.RAdam``.

    Elsewhere: optax adds eps to the root of the corrected v.
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False

    ulp = 64
    kernel = "adam"
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        correction = 1 - beta2**step
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * step * beta2**step / correction
        if rho > 5:
            rectification = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            root, eps = 1 / sqrt(correction), self.eps / sqrt(correction)
        else:
            rectification, root, eps = 1.0, 0.0, 1.0
        return self.common(lr) | {
            "step_size": lr * rectification / (1 - beta1**step),
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": root,
            "eps": eps,
        }

    def reference(self, step, p, g, exp_avg, exp_avg_sq):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        unbiased = exp_avg / (1 - beta1**step)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * beta2**step / (1 - beta2**step)
        if length > 5:
            variance = ((length - 4) * (length - 2) * longest) / ((longest - 4) * (longest - 2) * length)
            unbiased = unbiased * sqrt(variance) * sqrt(1 - beta2**step) / (np.sqrt(exp_avg_sq) + self.eps)
        return p - lr * unbiased, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
