"""RMSprop: plain, centered, with momentum, or both."""

import numpy as np

from fastopt.declared import ClosedUnitInterval, LearningRate, NonNegative
from fastopt.rule import Rule, State


class RMSprop(Rule):
    """RMSprop: the gradient over its running root mean square.

    Tieleman & Hinton, Coursera lecture 6.5, 2012; centered after Graves, 2013, arXiv:1308.0850, equations 38 to 45::

        v = alpha v + (1 - alpha) g^2
        m = alpha m + (1 - alpha) g               (centered; otherwise m = 0)
        d = g / (sqrt(v - m^2) + eps)
        b = momentum b + d                        (momentum = 0: b = d)
        p = p - lr b

    with the states v ``square_avg``, m ``grad_avg`` and b ``momentum_buffer``. Where rounding makes v - m^2 negative it
    counts as zero.

    Elsewhere: the alpha of optax is 0.9, and its eps is added under the root unless told otherwise.
    """

    lr: LearningRate = 1e-2
    alpha: ClosedUnitInterval = 0.99
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum: NonNegative = 0.0
    centered: bool = False

    ulp = 16

    @property
    def kernel(self):
        return "rmsprop" + "_centered" * self.centered + "_momentum" * (self.momentum > 0)

    @property
    def states(self):
        states = {"square_avg": State(signed=False)}
        if self.centered:
            states["grad_avg"] = 0.0
        if self.momentum:
            states["momentum_buffer"] = 0.0
        return states

    def coefficients(self, step):
        lr = self.rate(step)
        values = self.common(lr) | {
            "step_size": lr,
            "alpha": self.alpha,
            "one_minus_alpha": 1 - self.alpha,
            "eps": self.eps,
            "eps_root": 0.0,
        }
        if self.centered:
            values["zero"] = 0.0
        if self.momentum:
            values["momentum"] = self.momentum
        return values

    def reference(self, step, p, g, square_avg, grad_avg=None, momentum_buffer=None):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        square_avg = self.alpha * square_avg + (1 - self.alpha) * g**2
        state = {"square_avg": square_avg}
        variance = square_avg
        if grad_avg is not None:
            state["grad_avg"] = self.alpha * grad_avg + (1 - self.alpha) * g
            variance = np.maximum(square_avg - state["grad_avg"] ** 2, 0.0)
        direction = g / (np.sqrt(variance) + self.eps)
        if momentum_buffer is not None:
            direction = state["momentum_buffer"] = self.momentum * momentum_buffer + direction
        return p - lr * direction, state
