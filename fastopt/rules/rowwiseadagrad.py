"""RowwiseAdagrad."""

from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative
from fastopt.rule import Rule, State


class RowwiseAdagrad(Rule):
    """RowwiseAdagrad: Adagrad with one number for each row; for embeddings. Duchi, Hazan & Singer, JMLR 12, 2011::

        s = s + mean(g^2)                          (of each row)
        p = p - lr weight_decay p
        p = p - lr g / (sqrt(s) + eps)

    in the form of FBGEMM's exact row-wise Adagrad, with s the state ``sum``, which has the shape ``(rows,)``. Rows are
    those of the first axis, so a parameter of one axis has rows of one element, and steps as with Adagrad; one of none
    is one row. :class:`fastopt.Rows` move the rows that they have, and no others.

    Elsewhere: FBGEMM calls s ``momentum1``.
    """

    lr: LearningRate = 1e-2
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: ClassVar = True

    tolerance = 1e-5
    kernel = "sgd"
    stage = "rowwiseadagrad"
    rowwise: ClassVar = True
    states: ClassVar = {"sum": State(signed=False)}

    def state_shape(self, state, shape):
        return shape[:1]

    def coefficients(self, step):
        lr = self.rate(step)
        return self.common(lr) | {"step_size": lr}

    def reference(self, step, p, g, sum):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        rows = g.reshape(len(g), -1) if g.ndim else g.reshape(1, 1)
        sum = sum + (rows**2).mean(axis=1).reshape(sum.shape)
        update = rows / (np.sqrt(sum).reshape(-1, 1) + self.eps)
        return p - lr * update.reshape(g.shape), {"sum": sum}
