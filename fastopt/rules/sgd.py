"""Stochastic gradient descent, with or without momentum."""

from fastopt.declared import ClosedUnitInterval, LearningRate, NonNegative
from fastopt.rule import Rule


class SGD(Rule):
    """SGD: stochastic gradient descent, with momentum if asked for.

    Robbins & Monro, Annals of Mathematical Statistics 22, 1951; momentum after Sutskever et al., ICML 2013, in the
    form of ``torch.optim.SGD``::

        b = momentum b + (1 - dampening) g        (b = g in the first step)
        p = p - lr b                              (nesterov: p - lr (g + momentum b))

    ``nesterov`` needs a momentum above zero and no dampening. Without momentum there is no state.

    Elsewhere: scikit-learn and Keras multiply by lr before the buffer, ``b = momentum b - lr g``: that differs where lr
    changes.
    """

    lr: LearningRate = 1e-3
    momentum: NonNegative = 0.0
    dampening: ClosedUnitInterval = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False
    decoupled_weight_decay: bool = False

    ulp = 64
    torch_step = False

    @property
    def torch_moves_all_rows(self):
        return self.momentum != 0

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

    def reference(self, step, p, g, momentum_buffer=None):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        if momentum_buffer is None:
            return p - lr * g, {}
        velocity = g if step == 1 else self.momentum * momentum_buffer + (1 - self.dampening) * g
        direction = g + self.momentum * velocity if self.nesterov else velocity
        return p - lr * direction, {"momentum_buffer": velocity}
