"""Storages: how a stream of numbers lies in memory."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """One of the arrays that a stream is made of: an item for each ``every`` elements, the last ones perhaps fewer."""

    name: str
    dtype: np.dtype
    every: int = 1


class Storage(NamedTuple):
    """A format of numbers in memory: which arrays it is made of, and what they mean.

    ``decode`` and ``encode`` are the definition of the format in NumPy, written to be read and tested against, not to
    be fast: what steps use is in ``fastopt/codecs/`` and ``csrc/codecs/``, and gives the same bits.

    Attributes
    ----------
    name
        What the codecs are called.
    parts
        The arrays, in order.
    computes
        The dtype of the decoded numbers, in which kernels compute where parameters are stored so.
    decode
        ``decode(*parts)`` gives the numbers, a new 1-D array.
    encode
        ``encode(values)`` gives the parts, each number rounded to the nearest code. ``encode(values, noise)`` rounds up
        or down at random, by whole numbers in [0, 65536), one for each element: see :mod:`fastopt.storages.noise`.
        Where every number has a code, noise changes nothing. Values start at a block of the storage.
    """

    name: str
    parts: tuple[Part, ...]
    computes: np.dtype
    decode: Callable[..., np.ndarray]
    encode: Callable[..., tuple[np.ndarray, ...]]

    @property
    def block(self) -> int:
        """How many elements are encoded together."""
        return max(part.every for part in self.parts)

    def lengths(self, size: int) -> tuple[int, ...]:
        """How many items each part has for so many elements."""
        return tuple(-(-size // part.every) for part in self.parts)

    def nbytes(self, size: int) -> int:
        """How many bytes so many elements take."""
        return sum(length * part.dtype.itemsize for length, part in zip(self.lengths(size), self.parts, strict=True))


class Stream(NamedTuple):
    """A run of numbers in a storage: parameters, a gradient or states, as they lie in memory.

    Attributes
    ----------
    storage
        How the numbers are stored.
    parts
        Its arrays: 1-D, contiguous, each with an item for every so many elements as :class:`Part` says.
    size
        How many numbers they hold.
    stochastic
        Whether numbers are written by stochastic rounding, or else to nearest.
    """

    storage: Storage
    parts: tuple[np.ndarray, ...]
    size: int
    stochastic: bool = False

    def between(self, start: int, stop: int) -> "Stream":
        """The numbers from ``start``, which must be a multiple of the storage's block, to ``stop``."""
        cut = zip(self.parts, self.storage.parts, strict=True)
        parts = tuple(array[start // part.every : -(-stop // part.every)] for array, part in cut)
        return self._replace(parts=parts, size=stop - start)

    def decode(self) -> np.ndarray:
        """The numbers, a new array of the storage's ``computes``."""
        return self.storage.decode(*self.parts)
