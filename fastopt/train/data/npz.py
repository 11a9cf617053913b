"""NumPy archives: arrays by name to a data set."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fastopt.errors import InputError, quoted
from fastopt.machine import shortage
from fastopt.train.data.dataset import Dataset
from fastopt.train.data.parts import known_classes, number_classes, split_arrays, standardise

ARRAYS = (
    "x and y, to be split, or x_train and y_train, optionally with x_test and y_test "
    "or x_val and y_val (upper or lower case)"
)
SHOWN = 20  # names of arrays in a message, and characters of each
REASON = 200  # characters of what a library says
EXACT = 2.0**53  # the largest number up to which every whole one is a float64


def load_npz(path: Path) -> Dataset:
    """Read an ``.npz`` archive.

    It holds ``x`` (rows, ...) of numbers and ``y`` (rows,) of whole numbers, booleans or texts; or
    ``x_train`` and ``y_train``, with ``x_val`` and ``y_val`` or ``x_test`` and ``y_test`` for
    validation if they are there. Names may be in upper case; other arrays are not read. Further
    dimensions are flattened. Bytes (uint8, as in images) are divided by 255; other features are
    standardised with the statistics of the training rows.

    Raises InputError for "data".
    """
    with _readable(path):
        file = path.open("rb")
    with file:
        with _readable(path):
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise ValueError("it holds one array without a name")
            archive = zipfile.ZipFile(file)
        with archive:
            return _dataset(Archive(path, archive))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What a file cannot be read for as an InputError."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError("data", f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # zipfile, zlib, tokenize and ast each have errors of their own
        why = str(error)[:REASON] or type(error).__name__
        raise InputError("data", f"{path} is not a readable .npz archive: {why}") from None


class Archive:
    """An open archive: the arrays by name, which are read when they are asked for."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    @property
    def names(self) -> list[str]:
        return list(self._members)

    def find(self, name: str) -> str | None:
        """The name as the archive spells it, or None. Raises InputError if it is there twice."""
        found = [given for given in self._members if given.lower() == name]
        if len(found) > 1:
            raise InputError(
                "data", f"{self.path} must have one array {name!r}, not {' and '.join(map(quoted, found))}"
            )
        return found[0] if found else None

    def read(self, name: str) -> np.ndarray:
        """An array, once it is sure that all of it is there and fits into memory. Raises InputError."""
        info, where = self._members[name], f"{self.path}, array {quoted(name)}"
        with _readable(self.path):
            with self._archive.open(info) as file:
                shape, dtype = _header(file)
                size, there = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
            if size != there:
                expected = f"{size} bytes for its shape {shape} of {dtype}"
                raise InputError("data", f"{where} must have {expected}, not {there}")
            if short := shortage(size):
                raise InputError("data", f"{where} {short}")
            with self._archive.open(info) as file:
                return npy.read_array(file, allow_pickle=False)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    return shape, dtype


def _dataset(archive: Archive) -> Dataset:
    path = archive.path
    whole = _pair(archive, "")
    train = whole or _pair(archive, "_train")
    if train is None:
        names = ", ".join(name[:SHOWN] for name in archive.names[:SHOWN]) or "none"
        raise InputError("data", f"{path} must have {ARRAYS}; it has {names}")
    x, y = train
    numbers, classes = number_classes(y, f"{path}, the labels")
    held_out = None if whole else _pair(archive, "_val") or _pair(archive, "_test")
    images = x.dtype == np.uint8 and (held_out is None or held_out[0].dtype == np.uint8)
    x = _floats(x, images)
    if held_out is None:
        return split_arrays(path.stem, x, numbers, classes, scale=not images)
    x_val = _floats(held_out[0], images)
    if x_val.shape[1] != x.shape[1]:
        raise InputError(
            "data",
            f"{path} must have {x.shape[1]} features for validation, as in training, not {x_val.shape[1]}",
        )
    numbers_val = known_classes(held_out[1], classes, str(path), "validation")
    if not images:
        x, x_val = standardise(x, x_val)
    return Dataset(path.stem, x, numbers, x_val, numbers_val, classes)


def _floats(x: np.ndarray, images: bool) -> np.ndarray:
    return x / np.float32(255) if images else x.astype(np.float64)


def _pair(archive: Archive, ending: str) -> tuple[np.ndarray, list] | None:
    """Samples (rows, features) and labels of one part, checked, or None if neither is there."""
    x_name, y_name = archive.find(f"x{ending}"), archive.find(f"y{ending}")
    if x_name is None and y_name is None:
        return None
    if x_name is None or y_name is None:
        missing = f"x{ending}" if x_name is None else f"y{ending}"
        raise InputError(
            "data", f"{archive.path} must have {ARRAYS}; it has {quoted(x_name or y_name)} but no {missing!r}"
        )
    x = _samples(f"{archive.path}, array {quoted(x_name)}", archive.read(x_name))
    return x, _labels(f"{archive.path}, array {quoted(y_name)}", archive.read(y_name), len(x))


def _samples(where: str, x: np.ndarray) -> np.ndarray:
    """Samples (rows, features) as bytes, if they are, or else float64."""
    if x.dtype.kind not in "biuf":
        raise InputError("data", f"{where} must have a dtype of integers or floats, not {x.dtype}")
    if x.ndim < 2 or x.size == 0:
        raise InputError("data", f"{where} must have the shape (rows, features...) without a zero, not {x.shape}")
    x = x.reshape(len(x), -1)
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):  # of long doubles
        floats = x.astype(np.float64)
    if not np.isfinite(floats).all():
        row, column = np.argwhere(~np.isfinite(floats))[0]
        raise InputError(
            "data", f"{where}, row {row}, feature {column} must be a finite number, not {x[row, column]!s}"
        )
    return floats


def _labels(where: str, y: np.ndarray, rows: int) -> list:
    """Integers, booleans or texts."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (rows,):
        raise InputError("data", f"{where} must have the shape ({rows},), one label for each sample, not {y.shape}")
    if y.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(~((y == np.rint(y)) & (np.abs(y) <= EXACT)))
        if len(wrong):
            domain = "a whole number up to 2**53, or a text"
            raise InputError("data", f"{where}, row {wrong[0]} must be {domain}, not {y[wrong[0]]}")
        return y.astype(np.int64).tolist()
    if y.dtype.kind not in "biuSU":
        raise InputError("data", f"{where} must have a dtype of integers, booleans or texts, not {y.dtype}")
    try:
        labels = y.tolist()
    except (SystemError, ValueError):  # from NumPy
        raise InputError("data", f"{where} holds characters that Unicode has not") from None
    return [label.decode("utf-8", "backslashreplace") for label in labels] if y.dtype.kind == "S" else labels
