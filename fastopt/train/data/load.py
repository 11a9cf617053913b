"""A data set by its name or from a path."""

from collections.abc import Sequence
from pathlib import Path

from fastopt.errors import InputError, did_you_mean, listed, quoted
from fastopt.train.data.built_in import BUILT_IN
from fastopt.train.data.csv import load_csv
from fastopt.train.data.dataset import Dataset
from fastopt.train.data.idx import load_idx
from fastopt.train.data.npz import load_npz

FILES = "a .csv or .tsv file (with target), an .npz file, or a folder of MNIST's IDX files"


def load_data(
    source: str, target: str | None = None, *, decimal: str | None = None, drop: Sequence[str] = ()
) -> Dataset:
    """Load a data set by its built-in name or from a path.

    ``source`` is "digits", "breast-cancer", "binary", a CSV file, an ``.npz`` file, or a folder of
    MNIST's IDX files. With a CSV file ``target`` names the column to predict, ``drop`` those to leave
    out, and ``decimal`` is the decimal separator of its numbers, "." (None) or ",". Without validation
    samples of its own, a set is split 80 to 20 by class, the same way in every run.

    Raises InputError for the argument that is wrong, with the line and column where there is one.
    """
    if decimal not in (None, ".", ","):
        raise InputError("decimal", f"must be a point or a comma, not {quoted(decimal)}")
    path = Path(source)
    kind = "built-in" if source in BUILT_IN else _kind(path, source)
    if kind == "file" and path.suffix.lower() in (".csv", ".tsv"):
        return load_csv(path, target, decimal or ".", drop)
    for name, value in (("target", target), ("decimal", decimal), ("drop", drop)):
        if value:
            raise InputError(name, f"must be given with a CSV file only, not with {quoted(source)}")
    if source in BUILT_IN:
        return BUILT_IN[source]()
    if kind == "folder":
        return load_idx(path)
    if path.suffix.lower() == ".npz":
        return load_npz(path)
    raise InputError("data", f"must be {FILES}, not {quoted(source)}, which ends in {quoted(path.suffix)}")


def _kind(path: Path, source: str) -> str:
    try:
        if path.is_dir():
            return "folder"
        if path.is_file():
            return "file"
        found = path.exists()
    except OSError as error:
        raise InputError("data", f"{quoted(source)} cannot be read: {error.strerror}") from None
    if found:
        raise InputError("data", f"must be {FILES}, not {quoted(source)}, which is neither a file nor a folder")
    given = f"{quoted(source)}, which is not there{did_you_mean(source, BUILT_IN)}"
    raise InputError("data", f"must be {listed(BUILT_IN)}, {FILES}, not {given}")
