"""Checkpoints: an optimizer as a dictionary keyed by parameter name, and as a safetensors file."""

import os
from typing import Any

import numpy as np


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A checkpoint's description and arrays, after every checksum has been compared.

    Raises CheckpointError if the file is no checkpoint or is damaged, OSError if it cannot be read.
    """
    from fastopt.checkpoint import file  # what it imports in turn is for files alone

    return file.read(path)
