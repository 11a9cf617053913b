"""AdamW."""

from typing import ClassVar

from fastopt.declared import NonNegative
from fastopt.rules.adam import Adam


class AdamW(Adam):
    """AdamW: Adam with decoupled weight decay. Loshchilov & Hutter, ICLR 2019, arXiv:1711.05101, Algorithm 2::

        p = p - lr weight_decay p
        then p as in Adam

    with the states of Adam, its ``amsgrad`` and ``cautious``.

    Elsewhere: optax decays by 1e-4 unless told otherwise.
    """

    weight_decay: NonNegative = 1e-2
    decoupled_weight_decay: ClassVar = True  # type: ignore[misc]

    ulp = 128
