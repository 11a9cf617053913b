"""Adagrad."""

import numpy as np

from fastopt.declared import LearningRate, NonNegative
from fastopt.rule import Rule, State


class Adagrad(Rule):
    """Adagrad: a step size for each parameter from the sum of its squared gradients.

    Duchi, Hazan & Singer, JMLR 12, 2011, with the decay of ``torch.optim.Adagrad``::

        s = s + g^2                               (s starts as initial_accumulator_value)
        p = p - lr / (1 + (step - 1) lr_decay) g / (sqrt(s) + eps)

    Elsewhere: optax starts s as 0.1, and adds its eps of 1e-7 under the root.
    """

    lr: LearningRate = 1e-2
    lr_decay: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0
    eps: NonNegative = 1e-10

    ulp = 16
    kernel = "adagrad"

    @property
    def states(self):
        return {"sum": State(self.initial_accumulator_value, signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        return self.common(lr) | {"step_size": lr / (1 + (step - 1) * self.lr_decay), "eps": self.eps, "eps_root": 0.0}

    def reference(self, step, p, g, sum):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        sum = sum + g**2
        return p - lr / (1 + (step - 1) * self.lr_decay) * g / (np.sqrt(sum) + self.eps), {"sum": sum}
