"""Yogi."""

from math import sqrt

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class Yogi(Rule):
    """Yogi: Adam whose second moment changes by no more than the gradient's square. Zaheer et al., NeurIPS 2018::

        m = beta1 m + (1 - beta1) g
        v = v - (1 - beta2) sign(v - g^2) g^2
        p = p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``, which both start as ``initial_accumulator_value``. The
    paper's Algorithm 2 lacks the bias corrections, which other implementations have. Without ``bias_correction`` it is
    also the server's step of FedYogi: Reddi et al., ICLR 2021, arXiv:2003.00295.
    """

    lr: LearningRate = 1e-2
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-3
    weight_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 1e-6
    bias_correction: bool = True
    decoupled_weight_decay: bool = False

    ulp = 64
    kernel = "yogi"

    @property
    def states(self):
        first = self.initial_accumulator_value
        return {"exp_avg": first, "exp_avg_sq": State(first, signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        first, second = self._corrections(step)
        beta1, beta2 = self.betas
        return self.common(lr) | {
            "step_size": lr / first,
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "one_minus_beta2": 1 - beta2,
            "root": 1 / sqrt(second),
            "eps": self.eps,
            "zero": 0.0,
        }

    def _corrections(self, step):
        """What the moments are divided by."""
        beta1, beta2 = self.betas
        return (1 - beta1**step, 1 - beta2**step) if self.bias_correction else (1.0, 1.0)

    def reference(self, step, p, g, exp_avg, exp_avg_sq):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = exp_avg_sq - (1 - beta2) * np.sign(exp_avg_sq - g**2) * g**2
        first, second = self._corrections(step)
        update = lr * (exp_avg / first) / (np.sqrt(exp_avg_sq / second) + self.eps)
        return p - update, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
