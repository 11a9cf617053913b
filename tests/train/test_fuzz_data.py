"""Random harm to data files: each is read or refused by name in one line. Longer with FASTOPT_FUZZ_SECONDS for each."""

import gzip
import io
import os
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fastopt.train import InputError, load_data

SECONDS = float(os.environ.get("FASTOPT_FUZZ_SECONDS", "0"))


def cases(least: int) -> Iterator[random.Random]:
    """Generators of random numbers, each with a seed of its own: at least so many, and more if there is time."""
    start, seed = time.monotonic(), 0
    while seed < least or time.monotonic() - start < SECONDS:
        generator = random.Random(seed)
        generator.seed_was = seed  # for the message of a failure
        yield generator
        seed += 1


def check(path: Path, target: str | None, generator: random.Random, **options) -> bool:
    """Whether a file is read, with all that a data set promises, and not refused by a short line that names it."""
    try:
        data = load_data(str(path), target, **options)
        data = data.astype("float64")
    except InputError as error:
        assert "\n" not in error.message and len(error.message) < 2500, error.message
        assert error.argument in ("data", "target", "drop")
        return False
    except Exception as error:
        raise AssertionError(
            f"seed {generator.seed_was}: {type(error).__name__}: {error}; the file is {path}"
        ) from error
    assert len(data.classes) >= 2 and len(set(data.classes)) == len(data.classes)
    for x, y in ((data.x_train, data.y_train), (data.x_val, data.y_val)):
        assert x.shape == (len(y), data.features) and len(y) > 0
        assert np.isfinite(x).all()
        assert y.dtype == np.int64 and (y >= 0).all() and (y < len(data.classes)).all()
    return True


def harmed(content: bytes, generator: random.Random, words: list[bytes]) -> bytes:
    """Bytes with a few of them changed, removed, repeated, or replaced by words."""
    content = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 5, 20))):
        at, length = generator.randrange(len(content) + 1), generator.choice((1, 2, 4, 30, 300))
        match generator.randrange(6):
            case 0:
                content[at : at + 1] = bytes([generator.randrange(256)])
            case 1:
                del content[at : at + length]
            case 2:
                content[at:at] = content[at : at + length]
            case 3:
                content[at : at + length] = bytes(generator.choice((0, 255)) for _ in range(length))
            case 4:
                content[at:at] = generator.choice(words)
            case 5:
                del content[at:]
    return bytes(content)


CSV_WORDS = [
    *(
        b"\n",
        b"\r\n",
        b"\r",
        b",",
        b";",
        b"\t",
        b'"',
        b'""',
        b" ",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"'",
        b"\xc2\xa0",
    ),
    *(
        b"nan",
        b"inf",
        b"1e999",
        b"1_0",
        b"0x1F",
        b"1,5",
        b"-0",
        b"007",
        b"\xd9\xa3",
        b"NA",
        b"1e-320",
        b"9" * 400,
        b"x" * 70_000,
    ),
]


def test_csv_files_with_random_harm(tmp_path):
    whole = "size;colour;kind\n" + "".join(f'{i}.5;"{"red" if i % 3 else "blue"}";{i % 2}\n' for i in range(20))
    read = 0
    for generator in cases(1000):
        path = tmp_path / "t.csv"
        content = harmed(whole.encode(), generator, CSV_WORDS)
        path.write_bytes(content)
        read += check(path, "kind", generator, decimal=generator.choice((None, ".", ",")))
    assert read > 50


def test_csv_files_of_random_cells(tmp_path):
    texts = [word.decode() for word in CSV_WORDS if word.isascii() and b"\x00" not in word] + [
        "a",
        "b",
        "1",
        "2.5",
        "",
        "50%",
        "(3)",
    ]
    read = 0
    for generator in cases(1000):
        separator, some = generator.choice(",;\t"), generator.sample(texts, 4)
        rows = [["x", "y", "z"]] + [
            [generator.choice(some), generator.choice("ab"), generator.choice(texts)] for _ in range(12)
        ]
        quote = generator.random() < 0.8
        cells = [['"' + cell.replace('"', '""') + '"' if quote else cell for cell in row] for row in rows]
        path = tmp_path / "t.csv"
        path.write_text("\n".join(map(separator.join, cells)), encoding="utf-8", newline="")
        read += check(path, "y", generator, drop=generator.choice(((), ("z",), ("z",))))
    assert read > 50


NPZ_WORDS = [
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"\x93NUMPY",
    b"\xff\xff\xff\xff",
    b"x.npy",
    b"'descr'",
    b"(1,",
    b"O",
    b"\x00" * 8,
]
HEADER_WORDS = [
    b"'<f8'",
    b"'|O'",
    b"'<U9999999'",
    b"(20, 3)",
    b"-1",
    b"1e9",
    b"None",
    b"True",
    b"[",
    b"(" * 60,
    b"9" * 30,
    b"\xff",
    b"#",
]


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as whole:
        for name, content in members.items():
            whole.writestr(f"{name}.npy", content)
    return file.getvalue()


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


MEMBERS = {
    "x_train": array(np.arange(60.0).reshape(20, 3)),
    "y_train": array(np.array(["a", "b"])[np.arange(20) % 2]),
    "x_val": array(np.arange(12, dtype=np.float16).reshape(4, 3)),
    "y_val": array(np.array([b"a", b"b"])[np.arange(4) % 2]),
}


def test_npz_files_with_random_harm(tmp_path):
    whole = [archive(MEMBERS), archive(MEMBERS, zipfile.ZIP_DEFLATED)]
    read = 0
    for generator in cases(1000):
        path = tmp_path / "t.npz"
        content = harmed(generator.choice(whole), generator, NPZ_WORDS)
        path.write_bytes(content)
        read += check(path, None, generator)
    assert read > 5


def test_npz_files_with_random_harm_to_their_arrays(tmp_path):
    read = 0
    for generator in cases(1000):
        members = dict(MEMBERS)
        for _ in range(generator.choice((1, 2))):
            name = generator.choice(list(members))
            part = slice(10, 128) if generator.random() < 0.5 else slice(0, None)  # the header, or anything
            content = members[name]
            members[name] = (
                content[: part.start]
                + harmed(content[part], generator, HEADER_WORDS)
                + content[len(content[: part.stop]) :]
            )
        path = tmp_path / "t.npz"
        path.write_bytes(archive(members))
        read += check(path, None, generator)
    assert read > 5


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_with_random_harm(tmp_path, pack: Callable[[bytes], bytes]):
    ending = "" if pack is bytes else ".gz"
    whole = {
        "images-idx3": bytes((0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 2)) + bytes(range(80)),
        "labels-idx1": bytes((0, 0, 8, 1, 0, 0, 0, 20)) + bytes([3, 4] * 10),
    }
    read = 0
    for generator in cases(300):
        content = {f"{part}-{name}": value for name, value in whole.items() for part in ("train", "t10k")}
        name = generator.choice(list(content))
        before = generator.random() < 0.7  # what is packed is harmed, or the packed file
        for each, value in content.items():
            value = harmed(value, generator, [b"\x00", b"\xff" * 4]) if each == name and before else value
            value = pack(value)
            value = harmed(value, generator, [b"\x1f\x8b"]) if each == name and not before else value
            (tmp_path / f"{each}-ubyte{ending}").write_bytes(value)
        read += check(tmp_path, None, generator)
    assert read > 10
