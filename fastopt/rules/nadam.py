"""NAdam."""

from math import prod, sqrt
from threading import Lock

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State

_NO_MORE = 2.0**-64  # one minus less than this is one
_MOST_PRODUCTS = 256
_lock = Lock()
_products: dict[tuple[float, float, int], float] = {}  # by (beta1, momentum_decay, step), the last few


class NAdam(Rule):
    """NAdam: Adam with Nesterov's momentum. Dozat, ICLR 2016 workshop, in the form of ``torch.optim.NAdam``::

        mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2);  M(t) = mu(1) mu(2) ... mu(t)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        d = mu(step + 1) m / (1 - M(step + 1)) + (1 - mu(step)) g / (1 - M(step))
        p = p - lr d / (sqrt(v / (1 - beta2^step)) + eps)

    with m the state ``exp_avg`` and v the state ``exp_avg_sq``.
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

    def coefficients(self, step):
        return self.coefficients_with(step, _momentum_product(self.betas[0], self.momentum_decay, step))

    def coefficients_with(self, step, product):
        """The coefficients of a step, given the product of the momenta up to it, M(step)."""
        lr = self.rate(step)
        beta1, beta2 = self.betas
        current, following = self.momentum_of(step), self.momentum_of(step + 1)
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

    def momentum_of(self, step: int) -> float:
        """The momentum of a step, mu(step)."""
        return _momentum(self.betas[0], self.momentum_decay, step)

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


def _momentum(beta1: float, momentum_decay: float, step: int) -> float:
    return beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))


def _momentum_product(beta1: float, momentum_decay: float, step: int) -> float:
    """The product of the momenta of the steps 1 to ``step``: the same bits whether the run was resumed or not."""
    with _lock:
        first = step if (beta1, momentum_decay, step - 1) in _products else 1
        product = _products.get((beta1, momentum_decay, first - 1), 1.0)
        for each in range(first, step + 1):
            product *= _momentum(beta1, momentum_decay, each)
            if product < _NO_MORE:
                product = 0.0
                break
        _products[beta1, momentum_decay, step] = product
        if len(_products) > _MOST_PRODUCTS:
            del _products[next(iter(_products))]
        return product
