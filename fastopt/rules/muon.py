"""Muon."""

from math import sqrt
from typing import Annotated, ClassVar

import numpy as np

from fastopt.declared import Choice, LearningRate, NonNegative, Real, UnitInterval, Whole
from fastopt.rule import Rule

_MOST_STEPS = 100  # as in torch


class Muon(Rule):
    """Muon: momentum, orthogonalized; for matrices. Jordan et al., kellerjordan.github.io/posts/muon, 2024::

        b = momentum b + (1 - momentum) g
        u = momentum b + (1 - momentum) g             (b without nesterov)
        X = u / max(norm(u), eps)
        ns_steps times:  A = X X^T;  X = c1 X + (c2 A + c3 A A) X
        p = p (1 - lr weight_decay) - lr s X

    in the form of ``torch.optim.Muon``, with b the state ``momentum_buffer``, norm(u) the root of the sum of squares,
    and c1, c2 and c3 the ``ns_coefficients``. The iteration moves the singular values of X towards 1, most of them into
    [0.7, 1.2], and leaves the singular vectors as they are. A matrix that has more rows than columns is transposed for
    it. ``adjust_lr_fn`` chooses s: ``"original"``, which is also what None means, is ``sqrt(max(1, rows / columns))``;
    ``"match_rms_adamw"`` is ``0.2 sqrt(max(rows, columns))``, with which a learning rate for AdamW can be kept (Liu et
    al., arXiv:2502.16982).

    It updates matrices alone, those of hidden layers: embeddings, heads and biases are for another rule.

    The size of a gradient matters only beside those of other steps: ``max_norm`` and ``grad_scale`` work as for all
    rules, before the momentum, and hardly change a step.

    The matrices are multiplied by NumPy's BLAS in the dtype in which kernels compute; torch computes X in bfloat16.
    Hence both are near the same X, and not equal.

    Elsewhere: optax corrects the momentum's bias; timm has no Nesterov momentum unless asked for it.
    """

    lr: LearningRate = 1e-3
    weight_decay: NonNegative = 0.1
    momentum: UnitInterval = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[Real, Real, Real] = (3.4445, -4.7750, 2.0315)
    eps: NonNegative = 1e-7
    ns_steps: Annotated[int, Whole(1)] = 5
    adjust_lr_fn: Annotated[str, Choice("original", "match_rms_adamw")] | None = None
    decoupled_weight_decay: ClassVar = True  # type: ignore[misc]

    tolerance = 1e-4
    torch_step = False
    kernel = "sgd"
    stage = "muon"
    states: ClassVar = {"momentum_buffer": 0.0}

    def check(self):
        if self.ns_steps >= _MOST_STEPS:
            raise ValueError(f"{type(self).__name__}: ns_steps must be less than {_MOST_STEPS}, not {self.ns_steps}")

    def check_shape(self, name, shape):
        if len(shape) != 2:
            raise ValueError(
                f"{type(self).__name__} updates matrices alone, and {name!r} has the shape {shape}: give it another "
                f"rule, as in {{{name!r}: fastopt.AdamW(), '*': fastopt.{type(self).__name__}()}}, or in PyTorch "
                "another optimizer, fastopt.torch.AdamW"
            )

    def adjustment(self, shape: tuple[int, ...]) -> float:
        """By what the learning rate of a matrix of that shape is multiplied."""
        rows, columns = shape
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * sqrt(max(rows, columns))
        return sqrt(max(1.0, rows / columns))

    def coefficients(self, step):
        lr = self.rate(step)
        return self.common(lr) | {"step_size": lr}

    def reference(self, step, p, g, momentum_buffer):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        momentum = self.momentum * momentum_buffer + (1 - self.momentum) * g
        update = self.momentum * momentum + (1 - self.momentum) * g if self.nesterov else momentum
        left, values, right = np.linalg.svd(update, full_matrices=False)
        values = values / max(np.sqrt(np.sum(values**2)), self.eps)
        a, b, c = self.ns_coefficients
        for _ in range(self.ns_steps):
            values = a * values + b * values**3 + c * values**5
        return p - lr * self.adjustment(p.shape) * (left * values) @ right, {"momentum_buffer": momentum}
