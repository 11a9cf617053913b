"""ASGD: averaged stochastic gradient descent."""

from typing import ClassVar

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
    averages: ClassVar = True
    starts_from_parameters: ClassVar = True
    kernel = "asgd"
    states: ClassVar = {"ax": 0.0}

    @property
    def torch_scalars(self):
        return {"eta": self.rate(1), "mu": 1.0}

    def advance(self, step, eta=None, mu=None):
        if eta is None:
            return {}
        return {"eta": self._eta(step + 1, self.rate(step)), "mu": self._mu(step + 1)}

    def coefficients(self, step, eta=None, mu=None):
        """The step size and the weight of the parameters in the average follow from the step, but torch runs them."""
        if eta is None:
            eta, mu = self._eta(step, self.rate(step)), self._mu(step)
        eta, mu = float(eta), float(mu)
        return self.common(eta) | {
            "shrink": 1 - self.lambd * eta,
            "step_size": eta,
            "keep": 0.0 if mu == 1 else 1.0,
            "mu": mu,
        }

    def _eta(self, step: int, lr: float) -> float:
        return lr / (1 + self.lambd * lr * (step - 1)) ** self.alpha

    def _mu(self, step: int) -> float:
        return 1 / max(1.0, step - 1 - self.t0)

    def averaged(self, p, states):
        return states["ax"]

    def reference(self, step, p, g, ax):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        eta = lr / (1 + self.lambd * lr * (step - 1)) ** self.alpha
        p = (1 - self.lambd * eta) * p - eta * g
        mu = 1 / max(1, step - 1 - self.t0)
        return p, {"ax": p if mu == 1 else (1 - mu) * ax + mu * p}
