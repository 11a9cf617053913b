"""The part of a checkpoint that says what was trained, read before there is anything to load it into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastopt
from fastopt import checkpoint

PARTS = {"settings", "data", "position", "history", "seconds", "notes"}


def read_extra(path: Path) -> dict[str, Any]:
    """The ``extra`` that a run of ``fastopt train`` saved with its checkpoint.

    Raises fastopt.CheckpointError if the file is missing, damaged, or not from such a run.
    """
    try:
        extra = checkpoint.read(path)[0]["extra"]
    except OSError as error:
        raise fastopt.CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(extra, dict) or not extra.keys() >= PARTS:
        raise fastopt.CheckpointError(f"{path} is not a checkpoint of `fastopt train`")
    return extra
