"""bitsandbytes' 8-bit numbers, which torchao has, too: a code for each number, and a scale for each block of 256.

The signed and the unsigned map have 256 numbers each, in ascending order, with decades that are divided the finer the
larger they are (Dettmers et al., ICLR 2022, arXiv:2110.02861). What is saved has its map with it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt.backend.program import Call, make_all
from fastopt.errors import CheckpointError, quoted

BLOCK = 256
_CHUNK = 64 * BLOCK  # codes that are decoded at a time: what they become stays in the cache


def table(*, signed: bool) -> np.ndarray:
    """The numbers that the codes stand for: 256 float32, ascending, from -1 or 0 to 1."""
    found = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1, 2 ** (decade + (not signed)) + 1)
        middles = 10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2
        found += [*middles, *(-middles if signed else ())]
    return np.sort(np.array(found, np.float32))


class Coded:
    """8 bits that are decoded when somebody asks for the numbers: a value of a state dict, and an array to NumPy."""

    __slots__ = ("_codes", "_pairs", "_qmap", "_scales", "shape")

    dtype = np.dtype(np.float32)
    storage = "float32"

    def __init__(self, codes: np.ndarray, scales: np.ndarray, qmap: np.ndarray) -> None:
        self.shape = codes.shape
        self._codes = np.ascontiguousarray(codes).reshape(-1)
        self._scales = np.ascontiguousarray(scales, np.float32).reshape(-1)
        self._qmap = np.ascontiguousarray(qmap, np.float32).reshape(-1)
        pairs = np.empty((256, 256, 2), np.float32)  # of two codes at a time: half as many are to be looked up
        pairs[..., 0], pairs[..., 1] = self._qmap, self._qmap[:, None]
        self._pairs = pairs.view(np.uint64).reshape(-1)

    def into(self, array: np.ndarray) -> list[Call]:
        """The calls, of functions implemented in C, that fill an array of this shape."""
        flat, codes = array.reshape(-1), self._codes
        whole = codes.size // BLOCK * BLOCK
        calls: list[Call] = []
        for start in range(0, whole, _CHUNK):
            stop = min(start + _CHUNK, whole)
            out, scales = flat[start:stop], self._scales[start // BLOCK : stop // BLOCK, None]
            blocks = out.reshape(-1, BLOCK)
            calls.append((self._pairs.take, codes[start:stop].view("<u2"), None, out.view(np.uint64), "wrap"))
            calls.append((np.multiply, blocks, scales, blocks))
        if whole < codes.size:
            calls.append((self._qmap.take, codes[whole:], None, flat[whole:], "wrap"))
            calls.append((np.multiply, flat[whole:], self._scales[-1], flat[whole:]))
        return calls

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        made = np.empty(self.shape, np.float32)
        make_all(self.into(made))
        return made if dtype is None else made.astype(dtype, copy=False)


def coded(where: str, codes: Any, scales: Any, qmap: Any) -> Coded:
    """Checked: CheckpointError, which begins with ``where``, if there are other scales than blocks, or no codes."""
    for part, given, kind in (("codes", codes, "u"), ("scales", scales, "f"), ("values", qmap, "f")):
        if not isinstance(given, np.ndarray) or given.dtype.kind != kind:
            raise CheckpointError(f"{where} must have an array of {part} of 8 bits, not {quoted(given)}")
    if codes.dtype != np.uint8 or scales.size != -(-codes.size // BLOCK) or qmap.size != 256:
        raise CheckpointError(
            f"{where} must have uint8 codes with a scale for each {BLOCK} and 256 numbers, not {codes.size} of "
            f"{codes.dtype}, {scales.size} and {qmap.size}"
        )
    return Coded(codes, scales, qmap)


def encoded(values: np.ndarray, *, signed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and the map: each number the nearest code, of two that are equally near the lower one.

    The number of a block that is farthest from zero comes back as it was: the lowest code stands for -0.993, so that
    scales of blocks where it is negative are larger. What has been decoded has the same codes again.
    """
    qmap = table(signed=signed)
    flat = values.astype(np.float32).reshape(-1)
    padded = np.zeros(-(-flat.size // BLOCK) * BLOCK, np.float32)
    padded[: flat.size] = flat
    blocks = padded.reshape(-1, BLOCK)
    lowest, highest = -blocks.min(axis=1), blocks.max(axis=1)
    scales = np.where(highest > lowest, highest, lowest / -qmap[0]) if signed else highest
    blocks /= np.where(scales > 0, scales, 1)[:, None]
    codes = np.searchsorted((qmap[1:] + qmap[:-1]) / 2, padded).astype(np.uint8)
    return codes[: flat.size].reshape(values.shape), scales, qmap


def states(where: str, entry: Mapping[str, Any], kinds: list[str]) -> dict[str, Any]:
    """The states of a parameter by their names here, of what bitsandbytes calls ``state1`` and ``state2``.

    The names are in the rule's order; of three the first two share ``state1``.
    """
    found: list[Any] = []
    for number in ("1", "2"):
        value = entry.get(f"state{number}")
        if value is None:
            continue
        count = 2 if number == "1" and len(kinds) == 3 else 1
        if count == 2 and not (isinstance(value, np.ndarray) and value.shape[:1] == (2,)):
            raise CheckpointError(f"{where} must have a state{number} of two arrays, not {quoted(value)}")
        values = list(value) if count == 2 else [value]
        if f"absmax{number}" in entry:
            scales = entry[f"absmax{number}"]
            if not isinstance(scales, np.ndarray) or scales.size % count:
                raise CheckpointError(f"{where}: absmax{number} must be an array of scales, not {quoted(scales)}")
            parts = zip(values, np.split(scales.reshape(-1), count), strict=True)
            values = [coded(f"{where}: state{number}", *each, entry.get(f"qmap{number}")) for each in parts]
        found += values
    if len(found) != len(kinds):
        raise CheckpointError(f"{where} has {len(found)} states, and here there are {len(kinds)}: {', '.join(kinds)}")
    return dict(zip(kinds, found, strict=True))
