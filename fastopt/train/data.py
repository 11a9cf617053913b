"""Data sets: where they come from, how they are split and scaled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fastopt.errors import nearest
from fastopt.train.errors import InputError

VALIDATION_SHARE = 0.2
SPLIT_SEED = 20_000
BINARY_SEED = 42


@dataclass(frozen=True)
class Dataset:
    """Samples split for training and validation.

    ``x_train`` and ``x_val`` are C-contiguous (rows, features) float64 or float32; ``y_train`` and
    ``y_val`` are (rows,) int64 class numbers, indices into ``classes``. Treat the arrays as read-only.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    classes: tuple[str, ...]

    @property
    def features(self) -> int:
        return int(self.x_train.shape[1])

    def astype(self, dtype: str) -> Dataset:
        """The same data with features of ``dtype``."""
        x_train = np.ascontiguousarray(self.x_train, dtype=dtype)
        x_val = np.ascontiguousarray(self.x_val, dtype=dtype)
        return Dataset(self.name, x_train, self.y_train, x_val, self.y_val, self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every sample, label and class name: equal for equal data, wherever it came from."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for array in (self.x_train, self.y_train, self.x_val, self.y_val):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load_data(source: str, target: str | None = None) -> Dataset:
    """Load a data set by its built-in name or from a path.

    ``source`` is "digits", "breast-cancer", "binary", a CSV file (``target`` names the column to
    predict), an ``.npz`` file, or a folder of MNIST's IDX files. Without validation samples of its
    own, a set is split 80 to 20 by class, the same way in every run.

    Raises InputError for "data" or "target", with the line and column where there is one.
    """
    path = Path(source)
    if source in BUILT_IN:
        _no_target(source, target)
        return BUILT_IN[source]()
    if not path.exists():
        raise InputError("data", f"no such data set or file: {source!r}; {nearest(source, BUILT_IN)}, {FILES}")
    if path.is_dir():
        from fastopt.train.idx_data import load_idx

        _no_target(source, target)
        return load_idx(path)
    if path.suffix == ".npz":
        from fastopt.train.npz_data import load_npz

        _no_target(source, target)
        return load_npz(path)
    if path.suffix in (".csv", ".tsv"):
        from fastopt.train.csv_data import load_csv

        return load_csv(path, target)
    raise InputError("data", f"{source!r} has the unknown ending {path.suffix!r}; allowed: {FILES}")


def digits() -> Dataset:
    """1,797 handwritten digits, 8 x 8 pixels, ten classes (UCI, carried by scikit-learn)."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    loaded = load_digits()
    return split_arrays("digits", loaded.data / 16, loaded.target, tuple("0123456789"), scale=False)


def breast_cancer() -> Dataset:
    """569 tumours, 30 measurements, malignant or benign (UCI, carried by scikit-learn)."""
    from sklearn.datasets import load_breast_cancer

    loaded = load_breast_cancer()
    classes = tuple(str(name) for name in loaded.target_names)
    return split_arrays("breast-cancer", loaded.data, loaded.target, classes, scale=True)


def binary() -> Dataset:
    """1,000 generated samples, 10 features of which 5 tell the two classes apart."""
    from sklearn.datasets import make_classification

    x, y = make_classification(1000, 10, n_informative=5, n_redundant=2, random_state=BINARY_SEED)
    return split_arrays("binary", x, y, ("0", "1"), scale=True)


BUILT_IN = {"digits": digits, "breast-cancer": breast_cancer, "binary": binary}
FILES = "a .csv or .tsv file (with target), an .npz file, or a folder of MNIST's IDX files"


def split_arrays(name: str, x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], scale: bool) -> Dataset:
    """Split (rows, features) and (rows,) by class, and standardise the features if ``scale``."""
    train, held_out = split(y)
    x_train, x_val = x[train], x[held_out]
    if scale:
        x_train, x_val = standardise(x_train, x_val)
    return Dataset(name, x_train, y[train].astype(np.int64), x_val, y[held_out].astype(np.int64), classes)


def split(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training and for validation, a fifth of every class and at least one row."""
    rng = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(y), dtype=bool)
    for number in range(int(y.max()) + 1):
        rows = rng.permutation(np.flatnonzero(y == number))
        held_out[rows[: max(1, round(VALIDATION_SHARE * len(rows)))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def standardise(x_train: np.ndarray, x_val: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns to mean 0 and deviation 1 by the training rows; a constant column becomes 0."""
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    deviation = np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1), deviation, 1)
    return (x_train - mean) / deviation, (x_val - mean) / deviation


def number_classes(labels: np.ndarray, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (rows,) of any sortable kind as class numbers (rows,) int64 and the class names.

    Raises InputError for a single class, and for a class with a single sample: it could not be in
    both parts of a split.
    """
    values, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(values) < 2:
        only = f"only {values[0].item()!r}" if len(values) else "none"
        raise InputError("data", f"{where} has {only}; allowed: two classes or more")
    if counts.min() < 2:
        alone = values[counts.argmin()].item()
        raise InputError(
            "data",
            f"{where} has {len(values)} classes, and class {alone!r} has one sample; "
            "allowed: two samples or more of every class",
        )
    return numbers.astype(np.int64), tuple(str(value) for value in values)


def _no_target(source: str, target: str | None) -> None:
    if target is not None:
        raise InputError("target", f"got {target!r}, but {source!r} has labels of its own; allowed with CSV only")
