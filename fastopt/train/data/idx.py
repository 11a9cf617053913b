"""MNIST's IDX files, gzipped or not."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastopt.errors import InputError
from fastopt.machine import shortage
from fastopt.train.data.dataset import Dataset
from fastopt.train.data.parts import known_classes, number_classes, split_arrays

UNSIGNED_BYTE = 0x08
CHUNK = 2**20


def load_idx(folder: Path) -> Dataset:
    """Read a folder with ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``.

    Each may end in ``.gz``. ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte`` are the
    validation samples when they are there. Pixels are divided by 255.

    Raises InputError for "data" with the file that is missing or malformed.
    """
    train = _pair(folder, "train")
    if train is None:
        raise InputError(
            "data", f"{folder} must be a folder of MNIST's IDX files: it has no train-images-idx3-ubyte[.gz]"
        )
    images, labels = train
    y, classes = number_classes(labels.tolist(), f"{folder}, the training labels")
    test = _pair(folder, "t10k")
    if test is None:
        return split_arrays(folder.resolve().name, _pixels(images), y, classes, scale=False)
    test_images, test_labels = test
    if test_images.shape[1:] != images.shape[1:]:
        raise InputError(
            "data",
            f"{folder}: test images must be {images.shape[1:]}, as in training, not {test_images.shape[1:]}",
        )
    numbers = known_classes(test_labels.tolist(), classes, str(folder), "test")
    return Dataset(folder.resolve().name, _pixels(images), y, _pixels(test_images), numbers, classes)


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / np.float32(255)


def _pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Images (rows, height, width) and labels (rows,) of one part, or None if neither is there."""
    images_path = _find(folder, f"{part}-images-idx3-ubyte")
    labels_path = _find(folder, f"{part}-labels-idx1-ubyte")
    if images_path is None and labels_path is None:
        return None
    if images_path is None or labels_path is None:
        missing = "images-idx3" if images_path is None else "labels-idx1"
        raise InputError(
            "data", f"{folder} must have {part}-{missing}-ubyte[.gz], which goes with {images_path or labels_path}"
        )
    images, labels = _read(images_path, 3), _read(labels_path, 1)
    if len(images) != len(labels) or images.size == 0:
        raise InputError(
            "data",
            f"{images_path} and {labels_path.name} must have as many images as labels, one or more, "
            f"not {len(images)} and {len(labels)}",
        )
    return images, labels


def _find(folder: Path, name: str) -> Path | None:
    """The file, gzipped or not, also with the dot that some copies have in place of the dash."""
    names = (name, name.replace("-idx", ".idx"))
    candidates = (folder / (spelling + ending) for spelling in names for ending in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _read(path: Path, dimensions: int) -> np.ndarray:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _array(file, path, dimensions)  # type: ignore[arg-type]  # a GzipFile is one in all but name
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError("data", f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise InputError("data", f"{path}: cannot be read: {error.strerror}") from None


def _array(file: BinaryIO, path: Path, dimensions: int) -> np.ndarray:
    magic, header = bytes((0, 0, UNSIGNED_BYTE, dimensions)), 4 + 4 * dimensions
    start = file.read(4)
    if start != magic:
        raise InputError("data", f"{path} must start with {magic.hex()}, not {start.hex() or 'nothing'}")
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise InputError("data", f"{path} must have {header} bytes or more, its header, not {4 + len(sizes)}")
    shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
    expected = math.prod(shape)
    if short := shortage(5 * expected):  # with the float32 that they become
        raise InputError("data", f"{path} {short}")
    content = bytearray()
    while len(content) <= expected and (chunk := file.read(min(CHUNK, expected + 1 - len(content)))):
        content += chunk  # as much as there is, and no more than one byte too many
    if len(content) != expected:
        found = header + len(content) if len(content) < expected else "more"
        raise InputError("data", f"{path} must have {header + expected} bytes for its shape {shape}, not {found}")
    return np.frombuffer(content, np.uint8).reshape(shape)
