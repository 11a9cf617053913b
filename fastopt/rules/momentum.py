"""Heavy-ball momentum under its own name."""

from typing import ClassVar

from fastopt.declared import NonNegative
from fastopt.rules.sgd import SGD


class Momentum(SGD):
    """Momentum: the heavy ball. Polyak, USSR Comp. Math. and Math. Physics 4, 1964; see :class:`SGD`::

        b = momentum b + (1 - dampening) g        (b = g in the first step)
        p = p - lr b

    with b the state ``momentum_buffer``.
    """

    momentum: NonNegative = 0.9
    nesterov: ClassVar = False  # type: ignore[misc]
