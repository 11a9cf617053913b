"""A data set: samples for training and for validation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fastopt.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """Samples split for training and validation.

    ``x_train`` and ``x_val`` are C-contiguous (rows, features) float64 or float32; ``y_train`` and
    ``y_val`` are (rows,) int64 class numbers, indices into ``classes``. ``remark`` says in one line
    how a file was understood, if that is not plain. Treat the arrays as read-only.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    classes: tuple[str, ...]
    remark: str = ""

    @property
    def features(self) -> int:
        return int(self.x_train.shape[1])

    def astype(self, dtype: str) -> Dataset:
        """The same data with features of ``dtype``. Raises InputError for "data" if one is not finite in it."""
        x_train, x_val = self._cast(self.x_train, dtype, "training"), self._cast(self.x_val, dtype, "validation")
        return replace(self, x_train=x_train, x_val=x_val)

    def _cast(self, x: np.ndarray, dtype: str, part: str) -> np.ndarray:
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(x, dtype=dtype)
        if not np.isfinite(cast).all():
            row, feature = np.argwhere(~np.isfinite(cast))[0]
            where = f"{self.name}: feature {feature} of the {part} sample {row}, once scaled"
            raise InputError("data", f"{where}, must be a finite number in {dtype}, not {x[row, feature]}")
        return cast

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every sample, label and class name: equal for equal data, wherever it came from."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for array in (self.x_train, self.y_train, self.x_val, self.y_val):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
