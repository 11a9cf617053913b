"""FTRL-Proximal."""

import numpy as np

from fastopt.declared import LearningRate, NonNegative
from fastopt.rule import Rule, State


class FTRL(Rule):
    """FTRL: follow the regularized leader, proximally; with ``l1``, parameters that are exactly zero.

    McMahan et al., KDD 2013, Algorithm 1, with r the rate of an element::

        n = n + g^2
        r = lr / (beta + sqrt(n) + lr l2)
        z = z + g - (1 / r - 1 / (r before)) p
        p = -r sign(z) max(|z| - l1, 0)

    with z itself a state, and n the state ``square_sum``, which starts as ``initial_accumulator_value``. z starts as
    what gives the parameters that there are, and is what gives them whenever lr has changed: hence kernels look at it
    where p is zero, and elsewhere work it out from p.

    Elsewhere: in Keras beta is 0, n starts as 0.1, and l2 counts twice. pytorch_optimizer starts z as zero: it draws
    parameters that do not start as zero towards it, unless beta, l1 and l2 are 0.
    """

    lr: LearningRate = 0.1
    beta: NonNegative = 1.0
    l1: NonNegative = 0.0
    l2: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0

    ulp = 16
    state_ulp = 256  # z is p over a rate that may become small
    kernel = "ftrl"

    def check(self):
        if self.beta == 0 and self.initial_accumulator_value == 0:
            raise ValueError("FTRL: beta or initial_accumulator_value must be > 0, not both 0")

    @property
    def states(self):
        return {"square_sum": State(self.initial_accumulator_value, signed=False), "z": 0.0}

    def coefficients(self, step):
        lr = self.rate(step)
        return self.common(0.0) | {
            "step_size": lr,
            "offset": self.beta + lr * self.l2,
            "l1": self.l1,
            "zero": 0.0,
        }

    def reference(self, step, p, g, square_sum, z):
        lr = self.rate(step)
        _, g = self.decayed(lr, p, g)
        square_sum = square_sum + g**2
        rate = lr / (self.beta + np.sqrt(square_sum) + lr * self.l2)
        total = g + np.where(p == 0, z, -self.l1 * np.sign(p))
        w = p - rate * total
        after = np.where(abs(w) > rate * self.l1, w - np.sign(w) * rate * self.l1, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            rest = np.where(p == 0, total, total - p / rate)
            pulled = np.where(rate > 0, -self.l1 * np.sign(after) - after / rate, z)
        return after, {"square_sum": square_sum, "z": np.where(after == 0, rest, pulled)}
