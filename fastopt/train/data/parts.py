"""From samples and labels to the parts of a data set: split by class, scaled, classes numbered."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.errors import InputError, one_of, quoted
from fastopt.train.data.dataset import Dataset

VALIDATION_SHARE = 0.2
SPLIT_SEED = 20_000


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
        raise InputError("data", f"{where} must have two classes or more, not {only}")
    alone = min(values, key=counts.__getitem__)
    if counts[alone] < 2:
        raise InputError(
            "data",
            f"{where} must have two samples or more of each of {len(values)} classes, "
            f"not one sample of {quoted(alone)}",
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
            known_ones = one_of(name, classes)
            raise InputError("data", f"{where}, {part} label {row} must be a class of training, {known_ones}")
    return _numbers(names, classes)


def _numbers(labels: Sequence[Any], values: Sequence[Any]) -> np.ndarray:
    numbers = {value: number for number, value in enumerate(values)}
    return np.array([numbers[label] for label in labels], dtype=np.int64)
