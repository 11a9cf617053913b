"""``fastopt train --resume`` with files that were made to harm: errors of one line, and nothing imported or changed."""

import copy
import os
import random
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastopt
from fastopt.cli import cli
from fastopt.train import Run, Settings, load_data
from fastopt.train.extra import read_extra

FUZZ_SECONDS = float(os.environ.get("FASTOPT_FUZZ_SECONDS", "0"))
FUZZ_CASES = 60

SETTINGS = {"hidden": (3,), "epochs": 4, "switch_to": "sgd", "switch_at": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of the command line, from the middle of the second of four epochs."""
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "t.csv").write_text("a,y\n" + "".join(f"{i},{i > 4}\n" for i in range(10)))
    data = load_data(str(folder / "t.csv"), "y")
    run = Run(data, Settings(**SETTINGS))
    run.notes = {
        "source": str(folder / "t.csv"),
        "target": "y",
        "optimizers": ["adam"],
        "epochs": 4,
        "tolerance": None,
        "backend": "auto",
        "threads": None,
    }
    left = iter(range(3))
    assert run.train(4, checkpoint=folder / "c.safetensors", stop=lambda: next(left, None) is None) == "stopped"
    assert (run.epoch, run.batch) == (2, 1)
    return folder / "c.safetensors"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resume(path: Path, *arguments: str):
    return CliRunner().invoke(cli, ["train", "--resume", str(path), *arguments])


def written(checkpoint: Path, extra: dict) -> Path:
    """The checkpoint with another ``extra``, all checksums as they should be."""
    run = Run(load_data(str(checkpoint.with_name("t.csv")), "y"), Settings(**SETTINGS))
    run.optimizer.load(checkpoint)
    run.optimizer.save("c.safetensors", extra=extra)
    return Path("c.safetensors")


def changed(extra: dict, place: str, value) -> dict:
    """A copy of ``extra`` with another value at ``place``, or none if it is the class ``KeyError``."""
    extra = copy.deepcopy(extra)
    *way, last = (int(key) if key.isdecimal() else key for key in place.split("."))
    part = extra
    for key in way:
        part = part[key]
    if value is KeyError:
        del part[last]
    else:
        part[last] = value
    return extra


def places(part, before: str = "") -> list[str]:
    """The places of all values in a nested dictionary."""
    keys = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    return [before[1:]] * bool(before) + [place for key, value in keys for place in places(value, f"{before}.{key}")]


def test_the_checkpoint_as_it_is_goes_on(checkpoint):
    result = resume(checkpoint)
    assert result.exit_code == 0, result.output
    whole = Run(load_data(str(checkpoint.with_name("t.csv")), "y"), Settings(**SETTINGS))
    whole.train(4)
    assert read_extra(checkpoint.with_name("checkpoint.safetensors"))["history"] == whole.history


def test_a_checkpoint_from_before_there_were_storages_goes_on(checkpoint):
    extra = read_extra(checkpoint)
    for name in ("master", "state_dtype", "rounding"):
        del extra["settings"][name]
    result = resume(written(checkpoint, extra))
    assert result.exit_code == 0, result.output


HARM = [
    ("settings", []),
    ("settings", KeyError),
    ("settings.hidden", 3),
    ("settings.hidden", [0]),
    ("settings.hidden", ["3"]),
    ("settings.hidden", [10**9]),
    ("settings.batch_size", "full"),
    ("settings.batch_size", 2**70),
    ("settings.dtype", "float16"),
    ("settings.dtype", "8bit"),
    ("settings.dtype", ["float32"]),
    ("settings.master", "split"),
    ("settings.master", "float64"),
    ("settings.state_dtype", "bfloat16"),
    ("settings.state_dtype", {"exp_avg": "bfloat16"}),
    ("settings.rounding", None),
    ("settings.rounding", "up"),
    ("settings.optimizer", None),
    ("settings.optimizer", "nothing"),
    ("settings.optimizer", "adam:lr"),
    ("settings.schedule", "nothing"),
    ("settings.switch_to", KeyError),
    ("settings.switch_to", "nothing"),
    ("settings.switch_at", -1),
    ("settings.epochs", 10**400),
    ("settings.seed", -1),
    ("settings.max_norm", "1"),
    ("settings.wat", 1),
    ("data", None),
    ("position", "here"),
    ("position.epoch", 0),
    ("position.epoch", 10**9),
    ("position.epoch", "2"),
    ("position.batch", -1),
    ("position.batch", 2),
    ("position.batch", 10**9),
    ("position.phase", 1),
    ("position.phase", -1),
    ("position.phase", KeyError),
    ("position.loss_sum", "0"),
    ("position.loss_sum", None),
    ("history", {}),
    ("history", []),
    ("history", [None]),
    ("history.0", KeyError),
    ("history.0.epoch", 7),
    ("history.0.val_loss", None),
    ("history.0.val_accuracy", "1"),
    ("history.0.val_accuracy", KeyError),
    ("seconds", None),
    ("seconds.network", "fast"),
    ("seconds.optimizer", KeyError),
    ("notes", {}),
    ("notes", None),
    ("notes.source", 3),
    ("notes.source", "nothing.csv"),
    ("notes.source", "\ud800.csv"),
    ("notes.source", "a\0.csv"),
    ("notes.source", "x" * 5000),
    ("notes.target", 3),
    ("notes.target", "nothing"),
    ("notes.drop", "y"),
    ("notes.drop", ["nothing"]),
    ("notes.decimal", 7),
    ("notes.optimizers", []),
    ("notes.optimizers", "adam"),
    ("notes.optimizers", [None]),
    ("notes.optimizers", ["adam", "adam:lr=1e-3"]),
    ("notes.optimizers", ["adam", "sgd"]),
    ("notes.optimizers", [f"adam:lr={n}" for n in range(100)]),
    ("notes.epochs", 0),
    ("notes.epochs", 1.5),
    ("notes.epochs", True),
    ("notes.tolerance", -1),
    ("notes.backend", "cuda"),
    ("notes.threads", 10**30),
]


@pytest.mark.parametrize(("place", "value"), HARM, ids=[f"{place} {value!r}"[:50] for place, value in HARM])
def test_an_extra_made_to_harm_is_one_line(checkpoint, place, value):
    path = written(checkpoint, changed(read_extra(checkpoint), place, value))
    result = resume(path)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 800
    assert os.listdir() == ["c.safetensors"]


@pytest.mark.parametrize("extra", [None, 3, "words", [], {}, {"settings": {}}, [[[[]]]] * 5])
def test_an_extra_of_another_kind(checkpoint, extra):
    result = resume(written(checkpoint, extra))
    assert result.exit_code == 2
    assert "--resume: c.safetensors is not a checkpoint of `fastopt train`" in result.stderr


def test_errors_name_the_part_and_quote_little(checkpoint):
    path = written(checkpoint, changed(read_extra(checkpoint), "history.0.val_loss", "x" * 10_000))
    message = resume(path).stderr
    assert "--resume: c.safetensors: extra.history[0].val_loss must be a finite number >= 0, not 'xxx" in message
    assert len(message) < 250


@pytest.mark.parametrize("place", ["settings.optimizer", "settings.switch_to", "notes.optimizers.0"])
def test_a_checkpoint_does_not_choose_what_is_imported(checkpoint, folder, monkeypatch, place):
    Path("payload.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(folder)
    path = written(checkpoint, changed(read_extra(checkpoint), place, "payload.Rule:lr=1"))
    result = resume(path)
    assert result.exit_code == 2
    assert "payload.Rule" in result.stderr
    assert "payload" not in sys.modules


def test_rules_of_the_user_s_own_come_from_the_command_line(checkpoint, folder, monkeypatch):
    Path("mine.py").write_text("import fastopt\nclass Mine(fastopt.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(folder)
    Path("t.csv").write_text(checkpoint.with_name("t.csv").read_text())
    own = ("-o", "mine.Mine:lr=0.1")
    arguments = ("train", "--data", "t.csv", "--target", "y", "--hidden", "3")
    for name, epochs in (("whole", "4"), ("part", "2")):
        result = CliRunner().invoke(cli, [*arguments, *own, "--epochs", epochs, "--out", name])
        assert result.exit_code == 0, result.output
    del sys.modules["mine"]
    path = Path("part/checkpoint.safetensors")
    result = resume(path, "--epochs", "4")
    assert result.exit_code == 2
    assert "mine.Mine" in result.stderr and "--optimizer" in result.stderr
    assert "mine" not in sys.modules
    assert resume(path, "--epochs", "4", "-o", "mine.Mine:lr=0.2").exit_code == 2
    assert resume(path, "--epochs", "4", "-o", "sgd:lr=0.1").exit_code == 2
    result = resume(path, "--epochs", "4", "-o", "mine.Mine: lr=1e-1")
    assert result.exit_code == 0, result.output
    assert read_extra(path)["history"] == read_extra("whole/checkpoint.safetensors")["history"]


def test_an_interrupt_names_the_rules_of_the_user_s_own(folder, monkeypatch):
    from fastopt.train import session

    Path("mine.py").write_text("import fastopt\nclass Mine(fastopt.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(folder)
    request, data = session.new_request({"optimizer": ("mine.Mine:lr=0.1", "adam"), "out": Path("a b")})
    monkeypatch.setattr(session.Interrupt, "__call__", lambda self: True)
    with pytest.raises(session.Interrupted) as caught:
        session.train(request, data)
    expected = "fastopt train --resume 'a b/checkpoint-mine.mine-lr=0.1.safetensors' "
    assert caught.value.command == expected + "--optimizer mine.Mine:lr=0.1 --optimizer adam"


def test_a_run_that_cannot_load_stays_as_it_was(checkpoint):
    path = written(checkpoint, changed(read_extra(checkpoint), "position.batch", 2))
    run = Run(load_data(str(checkpoint.with_name("t.csv")), "y"), Settings(**SETTINGS))
    optimizer, before = run.optimizer, run.network.params.flat.tobytes()
    with pytest.raises(fastopt.CheckpointError, match=r"extra\.position"):
        run.load(path, read_extra(path))
    extra = read_extra(checkpoint)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(fastopt.CheckpointError):
        run.load(path, extra)
    assert run.optimizer is optimizer
    assert run.network.params.flat.tobytes() == before
    assert (run.epoch, run.batch, run.history) == (1, 0, [])


VALUES = [
    None,
    True,
    -1,
    0,
    1,
    2,
    3,
    2**63,
    1.5,
    1e308,
    "",
    "x",
    "3",
    "a.b:c=1",
    "sgd",
    "/",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    KeyError,
]


def test_random_changes_of_the_extra_never_end_in_a_traceback(checkpoint):
    extra = read_extra(checkpoint)
    where = places(extra)
    generator, start, case = random.Random(0), time.monotonic(), 0
    while case < FUZZ_CASES or time.monotonic() - start < FUZZ_SECONDS:
        case += 1
        hostile = extra
        for _ in range(generator.choice((1, 1, 2))):
            try:
                hostile = changed(hostile, generator.choice(where), generator.choice(VALUES))
            except (KeyError, IndexError, TypeError):
                continue
        result = resume(written(checkpoint, hostile), "--out", "out")
        assert result.exception is None or isinstance(result.exception, SystemExit), (hostile, result.exception)
        assert result.exit_code in (0, 1, 2), hostile
        if result.exit_code == 2:
            assert len(result.stderr.splitlines()) == 1
