"""NAdam."""

from math import prod, sqrt
from typing import ClassVar

import numpy as np

from fastopt import cautious
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

    With ``cautious`` only elements step in which d has the sign of g: see :class:`fastopt.Adam`.

    Elsewhere: the momentum of optax is beta1 in every step.
    """

    lr: LearningRate = 2e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum_decay: NonNegative = 4e-3
    decoupled_weight_decay: bool = False
    cautious: bool = False

    ulp = 64

    @property
    def kernel(self):
        return "cautious_nadam" if self.cautious else "nadam"

    @property
    def sums(self):
        return "cautious" if self.cautious else None

    states: ClassVar = {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)}

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
        values = self.common(lr) | {
            "grad_size": lr * (1 - current) / (1 - product),
            "momentum_size": lr * following / (1 - product * following),
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "root": 1 / sqrt(1 - beta2**step),
            "eps": self.eps,
        }
        if self.cautious:
            values["zero"] = 0.0
        return values

    def measured(self, step, values):
        names = "beta1", "one_minus_beta1", "grad_size", "momentum_size"
        return cautious.measured(values, *(values[name] for name in names))

    def adapted(self, step, values, sizes, counts):
        larger = cautious.larger(sizes, counts)
        return {name: values[name] * larger for name in ("grad_size", "momentum_size")}

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
        update = direction / (np.sqrt(exp_avg_sq / (1 - beta2**step)) + self.eps)
        if self.cautious:
            update = cautious.masked(update, direction, g)
        return p - lr * update, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
