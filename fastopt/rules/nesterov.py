"""Nesterov's accelerated gradient under its own name."""

from typing import ClassVar

from fastopt.declared import NonNegative
from fastopt.rules.sgd import SGD


class Nesterov(SGD):
    """Nesterov: accelerated gradient (NAG). Nesterov, 1983, as in Sutskever et al., ICML 2013; see :class:`SGD`::

        b = momentum b + g
        p = p - lr (g + momentum b)

    with b the state ``momentum_buffer``.
    """

    momentum: NonNegative = 0.9
    dampening: ClassVar = 0.0  # type: ignore[misc]
    nesterov: ClassVar = True  # type: ignore[misc]
