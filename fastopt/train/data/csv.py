"""CSV files: columns to features, with the line and column of whatever cannot be used."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastopt.errors import InputError, listed, one_of, quoted
from fastopt.train.data.dataset import Dataset
from fastopt.train.data.parts import number_classes, split, standardise

MAX_CATEGORIES = 256
NEARLY_ALL = 0.9  # of the rows: a column with more different texts than that is no category
SHOWN = 10  # categories in the remark

NUMBER = {
    decimal: re.compile(rf"[+-]?(\d+({re.escape(decimal)}\d*)?|{re.escape(decimal)}\d+)([eE][+-]?\d+)?", re.ASCII)
    for decimal in ".,"
}
WHOLE = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)  # as int writes it, and an int64
MISSING = {"", "-", "?", ".", "na", "n/a", "nan", "null", "#n/a"}
#: Around numbers: signs, brackets of accounting, percent and currency, spaces of every kind.
AROUND = "+-\N{MINUS SIGN}()%\N{PER MILLE SIGN}$€£¥¢₹₽₩₺₴₫₪฿ \t\n\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"
#: Digits of any script with separators: of decimals, of groups of three (or two, in India), apostrophes, and Python's.
SEPARATED = re.compile(
    r"(\d+([.,\u066b]\d*)?|[.,]\d+|\d{1,3}([\s.,'\u2019\u066c]\d{2,3})*[\s.,'\u2019\u066c]\d{3}([.,]\d*)?|\d+(_\d+)+)"
    r"(e[+-]?\d+)?|inf|infinity",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Table:
    """A CSV file as text: cells by column, and the line on which each row ends."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]
    decimal: str

    def at(self, row: int, column: str) -> str:
        return f"{self.path}, line {self.lines[row]}, column {quoted(column)}"

    def number(self, cell: str) -> float | None:
        """What a cell is as a number, or None; infinite if it is too large."""
        return float(cell.replace(self.decimal, ".")) if NUMBER[self.decimal].fullmatch(cell) else None


class Features(NamedTuple):
    """What a column gives: (rows, features) of training and of validation, and the number of its categories."""

    train: np.ndarray
    held_out: np.ndarray
    categories: int | None


def load_csv(path: Path, target: str | None, decimal: str = ".", drop: Sequence[str] = ()) -> Dataset:
    """Read a CSV file with a header; ``target`` names the column with the classes, ``drop`` columns to leave out.

    Numbers are written as in Python without underscores, with the separator ``decimal``. A column is
    numeric when at least half of its cells that hold something are numbers, or look like numbers with
    other separators, currency or percent signs; it is standardised with the statistics of the training
    rows, and in such a column anything but a finite number is an error. Any other column is a category
    and becomes one 0/1 feature for each text found in the training rows; one in which nearly all texts
    are different is an error. Classes are integers if all of them are written as int writes them, or
    else texts: 007 and 7 are two. Separators of fields are commas, semicolons or tabs, whichever
    divides the header into most.

    Raises InputError for "data" with the line and column, for "target" and for "drop".
    """
    table = _read(path, decimal)
    target = _target(table, target)
    _drop(table, target, drop)
    y, classes = number_classes(_labels(table, target), f"{path}, column {quoted(target)}")
    train, held_out = split(y)
    parts = {
        name: _features(table, name, cells, train, held_out) for name, cells in table.columns.items() if name != target
    }
    x_train = np.hstack([part.train for part in parts.values()])
    x_val = np.hstack([part.held_out for part in parts.values()])
    return Dataset(path.stem, x_train, y[train], x_val, y[held_out], classes, _remark(path, parts))


def _read(path: Path, decimal: str) -> Table:
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError("data", f"{path}, line {line}: not UTF-8 text") from None
    except OSError as error:
        raise InputError("data", f"{path}: cannot be read: {error.strerror}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError("data", f"{path}, line {line}: a null byte, which no text has")
    separator = max(",;\t", key=lambda each: _header_fields(text, each))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        rows, lines = [], []
        line = reader.line_num
        for row in reader:
            line = reader.line_num
            cells = [cell.strip() for cell in row]
            if len(cells) < 2 and not any(cells):
                continue
            if len(cells) != len(header):
                fields = f"{len(header)} fields, as the header has, not {len(cells)}"
                raise InputError("data", f"{path}, line {line} must have {fields}")
            rows.append(cells)
            lines.append(line)
    except csv.Error as error:
        raise InputError("data", f"{path}, line {line + 1}: {error}") from None
    while rows and not any(rows[-1]):  # spreadsheets leave such
        rows.pop()
    if not rows:
        raise InputError("data", f"{path} has no rows below its header")
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    return Table(path, columns, lines[: len(rows)], decimal)


def _header_fields(text: str, separator: str) -> int:
    """Into how many fields a separator divides the header; 0 if quotes do not go with it."""
    try:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), []))
    except csv.Error:
        return 0


