"""split: a float32 in two halves, of which the upper one can be read as bfloat16."""

import numpy as np

from fastopt.storage import Part, Storage


def decode(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    above = lower >= 0x8000  # then the upper half was rounded up
    return ((upper.astype(np.uint32) - above << 16) | lower).astype(np.uint32).view(np.float32)


@np.errstate(over="ignore")
def encode(values: np.ndarray, noise: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    values = values.astype(np.float32)
    bits = np.where(np.isnan(values), (values.view(np.uint32) | 0x400000) & 0xFFFF0000, values.view(np.uint32))
    upper, lower = bits >> 16, bits & 0xFFFF
    return (upper + (lower >= 0x8000)).astype(np.uint16), lower.astype(np.uint16)


split = Storage(
    "split",
    (Part("upper", np.dtype(np.uint16)), Part("lower", np.dtype(np.uint16))),
    np.dtype(np.float32),
    decode,
    encode,
)
