"""Adafactor."""

from math import sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import AtLeastOne, LearningRate, NonNegative, NonPositive
from fastopt.rule import Rule, State


class Adafactor(Rule):
    """Adafactor: a second moment kept as means of rows and columns. Shazeer & Stern, ICML 2018, arXiv:1804.04235::

        w = step^beta2_decay
        R = (1 - w) R + w (mean of g^2 over each row)
        C = (1 - w) C + w (mean of g^2 over each column)
        V = R C / max(mean of R, eps1)
        U = g / sqrt(max(V, eps1^2))
        a = max(eps2, rms(p)) min(lr, 1 / sqrt(step))
        p = p (1 - lr weight_decay) - a U / max(1, rms(U) / d)

    in the form of ``torch.optim.Adafactor``, with R the state ``row_var``, C ``col_var``, eps1 and eps2 the two
    ``eps``, and rms the root of the mean of squares; it is that of p before the decay. Rows and columns are the last
    two axes. Parameters that have fewer than two keep all of ``variance = (1 - w) variance + w g^2``, which is V. An
    eps1 of None is the distance from 1 to the next number of the dtype in which kernels compute.

    Elsewhere: the paper and optax add eps1 to g^2; optax and timm factor only matrices of some size.
    """

    lr: LearningRate = 1e-2
    beta2_decay: NonPositive = -0.8
    eps: tuple[NonNegative | None, NonNegative] = (None, 1e-3)
    d: AtLeastOne = 1.0
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: ClassVar = True  # type: ignore[misc]

    tolerance = 1e-5
    kernel = "sgd"
    stage = "adafactor"
    states: ClassVar = dict.fromkeys(("row_var", "col_var", "variance"), State(signed=False))

    def state_shape(self, state, shape):
        if len(shape) < 2:
            return shape if state == "variance" else None
        whole = {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}
        return whole.get(state)

    def coefficients(self, step):
        return self.common(self.rate(step)) | {"step_size": 1.0}

    def reference(self, step, p, g, row_var=None, col_var=None, variance=None):
        lr = self.rate(step)
        weight = step**self.beta2_decay
        alpha = max(self.eps[1], np.sqrt(np.mean(p**2))) * min(lr, 1 / sqrt(step))
        p, g = self.decayed(lr, p, g)
        least = float(np.finfo(np.float32).eps) if self.eps[0] is None else self.eps[0]
        if variance is not None:
            second = variance = (1 - weight) * variance + weight * g**2
            state = {"variance": variance}
        else:
            row_var = (1 - weight) * row_var + weight * np.mean(g**2, axis=-1, keepdims=True)
            col_var = (1 - weight) * col_var + weight * np.mean(g**2, axis=-2, keepdims=True)
            second = row_var * col_var / np.maximum(np.mean(row_var, axis=-2, keepdims=True), least)
            state = {"row_var": row_var, "col_var": col_var}
        update = g / np.sqrt(np.maximum(second, least**2))
        return p - alpha * update / max(1.0, np.sqrt(np.mean(update**2)) / self.d), state
