"""Stochastic gradient descent, with or without momentum."""

from fastopt import cautious
from fastopt.declared import ClosedUnitInterval, LearningRate, NonNegative
from fastopt.rule import Rule


class SGD(Rule):
    """SGD: stochastic gradient descent, with momentum if asked for.

    Robbins & Monro, Annals of Mathematical Statistics 22, 1951; momentum after Sutskever et al., ICML 2013, in the
    form of ``torch.optim.SGD``::

        b = momentum b + (1 - dampening) g        (b = g in the first step)
        p = p - lr b                              (nesterov: p - lr (g + momentum b))

    ``nesterov`` needs a momentum above zero and no dampening. Without momentum there is no state.

    With ``cautious``, which needs a momentum, only elements step in which what lr multiplies has the sign of g: see
    :class:`fastopt.Adam`.

    Elsewhere: scikit-learn and Keras multiply by lr before the buffer, ``b = momentum b - lr g``: that differs where lr
    changes.
    """

    lr: LearningRate = 1e-3
    momentum: NonNegative = 0.0
    dampening: ClosedUnitInterval = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False
    decoupled_weight_decay: bool = False
    cautious: bool = False

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

        if self.cautious and self.momentum == 0:
            raise ValueError(f"{type(self).__name__}: cautious needs momentum > 0, not momentum={self.momentum}")

    @property
    def kernel(self):
        kernel = "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"
        return f"cautious_{kernel}" if self.cautious else kernel

    @property
    def sums(self):
        return "cautious" if self.cautious else None

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
        if self.cautious:
            values["zero"] = 0.0
        return values

    def measured(self, step, values):
        if self.nesterov:
            return cautious.measured(values, self.momentum, 1.0, 1.0, self.momentum)
        return cautious.measured(values, self.momentum, values["one_minus_dampening"])

    def adapted(self, step, values, sizes, counts):
        return {"step_size": values["step_size"] * cautious.larger(sizes, counts)}

    def reference(self, step, p, g, momentum_buffer=None):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        if momentum_buffer is None:
            return p - lr * g, {}
        velocity = g if step == 1 else self.momentum * momentum_buffer + (1 - self.dampening) * g
        direction = g + self.momentum * velocity if self.nesterov else velocity
        if self.cautious:
            direction = cautious.masked(direction, direction, g)
        return p - lr * direction, {"momentum_buffer": velocity}
