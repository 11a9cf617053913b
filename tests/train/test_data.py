"""Data sets: what is loaded, how it is split and scaled, and what malformed files are told."""

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from fastopt.train import InputError, load_data
from fastopt.train.data.parts import split, standardise


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def message_of(source: str, target: str | None = None, **options) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        load_data(source, target, **options)
    assert "\n" not in caught.value.message
    return caught.value.argument, caught.value.message


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [("digits", 1797, 64, 10), ("breast-cancer", 569, 30, 2), ("binary", 1000, 10, 2)],
)
def test_built_in(name, rows, features, classes):
    data = load_data(name)
    assert len(data.y_train) + len(data.y_val) == rows
    assert data.x_train.shape == (len(data.y_train), features)
    assert data.x_val.shape == (len(data.y_val), features)
    assert set(data.y_train) == set(data.y_val) == set(range(classes))
    assert len(data.classes) == classes
    assert np.isfinite(data.x_train).all()


def test_split_takes_a_fifth_of_every_class_once():
    y = np.repeat([0, 1, 2], [100, 10, 2])
    train, held_out = split(y)
    assert sorted([*train, *held_out]) == list(range(len(y)))
    assert np.bincount(y[held_out]).tolist() == [20, 2, 1]
    assert np.array_equal(train, split(y)[0])


def test_standardise_uses_the_training_rows_alone():
    x_train, x_val = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[5.0, 5.0]])
    scaled, held_out = standardise(x_train, x_val)
    assert scaled.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert held_out.tolist() == [[3.0, 0.0]]


