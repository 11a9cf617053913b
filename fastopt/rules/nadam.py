"""NAdam."""

from math import prod, sqrt

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State

_NO_MORE = 2.0**-64  # one minus less than this is one


class NAdam(Rule):
    """NAdam: Adam with Nesterov's momentum. Dozat, ICLR 2016 workshop, in the form of ``torch.optim.NAdam``::

        mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2);  M(t) = mu(1) mu(2) ... mu(t)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        d = mu(step + 1) m / (1 - M(step + 1)) + (1 - mu(step)) g / (1 - M(step))
        p = p - lr d / (sqrt(v / (1 - beta2^step)) + eps)

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``.

    Elsewhere: the momentum of optax is beta1 in every step.
    """

    lr: LearningRate = 2e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum_decay: NonNegative = 4e-3
    decoupled_weight_decay: bool = False

    ulp = 64
    kernel = "nadam"

    @property
    def states(self):
        return {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)}

    @property
    def scalars(self):
        return {"mu_product": 1.0}  # M, as torch calls it

    def advance(self, step, mu_product):
        return {"mu_product": mu_product * self._momentum(step)}

    def scalars_after(self, steps):
        product = 1.0
        for step in range(1, steps + 1):
            product *= self._momentum(step)
            if product < _NO_MORE:
                return {"mu_product": 0.0}
        return {"mu_product": product}

    def scalars_in_place_of(self, steps, scalars):
        return self.scalars_after(steps)

    def coefficients(self, step, mu_product=None):
        lr = self.rate(step)
        beta1, beta2 = self.betas
        current, following = self._momentum(step), self._momentum(step + 1)
        if mu_product is None:
            mu_product = self.scalars_after(step - 1)["mu_product"]
        product = float(mu_product * current)  # of a float32 as torch has it, then float64 again
        return self.common(lr) | {
            "grad_size": lr * (1 - current) / (1 - product),
            "momentum_size": lr * following / (1 - product * following),
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": 1 / sqrt(1 - beta2**step),
            "eps": self.eps,
        }

    def _momentum(self, step: int) -> float:
        """The momentum of a step, mu(step)."""
        return self.betas[0] * (1 - 0.5 * 0.96 ** (step * self.momentum_decay))

    def reference(self, step, p, g, exp_avg, exp_avg_sq):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2 = self.betas
        mu = (beta1 * (1 - 0.5 * 0.96 ** (np.arange(1, step + 2) * self.momentum_decay))).tolist()
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        direction = mu[-1] * exp_avg / (1 - prod(mu)) + (1 - mu[-2]) * g / (1 - prod(mu[:-1]))
        p = p - lr * direction / (np.sqrt(exp_avg_sq / (1 - beta2**step)) + self.eps)
        return p, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
