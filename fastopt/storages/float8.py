"""float8: floating point in a byte, in blocks that have a scale; with a sign or without."""

import functools

import numpy as np

from fastopt.storage import Part, Storage
from fastopt.storages import minifloat

BLOCK = 256
BIAS = 7
LEAST_SCALE = 2.0**-116  # with it the smallest code is 2^-126, the smallest normal float32


def _decoded(mantissa: int) -> np.ndarray:
    return minifloat.values(16 << mantissa, mantissa, BIAS)


def _scale(largest: np.float32, mantissa: int, *, stochastic: bool) -> np.float32:
    """The power of two that takes a block's largest magnitude into the codes' highest octave, from 2^8 on.

    If that one is to be rounded to the next octave, or could be, it is taken for a number of that.
    """
    if not np.isfinite(largest):
        return np.float32(np.nan)
    if largest == 0:
        return np.float32(LEAST_SCALE)
    significand, exponent = np.frexp(np.float64(largest))  # the significand is in [1/2, 1)
    last = 1 - 2.0 ** -(mantissa + 1)
    carries = significand > last if stochastic else significand >= (last + 1) / 2
    return np.float32(max(np.ldexp(1.0, int(exponent + carries) - 1 - 8), LEAST_SCALE))


@np.errstate(over="ignore", invalid="ignore")
def _decode(codes: np.ndarray, scales: np.ndarray, mantissa: int) -> np.ndarray:
    magnitudes = _decoded(mantissa)[codes & (0xFF if mantissa == 4 else 0x7F)]
    values = (magnitudes * np.repeat(scales, BLOCK)[: codes.size]).astype(np.float32)
    return values if mantissa == 4 else np.where(codes >= 0x80, -values, values)


@np.errstate(over="ignore")
def _encode(values: np.ndarray, noise: np.ndarray | None = None, *, mantissa: int) -> tuple[np.ndarray, np.ndarray]:
    values = values.astype(np.float32)
    codes = np.zeros(values.size, np.uint8)
    scales = np.zeros(-(-values.size // BLOCK), np.float32)
    for block in range(scales.size):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        scales[block] = scale = _scale(abs(values[part]).max(), mantissa, stochastic=noise is not None)
        if np.isnan(scale):
            continue
        magnitudes = abs(values[part].astype(np.float64)) / scale
        if noise is None:
            found = minifloat.nearest(magnitudes, _decoded(mantissa))
        else:
            found = minifloat.stochastic(magnitudes, _decoded(mantissa), mantissa, noise[part])
        if mantissa == 3:
            codes[part] = found | np.signbit(values[part]) * 0x80
        else:
            codes[part] = np.maximum(found, values[part] != 0)
    return codes, scales


def _storage(name: str, mantissa: int) -> Storage:
    return Storage(
        name,
        (Part("codes", np.dtype(np.uint8)), Part("scales", np.dtype(np.float32), every=BLOCK)),
        np.dtype(np.float32),
        functools.partial(_decode, mantissa=mantissa),
        functools.partial(_encode, mantissa=mantissa),
    )


#: Of numbers that have signs: one bit of it, four of the exponent, three of the mantissa.
float8_signed = _storage("float8_signed", 3)
#: Of numbers that are never negative: four bits of the exponent, four of the mantissa. Only zero becomes zero.
float8_unsigned = _storage("float8_unsigned", 4)
