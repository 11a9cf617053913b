"""NumPy archives: arrays by name to a data set."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fastopt.train.data import Dataset, number_classes, split_arrays, standardise
from fastopt.train.errors import InputError

ALLOWED = (
    "allowed: x and y, to be split, or x_train and y_train, optionally with x_test and y_test "
    "or x_val and y_val (upper or lower case)"
)


def load_npz(path: Path) -> Dataset:
    """Read an ``.npz`` archive.

    It holds ``x`` (rows, ...) of numbers and ``y`` (rows,) of integers, booleans or texts; or
    ``x_train`` and ``y_train``, with ``x_val`` and ``y_val`` or ``x_test`` and ``y_test`` for
    validation if they are there. Names may be in upper case. Further dimensions are flattened. Bytes
    (uint8, as in images) are divided by 255; other features are standardised with the statistics of
    the training rows.

    Raises InputError for "data".
    """
    arrays = _read(path)
    whole = _pair(path, arrays, "")
    train = whole or _pair(path, arrays, "_train")
    if train is None:
        raise InputError("data", f"{path} has arrays {', '.join(arrays) or '(none)'}; {ALLOWED}")
    x, y = train
    numbers, classes = number_classes(y, f"{path}, the labels")
    held_out = None if whole else _pair(path, arrays, "_val") or _pair(path, arrays, "_test")
    images = x.dtype == np.uint8 and (held_out is None or held_out[0].dtype == np.uint8)
    if held_out is None:
        return split_arrays(path.stem, _floats(x, images), numbers, classes, scale=not images)
    x_val, y_val = held_out
    numbers_val = _validation_classes(path, x, y, x_val, y_val)
    x, x_val = _floats(x, images), _floats(x_val, images)
    if not images:
        x, x_val = standardise(x, x_val)
    return Dataset(path.stem, x, numbers, x_val, numbers_val, classes)


def _floats(x: np.ndarray, images: bool) -> np.ndarray:
    return x / np.float32(255) if images else x.astype(np.float64)


def _validation_classes(path: Path, x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray) -> np.ndarray:
    """Validation labels as class numbers, once it is sure that they fit the training samples."""
    if x_val.shape[1] != x.shape[1]:
        raise InputError(
            "data",
            f"{path}: got {x_val.shape[1]} features for validation; allowed: {x.shape[1]}, as in training",
        )
    values = np.unique(y)
    unknown = np.flatnonzero(~np.isin(y_val, values))
    if len(unknown):
        label = y_val[unknown[0]].item()
        raise InputError(
            "data",
            f"{path}: validation label {unknown[0]} is {label!r}; allowed: the classes in training",
        )
    return np.searchsorted(values, y_val).astype(np.int64)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds one array without a name")
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError("data", f"{path} is not a readable .npz archive: {error}") from None
    except OSError as error:
        raise InputError("data", f"{path} cannot be read: {error}") from None


def _pair(path: Path, arrays: dict[str, np.ndarray], ending: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The arrays x and y of one part, checked and flattened, or None if neither is there."""
    x_name, y_name = _find(arrays, f"x{ending}"), _find(arrays, f"y{ending}")
    if x_name is None and y_name is None:
        return None
    if x_name is None or y_name is None:
        missing = f"x{ending}" if x_name is None else f"y{ending}"
        raise InputError("data", f"{path} has {x_name or y_name!r} but no {missing!r}; {ALLOWED}")
    x = _samples(f"{path}, array {x_name!r}", arrays[x_name])
    return x, _labels(f"{path}, array {y_name!r}", arrays[y_name], len(x))


def _find(arrays: dict[str, np.ndarray], name: str) -> str | None:
    return next((given for given in arrays if given.lower() == name), None)


def _samples(where: str, x: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "biuf":
        raise InputError("data", f"{where} has dtype {x.dtype}; allowed: integers or floats")
    if x.ndim < 2 or x.size == 0:
        raise InputError("data", f"{where} has shape {x.shape}; allowed: (rows, features...), not empty")
    x = x.reshape(len(x), -1)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise InputError("data", f"{where}, row {row}, feature {column}: got {x[row, column]}; allowed: finite numbers")
    return x


def _labels(where: str, y: np.ndarray, rows: int) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (rows,):
        raise InputError("data", f"{where} has shape {y.shape}; allowed: ({rows},), one label for each sample")
    if y.dtype.kind == "f":
        wrong = np.flatnonzero(y != np.rint(y)) if np.isfinite(y).all() else np.flatnonzero(~np.isfinite(y))
        if len(wrong):
            raise InputError("data", f"{where}, row {wrong[0]}: got {y[wrong[0]]}; allowed: whole numbers or texts")
        return y.astype(np.int64)
    if y.dtype.kind not in "biuSU":
        raise InputError("data", f"{where} has dtype {y.dtype}; allowed: integers, booleans or texts")
    return y
