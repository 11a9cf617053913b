"""AMSGrad under its own name."""

from typing import ClassVar

from fastopt.rules.adam import Adam


class AMSGrad(Adam):
    """AMSGrad: Adam whose step size never grows. Reddi, Kale & Kumar, ICLR 2018, arXiv:1904.09237; see :class:`Adam`::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        s = max(s, v)
        p = p - lr (m / (1 - beta1^step)) / (sqrt(s / (1 - beta2^step)) + eps)

    with m the state ``exp_avg``, v ``exp_avg_sq`` and s ``max_exp_avg_sq``.

    Elsewhere: optax takes the maximum after the bias correction.
    """

    amsgrad: ClassVar = True  # type: ignore[misc]
    cautious: ClassVar = False  # type: ignore[misc]