def columns(rows: int) -> np.ndarray:
    """Columns that are constant or not by a hair, as scikit-learn judges it."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal(rows)
    kept = [np.full(rows, value) for value in (0.0, 5.0, 0.1, 1e9, -1e-9)]
    for mean in (1.0, 1e9, -1e15):
        bound = np.sqrt(rows * np.finfo(float).eps) * abs(mean)
        kept += [mean + noise * bound * share for share in (1e-12, 1e-6, 1e-3, 1.0)]
    return np.column_stack([*kept, noise, 1e6 + noise, rng.integers(0, 2, rows)])


@pytest.mark.parametrize("rows", [4, 50, 5000])
def test_standardise_agrees_with_scikit_learn(rows):
    x, eps = columns(rows), np.finfo(float).eps
    scaler = StandardScaler().fit(x)
    found, held_out = standardise(x, x + 1)
    error = rows * eps * np.abs(scaler.mean_)  # of a mean
    constant = scaler.var_ <= rows * eps * scaler.var_ + error**2
    assert 5 <= constant.sum() < x.shape[1] - 3
    assert not found[:, constant].any() and not held_out[:, constant].any()
    difference = np.abs(found - scaler.transform(x)).max(axis=0)
    assert (difference <= 1e-12 + 2 * error / scaler.scale_)[~constant].all()


@pytest.mark.parametrize("unit", [2.0**-1000, 1e-200, 1.602e-19, 1.0, 1e200, 2.0**1000])
def test_the_unit_of_a_column_does_not_matter(unit):
    x = np.random.default_rng(0).normal([0.0, 3.0, -100.0], size=(40, 3))
    found = standardise(unit * x, unit * x[:5])
    for each, expected in zip(found, standardise(x, x[:5]), strict=True):
        exact = unit == 2.0 ** np.rint(np.log2(unit))
        assert np.array_equal(each, expected) if exact else np.allclose(each, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", ["e-19", "e-200", "e200"])
def test_columns_in_any_unit_of_a_file(tmp_path, unit):
    rows = [f"{i * 37 % 101 - 50}{unit},{i % 2}\n" for i in range(40)]
    data = load_data(write(tmp_path / "t.csv", "charge,y\n" + "".join(rows)), "y")
    assert np.allclose(data.x_train.std(axis=0), 1)
    x = np.array([[float(row.partition(",")[0])] for row in rows])
    archive = load_data(npz(tmp_path / "t.npz", x=x, y=np.arange(40) % 2))
    assert np.array_equal(archive.x_train, data.x_train)
    assert np.isfinite(data.astype("float32").x_train).all()


def test_a_validation_row_beyond_the_dtype_is_an_error(tmp_path):
    x_val = np.array([[1.0, 2.0], [3.0, 1e300]])
    x = np.arange(20.0).reshape(10, 2)
    data = load_data(npz(tmp_path / "t.npz", x_train=x, y_train=np.arange(10) % 2, x_val=x_val, y_val=[0, 1]))
    with pytest.raises(InputError, match="feature 1 of the validation sample 1.*float32") as caught:
        data.astype("float32")
    assert caught.value.argument == "data"
    assert np.isfinite(data.astype("float64").x_val).all()


def test_fingerprint_tells_data_apart():
    digits = load_data("digits")
    assert digits.fingerprint == load_data("digits").fingerprint
    changed = digits.x_train.copy()
    changed[3, 7] += 1
    other = type(digits)("x", changed, digits.y_train, digits.x_val, digits.y_val, digits.classes)
    assert other.fingerprint != digits.fingerprint


CSV = "size,colour,kind\n" + "".join(
    f"{i},{'red' if i % 3 else 'blue'},{'big' if i > 9 else 'small'}\n" for i in range(20)
)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv(tmp_path, separator, start):
    data = load_data(write(tmp_path / "t.csv", start + CSV.replace(",", separator)), "kind")
    assert data.classes == ("big", "small")
    assert data.features == 3
    assert np.allclose(data.x_train[:, 0].mean(), 0)
    assert np.allclose(data.x_train[:, 0].std(), 1)
    assert set(np.unique(data.x_train[:, 1:])) == {0.0, 1.0}
    assert np.array_equal(data.x_train[:, 1:].sum(axis=1), np.ones(len(data.y_train)))


def test_csv_category_without_training_rows_is_all_zero(tmp_path):
    plain = load_data(write(tmp_path / "a.csv", CSV), "kind")
    _, held_out = split(np.repeat([1, 0], [10, 10]))
    lines = CSV.splitlines()
    number, _, kind = lines[1 + held_out[0]].split(",")
    lines[1 + held_out[0]] = f"{number},green,{kind}"
    data = load_data(write(tmp_path / "b.csv", "\n".join(lines)), "kind")
    assert data.features == plain.features
    assert data.x_val[0, 1:].tolist() == [0.0, 0.0]


def test_csv_quoted_fields_blank_lines_and_numeric_classes(tmp_path):
    rows = "".join(f'"{i}","a, or\nb",{i % 3 * 5}\n\n' for i in range(30))
    data = load_data(write(tmp_path / "t.csv", "n,text,y\n" + rows), "y")
    assert data.classes == ("0", "5", "10")
    assert len(data.y_train) + len(data.y_val) == 30


def changed_row(line: int, text: str) -> str:
    lines = CSV.splitlines()
    lines[line - 1] = text
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (changed_row(7, "abc,red,big"), ("t.csv, line 7, column 'size' must be a finite number, not 'abc';",)),
        (changed_row(7, "nan,red,big"), ("line 7", "'size'", "'nan'")),
        (changed_row(7, "inf,red,big"), ("line 7", "'size'", "'inf'")),
        (changed_row(7, ",red,big"), ("line 7, column 'size' must be a finite number, not empty",)),
        (changed_row(7, "5,,big"), ("line 7, column 'colour' must be a category, not empty",)),
        (changed_row(7, "5,red,"), ("line 7, column 'kind' must be a class, not empty",)),
        (changed_row(7, "5,red"), ("line 7 must have 3 fields", "not 2")),
        (changed_row(7, '5,"red"x,big'), ("line 7",)),
        (changed_row(7, '5,"red,big'), ("line 7",)),
        (changed_row(1, "size,,kind"), ("line 1", "column 2", "no name")),
        (changed_row(1, "size,size,kind"), ("line 1", "'size'", "twice")),
        (changed_row(1, "1,2,3"), ("line 1 must be a header", "names", "not numbers ('1, 2, 3'...)")),
        ("size,colour,kind\n", ("no rows",)),
        ("", ("line 1 must be a header", "not empty")),
        ("kind\na\nb\n", ("line 1 must have two columns or more, not one, 'kind'",)),
        (CSV.replace("big", "small"), ("'kind' must have two classes or more, not only 'small'",)),
        (
            changed_row(7, "5,red,huge"),
            ("'kind' must have two samples or more of each of 3 classes, not one sample of 'huge'",),
        ),
    ],
)
def test_csv_errors_say_where(tmp_path, text, words):
    argument, message = message_of(write(tmp_path / "t.csv", text), "kind")
    assert argument == "data"
    assert "t.csv" in message
    for word in words:
        assert word in message


def test_csv_too_many_categories(tmp_path):
    text = "name,y\n" + "".join(f"n{i},{i % 2}\n" for i in range(300))
    assert "300 different texts" in message_of(write(tmp_path / "t.csv", text), "y")[1]


def test_csv_that_is_no_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,y\n1,2\n\xff,3\n")
    assert "line 3: not UTF-8" in message_of(str(path), "y")[1]


def test_csv_target(tmp_path):
    path = write(tmp_path / "t.csv", CSV)
    columns = "'size', 'colour', 'kind'"
    assert message_of(path) == ("target", f"must be given with a CSV file: a column of {path}, one of {columns}")
    argument, message = message_of(path, "kin")
    assert argument == "target"
    assert message == f"must be a column of {path}, one of {columns}, not 'kin'; did you mean 'kind'?"
    assert message_of("digits", "kind")[0] == "target"


def table(cells: list[str], header: str = "x;y") -> str:
    """A semicolon file of one column of cells, each three times, and two classes."""
    return header + "\n" + "".join(f"{cell};{i % 2}\n" for i, cell in enumerate(3 * cells))


NOT_NUMBERS = {
    "decimal comma": ["3,14", "2,7", "1,0"],
    "decimal comma, some integers": ["3,14", "2", "1,5", "7"],
    "thousands": ["1,234", "12,345", "1,234,567.5"],
    "Indian thousands": ["1,00,000", "12,34,567"],
    "spaces": ["1 234", "12 345", "1\u00a0234", "1\u202f234"],
    "apostrophes": ["1'234", "1\u2019234"],
    "points for thousands": ["1.234.567", "2.345.678,9"],
    "per cent": ["50%", "12.5 %", "7 %"],
    "currency": ["$3.50", "€ 4", "5 £", "-$6"],
    "accounting": ["(1,234)", "(5)", "17"],
    "underscores": ["100_1", "1_000", "7"],
    "minus signs": ["\u22125", "\u22126.5"],
    "other digits": ["\u0663\u066b\u0661", "\uff11\uff12"],
    "exponents": ["1,5e3", "2,5E-3"],
    "missing": ["1.5", "NA", "2.5", "NA", "n/a", "?"],
    "infinite": ["1", "inf", "2"],
    "too large": ["1", "1e999", "2"],
}


@pytest.mark.parametrize("cells", NOT_NUMBERS.values(), ids=NOT_NUMBERS.keys())
def test_numbers_that_are_not_read_as_such_are_an_error_and_no_categories(tmp_path, cells):
    argument, message = message_of(write(tmp_path / "t.csv", table(cells)), "y")
    assert argument == "data"
    row = next(row for row, cell in enumerate(cells) if repr(cell) in message)
    assert all((cell.isdecimal() and cell.isascii()) or cell == "1.5" for cell in cells[:row])
    assert f"line {row + 2}, column 'x'" in message
    assert "finite number" in message
    assert "--drop 'x'" in message and "convert" in message
    assert ("--decimal ," in message) == cells[0].startswith(("3,14", "1,234", "1,5e3"))


def test_decimal_commas(tmp_path):
    cells = ["3,14", "-2", "1,5e-3", ",5", "7,"]
    path = write(tmp_path / "t.csv", table(cells))
    expected = load_data(write(tmp_path / "u.csv", table([cell.replace(",", ".") for cell in cells])), "y")
    assert load_data(path, "y", decimal=",").fingerprint == expected.fingerprint
    quoted = "x,y\n" + "".join(f'"{cell}",{i % 2}\n' for i, cell in enumerate(3 * cells))
    assert load_data(write(tmp_path / "q.csv", quoted), "y", decimal=",").fingerprint == expected.fingerprint
    assert "--decimal ." in message_of(write(tmp_path / "p.csv", table(["3.14", "2"])), "y", decimal=",")[1]


@pytest.mark.parametrize(
    "cells",
    [
        ["0-9", "10-19", "90+"],
        ["1.2.3", "1.2.4"],
        ["12:30", "13:00"],
        ["5 kg", "6 kg"],
        ["2021-01-01", "2021-02-01"],
        ["red", "1,234", "blue"],
        ["1st", "2nd"],
        ["none", "mild"],
        ["A1", "B2", "007x"],
    ],
)
def test_texts_that_only_begin_like_numbers_are_categories(tmp_path, cells):
    data = load_data(write(tmp_path / "t.csv", table(cells)), "y")
    assert data.features == len(cells)
    assert data.remark == f"t.csv: 0 columns of numbers, 1 of categories: x ({len(cells)})"


def test_a_column_of_nearly_all_different_texts_is_an_error_and_can_be_dropped(tmp_path):
    text = "name;size;y\n" + "".join(f"n{max(i, 1)};{i};{i % 2}\n" for i in range(20))
    path = write(tmp_path / "t.csv", text)
    argument, message = message_of(path, "y")
    assert argument == "data"
    assert "column 'name' must have up to 256 categories" in message
    assert "not 19 different texts in 20 rows, such as 'n1'" in message
    assert "--drop 'name'" in message
    data = load_data(path, "y", drop=["name"])
    assert data.features == 1
    assert data.remark == ""
    half = "name;size;y\n" + "".join(f"n{i // 2};{i};{i % 2}\n" for i in range(20))
    assert load_data(write(tmp_path / "h.csv", half), "y").features > 5


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        (["colou"], "not 'colou'; did you mean 'colour'?"),
        (["kind"], "other than the target, one of 'size', 'colour', not 'kind'"),
        (["size", "colour"], "must leave a column"),
        (["size", "size", "nothing"], "one of 'size', 'colour', not 'nothing'"),
    ],
)
def test_columns_that_cannot_be_dropped(tmp_path, drop, words):
    argument, message = message_of(write(tmp_path / "t.csv", CSV), "kind", drop=drop)
    assert argument == "drop"
    assert words in message


@pytest.mark.parametrize("options", [{"decimal": ","}, {"drop": ["x"]}])
def test_options_of_csv_files_with_other_data(options):
    assert message_of("digits", **options)[0] == next(iter(options))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "-1", "0"], ("-1", "0", "9", "10")),
        (["007", "7"], ("007", "7")),
        (["100", "1E2", "100.0"], ("100", "100.0", "1E2")),
        (["1.0", "1.00", "1"], ("1", "1.0", "1.00")),
        (["100_1", "1001"], ("1001", "100_1")),
        (["+1", "1"], ("+1", "1")),
        (["-0", "0"], ("-0", "0")),
        (["1e300", "1e301"], ("1e300", "1e301")),
        (["9" * 18, "9" * 19], ("9" * 18, "9" * 19)),
        (["9" * 5000, "8"], ("8", "9" * 5000)),
        (["nan", "inf"], ("inf", "nan")),
        (["a", "a\u00a0b"], ("a", "a\u00a0b")),
        (["\uff11", "1"], ("1", "\uff11")),
    ],
)
def test_labels_are_text_unless_all_are_plain_integers(tmp_path, labels, classes):
    rows = "".join(f"{i};{label}\n" for i, label in enumerate(3 * labels))
    data = load_data(write(tmp_path / "t.csv", "x;y\n" + rows), "y")
    assert data.classes == classes
    assert sorted(np.bincount(np.concatenate([data.y_train, data.y_val]))) == [3] * len(labels)


def test_endings_in_capitals(tmp_path):
    assert load_data(write(tmp_path / "T.CSV", CSV), "kind").features == 3
    assert load_data(write(tmp_path / "T.Tsv", CSV.replace(",", "\t")), "kind").features == 3
    with (tmp_path / "T.NPZ").open("wb") as file:
        np.savez(file, x=X, y=Y)
    assert load_data(str(tmp_path / "T.NPZ")).features == 3


@pytest.mark.parametrize(
    "header",
    ['"x (m; s; kg)",label', '"a;b",label', '"x;",label', '"a\tb\tc",label', '"x\n;;;",label', '"say ""x;""",label'],
)
def test_separators_in_quoted_headers(tmp_path, header):
    text = f"{header}\n" + "".join(f"{i},{i % 2}\n" for i in range(10))
    assert load_data(write(tmp_path / "t.csv", text), "label").features == 1


