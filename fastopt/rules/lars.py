"""LARS."""

from typing import ClassVar

import numpy as np

from fastopt.declared import ClosedUnitInterval, LearningRate, NonNegative
from fastopt.rule import Rule


class LARS(Rule):
    """LARS: gradient descent whose gradients are as large as a parameter's norm. You, Gitman & Ginsburg, 2017,
    arXiv:1708.03888, Algorithm 1, in the form of timm's ``Lars``::

        r = trust_coeff ||p|| / (||g|| + weight_decay ||p|| + eps)
        d = r (g + weight_decay p)
        b = momentum b + (1 - dampening) d         (the first one is d)
        p = p - lr b                               (with nesterov: lr (d + momentum b); without momentum: lr d)

    with b the state ``momentum_buffer``, as in SGD. The norms are those of one parameter, not of all; r is 1 where
    one of them is zero or not finite, and without weight decay unless ``always_adapt``. With ``trust_clip`` r is no
    more than 1 after it has been divided by lr: LARC.

    Elsewhere: the paper and optax multiply by lr before the buffer, which differs where lr changes; optax takes the
    norm of g + weight_decay p.
    """

    lr: LearningRate = 1.0
    momentum: NonNegative = 0.0
    dampening: ClosedUnitInterval = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False
    trust_coeff: NonNegative = 1e-3
    eps: NonNegative = 1e-8
    trust_clip: bool = False
    always_adapt: bool = False

    ulp = 32
    sums = "lars"
    torch_step: ClassVar = False

    def check(self):
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"{type(self).__name__}: nesterov needs momentum > 0 and dampening = 0, "
                f"not momentum={self.momentum} and dampening={self.dampening}"
            )

    @property
    def kernel(self):
        return "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"

    @property
    def states(self):
        return {"momentum_buffer": 0.0} if self.momentum else {}

    def coefficients(self, step):
        lr = self.rate(step)
        values = self.common(lr) | {"step_size": lr}
        if self.momentum:
            values["momentum"] = self.momentum
            if not self.nesterov:
                values["one_minus_dampening"] = 1.0 if step == 1 else 1.0 - self.dampening
        return values

    def measured(self, step, values):
        return {"grad_scale": values["grad_scale"]}

    def adapted(self, step, values, sizes, weights, gradients):
        if not (self.weight_decay or self.always_adapt):
            return {}
        weight, gradient = np.sqrt(weights), np.sqrt(gradients)
        lr = self.rate(step)
        with np.errstate(all="ignore"):
            ratio = self.trust_coeff * weight / (gradient + self.weight_decay * weight + self.eps)
            there = (weight > 0) & (gradient > 0) & np.isfinite(weight) & np.isfinite(gradient)
            ratio = np.where(there, ratio, 1.0)
            if self.trust_clip:
                ratio = np.minimum(ratio / lr, 1.0) if lr else np.ones_like(ratio)
        return {"grad_scale": values["grad_scale"] * ratio, "l2": values["l2"] * ratio}

    def reference(self, step, p, g, momentum_buffer=None):
        lr = self.rate(step)
        weight, gradient = np.sqrt((p**2).sum()), np.sqrt((g**2).sum())
        p, g = self.decayed(lr, p, g)
        if self.weight_decay or self.always_adapt:
            ratio = 1.0
            if weight > 0 and gradient > 0:
                ratio = self.trust_coeff * weight / (gradient + self.weight_decay * weight + self.eps)
            g = g * (min(ratio / lr, 1.0) if self.trust_clip else ratio)
        if momentum_buffer is None:
            return p - lr * g, {}
        velocity = g if step == 1 else self.momentum * momentum_buffer + (1 - self.dampening) * g
        direction = g + self.momentum * velocity if self.nesterov else velocity
        return p - lr * direction, {"momentum_buffer": velocity}
