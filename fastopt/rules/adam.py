"""Adam."""

from math import sqrt

import numpy as np

from fastopt import cautious
from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class Adam(Rule):
    """Adam: adaptive moments. Kingma & Ba, ICLR 2015, arXiv:1412.6980, Algorithm 1::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``. With ``amsgrad`` the largest v so far, the state
    ``max_exp_avg_sq``, takes the place of v in the last line: Reddi, Kale & Kumar, ICLR 2018, arXiv:1904.09237.

    With ``cautious`` only elements step in whose update m has the sign of g, each by the number of all of the parameter
    over that of those: Liang et al., 2024, arXiv:2411.16085, as the authors' code and timm have it.

    Elsewhere: scikit-learn and Keras add eps to the root of v before it is corrected, as the paper does for speed.
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False
    decoupled_weight_decay: bool = False
    cautious: bool = False

    ulp = 64

    def check(self):
        if self.amsgrad and self.cautious:
            raise ValueError(f"{type(self).__name__}: cautious must be False with amsgrad, not True")

    @property
    def kernel(self):
        return "amsgrad" if self.amsgrad else "cautious_adam" if self.cautious else "adam"

    @property
    def sums(self):
        return "cautious" if self.cautious else None

    @property
    def states(self):
        states = {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)}
        return states | ({"max_exp_avg_sq": State(signed=False)} if self.amsgrad else {})

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        values = self.common(lr) | {
            "step_size": lr / (1 - beta1**step),
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": 1 / sqrt(1 - beta2**step),
            "eps": self.eps,
        }
        if self.amsgrad:
            values["correction"] = 1.0  # the largest v is kept as it is, and corrected afterwards
        if self.cautious:
            values["zero"] = 0.0
        return values

    def measured(self, step, values):
        return cautious.measured(values, values["beta1"], values["one_minus_beta1"])

    def adapted(self, step, values, sizes, counts):
        return {"step_size": values["step_size"] * cautious.larger(sizes, counts)}

    def reference(self, step, p, g, exp_avg, exp_avg_sq, max_exp_avg_sq=None):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        state = {
            "exp_avg": beta1 * exp_avg + (1 - beta1) * g,
            "exp_avg_sq": beta2 * exp_avg_sq + (1 - beta2) * g**2,
        }
        second = state["exp_avg_sq"]
        if max_exp_avg_sq is not None:
            second = state["max_exp_avg_sq"] = np.maximum(max_exp_avg_sq, second)
        first_unbiased = state["exp_avg"] / (1 - beta1**step)
        second_unbiased = second / (1 - beta2**step)
        update = first_unbiased / (np.sqrt(second_unbiased) + self.eps)
        if self.cautious:
            update = cautious.masked(update, first_unbiased, g)
        return p - lr * update, state
