"""ScheduleFreeRAdam."""

from math import log, sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, OpenUnitInterval, UnitInterval
from fastopt.rule import State
from fastopt.schedule_free import ScheduleFree


class ScheduleFreeRAdam(ScheduleFree):
    """ScheduleFreeRAdam: RAdam that needs neither schedule nor warm-up, by averaging.

    Defazio et al., NeurIPS 2024, arXiv:2405.15682, and Liu et al., ICLR 2020, arXiv:1908.03265, in the form of
    ``RAdamScheduleFree`` of schedulefree::

        v = beta2 v + (1 - beta2) g^2
        rho_inf = 2 / (1 - beta2) - 1;  rho = rho_inf - 2 step beta2^step / (1 - beta2^step)
        rho > 4:   lr_t = lr sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
                   u = g / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay p
        otherwise: lr_t = lr, or 0 if silent_sgd_phase;  u = g + weight_decay p
        lr_max = max(lr_max, lr_t);  w = step^r lr_max^weight_lr_power;  W = W + w;  c = w / W
        p = (1 - c) p + c z - lr_t (1 - beta1 (1 - c)) u
        z = z - lr_t u                             (of p and z before the step; z = p before the first)

    with v the state ``exp_avg_sq``. Gradients are taken at p, and ``averaged()`` of the optimizer has
    ``p + (1 - 1 / beta1) (z - p)`` in its place.
    """

    lr: LearningRate = 2.5e-3
    betas: tuple[OpenUnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0
    silent_sgd_phase: bool = True

    ulp = 64
    kernel = "schedule_free_adam"
    decoupled_weight_decay: ClassVar = True
    states: ClassVar = {"z": 0.0, "exp_avg_sq": State(signed=False)}

    @property
    def averaging(self):
        return self.betas[0]

    @property
    def settled(self):
        beta2 = self.betas[1]
        return 80 / -log(beta2) if beta2 else 0.0  # e^-80, even times the step, changes nothing

    def size(self, step):
        return self.rate(step) * self._rectification(step, float(not self.silent_sgd_phase))

    def _rectification(self, step: int, without: float) -> float:
        """What the step size is multiplied by, or the number that is given where there is no rectification."""
        beta2 = self.betas[1]
        power = beta2**step
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * step * power / (1 - power)
        if not rho > 4:
            return without
        return sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))

    def coefficients(self, step, weight_sum=None, lr_max=None):
        share, size = self.share(step, weight_sum, lr_max), self.size(step)
        beta1, beta2 = self.betas
        pull = size * (1 - beta1 * (1 - share))
        rectified = self._rectification(step, 0.0) > 0
        return self.common(pull) | {
            "step_size": size,
            "share": share,
            "pull": pull,
            "decay_size": size * self.weight_decay,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": 1 / sqrt(1 - beta2**step) if rectified else 0.0,
            "eps": self.eps if rectified else 1.0,
            "keep": 0.0 if step == 1 else 1.0,
        }

    def reference(self, step, p, g, z, exp_avg_sq):
        beta1, beta2 = self.betas
        g = -g if self.maximize else g
        longest = 2 / (1 - beta2) - 1
        lengths = [longest - 2 * t * beta2**t / (1 - beta2**t) for t in range(1, step + 1)]
        sizes = [self.rate(t) * (0.0 if self.silent_sgd_phase else 1.0) for t in range(1, step + 1)]
        for t, length in enumerate(lengths):
            if length > 4:
                variance = ((length - 4) * (length - 2) * longest) / ((longest - 4) * (longest - 2) * length)
                sizes[t] = self.rate(t + 1) * sqrt(variance)
        weights = [t**self.r * max(sizes[:t]) ** self.weight_lr_power for t in range(1, step + 1)]
        c = weights[-1] / sum(weights) if sum(weights) else 0.0
        z = p if step == 1 else z
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        u = g / (np.sqrt(exp_avg_sq / (1 - beta2**step)) + self.eps) if lengths[-1] > 4 else g
        u = u + self.weight_decay * p if self.weight_decay else u
        near = p if c == 0 else z if c == 1 else (1 - c) * p + c * z  # 0 times an infinity is NaN
        moved = near - sizes[-1] * (1 - beta1 * (1 - c)) * u
        return moved, {"z": z - sizes[-1] * u, "exp_avg_sq": exp_avg_sq}