@pytest.mark.parametrize("end", ["", " ", "   \n", "\t\n \n", ",,\n", ",,\n  \n,,"])
def test_blanks_at_the_end(tmp_path, end):
    plain = load_data(write(tmp_path / "a.csv", CSV), "kind")
    assert load_data(write(tmp_path / "b.csv", CSV + end), "kind").fingerprint == plain.fingerprint


def test_an_empty_row_in_the_middle_is_an_error(tmp_path):
    message = message_of(write(tmp_path / "t.csv", changed_row(7, ",,")), "kind")[1]
    assert "line 7, column 'kind' must be a class, not empty" in message


def test_the_line_of_what_is_no_text_is_right_in_a_long_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,y\n" + b"1,2\n" * 50_000 + b"\xff,3\n")
    assert "line 50002: not UTF-8" in message_of(str(path), "y")[1]
    path.write_bytes(b"a,y\n1,2\n1\x00,3\n")
    assert "line 3: a null byte" in message_of(str(path), "y")[1]


def test_cells_of_a_hundred_thousand_digits_take_no_time(tmp_path):
    for cell in ("1" * 100_000 + "x", "1," * 50_000 + "x", "(" * 100_000, "1_" * 50_000):
        text = table([cell, "red", "blue"]).replace(";", "\t")
        assert load_data(write(tmp_path / "t.csv", text), "y").features == 3


