"""The ways to encode and decode: numba, C with every instruction set, and the definition in NumPy."""

import ctypes
import os
import re
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from harness import once_for_all_workers

import fastopt
from fastopt.storages import NUMBERS, STORAGES, noise

CSRC = Path(__file__).parents[2] / "csrc"
SOURCE = Path(__file__).with_name("codecs.c")

FORMATS = [name for name in STORAGES if name not in ("float32", "float64")]
ROUNDED = [name for name in FORMATS if name != "split"]
SHIFTS = {0: 0, 16: 1}  # to a stream that takes that half of a word


def empty(name: str, size: int) -> list[np.ndarray]:
    """The parts of so many elements, full of what nobody wrote."""
    storage = STORAGES[name]
    return [np.full(length, 77, part.dtype) for length, part in zip(storage.lengths(size), storage.parts, strict=True)]


class Definition:
    """The oracle: :mod:`fastopt.storages`."""

    name = "definition"

    def decode(self, name, parts, dtype="float32"):
        return STORAGES[name].decode(*parts).astype(dtype)

    def encode(self, name, values, words=None, shift=0):
        random = None if words is None else noise.half(words, SHIFTS[shift])
        return list(STORAGES[name].encode(values, random))

    def noise(self, key, first, count):
        return noise.words(key, first, count)


class Numba:
    """fastopt/codecs/."""

    name = "numba"

    def decode(self, name, parts, dtype="float32"):
        from fastopt.codecs import CODECS

        values = np.empty(parts[0].size, dtype)
        CODECS[name].decode(*parts, values, *CODECS[name].arguments)
        return values

    def encode(self, name, values, words=None, shift=0):
        from fastopt.codecs import CODECS

        codec, parts = CODECS[name], empty(name, values.size)
        if words is None:
            codec.encode(values, *parts, *codec.arguments)
        else:
            codec.encode_stochastic(values, *parts, words, np.uint32(shift), *codec.arguments)
        return parts

    def noise(self, key, first, count):
        from fastopt.codecs.noise import fill_noise

        words = np.empty(count, np.uint32)
        fill_noise(np.uint64(key), first, words)
        return words


class C:
    """csrc/codecs/, with an instruction set; codes are read and written in the middle of larger arrays."""

    START = 512  # elements before the first one: whole blocks of every storage

    def __init__(self, isa):
        self.name = f"c-{isa}"
        self.isa = isa.encode()

    def decode(self, name, parts, dtype="float32"):
        values = np.empty(parts[0].size, dtype)
        lead = [
            np.zeros(length, part.dtype) for length, part in zip(STORAGES[name].lengths(self.START), parts, strict=True)
        ]
        arrays = [np.concatenate(both) for both in zip(lead, parts, strict=True)]
        library().decode(
            self.isa, _number(values), NUMBERS[name], _addresses(arrays), self.START, values.size, _pointer(values)
        )
        return values

    def encode(self, name, values, words=None, shift=0):
        arrays = empty(name, self.START + values.size)
        untouched = empty(name, self.START)
        noise = None if words is None else _pointer(words)
        library().encode(
            self.isa, _number(values), NUMBERS[name], _pointer(values), values.size, _addresses(arrays), self.START,
            noise, shift, words is not None,
        )  # fmt: skip
        for array, before in zip(arrays, untouched, strict=True):
            assert (array[: before.size] == before).all()
        return [array[before.size :] for array, before in zip(arrays, untouched, strict=True)]

    def noise(self, key, first, count):
        words = np.empty(count, np.uint32)
        library().noise(self.isa, ctypes.c_uint64(key), ctypes.c_uint32(first % 2**32), count, _pointer(words))
        return words


def _pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def _number(values):
    return NUMBERS[values.dtype.name]


def _addresses(arrays):
    return (ctypes.c_void_p * 2)(*(array.ctypes.data for array in arrays))


def compiled(*flags: str) -> Path:
    """The codecs in assembly, as CMakeLists.txt has the library compiled and with these flags."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if not shutil.which(command[0]):
        (pytest.fail if os.environ.get("FASTOPT_REQUIRE_C") == "1" else pytest.skip)("there is no C compiler")
    (options,) = re.findall(r"target_compile_options\(\w+ PRIVATE (.*)\)", (CSRC / "CMakeLists.txt").read_text())
    command += ["-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", *options.split(), f"-I{CSRC}"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", *flags, str(SOURCE)]

    def compile_to(path: Path) -> None:
        subprocess.run([*command, "-S", "-o", str(path)], check=True)

    return once_for_all_workers("".join(["codecs", *flags, ".s"]), compile_to)


@cache
def library() -> ctypes.CDLL:
    """The codecs, compiled once."""

    def assemble(path: Path) -> None:
        command = [*shlex.split(os.environ.get("CC", "cc")), "-shared", str(compiled()), "-o", str(path)]
        subprocess.run(command, check=True)

    loaded = ctypes.CDLL(str(once_for_all_workers("codecs.so", assemble)))
    text, number, array = ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p
    place = (array, ctypes.c_int64)
    loaded.decode.argtypes = (text, number, number, *place, number, array)
    loaded.encode.argtypes = (text, number, number, array, number, *place, array, number, number)
    return loaded


def c_engines() -> list[C]:
    """C with each instruction set of this processor."""
    if not fastopt.backends()["c"]:
        return []
    from fastopt.backend.c import isas

    return [C(isa) for isa in isas()]


DEFINITION = Definition()
ENGINES = ([Numba()] if fastopt.backends()["numba"] else []) + c_engines()


def assert_same(computed, expected, what) -> None:
    """The same bytes, NaN too."""
    for mine, other in zip(computed, expected, strict=True):
        unsigned = f"u{other.itemsize}"
        assert mine.dtype == other.dtype and mine.shape == other.shape
        different = np.flatnonzero(mine.view(unsigned) != other.view(unsigned))
        if different.size:
            i = different[0]
            pytest.fail(f"{what}: [{i}] is {mine[i]!r}, not {other[i]!r}; {different.size} differ")
