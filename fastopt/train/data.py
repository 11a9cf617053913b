"""Data sets: where they come from, how they are split and scaled."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastopt.errors import InputError, nearest, quoted

VALIDATION_SHARE = 0.2
SPLIT_SEED = 20_000
BINARY_SEED = 42


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


def load_data(
    source: str, target: str | None = None, *, decimal: str | None = None, drop: Sequence[str] = ()
) -> Dataset:
    """Load a data set by its built-in name or from a path.

    ``source`` is "digits", "breast-cancer", "binary", a CSV file, an ``.npz`` file, or a folder of
    MNIST's IDX files. With a CSV file ``target`` names the column to predict, ``drop`` those to leave
    out, and ``decimal`` is the decimal separator of its numbers, "." (None) or ",". Without validation
    samples of its own, a set is split 80 to 20 by class, the same way in every run.

    Raises InputError for the argument that is wrong, with the line and column where there is one.
    """
    if decimal not in (None, ".", ","):
        raise InputError("decimal", f"got {quoted(decimal)}; allowed: a point or a comma")
    path = Path(source)
    kind = "built-in" if source in BUILT_IN else _kind(path, source)
    if kind == "file" and path.suffix.lower() in (".csv", ".tsv"):
        from fastopt.train.csv_data import load_csv

        return load_csv(path, target, decimal or ".", drop)
    for name, value in (("target", target), ("decimal", decimal), ("drop", drop)):
        if value:
            raise InputError(name, f"given with {quoted(source)}; allowed with a CSV file only")
    if source in BUILT_IN:
        return BUILT_IN[source]()
    if kind == "folder":
        from fastopt.train.idx_data import load_idx

        return load_idx(path)
    if path.suffix.lower() == ".npz":
        from fastopt.train.npz_data import load_npz

        return load_npz(path)
    raise InputError("data", f"{quoted(source)} has the unknown ending {quoted(path.suffix)}; allowed: {FILES}")


def _kind(path: Path, source: str) -> str:
    try:
        if path.is_dir():
            return "folder"
        if path.is_file():
            return "file"
        found = path.exists()
    except OSError as error:
        raise InputError("data", f"{quoted(source)} cannot be read: {error.strerror}") from None
    if found:
        raise InputError("data", f"{quoted(source)} is neither a file nor a folder; allowed: {FILES}")
    raise InputError("data", f"no such data set or file: {quoted(source)}; {nearest(source, BUILT_IN)}, {FILES}")


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
    """Columns of float64 to mean 0 and deviation 1 by the training rows; a constant column becomes 0.

    Constant is what scikit-learn's StandardScaler takes for it: a variance within the error of computing
    it. Columns are brought near one by a power of two first: that changes no bit, and the variance of
    numbers near 1e-200 and 1e200 is a number, too.
    """
    rows, eps = len(x_train), np.finfo(np.float64).eps
    _, exponent = np.frexp(np.abs(x_train).max(axis=0))
    with np.errstate(over="ignore", under="ignore"):  # a validation row may be far beyond: the cast will name it
        x_train, x_val = np.ldexp(x_train, -exponent), np.ldexp(x_val, -exponent)
        mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
        constant = deviation**2 <= rows * eps * deviation**2 + (rows * mean * eps) ** 2
        scaled = [(x - mean) / np.where(constant, 1, deviation) for x in (x_train, x_val)]
    for x in scaled:
        x[:, constant] = 0
    return scaled[0], scaled[1]


def number_classes(labels: Sequence[Any], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of one kind, integers, booleans or texts, as class numbers (rows,) int64 and the class names.

    Raises InputError for a single class, and for a class with a single sample: it could not be in
    both parts of a split.
    """
    counts = Counter(labels)
    values = sorted(counts)
    if len(values) < 2:
        only = f"only {quoted(values[0])}" if values else "none"
        raise InputError("data", f"{where} has {only}; allowed: two classes or more")
    alone = min(values, key=counts.__getitem__)
    if counts[alone] < 2:
        raise InputError(
            "data",
            f"{where} has {len(values)} classes, and class {quoted(alone)} has one sample; "
            "allowed: two samples or more of every class",
        )
    return _numbers(labels, values), tuple(map(str, values))


def known_classes(labels: Sequence[Any], classes: tuple[str, ...], where: str, part: str) -> np.ndarray:
    """Labels of the ``part`` for validation as numbers (rows,) int64 of the classes in training.

    Raises InputError for a label that is none of them.
    """
    names = list(map(str, labels))
    known = set(classes)
    for row, name in enumerate(names):
        if name not in known:
            known_ones = nearest(name, classes)
            raise InputError(
                "data", f"{where}, label {row}: {part} label {quoted(name)[1:-1]} is not one of training; {known_ones}"
            )
    return _numbers(names, classes)


def _numbers(labels: Sequence[Any], values: Sequence[Any]) -> np.ndarray:
    numbers = {value: number for number, value in enumerate(values)}
    return np.array([numbers[label] for label in labels], dtype=np.int64)
