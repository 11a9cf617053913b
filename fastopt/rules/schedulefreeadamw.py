"""ScheduleFreeAdamW."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, OpenUnitInterval, UnitInterval
from fastopt.rule import State
from fastopt.schedule_free import ScheduleFree


class ScheduleFreeAdamW(ScheduleFree):
    """ScheduleFreeAdamW: AdamW that needs no schedule, by averaging. Defazio et al., NeurIPS 2024, arXiv:2405.15682::

        lr_t = lr min(1, step / warmup_steps);  lr_max = max(lr_max, lr_t)
        w = step^r lr_max^weight_lr_power;  W = W + w;  c = w / W
        v = beta2 v + (1 - beta2) g^2
        u = g / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay p
        p = (1 - c) p + c z - lr_t (1 - beta1 (1 - c)) u
        z = z - lr_t u                             (of p and z before the step; z = p before the first)

    with v the state ``exp_avg_sq``. Gradients are taken at p. The model is evaluated with
    ``p + (1 - 1 / beta1) (z - p)``, the average of z, which ``averaged()`` of the optimizer has in the place of p.

    Elsewhere: ``AdamWScheduleFree`` of schedulefree. The paper, and the ``ScheduleFreeAdamW`` of pytorch_optimizer, put
    the bias correction into the step size: their c differs in the first steps. optax wraps any optimizer.
    """

    lr: LearningRate = 2.5e-3
    betas: tuple[OpenUnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    warmup_steps: NonNegative = 0.0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0

    ulp = 64
    kernel = "schedule_free_adam"
    decoupled_weight_decay: ClassVar = True
    states: ClassVar = {"z": 0.0, "exp_avg_sq": State(signed=False)}

    @property
    def averaging(self):
        return self.betas[0]

    def coefficients(self, step, weight_sum=None, lr_max=None):
        share, size = self.share(step, weight_sum, lr_max), self.size(step)
        beta1, beta2 = self.betas
        pull = size * (1 - beta1 * (1 - share))
        return self.common(pull) | {
            "step_size": size,
            "share": share,
            "pull": pull,
            "decay_size": size * self.weight_decay,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": 1 / sqrt(1 - beta2**step),
            "eps": self.eps,
            "keep": 0.0 if step == 1 else 1.0,
        }

    def reference(self, step, p, g, z, exp_avg_sq):
        beta1, beta2 = self.betas
        g = -g if self.maximize else g
        sizes = [self.rate(t) * min(1, t / self.warmup_steps if self.warmup_steps else 1) for t in range(1, step + 1)]
        weights = [t**self.r * max(sizes[:t]) ** self.weight_lr_power for t in range(1, step + 1)]
        c = weights[-1] / sum(weights) if sum(weights) else 0.0
        z = p if step == 1 else z
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        u = g / (np.sqrt(exp_avg_sq / (1 - beta2**step)) + self.eps)
        u = u + self.weight_decay * p if self.weight_decay else u
        near = p if c == 0 else z if c == 1 else (1 - c) * p + c * z  # 0 times an infinity is NaN
        moved = near - sizes[-1] * (1 - beta1 * (1 - c)) * u
        return moved, {"z": z - sizes[-1] * u, "exp_avg_sq": exp_avg_sq}