@pytest.mark.parametrize("source", ["digitz", "nothing.csv", "nowhere/"])
def test_unknown_source(source):
    argument, message = message_of(source)
    assert argument == "data"
    assert source in message
    assert ".npz" in message


def test_unknown_ending(tmp_path):
    assert "'.xls'" in message_of(write(tmp_path / "t.xls", ""))[1]


X = np.arange(60.0).reshape(20, 3)
Y = np.arange(20) % 2


def npz(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_npz_is_split_and_standardised(tmp_path):
    data = load_data(npz(tmp_path / "t.npz", X=X, y=np.array(["no", "yes"])[Y]))
    assert data.classes == ("no", "yes")
    assert data.x_train.shape == (16, 3)
    assert np.allclose(data.x_train.mean(axis=0), 0)


def test_npz_bytes_are_divided_by_255(tmp_path):
    images = np.full((20, 2, 2), 51, np.uint8)
    data = load_data(npz(tmp_path / "t.npz", x_train=images, y_train=Y, x_test=images[:4], y_test=Y[:4]))
    assert data.x_train.shape == (20, 4)
    assert data.x_val.shape == (4, 4)
    assert np.allclose(data.x_train, 0.2)
    assert np.allclose(data.x_val, 0.2)


def test_npz_validation_is_scaled_as_training(tmp_path):
    data = load_data(npz(tmp_path / "t.npz", x_train=X, y_train=Y * 7, x_val=X[:2] + 1, y_val=[7, 0]))
    assert np.allclose(data.x_val, (X[:2] + 1 - X.mean(axis=0)) / X.std(axis=0))
    assert data.y_val.tolist() == [1, 0]
    assert data.classes == ("0", "7")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": X}, ("x_train", "; it has a")),
        ({"x": X}, ("'x'", "no 'y'")),
        ({"x": X, "y": Y[:5]}, ("'y' must have the shape (20,)", "not (5,)")),
        ({"x": X[:, 0], "y": Y}, ("'x'", "not (20,)")),
        ({"x": X.astype(complex), "y": Y}, ("'x' must have a dtype of integers or floats, not complex128",)),
        ({"x": X.astype(object), "y": Y}, ("t.npz",)),
        ({"x": np.where(X == 10, np.nan, X), "y": Y}, ("'x', row 3, feature 1 must be a finite number, not nan",)),
        ({"x": X, "y": Y + 0.5}, ("'y', row 0 must be a whole number up to 2**53, or a text, not 0.5",)),
        ({"x": X, "y": Y * 0}, ("not only 0",)),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y}, ("3 features for validation", "not 2")),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y * 3},
            ("validation label 1 must be a class of training, one of '0', '1', not '3'",),
        ),
    ],
)
def test_npz_errors(tmp_path, arrays, words):
    argument, message = message_of(npz(tmp_path / "t.npz", **arrays))
    assert argument == "data"
    for word in words:
        assert word in message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive", b"\x93NUMPY"])
