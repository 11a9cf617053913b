"""SOAP."""

from math import prod, sqrt
from typing import Annotated, ClassVar

import numpy as np

from fastopt.declared import ClosedUnitInterval, LearningRate, NonNegative, UnitInterval, Whole
from fastopt.rule import Rule, State


class SOAP(Rule):
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner. Vyas et al., ICLR 2025, arXiv:2409.11321, Algorithm 3::

        t = step - 1
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) (QL^T g QR)^2
        u = QL ((QL^T m QR) / (sqrt(v) + eps)) QR^T
        p = p (1 - lr weight_decay) - lr sqrt(1 - beta2^t) / (1 - beta1^t) u
        L = s L + (1 - s) g g^T;  R = s R + (1 - s) g^T g
        QL, QR = orthonormal bases of L QL, R QR      (every precondition_frequency steps)

    with m the state ``exp_avg``, v ``exp_avg_sq``, L and R ``GG_L`` and ``GG_R``, QL and QR ``Q_L`` and ``Q_R``, and s
    the ``shampoo_beta``, or beta2 where that is None. The first step takes L and R from its gradient, QL and QR are
    their eigenvectors, and parameters stay as they are. A new basis is the Q of a QR decomposition; its columns, and
    with them v, are sorted by their share in L or R.

    Parameters of more than two axes are matrices of their first axis and all others together. A side longer than
    ``max_precond_dim`` is left as it is, and its two states are not there. Parameters of fewer than two axes are
    updated as by Adam, but for the first step.

    The matrices are multiplied and decomposed by NumPy's BLAS and LAPACK in the dtype in which kernels compute.

    Elsewhere: the paper's code decays after the update, and keeps m in the eigenbasis; it has a basis for each axis.
    """

    lr: LearningRate = 3e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.95, 0.95)
    shampoo_beta: ClosedUnitInterval | None = None
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 1e-2
    precondition_frequency: Annotated[int, Whole(1)] = 10
    max_precond_dim: Annotated[int, Whole(0)] = 10000
    decoupled_weight_decay: ClassVar = True  # type: ignore[misc]

    tolerance = 1e-3
    kernel = "sgd"
    stage = "soap"

    @property
    def states(self):
        sides = dict.fromkeys(("GG_L", "GG_R", "Q_L", "Q_R"), 0.0)
        return {"exp_avg": 0.0, "exp_avg_sq": State(signed=False)} | sides

    def state_shape(self, state, shape):
        if state in ("exp_avg", "exp_avg_sq"):
            return shape
        if len(shape) < 2:
            return None
        side = shape[0] if state.endswith("_L") else prod(shape[1:])
        return (side, side) if side <= self.max_precond_dim else None

    @property
    def preconditioner_beta(self) -> float:
        """The share of L and R that a step keeps."""
        return self.betas[1] if self.shampoo_beta is None else self.shampoo_beta

    def coefficients(self, step):
        lr = self.rate(step)
        values = self.common(lr) | {"step_size": lr}
        return values if step > 1 else values | {"shrink": 1.0, "step_size": 0.0}

    def reference(self, step, p, g, exp_avg, exp_avg_sq, GG_L=None, GG_R=None, Q_L=None, Q_R=None):
        lr, shape = self.rate(step), p.shape
        decayed, g = self.decayed(lr, p, g)
        g, m, v = (each.reshape(len(each) if each.ndim else 1, -1) for each in (g, exp_avg, exp_avg_sq))
        rows, columns = g.shape
        left, right = np.eye(rows) if Q_L is None else Q_L, np.eye(columns) if Q_R is None else Q_R
        if step > 1:
            t = step - 1
            beta1, beta2 = self.betas
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * (left.T @ g @ right) ** 2
            u = left @ ((left.T @ m @ right) / (np.sqrt(v) + self.eps)) @ right.T
            p = decayed - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * u.reshape(shape)
        state = {"exp_avg": m.reshape(shape)}
        share = self.preconditioner_beta
        if GG_L is not None:
            GG_L = share * GG_L + (1 - share) * g @ g.T
            Q_L, v = self._basis(step, GG_L, Q_L, v)
        if GG_R is not None:
            GG_R = share * GG_R + (1 - share) * g.T @ g
            Q_R, turned = self._basis(step, GG_R, Q_R, v.T)
            v = turned.T
        state["exp_avg_sq"] = v.reshape(shape)
        sides = {"GG_L": GG_L, "GG_R": GG_R, "Q_L": Q_L, "Q_R": Q_R}
        return p, state | {name: side for name, side in sides.items() if side is not None}

    def _basis(self, step, gram, basis, v):
        """The basis of a side after a step, and v, whose rows belong to its columns."""
        if step == 1:
            return np.linalg.eigh(gram)[1][:, ::-1], v
        if (step - 1) % self.precondition_frequency:
            return basis, v
        order = np.argsort(-np.diag(basis.T @ gram @ basis), kind="stable")
        return np.linalg.qr(gram @ basis[:, order])[0], v[order]
