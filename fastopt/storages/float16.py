"""float16: IEEE 754's binary16."""

import numpy as np

from fastopt.storage import Part, Storage
from fastopt.storages import minifloat

MANTISSA = 10


def _decoded() -> np.ndarray:
    return minifloat.values(0x7C00, MANTISSA, bias=15)


def decode(codes: np.ndarray) -> np.ndarray:
    magnitudes = codes.astype(np.uint32) & 0x7FFF
    values = np.append(_decoded()[:-1], np.inf).astype(np.float32)[np.minimum(magnitudes, 0x7C00)].view(np.uint32)
    bits = np.where(magnitudes > 0x7C00, 0x7FC00000 | magnitudes << 13, values)
    return (bits | (codes.astype(np.uint32) & 0x8000) << 16).view(np.float32)


@np.errstate(over="ignore")
def encode(values: np.ndarray, noise: np.ndarray | None = None) -> tuple[np.ndarray]:
    values = values.astype(np.float32)
    bits = values.view(np.uint32)
    magnitudes = np.nan_to_num(abs(values), nan=0.0, posinf=np.inf)
    if noise is None:
        codes = minifloat.nearest(magnitudes, _decoded())
    else:
        codes = minifloat.stochastic(magnitudes, _decoded(), MANTISSA, noise)
    quieted = 0x7E00 | (bits >> 13 & 0x3FF)
    codes = np.where(np.isnan(values), quieted, codes) | (bits >> 16 & 0x8000)
    return (codes.astype(np.uint16),)


float16 = Storage("float16", (Part("codes", np.dtype(np.uint16)),), np.dtype(np.float32), decode, encode)