def test_npz_that_is_no_archive(tmp_path, content):
    path = tmp_path / "t.npz"
    path.write_bytes(content)
    assert "t.npz" in message_of(str(path))[1]


def test_npz_that_is_one_array(tmp_path):
    with (tmp_path / "t.npz").open("wb") as file:
        np.save(file, X)
    assert "without a name" in message_of(str(tmp_path / "t.npz"))[1]


def test_npz_truncated(tmp_path):
    path = Path(npz(tmp_path / "t.npz", x=X, y=Y))
    path.write_bytes(path.read_bytes()[:-200])
    assert "t.npz" in message_of(str(path))[1]


Y_TEXT = np.array(["no", "yes"])[Y]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (Y_TEXT.astype("S"), ("no", "yes")),
        (Y == 1, ("False", "True")),
        (Y.astype(np.float32) * 10, ("0", "10")),
        (Y.astype(np.uint64) + np.uint64(2**64 - 2), (str(2**64 - 2), str(2**64 - 1))),
        (Y.astype(">i2"), ("0", "1")),
        (np.array(["007", "7"])[Y], ("007", "7")),
        ((Y * 2.0**53)[:, None], ("0", str(2**53))),
    ],
)
def test_npz_labels(tmp_path, labels, classes):
    data = load_data(npz(tmp_path / "t.npz", x=X, y=labels))
    assert data.classes == classes
    assert np.bincount(np.concatenate([data.y_train, data.y_val])).tolist() == [10, 10]


