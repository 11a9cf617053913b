"""ASGD: averaged stochastic gradient descent."""

from fastopt.declared import LearningRate, NonNegative
from fastopt.rule import Rule


class ASGD(Rule):
    """ASGD: averaged SGD. Polyak & Juditsky, SIAM J. Control and Optimization 30, 1992, as in ``torch.optim.ASGD``::

        eta = lr / (1 + lambd lr (step - 1))^alpha
        p = (1 - lambd eta) p - eta g
        a = a + mu (p - a),  mu = 1 / max(1, step - 1 - t0)

    with a, the average, the state ``ax``. Until step t0 + 2 the average is p itself.
    """

    lr: LearningRate = 1e-2
    lambd: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    t0: NonNegative = 1e6
    weight_decay: NonNegative = 0.0

    ulp = 128
    kernel = "asgd"

    @property
    def states(self):
        return {"ax": 0.0}

    def coefficients(self, step):
        lr = self.rate(step)
        eta = lr / (1 + self.lambd * lr * (step - 1)) ** self.alpha
        return self.coefficients_with(eta, 1 / max(1.0, step - 1 - self.t0))

    def coefficients_with(self, eta, mu):
        """The coefficients of a step, given its size and the weight of its parameters in the average."""
        return self.common(eta) | {
            "shrink": 1 - self.lambd * eta,
            "step_size": eta,
            "keep": 0.0 if mu == 1 else 1.0,
            "mu": mu,
        }

    def reference(self, step, p, g, ax):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        eta = lr / (1 + self.lambd * lr * (step - 1)) ** self.alpha
        p = (1 - self.lambd * eta) * p - eta * g
        mu = 1 / max(1, step - 1 - self.t0)
        return p, {"ax": p if mu == 1 else (1 - mu) * ax + mu * p}
