"""How sums over gradients, parameters and states are taken, in numba: what each element contributes to their numbers.

A sum's arguments are the first of a kernel's streams, in their order, or the gradient alone; then ``k``, its
coefficients; then an array of float64 for each of its numbers, to which it writes. Who calls it adds the contributions,
in the order that ``csrc/sum.h`` has, too.
"""

from typing import Any, NamedTuple

from fastopt.sums.cautious import cautious
from fastopt.sums.dadapt_adam import dadapt_adam
from fastopt.sums.lamb import lamb
from fastopt.sums.lars import lars
from fastopt.sums.mars import mars
from fastopt.sums.prodigy import prodigy
from fastopt.sums.stable_adamw import stable_adamw
from fastopt.sums.sum_squares import sum_squares


class Sum(NamedTuple):
    """A loop of this package, by its name: the streams that it reads, and the numbers that it contributes to."""

    name: str
    loop: Any
    streams: tuple[str, ...]
    numbers: tuple[str, ...]

    @property
    def first(self) -> int:
        """The place of its first stream among a kernel's."""
        return ("p", "g").index(self.streams[0])


def _sum(loop: Any) -> Sum:
    code = loop.py_func.__code__
    arguments = code.co_varnames[: code.co_argcount]
    k = arguments.index("k")
    return Sum(loop.__name__, loop, arguments[:k], arguments[k + 1 :])


#: Every sum, by its name.
SUMS = {
    each.name: each for each in map(_sum, (cautious, dadapt_adam, lamb, lars, mars, prodigy, stable_adamw, sum_squares))
}