def test_npz_validation_labels_of_another_kind(tmp_path):
    y = np.arange(20) % 3 * 5  # 0, 5, 10: their order as texts is another
    data = load_data(npz(tmp_path / "t.npz", x_train=X, y_train=y, x_val=X[:3], y_val=["10", "5", "0"]))
    assert data.y_val.tolist() == [2, 1, 0]


def test_npz_arrays_that_are_not_asked_for_are_not_read(tmp_path):
    with zipfile.ZipFile(npz(tmp_path / "t.npz", x=X, y=Y, more=X.astype(object)), "a") as archive:
        archive.writestr("README", "words")
    assert load_data(str(tmp_path / "t.npz")).features == 3


def header(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (118 - len(text) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1")


HOSTILE = {
    "rows": header("'<f8'", "(1125899906842624, 3)") + bytes(480),
    "more than an int64 counts": header("'<f8'", f"({2**40}, {2**40})") + bytes(480),
    "negative": header("'<f8'", "(-1, 3)") + bytes(480),
    "itemsize": header("'<U536870911'", "(20,)") + bytes(480),
    "no rows": header("'<f8'", "(0, 3)"),
    "short": header("'<f8'", "(20, 3)") + bytes(479),
    "long": header("'<f8'", "(20, 3)") + bytes(481),
    "nested": header("'<f8'", "(" * 90 + ")" * 90),
    "words": header("'<f8'", "print"),
    "dtype": header("'wat'", "(20, 3)"),
    "fields": header("[('a', '<f8')]", "(20, 3)") + bytes(480),
    "object": header("'|O'", "(20, 3)") + bytes(480),
    "no array": b"words",
    "empty": b"",
    "version": b"\x93NUMPY\x09\x00" + bytes(600),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("name", ["x", "y"])
def test_npz_with_a_member_that_cannot_be_read(tmp_path, name, content):
    path = tmp_path / "t.npz"
    np.savez(path, **{"x": X, "y": Y, name: X[:0]})
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in (members | {f"{name}.npy": content}).items():
            archive.writestr(each, data)
    argument, message = message_of(str(path))
    assert argument == "data"
    assert "t.npz" in message


def test_npz_that_is_encrypted_or_compressed_in_another_way(tmp_path):
    path = Path(npz(tmp_path / "t.npz", x=X, y=Y))
    whole = path.read_bytes()
    for offset, field, words in ((6, 8, "encrypted"), (8, 10, "compression")):
        content = bytearray(whole)
        for signature, place in ((b"PK\x03\x04", offset), (b"PK\x01\x02", field)):
            at = content.find(signature)
            while at >= 0:
                content[at + place] = 1 if words == "encrypted" else 77
                at = content.find(signature, at + 4)
        path.write_bytes(content)
        assert words in message_of(str(path))[1]


def test_npz_with_an_array_twice(tmp_path):
    assert "must have one array 'x', not 'x' and 'X'" in message_of(npz(tmp_path / "t.npz", x=X, X=X, y=Y))[1]


@pytest.mark.parametrize("y", [Y + 1e300 * Y + 1e300, np.where(Y, 1e300, 1e301), np.where(Y, np.inf, 0), Y * 2.0**54])
def test_npz_labels_that_are_no_whole_numbers_that_can_be_told_apart(tmp_path, y):
    assert "up to 2**53" in message_of(npz(tmp_path / "t.npz", x=X, y=y))[1]


def test_npz_labels_that_are_no_unicode(tmp_path):
    path = npz(tmp_path / "t.npz", x=X, y=np.full(20, 0x7FFFFFFF, np.uint32))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"'<u4'", b"'<U1'"))
    assert "Unicode" in message_of(path)[1]


def test_npz_of_numbers_beyond_float64(tmp_path):
    x = X.astype(np.longdouble) * np.longdouble("1e4000")
    if not np.isfinite(x).all():
        pytest.skip("long doubles are no larger than doubles here")
    assert "must be a finite number, not 1e+4000" in message_of(npz(tmp_path / "t.npz", x=x, y=Y))[1]


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


IMAGES, LABELS = np.arange(20 * 4).reshape(20, 2, 2), np.arange(20) % 2 + 3


def write_idx(folder: Path, part: str, images, labels, ending: str = "") -> None:
    pack = gzip.compress if ending == ".gz" else bytes
    (folder / f"{part}-images-idx3-ubyte{ending}").write_bytes(pack(idx(images)))
    (folder / f"{part}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(labels)))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx(tmp_path, ending):
    write_idx(tmp_path, "train", IMAGES, LABELS, ending)
    data = load_data(str(tmp_path))
    assert data.x_train.shape == (16, 4)
    assert data.classes == ("3", "4")
    write_idx(tmp_path, "t10k", IMAGES[:5], LABELS[:5], ending)
    data = load_data(str(tmp_path))
    assert data.x_train.shape == (20, 4)
    assert np.allclose(data.x_val * 255, IMAGES[:5].reshape(5, 4))
    assert data.y_val.tolist() == [0, 1, 0, 1, 0]


def test_idx_errors(tmp_path):
    assert "train-images-idx3-ubyte" in message_of(str(tmp_path))[1]
    write_idx(tmp_path, "train", IMAGES, LABELS)
    images = tmp_path / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for content, words in [
        (whole[:-1], "must have 96 bytes for its shape (20, 2, 2), not 95"),
        (whole[:7], "must have 16 bytes or more, its header, not 7"),
        (b"", "not nothing"),
        (b"\x00\x00\x0d\x03" + whole[4:], "must start with 00000803, not 00000d03"),
        (idx(IMAGES[:7]), "not 7 and 20"),
    ]:
        images.write_bytes(content)
        message = message_of(str(tmp_path))[1]
        assert "train-images-idx3-ubyte" in message
        assert words in message
    images.unlink()
    assert "train-images-idx3-ubyte" in message_of(str(tmp_path))[1]


def test_idx_of_a_size_that_is_not_there(tmp_path):
    write_idx(tmp_path, "train", IMAGES, LABELS, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for sizes, words in (((2**32 - 1,) * 3, "this machine has"), ((20, 2, 1), "56 bytes"), ((0, 0, 0), "16 bytes")):
        content = bytes((0, 0, 8, 3)) + struct.pack(">3I", *sizes) + bytes(10**6)
        path.write_bytes(gzip.compress(content))
        message = message_of(str(tmp_path))[1]
        assert words in message and message.endswith("not more") == words.endswith("bytes")


def test_idx_gzip_that_is_cut(tmp_path):
    write_idx(tmp_path, "train", IMAGES, LABELS, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-10])
    assert "not a whole gzip file" in message_of(str(tmp_path))[1]


def test_idx_test_files_that_do_not_fit(tmp_path):
    write_idx(tmp_path, "train", IMAGES, LABELS)
    write_idx(tmp_path, "t10k", IMAGES, LABELS + 1)
    assert "test label 1 must be a class of training, one of '3', '4', not '5'" in message_of(str(tmp_path))[1]
    write_idx(tmp_path, "t10k", IMAGES.reshape(20, 4, 1), LABELS)
    assert "test images must be (2, 2), as in training, not (4, 1)" in message_of(str(tmp_path))[1]
