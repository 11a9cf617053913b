"""Files that ``torch.save`` has written, read without torch: numbers, text and tensors, and never code.

A file is a zip archive with a pickle and the memory of each tensor. Of the pickle nothing is called but what makes
tensors, here, of that memory; a name beyond the few that are listed is an error. A tensor comes as an array, one of
bfloat16 as a mapping with its codes.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from errno import EINVAL
from io import BufferedReader, BytesIO
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastopt.errors import CheckpointError, quoted

#: NumPy's dtypes of torch's storages; of bfloat16, which NumPy has not, that of the codes.
_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": np.uint16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LOCAL = 30  # bytes of a zip archive's header before a member, with the lengths of what follows it at 26 and 28


class Word(str):
    """A name in a pickle that stands for a class or a dtype: nothing is done with it."""


class Quantized(NamedTuple):
    """A tensor of torchao's: codes, a scale for each block of them, and what each code means."""

    codes: np.ndarray
    scale: np.ndarray
    qmap: np.ndarray


class _Memory(NamedTuple):
    array: np.ndarray
    kind: str


def read(file: BufferedReader) -> Any:
    """What an open file holds. CheckpointError if it is none of ``torch.save``, is damaged or holds something else."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            text = archive.read(members["data.pkl"])
            order = archive.read(members["byteorder"]) if "byteorder" in members else b"little"
            return _Unpickler(text, file, members, order.decode()).load()
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"no file of torch.save, or damaged: it has no {error}") from None
    except Exception as error:  # zipfile, pickle and what decompresses have many for what is not what it says
        if isinstance(error, OSError) and error.errno not in (None, EINVAL):  # of a place that no file has
            raise
        raise CheckpointError(f"no file of torch.save, or damaged: {error}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, text: bytes, file: BufferedReader, members: dict[str, zipfile.ZipInfo], order: str) -> None:
        super().__init__(BytesIO(text), encoding="utf-8")
        self._file, self._members, self._order = file, members, order
        self._read: dict[str, _Memory] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _FUNCTIONS:
            return _FUNCTIONS[module, name]
        if module == "torch" and (name in _STORAGES or name in _WORDS):
            return Word(name)
        if module.startswith("torchao.") and name.startswith("OptimState"):
            return Word(name)
        raise CheckpointError(f"it holds {quoted(f'{module}.{name}')}, which is neither number, text nor tensor")

    def persistent_load(self, pid: Any) -> _Memory:
        _, kind, key, _, size = pid
        if key not in self._read:
            info = self._members[f"data/{key}"]
            dtype = np.dtype(_STORAGES[kind])
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != size * dtype.itemsize:
                raise CheckpointError(f"damaged: the memory of a tensor of {size} elements has {info.file_size} bytes")
            self._file.seek(info.header_offset)
            header = self._file.read(_LOCAL)
            skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            self._file.seek(info.header_offset + _LOCAL + skipped)
            array = np.empty(size, dtype)
            if self._file.readinto(array.view(np.uint8)) != array.nbytes:
                raise CheckpointError("truncated")
            if self._order != "little":
                array = array.byteswap()
            self._read[key] = _Memory(array, kind)
        return self._read[key]


def _tensor(memory: _Memory, offset: int, size: tuple, stride: tuple, *_: Any) -> Any:
    whole = (offset, *size, *stride)
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if min(whole) < 0 or (prod(size) and last >= memory.array.size):
        raise CheckpointError(f"damaged: a tensor of the shape {quoted(size)} reaches beyond its memory")
    steps = [step * memory.array.itemsize for step in stride]
    array = np.lib.stride_tricks.as_strided(memory.array[offset:], size, steps, writeable=False)
    return {"storage": "bfloat16", "codes": array} if memory.kind == "BFloat16Storage" else array


def _of_subclass(function: Callable[..., Any], kind: Any, arguments: tuple, state: Any) -> Any:
    if function is not _wrapper:
        raise CheckpointError(f"it holds a tensor of the class {quoted(kind)}, which is unknown here")
    if not isinstance(state, dict) or not {"codes", "scale", "qmap"} <= state.keys():
        raise CheckpointError(f"it holds a {kind} that has no codes, scale and qmap")
    return Quantized(state["codes"], state["scale"], state["qmap"])


def _wrapper(*_: Any) -> None:
    """What :func:`_of_subclass` is handed for a tensor that is made of others."""


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _none(*_: Any) -> None:
    return None


_FUNCTIONS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_subclass,
    ("torch._utils", "_rebuild_wrapper_subclass"): _wrapper,
    ("torch.serialization", "_get_layout"): _none,
    ("torch", "device"): _none,
}
_WORDS = ("float32", "float64", "float16", "bfloat16")