def _check_header(path: Path, header: list[str]) -> None:
    where = f"{path}, line 1"
    if not any(header):
        raise InputError("data", f"{where} must be a header, the names of the columns, not empty")
    if all(any(pattern.fullmatch(name) for pattern in NUMBER.values()) for name in header):
        numbers = quoted(", ".join(header[:3]))
        raise InputError("data", f"{where} must be a header, the names of the columns, not numbers ({numbers}...)")
    for place, name in enumerate(header):
        if not name:
            raise InputError("data", f"{where}: column {place + 1} has no name")
        if name in header[:place]:
            raise InputError("data", f"{where}: column {quoted(name)} is there twice")
    if len(header) < 2:
        raise InputError("data", f"{where} must have two columns or more, not one, {quoted(header[0])}")


def _target(table: Table, target: str | None) -> str:
    if target is None:
        columns = listed(table.columns)
        raise InputError("target", f"must be given with a CSV file: a column of {table.path}, one of {columns}")
    if target not in table.columns:
        raise InputError("target", f"must be a column of {table.path}, {one_of(target, table.columns)}")
    return target


def _drop(table: Table, target: str, drop: Sequence[str]) -> None:
    features = [name for name in table.columns if name != target]
    for name in drop:
        if name not in features:
            what = f"a column of {table.path} other than the target"
            raise InputError("drop", f"must be {what}, {one_of(name, features)}")
    for name in set(drop):
        del table.columns[name]
    if len(table.columns) < 2:
        raise InputError("drop", f"must leave a column of {table.path} to learn from, one of {listed(features)}")


def _labels(table: Table, target: str) -> list[int] | list[str]:
    """The labels as integers if all of them are plain ones, so that 10 sorts after 9, or else as text."""
    cells = table.columns[target]
    for row, cell in enumerate(cells):
        if not cell:
            raise InputError("data", f"{table.at(row, target)} must be a class, not empty")
    return list(map(int, cells)) if all(map(WHOLE.fullmatch, cells)) else cells


def _features(table: Table, name: str, cells: list[str], train: np.ndarray, held_out: np.ndarray) -> Features:
    numbers = [table.number(cell) for cell in cells]
    meant = sum(number is not None or _looks_like_a_number(cell) for cell, number in zip(cells, numbers, strict=True))
    if 2 * meant >= sum(cell.lower() not in MISSING for cell in cells) > 0:
        values = _finite_numbers(table, name, cells, numbers)[:, None]
        return Features(*standardise(values[train], values[held_out]), None)
    _check_texts(table, name, cells)
    categories = {text: number for number, text in enumerate(sorted({cells[row] for row in train}))}
    codes = np.array([categories.get(cell, -1) for cell in cells])
    ones = (codes[:, None] == np.arange(len(categories))).astype(np.float64)
    return Features(ones[train], ones[held_out], len(categories))


def _looks_like_a_number(cell: str) -> bool:
    return SEPARATED.fullmatch(cell.strip(AROUND)) is not None


def _finite_numbers(table: Table, name: str, cells: list[str], numbers: list[float | None]) -> np.ndarray:
    for row, number in enumerate(numbers):
        if number is None or not np.isfinite(number):
            given = quoted(cells[row]) if cells[row] else "empty"
            ways = [f"--drop {quoted(name)} to leave the column out"]
            other = {".": ",", ",": "."}[table.decimal]
            if number is None and NUMBER[other].fullmatch(cells[row]):
                ways.insert(0, f"--decimal {other} if that is the decimal separator")
            way = "; ".join((f"{table.at(row, name)} must be a finite number, not {given}", *ways))
            raise InputError("data", f"{way}; or convert the file")
    return np.array(numbers, dtype=np.float64)


def _check_texts(table: Table, name: str, cells: list[str]) -> None:
    for row, cell in enumerate(cells):
        if not cell:
            raise InputError("data", f"{table.at(row, name)} must be a category, not empty")
    kinds = len(set(cells))
    if kinds > min(MAX_CATEGORIES, NEARLY_ALL * len(cells)):
        found = f"{kinds} different texts in {len(cells)} rows, such as {quoted(cells[0])}"
        raise InputError(
            "data",
            f"{table.path}, column {quoted(name)} must have up to {MAX_CATEGORIES} categories, "
            f"each in more than one row, not {found}; --drop {quoted(name)} to leave it out",
        )


def _remark(path: Path, parts: dict[str, Features]) -> str:
    """One line that says what became of the columns, if any was taken as a category."""
    categories = [f"{name} ({part.categories})" for name, part in parts.items() if part.categories is not None]
    if not categories:
        return ""
    listed = ", ".join(categories[:SHOWN]) + (", ..." if len(categories) > SHOWN else "")
    return f"{path.name}: {len(parts) - len(categories)} columns of numbers, {len(categories)} of categories: {listed}"
