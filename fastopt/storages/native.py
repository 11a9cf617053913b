"""float32 and float64: as they are."""

import numpy as np

from fastopt.storage import Part, Storage


def _storage(name: str) -> Storage:
    dtype = np.dtype(name)

    @np.errstate(over="ignore")
    def encode(values: np.ndarray, noise: np.ndarray | None = None) -> tuple[np.ndarray]:
        return (values.astype(dtype),)

    return Storage(
        name,
        (Part("values", dtype),),
        computes=dtype,
        decode=lambda values: values.copy(),
        encode=encode,
    )


float32 = _storage("float32")
float64 = _storage("float64")
