"""SophiaG."""

from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, Positive, UnitInterval
from fastopt.rule import Rule, State


class SophiaG(Rule):
    """SophiaG: a momentum over an estimate of the Hessian's diagonal, clipped.

    Liu et al., ICLR 2024, arXiv:2305.14342, Algorithm 3 with the Gauss-Newton-Bartlett estimator, Algorithm 2::

        m = beta1 m + (1 - beta1) g
        p = p - lr (clip(m / (rho batch_size h + eps), -1, 1) + weight_decay p)

        h = beta2 h + (1 - beta2) g^2      (update_hessian alone)

    with m the state ``exp_avg`` and h ``hessian``. Steps leave h as it is. Every ten steps or so ``update_hessian`` of
    the optimizer takes another gradient: that of the mean loss for labels drawn from what the model predicts. Then
    ``batch_size`` is the number of labels of which that is the mean: tokens, in a language model. Before the first
    estimate h is zero, and steps go by the sign of m. The weight decay is decoupled.

    Elsewhere: ``batch_size`` is an argument of steps in the authors' code, and eps is fixed. The sophia of optax and
    SophiaH of pytorch_optimizer are Sophia-H, by Hutchinson's estimator.
    """

    lr: LearningRate = 1e-4
    betas: tuple[UnitInterval, UnitInterval] = (0.965, 0.99)
    rho: Positive = 0.04
    eps: NonNegative = 1e-15
    weight_decay: NonNegative = 0.1
    batch_size: Positive = 5120.0

    ulp = 128
    kernel = "sophiag"
    decoupled_weight_decay: ClassVar = True
    states: ClassVar = {"exp_avg": 0.0, "hessian": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        return self.common(lr) | {
            "step_size": lr,
            "curvature": self.rho * self.batch_size,
            "eps": self.eps,
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "keep": 1.0,
            "one": 1.0,
        }

    def estimator(self):
        return _Estimator.unchecked(**dict(self))

    def reference(self, step, p, g, exp_avg, hessian):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        exp_avg = self.betas[0] * exp_avg + (1 - self.betas[0]) * g
        ratio = exp_avg / (self.rho * self.batch_size * hessian + self.eps)
        return p - lr * np.clip(ratio, -1, 1), {"exp_avg": exp_avg, "hessian": hessian}


class _Estimator(SophiaG):
    """What updates the Hessian, by the same kernel, and keeps the rest."""

    def coefficients(self, step):
        return super().coefficients(step) | {"keep": 0.0}

    def reference(self, step, p, g, exp_avg, hessian):
        beta2 = self.betas[1]
        return p, {"exp_avg": exp_avg, "hessian": beta2 * hessian + (1 - beta2) * g**2}
