"""LAMB."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State
from fastopt.trust import trust_ratio


class LAMB(Rule):
    """LAMB: Adam whose steps are as large as a parameter's norm. You et al., ICLR 2020, arXiv:1904.00962, Algorithm 2::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        u = (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay p
        p = p - lr r u,  r = ||p|| / ||u||

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``. The norms are those of one parameter, not of all;
    r is 1 where one of them is zero or not finite, and without weight decay unless ``always_adapt``, as in timm: biases
    and norms, which are not decayed, then make Adam's steps. With ``trust_clip`` r is 1 at most.

    Elsewhere: timm clips gradients to a norm of 1 unless told otherwise (here: ``max_norm``); optax always adapts, and
    bitsandbytes' LAMB is another rule.
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 1e-2
    always_adapt: bool = False
    trust_clip: bool = False

    ulp = 128
    kernel = "adam"
    sums = "lamb"
    decoupled_weight_decay: ClassVar = True
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        return self.common(lr) | {
            "step_size": lr / (1 - beta1**step),
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": 1 / sqrt(1 - beta2**step),
            "eps": self.eps,
        }

    def measured(self, step, values):
        of_step = {"decay": self.weight_decay, "step_size": 1 / (1 - self.betas[0] ** step)}
        names = ("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "root", "eps")
        return {"grad_scale": values["grad_scale"]} | of_step | {name: values[name] for name in names}

    def adapted(self, step, values, sizes, weights, updates):
        if not (self.weight_decay or self.always_adapt):
            return {}
        ratio = trust_ratio(np.sqrt(weights), np.sqrt(updates), self.trust_clip)
        return {
            "shrink": 1 - self.rate(step) * self.weight_decay * ratio,
            "step_size": values["step_size"] * ratio,
        }

    def reference(self, step, p, g, exp_avg, exp_avg_sq):
        beta1, beta2 = self.betas
        g = -g if self.maximize else g
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        update = exp_avg / (1 - beta1**step) / (np.sqrt(exp_avg_sq / (1 - beta2**step)) + self.eps)
        if self.weight_decay:
            update = update + self.weight_decay * p
        ratio = 1.0
        weight, size = np.sqrt((p**2).sum()), np.sqrt((update**2).sum())
        if (self.weight_decay or self.always_adapt) and weight > 0 and size > 0:
            ratio = min(weight / size, 1.0) if self.trust_clip else weight / size
        return p - self.rate(step) * ratio * update, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
