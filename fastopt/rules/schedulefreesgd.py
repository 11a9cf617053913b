"""ScheduleFreeSGD."""

from typing import ClassVar

from fastopt.declared import LearningRate, NonNegative, OpenUnitInterval
from fastopt.schedule_free import ScheduleFree


class ScheduleFreeSGD(ScheduleFree):
    """ScheduleFreeSGD: SGD that needs no schedule, by averaging. Defazio et al., NeurIPS 2024, arXiv:2405.15682::

        lr_t = lr min(1, step / warmup_steps);  lr_max = max(lr_max, lr_t)
        w = step^r lr_max^weight_lr_power;  W = W + w;  c = w / W
        p = (1 - c) p + c z - lr_t (1 - momentum (1 - c)) g
        z = z - lr_t g                             (of p and z before the step; z = p before the first)

    Gradients are taken at p. The model is evaluated with ``p + (1 - 1 / momentum) (z - p)``, the average of z, which
    ``averaged()`` of the optimizer has in the place of p.

    Elsewhere: ``SGDScheduleFree`` of schedulefree. optax wraps any optimizer.
    """

    lr: LearningRate = 1.0
    momentum: OpenUnitInterval = 0.9
    weight_decay: NonNegative = 0.0
    warmup_steps: NonNegative = 0.0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0

    ulp = 32
    kernel = "schedule_free_sgd"
    states: ClassVar = {"z": 0.0}

    @property
    def averaging(self):
        return self.momentum

    def coefficients(self, step, weight_sum=None, lr_max=None):
        share, size = self.share(step, weight_sum, lr_max), self.size(step)
        return self.common(0.0) | {
            "step_size": size,
            "share": share,
            "pull": size * (1 - self.momentum * (1 - share)),
            "keep": 0.0 if step == 1 else 1.0,
        }

    def reference(self, step, p, g, z):
        p, g = self.decayed(0.0, p, g)
        sizes = [self.rate(t) * min(1, t / self.warmup_steps if self.warmup_steps else 1) for t in range(1, step + 1)]
        weights = [t**self.r * max(sizes[:t]) ** self.weight_lr_power for t in range(1, step + 1)]
        c = weights[-1] / sum(weights) if sum(weights) else 0.0
        z = p if step == 1 else z
        near = p if c == 0 else z if c == 1 else (1 - c) * p + c * z  # 0 times an infinity is NaN
        moved = near - sizes[-1] * (1 - self.momentum * (1 - c)) * g
        return moved, {"z": z - sizes[-1] * g}
