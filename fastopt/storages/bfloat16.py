"""bfloat16: the upper half of a float32."""

import numpy as np

from fastopt.storage import Part, Storage
from fastopt.storages import minifloat

MANTISSA = 7


def _decoded() -> np.ndarray:
    return minifloat.values(0x7F80, MANTISSA, bias=127)


def decode(codes: np.ndarray) -> np.ndarray:
    return (codes.astype(np.uint32) << 16).view(np.float32)


@np.errstate(over="ignore")
def encode(values: np.ndarray, noise: np.ndarray | None = None) -> tuple[np.ndarray]:
    values = values.astype(np.float32)
    bits = values.view(np.uint32)
    magnitudes = np.nan_to_num(abs(values), nan=0.0, posinf=np.inf)
    if noise is None:
        codes = minifloat.nearest(magnitudes, _decoded())
    else:
        codes = minifloat.stochastic(magnitudes, _decoded(), MANTISSA, noise)
    signed = codes | (bits >> 16 & 0x8000)
    quieted = bits >> 16 | 0x40
    return (np.where(np.isnan(values), quieted, signed).astype(np.uint16),)


bfloat16 = Storage("bfloat16", (Part("codes", np.dtype(np.uint16)),), np.dtype(np.float32), decode, encode)
