"""CSV files: columns to features, with the line and column of whatever cannot be used."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastopt.errors import nearest
from fastopt.train.data import Dataset, number_classes, split, standardise
from fastopt.train.errors import InputError

MAX_CATEGORIES = 256


@dataclass(frozen=True)
class Table:
    """A CSV file as text: cells by column, and the line on which each row ends."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    def at(self, row: int, column: str) -> str:
        return f"{self.path}, line {self.lines[row]}, column {column!r}"


def load_csv(path: Path, target: str | None) -> Dataset:
    """Read a CSV file with a header; ``target`` names the column with the classes.

    A column is numeric when at least half of its cells are numbers, and is standardised with the
    statistics of the training rows; in such a column anything but a finite number is an error. Any
    other column is a category and becomes one 0/1 feature for each text found in the training rows.
    Separators are commas, semicolons or tabs, whichever the header has most of.

    Raises InputError for "data" with the line and column, or for "target".
    """
    table = _read(path)
    target = _target(table, target)
    y, classes = number_classes(_labels(table, target), f"{path}, column {target!r}")
    train, held_out = split(y)
    parts = [_features(table, name, cells, train, held_out) for name, cells in table.columns.items() if name != target]
    x_train, x_val = (np.hstack([part[side] for part in parts]) for side in (0, 1))
    return Dataset(path.stem, x_train, y[train], x_val, y[held_out], classes)


def _read(path: Path) -> Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            separator = max(",;\t", key=first.count)
            return _table(path, csv.reader(file, delimiter=separator, strict=True))
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError("data", f"{path}, line {line}: not UTF-8 text") from None
    except OSError as error:
        raise InputError("data", f"{path}: cannot be read: {error.strerror}") from None


def _table(path: Path, reader) -> Table:  # type: ignore[no-untyped-def]  # csv's reader type is private
    line = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        rows, lines = [], []
        line = reader.line_num
        for row in reader:
            line = reader.line_num
            if not row:
                continue
            if len(row) != len(header):
                where = f"{path}, line {line}"
                raise InputError("data", f"{where}: got {len(row)} fields; allowed: {len(header)}, as in the header")
            rows.append([cell.strip() for cell in row])
            lines.append(line)
    except csv.Error as error:
        raise InputError("data", f"{path}, line {line + 1}: {error}") from None
    if not rows:
        raise InputError("data", f"{path} has no rows below its header")
    return Table(path, dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)), lines)


def _check_header(path: Path, header: list[str]) -> None:
    where = f"{path}, line 1"
    if not any(header):
        raise InputError("data", f"{where}: no header; allowed: a line of column names")
    if all(_number(name) is not None for name in header):
        raise InputError("data", f"{where}: got numbers ({', '.join(header[:3])}...); allowed: column names")
    for place, name in enumerate(header):
        if not name:
            raise InputError("data", f"{where}: column {place + 1} has no name")
        if name in header[:place]:
            raise InputError("data", f"{where}: column {name!r} is there twice")
    if len(header) < 2:
        raise InputError("data", f"{where}: got one column, {header[0]!r}; allowed: two or more")


def _target(table: Table, target: str | None) -> str:
    if target is None:
        names = ", ".join(map(repr, table.columns))
        raise InputError("target", f"not given; needed with a CSV file; allowed: a column of {table.path}: {names}")
    if target not in table.columns:
        raise InputError("target", f"{table.path} has no column {target!r}; {nearest(target, table.columns)}")
    return target


def _labels(table: Table, target: str) -> np.ndarray:
    """The labels as numbers if all of them are, so that 10 sorts after 9, or else as text."""
    cells = table.columns[target]
    for row, cell in enumerate(cells):
        if not cell:
            raise InputError("data", f"{table.at(row, target)}: empty; allowed: a class")
    numbers = [_number(cell) for cell in cells]
    if any(number is None for number in numbers):
        return np.array(cells)
    labels = np.array(numbers, dtype=np.float64)
    for row in np.flatnonzero(~np.isfinite(labels)).tolist():
        raise InputError("data", f"{table.at(row, target)}: got {cells[row]!r}; allowed: a class")
    return labels.astype(np.int64) if np.all(labels == np.rint(labels)) else labels


def _features(
    table: Table, name: str, cells: list[str], train: np.ndarray, held_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One column as (training rows, features) and (validation rows, features)."""
    numbers = [_number(cell) for cell in cells]
    if 2 * sum(number is not None for number in numbers) >= len(cells):
        values = _finite_numbers(table, name, cells, numbers)[:, None]
        return standardise(values[train], values[held_out])
    texts = _texts(table, name, cells)
    categories = np.unique(texts[train])
    return (
        (texts[train][:, None] == categories).astype(np.float64),
        (texts[held_out][:, None] == categories).astype(np.float64),
    )


def _finite_numbers(table: Table, name: str, cells: list[str], numbers: list[float | None]) -> np.ndarray:
    for row, number in enumerate(numbers):
        if number is None or not np.isfinite(number):
            given = f"got {cells[row]!r}" if cells[row] else "empty"
            raise InputError("data", f"{table.at(row, name)}: {given}; allowed: a finite number")
    return np.array(numbers, dtype=np.float64)


def _texts(table: Table, name: str, cells: list[str]) -> np.ndarray:
    for row, cell in enumerate(cells):
        if not cell:
            raise InputError("data", f"{table.at(row, name)}: empty; allowed: a category")
    kinds = len(set(cells))
    if kinds > MAX_CATEGORIES:
        where = f"{table.path}, column {name!r}"
        raise InputError("data", f"{where}: {kinds} different texts; allowed: up to {MAX_CATEGORIES} categories")
    return np.array(cells)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
