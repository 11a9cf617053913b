"""Data sets: what is loaded, how it is split and scaled, and what malformed files are told."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from fastopt.train import InputError, load_data
from fastopt.train.data import split, standardise


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def message_of(source: str, target: str | None = None) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        load_data(source, target)
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
        (changed_row(7, "abc,red,big"), ("line 7", "'size'", "'abc'", "finite number")),
        (changed_row(7, "nan,red,big"), ("line 7", "'size'", "'nan'")),
        (changed_row(7, "inf,red,big"), ("line 7", "'size'", "'inf'")),
        (changed_row(7, ",red,big"), ("line 7", "'size'", "empty")),
        (changed_row(7, "5,,big"), ("line 7", "'colour'", "empty")),
        (changed_row(7, "5,red,"), ("line 7", "'kind'", "empty")),
        (changed_row(7, "5,red"), ("line 7", "2 fields", "3")),
        (changed_row(7, '5,"red"x,big'), ("line 7",)),
        (changed_row(7, '5,"red,big'), ("line 7",)),
        (changed_row(1, "size,,kind"), ("line 1", "column 2", "no name")),
        (changed_row(1, "size,size,kind"), ("line 1", "'size'", "twice")),
        (changed_row(1, "1,2,3"), ("line 1", "numbers", "names")),
        ("size,colour,kind\n", ("no rows",)),
        ("", ("line 1", "no header")),
        ("kind\na\nb\n", ("line 1", "one column")),
        (CSV.replace("big", "small"), ("'kind'", "only 'small'", "two classes")),
        (changed_row(7, "5,red,huge"), ("'kind'", "'huge'", "one sample")),
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
    assert message_of(path)[0] == "target"
    assert "'kind'" in message_of(path)[1]
    argument, message = message_of(path, "kin")
    assert argument == "target"
    assert "did you mean 'kind'" in message
    assert message_of("digits", "kind")[0] == "target"


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
        ({"a": X}, ("arrays a", "x_train")),
        ({"x": X}, ("'x'", "no 'y'")),
        ({"x": X, "y": Y[:5]}, ("'y'", "(5,)", "(20,)")),
        ({"x": X[:, 0], "y": Y}, ("'x'", "(20,)")),
        ({"x": X.astype(complex), "y": Y}, ("'x'", "complex")),
        ({"x": X.astype(object), "y": Y}, ("t.npz",)),
        ({"x": np.where(X == 10, np.nan, X), "y": Y}, ("'x'", "row 3", "feature 1", "nan")),
        ({"x": X, "y": Y + 0.5}, ("'y'", "row 0", "0.5")),
        ({"x": X, "y": Y * 0}, ("only 0",)),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y}, ("2 features", "3")),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y * 3}, ("label 1", "3")),
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
        (whole[:-1], "allowed: 96 for its shape (20, 2, 2)"),
        (whole[:7], "header of 16"),
        (b"", "nothing"),
        (b"\x00\x00\x0d\x03" + whole[4:], "00000d03"),
        (idx(IMAGES[:7]), "7 images"),
    ]:
        images.write_bytes(content)
        message = message_of(str(tmp_path))[1]
        assert "train-images-idx3-ubyte" in message
        assert words in message
    images.unlink()
    assert "train-images-idx3-ubyte" in message_of(str(tmp_path))[1]


def test_idx_gzip_that_is_cut(tmp_path):
    write_idx(tmp_path, "train", IMAGES, LABELS, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-10])
    assert "not a whole gzip file" in message_of(str(tmp_path))[1]


def test_idx_test_files_that_do_not_fit(tmp_path):
    write_idx(tmp_path, "train", IMAGES, LABELS)
    write_idx(tmp_path, "t10k", IMAGES, LABELS + 1)
    assert "test label 5" in message_of(str(tmp_path))[1]
    write_idx(tmp_path, "t10k", IMAGES.reshape(20, 4, 1), LABELS)
    assert "(4, 1)" in message_of(str(tmp_path))[1]
