"""Checkpoints: going on with the same bits in a new process and on the other backend, damage, and what does not fit."""

import json
import os
import random
import re
import stat
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from cases import ELEMENTWISE
from harness import SHAPES, TEST_PATH, python, random_buffer, snapshot

import fastopt
from fastopt import (
    SGD,
    Adam,
    AdamW,
    CheckpointError,
    FlatBuffer,
    Momentum,
    Optimizer,
    RMSprop,
    Rprop,
    checkpoint,
    schedules,
)
from fastopt.state import OptimizerState

BACKENDS = [name for name, found in fastopt.backends().items() if found]


def forms() -> dict[str, fastopt.Rule]:
    """Every rule with each kernel that it can choose, with a schedule of each kind in turn."""
    found = {}
    for name, rule in ELEMENTWISE.items():
        found |= {f"{name}.{form.kernel}": form for form in rule.forms()}
    rates = [
        schedules.Cosine(lr=0.1, steps=12, warmup=3),
        schedules.Step(lr=0.1, every=3),
        schedules.Exponential(lr=0.1, factor=0.9),
        schedules.Linear(lr=0.1, steps=10),
        schedules.OneCycle(lr=0.1, steps=12),
        schedules.Constant(lr=0.05),
    ]
    scheduled = {
        f"{key}.scheduled": rule.replace(lr=rates[i % len(rates)]) for i, (key, rule) in enumerate(found.items())
    }
    return found | scheduled


FORMS = forms()
PLATEAU = {"lr": 0.1, "factor": 0.5, "patience": 1}


def trainer(case: str, backend: str, dtype: str) -> tuple[Optimizer, list]:
    """An optimizer and the schedules that are told of metrics."""
    if case in FORMS:
        return Optimizer(random_buffer(0, dtype), FORMS[case], backend=backend), []
    shared, own = schedules.Plateau(**PLATEAU), schedules.Plateau(**PLATEAU, mode="max")
    rules = {
        "*.bias": Momentum(lr=shared),
        "first.*": Adam(lr=shared),
        "scale": SGD(lr=lambda step: 0.1 / step),
        "*": RMSprop(lr=own),
    }
    options = {"accumulate": 3, "ema_decay": 0.9} if case == "everything" else {}
    return Optimizer(random_buffer(0, dtype), rules, backend=backend, **options), [shared, own]


def go_on(optimizer: Optimizer, plateaus: list, first: int, last: int) -> None:
    """Steps that depend on their number alone; in the middle of them a group is frozen."""
    for number in range(first, last):
        if "*.bias" in optimizer.groups and number in (4, 16):
            (optimizer.freeze if number == 4 else optimizer.thaw)("*.bias")
        optimizer.step(random_buffer(number, optimizer.dtype.name), max_norm=2.0 + number, nonfinite="skip")
        for plateau in plateaus:
            plateau.observe(round(float(np.random.default_rng(number).random()), 1))


RESUME = """
    import sys
    import test_checkpoint as tests
    folder, backend, dtype = sys.argv[1:]
    for case in sorted([*tests.FORMS, "plateau", "everything"]):
        optimizer, plateaus = tests.trainer(case, backend, dtype)
        extra = optimizer.load(f"{folder}/{case}")
        assert extra == {"case": case, "half": 0.5}, extra
        tests.go_on(optimizer, plateaus, 10, 20)
        optimizer.save(f"{folder}/{case}.end")
"""


#: Each pair of backends, and either dtype with each backend on both sides: a file says nothing of the backend.
PAIRS = [(a, b, "float32" if a == b else "float64") for a in BACKENDS for b in BACKENDS]


@pytest.mark.parametrize(("saving", "going_on", "dtype"), PAIRS)
def test_a_run_that_goes_on_in_a_new_process_has_the_same_bits(saving, going_on, dtype, tmp_path):
    """Step 10 of 20 comes in the middle of an accumulation, while a group is frozen, after plateaus have waited."""
    expected = {}
    for case in [*FORMS, "plateau", "everything"]:
        optimizer, plateaus = trainer(case, saving, dtype)
        go_on(optimizer, plateaus, 0, 10)
        optimizer.save(tmp_path / case, {"case": case, "half": 0.5})
        if case == "everything":
            assert optimizer.counts[1] == 1 and optimizer.groups["*.bias"].frozen and plateaus[0](1) < 0.1
        go_on(optimizer, plateaus, 10, 20)
        expected[case] = snapshot(optimizer), [plateau.progress() for plateau in plateaus]
    python(RESUME, str(tmp_path), going_on, dtype)
    for case, (bits, progress) in expected.items():
        optimizer, plateaus = trainer(case, saving, dtype)
        optimizer.load(tmp_path / f"{case}.end")
        found = snapshot(optimizer)
        del found["groups"], bits["groups"]  # lambdas differ
        assert found == bits, case
        assert [plateau.progress() for plateau in plateaus] == progress, case


@pytest.mark.parametrize(("backend", "dtype"), list(zip(BACKENDS, ["float32", "float64"], strict=False)))
def test_a_state_dict_goes_on_with_the_same_bits(dtype, backend):
    """In either dtype on one backend: what runs again has been run on each of them in both by the test above."""
    for case in [*FORMS, "plateau", "everything"]:
        optimizer, plateaus = trainer(case, backend, dtype)
        go_on(optimizer, plateaus, 0, 10)
        other, other_plateaus = trainer(case, BACKENDS[-1], dtype)
        other.step(random_buffer(50, dtype))  # binds its programs to what is about to change
        other.params.flat[:] = optimizer.flat
        other.load_state_dict(optimizer.state_dict())
        go_on(optimizer, plateaus, 10, 20)
        go_on(other, other_plateaus, 10, 20)
        one, two = snapshot(optimizer), snapshot(other)
        del one["groups"], two["groups"]
        assert one == two, case


def test_a_state_dict_is_a_copy_keyed_by_parameter(backend, dtype):
    optimizer = Optimizer(random_buffer(0, dtype), Adam(), backend=backend)
    optimizer.step(random_buffer(1, dtype))
    state = optimizer.state_dict()
    assert list(state["state"]) == list(SHAPES) and list(state["state"]["scale"]) == ["exp_avg", "exp_avg_sq"]
    assert state["state"]["first.weight"]["exp_avg"].shape == (7, 3) and state["step"] == 1
    before = snapshot(optimizer)
    for states in state["state"].values():
        for array in states.values():
            array[...] = 7
    assert snapshot(optimizer) == before


# The file


@pytest.fixture
def optimizer():
    """On one backend: files do not depend on it."""
    rules = {"first.*": AdamW(), "*": Momentum(lr=0.1)}
    made = Optimizer(random_buffer(0, "float32"), rules, backend=BACKENDS[-1], ema_decay=0.9)
    for seed in range(3):
        made.step(random_buffer(seed, "float32"))
    return made


def test_the_file_is_safetensors(optimizer, tmp_path):
    path = tmp_path / "run.safetensors"
    optimizer.save(str(path), extra=[1, None, "ä"])
    tensors = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(tensors["params/first.weight"], optimizer.params["first.weight"])
    np.testing.assert_array_equal(tensors["state/momentum_buffer/scale"], optimizer.state["momentum_buffer"]["scale"])
    np.testing.assert_array_equal(tensors["ema/second.bias"], optimizer.ema["second.bias"])
    assert tensors["params/empty"].shape == (0, 4)
    assert optimizer.load(path) == [1, None, "ä"]
    assert b"pickle" not in path.read_bytes() and list(tmp_path.iterdir()) == [path]


def test_saving_and_loading_use_no_pickle(optimizer, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(f"pickle.{name}", refuse)
    optimizer.save(tmp_path / "run")
    optimizer.load(tmp_path / "run")


def test_a_new_file_has_the_usual_permissions_and_an_old_one_keeps_its_own(optimizer, tmp_path):
    before = os.umask(0o027)
    try:
        optimizer.save(tmp_path / "new")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        (tmp_path / "new").chmod(0o600)
        optimizer.save(tmp_path / "new")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_name_without_a_folder_is_in_the_working_folder(optimizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    optimizer.save("run")
    optimizer.load(Path("run"))
    assert os.listdir() == ["run"]


@pytest.mark.parametrize("extra", [{1, 2}, object(), np.float32(1), lambda: 0, {"a": [b"bytes"]}])
def test_an_extra_that_is_no_json_leaves_the_old_file(extra, optimizer, tmp_path):
    optimizer.save(tmp_path / "run", "old")
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        optimizer.save(tmp_path / "run", extra)
    assert (tmp_path / "run").read_bytes() == before and os.listdir(tmp_path) == ["run"]


def test_what_the_system_refuses_is_an_oserror_that_names_the_file(optimizer, tmp_path):
    before = snapshot(optimizer)
    with pytest.raises(FileNotFoundError, match="missing"):
        optimizer.save(tmp_path / "missing" / "run")
    with pytest.raises(FileNotFoundError, match="nothing"):
        optimizer.load(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        optimizer.load(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        optimizer.save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"] and snapshot(optimizer) == before


SAVER = """
    import os, sys
    import numpy as np
    import fastopt
    path = sys.argv[1]
    params = np.zeros(20_000)
    optimizer = fastopt.Optimizer(params, fastopt.Adam(), backend=sys.argv[2])
    os.write(1, b"ready")
    for version in range(10**9):
        params.fill(version)
        optimizer.state["exp_avg"].flat.fill(-version)
        optimizer.save(path, version)
"""


def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    """And beside it no more than the file that was being written, which goes with the next save."""
    path = tmp_path / "run"
    optimizer = Optimizer(np.zeros(20_000), Adam(), backend=BACKENDS[-1])
    moments, versions, left = random.Random(0), [], []
    environment = os.environ | {"PYTHONPATH": TEST_PATH}
    command = [sys.executable, "-c", textwrap.dedent(SAVER), str(path), BACKENDS[-1]]
    for kill in range(1, 61):  # twelve are enough, unless the machine is busy
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout.read(5) == b"ready"
            time.sleep(moments.uniform(0.0, 0.02 * kill))
            process.kill()
        left.append(len(set(os.listdir(tmp_path)) - {path.name}))
        if path.exists():
            versions.append(version := optimizer.load(path))
            assert (optimizer.flat == version).all() and (optimizer.state["exp_avg"].flat == -version).all()
        assert left[-1] <= 1, "what a killed process had left has stayed"
        if kill > 11 and len(versions) > 6 and max(versions) > 1 and any(left):
            break
    else:
        raise AssertionError(f"saved: {versions}, left beside them: {left}")
    optimizer.save(path)
    assert os.listdir(tmp_path) == [path.name]


# Damage


def refuses(optimizer: Optimizer, path: Path, message: str = "") -> None:
    before = snapshot(optimizer)
    with pytest.raises(CheckpointError) as caught:
        optimizer.load(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert snapshot(optimizer) == before


def test_every_truncation_is_refused(optimizer, tmp_path):
    """At every byte of the header's length, about its end, about the ends of arrays, and at many between."""
    path = tmp_path / "run"
    optimizer.save(path, "extra")
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    cuts = {*range(12), *range(start - 3, start + 10), *range(len(data) - 70, len(data)), *range(0, len(data), 97)}
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        refuses(optimizer, path)
    path.write_bytes(data + b"\0")
    refuses(optimizer, path)
    path.write_bytes(data)
    assert optimizer.load(path) == "extra"


def test_a_flipped_bit_is_refused(optimizer, tmp_path):
    """Every bit of the header's length, and one in every few bytes of the header and the arrays."""
    path = tmp_path / "run"
    optimizer.save(path, "extra")
    data = path.read_bytes()
    flips = random.Random(1)
    places = [(byte, bit) for byte in range(8) for bit in range(8)]
    places += [(byte, flips.randrange(8)) for byte in range(8, len(data), 3)]
    for byte, bit in places:
        damaged = bytearray(data)
        damaged[byte] ^= 1 << bit
        path.write_bytes(damaged)
        refuses(optimizer, path)


def test_random_bytes_are_refused(optimizer, tmp_path):
    path = tmp_path / "run"
    noise = random.Random(2)
    for size in (0, 1, 7, 8, 9, 64, 1000):
        for _ in range(5):
            path.write_bytes(noise.randbytes(size))
            refuses(optimizer, path)
    path.write_bytes(b"\x80\x04\x95" + noise.randbytes(40))  # the start of a pickle
    refuses(optimizer, path)


def test_blocks_that_were_never_written_are_refused(optimizer, tmp_path):
    path = tmp_path / "run"
    optimizer.save(path)
    data = path.read_bytes()
    for start in range(0, len(data), 512):
        damaged = data[:start] + bytes(len(data[start : start + 512])) + data[start + 512 :]
        if damaged != data:
            path.write_bytes(damaged)
            refuses(optimizer, path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: checkpoint.read({}), "source must be a path where there is no like, not {}"),
        (lambda: checkpoint.read("a.pt", like="adam"), "like must be a fastopt.Optimizer, not 'adam'"),
        (lambda: checkpoint.to_torch(None), "opt must be a fastopt.Optimizer, not None"),
        (lambda: checkpoint.to_bitsandbytes({}), "opt must be a fastopt.Optimizer, not {}"),
        (lambda: checkpoint.to_optax(3), "opt must be a fastopt.Optimizer, not 3"),
    ],
)
def test_what_is_no_optimizer_and_no_path_is_refused(given, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        given()


def test_another_safetensors_file_is_refused(optimizer, tmp_path):
    path = tmp_path / "run"
    safetensors.numpy.save_file({"w": np.ones(3)}, path)
    refuses(optimizer, path, "a safetensors file, but not one that fastopt wrote")
    safetensors.numpy.save_file({"w": np.ones(3)}, path, {"fastopt": json.dumps({"format": 1})})
    refuses(optimizer, path, "its description has another checksum")


def test_another_version_is_refused(optimizer, tmp_path, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setattr("fastopt.checkpoint.saved.FORMAT", 99)
    optimizer.save(path)
    monkeypatch.undo()
    refuses(optimizer, path, "format 99, not 2: another version of fastopt wrote it")


# What does not fit

AB, BA = {"a": np.ones(2), "b": np.ones(2)}, {"b": np.ones(2), "a": np.ones(2)}
W3, W4 = {"weight": np.ones(3)}, {"weight": np.ones(4)}


@pytest.mark.parametrize(
    ("saved", "here", "message"),
    [
        ((W3, Adam()), (W3, AdamW()), "groups['*']: the rule is Adam, not AdamW as here"),
        ((W3, Adam()), (W3, Adam(amsgrad=True)), "keeps other states than"),
        ((W3, SGD()), (W3, SGD(momentum=0.9)), "keeps other states than"),
        ((W3, Adam()), (W4, Adam()), "parameters differ: 'weight' has the shape (3,) there and (4,) here"),
        ((W3, Adam()), ({"weight": np.ones((3, 1))}, Adam()), "'weight' has the shape (3,) there and (3, 1) here"),
        ((W3 | {"wieght": np.ones(1)}, Adam()), (W3, Adam()), "'wieght', which is unknown here; did you mean 'weight'"),
        ((W3, Adam()), (W3 | {"bias": np.ones(1)}, Adam()), "it has no 'bias'"),
        ((AB, Adam()), (BA, Adam()), "its order is ['a', 'b'], not ['b', 'a']"),
        ((W3, {"w*": Adam()}), (W3, Adam()), "groups: the patterns are ['w*'], not ['*'] as here"),
        ((W3, SGD(), {"ema_decay": 0.9}), (W3, SGD()), "ema: the checkpoint has it and this optimizer has not"),
        ((W3, SGD()), (W3, SGD(), {"accumulate": 2}), "accumulated: this optimizer has it and the checkpoint has not"),
        ((W3, SGD(lr=lambda step: 1.0)), (W3, SGD(lr=0.5)), "lr was a callable, which no checkpoint holds"),
    ],
)
def test_a_checkpoint_of_another_optimizer_is_refused(saved, here, message, backend, dtype, tmp_path):
    def make(params, rule, options=None):
        return Optimizer(FlatBuffer(params, dtype), rule, backend=backend, **(options or {}))

    make(*saved).save(tmp_path / "run")
    refuses(make(*here), tmp_path / "run", message)


def test_a_checkpoint_of_another_dtype_is_refused(backend, tmp_path):
    for saved, here in (("float32", "float64"), ("float64", "float32")):
        Optimizer(FlatBuffer(W3, saved), Adam(), backend=backend).save(tmp_path / "run")
        refuses(
            Optimizer(FlatBuffer(W3, here), Adam(), backend=backend),
            tmp_path / "run",
            f"'weight' is {saved}, not {here} as here",
        )


def test_members_of_a_group_must_be_the_same(backend, tmp_path):
    params = {"a": np.ones(2), "b": np.ones(2)}
    Optimizer(FlatBuffer(params), {"a": SGD(), "*": SGD()}, backend=backend).save(tmp_path / "run")
    other = Optimizer(FlatBuffer(params), {"a": SGD(), "*": SGD()}, backend=backend)
    state = other.state_dict()
    state["groups"]["a"]["parameters"] = ["b"]
    with pytest.raises(CheckpointError, match=r"groups\['a'\]: it holds \['b'\], not \['a'\] as here"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), [1], "state_dict must be a mapping, not list"),
        (("step",), None, "step must be a whole number >= 0, not None"),
        (("step",), -1, "step must be a whole number >= 0, not -1"),
        (("micro_step",), 1.5, "micro_step must be a whole number >= 0, not 1.5"),
        (("groups",), None, "groups must be a mapping, not NoneType"),
        (("groups", "*"), 3, r"groups\['\*'\]: "),
        (("groups", "*"), {}, r"groups\['\*'\]: there is no 'rule'"),
        (("groups", "*", "step"), True, "step must be a whole number >= 0, not True"),
        (
            ("groups", "*", "hyperparameters", "betas"),
            [0.9, 1.5],
            r"Adam: betas\[1\] must be a number in \[0, 1\), not 1.5",
        ),
        (("groups", "*", "hyperparameters", "beta"), 1, "no hyperparameter 'beta'; did you mean 'betas'"),
        (("groups", "*", "hyperparameters", "lr"), {"schedule": "Cosnie"}, r"groups\['\*'\]: there is no 'Cosnie'"),
        (("state",), 3, "state must be a mapping, not int"),
        (("state", "scale"), None, r"state\['scale'\] must be a mapping, not NoneType"),
        (("state", "scael"), {}, "state: no parameter 'scael' here; did you mean 'scale'"),
        (("state", "scale", "exp_agv"), np.zeros(()), "state: 'exp_agv' is no state here; did you mean 'exp_avg'"),
        (("state", "scale"), {}, "state 'exp_avg': there is none for 'scale'"),
        (
            ("state", "scale", "exp_avg"),
            np.zeros((), "float64"),
            "state 'exp_avg': 'scale' is float64, not float32 as here",
        ),
        (
            ("state", "scale", "exp_avg"),
            np.zeros(2, "float32"),
            r"state 'exp_avg': 'scale' has the shape \(2,\), not \(\) as here",
        ),
        (("state", "scale", "exp_avg"), None, "state 'exp_avg': 'scale' is object, not float32 as here"),
        (("ema",), {}, "ema: there is none for 'first.weight'"),
        (("ema",), 5, "ema must be a mapping, not int"),
        (("ema",), None, "ema: this optimizer has it and the checkpoint has not"),
        (("accumulated",), {}, "accumulated: the checkpoint has it and this optimizer has not"),
    ],
)
def test_a_damaged_state_dict_is_refused(path, value, message, backend):
    optimizer = Optimizer(random_buffer(0, "float32"), Adam(), backend=backend, ema_decay=0.9)
    optimizer.step(random_buffer(1, "float32"))
    damaged = optimizer.state_dict()
    optimizer.step(random_buffer(2, "float32"))
    before = snapshot(optimizer)
    if path:
        place = damaged
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    else:
        damaged = value
    with pytest.raises(CheckpointError, match=message):
        optimizer.load_state_dict(damaged)
    assert snapshot(optimizer) == before
    for key in ("step", "groups", "state", "ema"):
        with pytest.raises(CheckpointError, match=f"state_dict has no {key!r}; it has"):
            optimizer.load_state_dict({name: part for name, part in optimizer.state_dict().items() if name != key})


# Hyperparameters and schedules


def test_hyperparameters_come_from_the_checkpoint(backend, tmp_path):
    Optimizer(random_buffer(0, "float32"), Adam(lr=0.5, betas=(0.8, 0.99), maximize=True), backend=backend).save(
        tmp_path / "run"
    )
    optimizer = Optimizer(random_buffer(0, "float32"), Adam(), backend=backend)
    optimizer.load(tmp_path / "run")
    assert optimizer.rule == Adam(lr=0.5, betas=(0.8, 0.99), maximize=True)


def test_a_plateau_that_the_run_holds_goes_on(backend, tmp_path):
    """The run reports metrics to the schedule that it made, before and after loading."""
    plateau = schedules.Plateau(lr=0.4, factor=0.5, patience=0)
    optimizer = Optimizer(
        random_buffer(0, "float32"), {"first.*": Adam(lr=plateau), "*": SGD(lr=plateau)}, backend=backend
    )
    for _ in range(3):
        plateau.observe(1.0)
    optimizer.save(tmp_path / "run")
    plateau.observe(1.0)
    assert optimizer.lr == 0.05
    optimizer.load(tmp_path / "run")
    assert optimizer.lr == plateau(1) == 0.1
    plateau.observe(1.0)
    assert optimizer.lr == 0.05


def test_a_schedule_takes_the_place_of_a_number(backend, tmp_path):
    plateau = schedules.Plateau(lr=0.4, factor=0.5, patience=0)
    saved = Optimizer(random_buffer(0, "float32"), Adam(lr=plateau), backend=backend)
    for _ in range(2):
        plateau.observe(1.0)
    saved.save(tmp_path / "run")
    for lr in (0.1, schedules.Cosine(lr=0.1, steps=9), lambda step: 1.0, plateau.replace(lr=0.3)):
        optimizer = Optimizer(random_buffer(0, "float32"), Adam(lr=lr), backend=backend)
        optimizer.load(tmp_path / "run")
        assert optimizer.lr == 0.2 and optimizer.rule.lr == plateau and optimizer.rule.lr is not plateau


def test_rprops_states_are_those_of_the_run(backend, dtype, tmp_path):
    """Its first step size is its learning rate; a checkpoint brings the sizes that it has learnt."""
    saved = Optimizer(random_buffer(0, dtype), Rprop(lr=0.5), backend=backend)
    saved.step(random_buffer(1, dtype))
    saved.step(random_buffer(2, dtype))
    saved.save(tmp_path / "run")
    optimizer = Optimizer(random_buffer(5, dtype), Rprop(lr=0.1), backend=backend)
    optimizer.load(tmp_path / "run")
    assert snapshot(optimizer) == snapshot(saved)


def craft(path: Path, description: Any, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file with fitting checksums, written by the package itself."""
    if isinstance(description, dict) and "checksums" in description:
        description["checksums"] = {key: zlib.crc32(array.tobytes()) for key, array in tensors.items()}
    text = description if isinstance(description, str) else json.dumps(description)
    metadata = {"fastopt": text, "fastopt.checksum": str(zlib.crc32(text.encode()))}
    safetensors.numpy.save_file(tensors, path, metadata)


def contents(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The description and the arrays of a file, read by the package itself."""
    with safetensors.safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["fastopt"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_that_safetensors_wrote_is_read(version, optimizer, tmp_path):
    optimizer.save(tmp_path / "run", {"epoch": 3})
    description, tensors = contents(tmp_path / "run")
    assert list(description) == ["step", "micro_step", "groups", "seed", "format", "layout", "checksums", "extra"]
    assert description["format"] == 2
    if version == 1:
        del description["seed"]
        description["format"] = 1
    craft(tmp_path / "theirs", description, tensors)
    assert (tmp_path / "theirs").read_bytes() != (tmp_path / "run").read_bytes()
    before = snapshot(optimizer)
    optimizer.step(random_buffer(9, "float32"))
    assert optimizer.load(tmp_path / "theirs") == {"epoch": 3}
    assert snapshot(optimizer) == before
    saved, arrays = checkpoint.read(tmp_path / "theirs")
    assert saved == {"seed": None} | description and all(
        (arrays[key] == tensors[key]).all() for key in tensors | arrays
    )


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.5}, {"accumulate": 2}, {"ema_decay": 0.5, "accumulate": 2}])
@pytest.mark.parametrize("params", [{}, {"w": np.zeros((0, 3))}], ids=["no parameters", "no elements"])
def test_an_optimizer_of_nothing_loads_its_own_checkpoint(params, options, backend, dtype, tmp_path):
    saved, other = (Optimizer(FlatBuffer(params, dtype), Adam(), backend=backend, **options) for _ in range(2))
    for _ in range(3):
        saved.step(saved.params.zeros_like())
    saved.save(tmp_path / "run")
    other.load(tmp_path / "run")
    assert snapshot(other) == snapshot(saved)
    other.load_state_dict(saved.state_dict())
    other.step(other.params.zeros_like())


EXTRAS = [
    None,
    True,
    -1.5e-300,
    10**300,
    "ä\ud800\0",
    [],
    {},
    {"": [{"a": None}, [], "1"]},
    [float("inf"), -0.0, 0.1 + 0.2],
    {"1": 1, "true": False},
]


@pytest.mark.parametrize("extra", EXTRAS, ids=map(repr, range(len(EXTRAS))))
def test_an_extra_comes_back_as_it_was(extra, optimizer, tmp_path):
    optimizer.save(tmp_path / "run", extra)
    assert repr(optimizer.load(tmp_path / "run")) == repr(extra)


def deep(levels: int) -> list:
    return [] if levels == 0 else [deep(levels - 1)]


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({1: 2}, TypeError, "extra: the key 1 is not JSON serializable as it is: keys must be text"),
        ({"a": {None: 2}}, TypeError, r"extra\['a'\]: the key None is not JSON serializable as it is"),
        ([{True: 2}], TypeError, r"extra\[0\]: the key True is not JSON serializable as it is"),
        ((1, 2), TypeError, "extra: tuple is not JSON serializable as it is: it must be None, bool, int, float, str, "),
        ({"a": [(1,)]}, TypeError, r"extra\['a'\]\[0\]: tuple is not JSON serializable as it is"),
        ({"a": np.float32(1)}, TypeError, r"extra\['a'\]: float32 is not JSON serializable"),
        ({"a": np.ones(2)}, TypeError, r"extra\['a'\]: ndarray is not JSON serializable"),
        (deep(101), ValueError, "extra must not be nested more than 100 deep"),
        pytest.param(10**5000, ValueError, "extra: .*digits", id="digits"),
    ],
)
def test_an_extra_that_json_would_change_is_refused(extra, error, message, optimizer, tmp_path):
    with pytest.raises(error, match=f"^{message}"):
        optimizer.save(tmp_path / "run", extra)
    assert os.listdir(tmp_path) == []


def test_a_cycle_is_refused(optimizer, tmp_path):
    extra: dict = {}
    extra["a"] = [extra]
    with pytest.raises(ValueError, match="extra must not be nested more than 100 deep"):
        optimizer.save(tmp_path / "run", extra)


@pytest.mark.parametrize("name", ["r", "r" * 255, "é" * 127, os.fsdecode(b"\xff" * 255)])
def test_every_name_that_open_takes(name, optimizer, tmp_path):
    for extra in (1, 2):
        optimizer.save(tmp_path / name, extra)
        assert optimizer.load(os.fsencode(tmp_path / name)) == extra
    assert os.listdir(tmp_path) == [name]


def test_a_link_stays_and_its_target_is_replaced(optimizer, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(Path("disk", "target"))
    for extra in (1, 2):
        optimizer.save(tmp_path / "run", extra)
        assert (tmp_path / "run").is_symlink() and optimizer.load(tmp_path / "disk" / "target") == extra
    assert os.listdir(tmp_path / "disk") == ["target"]


# Memory


LIMITED = """
    import os, resource, sys
    import numpy as np
    import fastopt
    def used():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    path, spare = sys.argv[1], int(sys.argv[2])
    optimizer = fastopt.Optimizer(np.zeros(2_000_000, np.float32), fastopt.Adam(), backend=sys.argv[3])
    optimizer.save(path, 0)
    optimizer.flat.fill(1)
    optimizer.state["exp_avg"].flat.fill(2)
    resource.setrlimit(resource.RLIMIT_AS, (used() + spare, resource.RLIM_INFINITY))
    done = []
    for what in (lambda: optimizer.save(path, 1), lambda: optimizer.load(path)):
        try:
            what()
            done.append("done")
        except MemoryError:
            done.append("MemoryError")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    new = done[0] == "done"
    old = not new and done[1] == "done"
    assert optimizer.flat.min() == optimizer.flat.max() == (0 if old else 1)
    assert optimizer.state["exp_avg"].flat.min() == optimizer.state["exp_avg"].flat.max() == (0 if old else 2)
    assert optimizer.load(path) == int(new)
    assert os.listdir(os.path.dirname(path)) == ["run"]
    print(*done)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its size as Linux shows it")
@pytest.mark.parametrize("spare", [0, 300_000, 600_000, 1_000_000, 3_000_000])
def test_short_memory_is_a_memoryerror_or_enough(spare, tmp_path):
    """24 MB of parameters and states; 3 MB to spare are enough for saving them, and for loading them."""
    done = python(LIMITED, str(tmp_path / "run"), str(spare), BACKENDS[-1]).split()
    assert len(done) == 2 and set(done) <= {"done", "MemoryError"}
    assert spare < 3_000_000 or done == ["done", "done"]


def test_a_full_disk_is_an_oserror_that_names_the_file_and_leaves_the_old_one(optimizer, tmp_path):
    optimizer.save(tmp_path / "run", "old")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "run").stat().st_size
    for limit in (1, 100, size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large: .*run'"):
                optimizer.save(tmp_path / "run", "new")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert os.listdir(tmp_path) == ["run"] and optimizer.load(tmp_path / "run") == "old"


def test_loading_reads_into_the_arrays_themselves(tmp_path):
    """No array of a parameter's size is made, neither by saving nor by loading."""
    optimizer = Optimizer(np.zeros(3_000_000, np.float32), Adam(), backend=BACKENDS[-1], ema_decay=0.9)
    optimizer.save(tmp_path / "run")
    optimizer.load(tmp_path / "run")
    tracemalloc.start()
    try:
        optimizer.save(tmp_path / "run")
        optimizer.load(tmp_path / "run")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000 < optimizer.flat.nbytes / 5


def test_a_file_that_changes_while_it_is_loaded_is_refused(optimizer, tmp_path, monkeypatch):
    path = tmp_path / "run"
    optimizer.save(path)
    adopting = OptimizerState.adopting

    def slowly(state, saved):
        calls = adopting(state, saved)
        with path.open("r+b") as file:
            file.write(bytes(8))
        os.utime(path, (1, 1))
        return calls

    monkeypatch.setattr(OptimizerState, "adopting", slowly)
    refuses(optimizer, path, "it was written to while it was read")


def test_no_file_that_is_not_regular_is_read(optimizer):
    refuses(optimizer, Path("/dev/zero"), "no checkpoint, or truncated")
    refuses(optimizer, Path("/dev/null"), "no checkpoint, or truncated")


# Descriptions with fitting checksums that say nonsense


PLATEAU_HERE = ("groups", "first.*", "hyperparameters", "lr")
BIAS = ("groups", "*", "hyperparameters")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("layout",), 3, "layout must be a mapping, not int"),
        (("layout",), {"w": [None]}, r"layout['w'][0] must be a whole number >= 0, not None"),
        (("layout",), {"w": 3}, "layout['w'] must be a list of whole numbers, not 3"),
        (("layout", "scale"), [True], "layout['scale'][0] must be a whole number >= 0, not True"),
        (("layout", "scale"), [10**100], "layout['scale'][0] must be less than 2**53, not a whole number of"),
        (("layout", "scale"), [0] * 65, "layout['scale'] must be a list of whole numbers, not [0, 0, 0"),
        (("layout", "more"), [2], "the checkpoint's parameters differ: it has 'more', which is unknown here"),
        (("groups",), [], "groups must be a mapping, not list"),
        (("groups", "*"), 3, "groups['*']: it must be a mapping, not int"),
        (("groups", "*", "rule"), 3, "groups['*']: rule must be text, not 3"),
        (("groups", "*", "rule"), "x" * 10_000, "groups['*']: the rule is xxx"),
        (("groups", "*", "rule"), "os.system", "groups['*']: the rule is os.system, not Momentum as here"),
        (("groups", "*", "hyperparameters"), [1], "groups['*']: hyperparameters must be a mapping, not list"),
        (("groups", "*", "frozen"), "no", "groups['*']: frozen must be True or False, not 'no'"),
        (("groups", "*", "frozen"), 1, "groups['*']: frozen must be True or False, not 1"),
        (("groups", "*", "parameters"), 3, "groups['*']: parameters must be a list of names, not 3"),
        (("groups", "*", "parameters"), [1], "groups['*']: parameters must be a list of names, not [1]"),
        (("groups", "*", "parameters"), "scale", "groups['*']: parameters must be a list of names, not 'scale'"),
        (("groups", "*", "step"), 10**72, "groups['*']: step must be less than 2**53, not 1000000000"),
        (("groups", "*", "step"), -1, "groups['*']: step must be a whole number >= 0, not -1"),
        (("groups", "*", "colour"), "red", "groups['*']: there is the unknown 'colour'; there are 'rule'"),
        (("step",), 10**72, "step must be less than 2**53, not 100000"),
        (("step",), 1.0, "step must be a whole number >= 0, not 1.0"),
        (("micro_step",), 1, "micro_step: 1 gradients are accumulated, and every 1 make a step here"),
        (("checksums",), 3, "corrupted: its arrays have other checksums"),
        (("format",), True, "format True, not 2"),
        (("format",), "1" * 1000, "format '1111111111"),
        (("format",), None, "format None, not 2"),
        (("more",), 1, "description has the unknown 'more'"),
        ((*BIAS, "lr"), [[[1]]], "groups['*']: Momentum: lr must be a finite number >= 0, not "),
        ((*BIAS, "lr"), "0.1", "groups['*']: Momentum: lr must be a finite number >= 0, not "),
        ((*BIAS, "lr"), 1e300, "groups['*']: "),
        ((*BIAS, "lr"), 10**4000, "groups['*']: Momentum: lr must be a finite number"),
        ((*BIAS, "momentum"), {"a": 1}, "groups['*']: there is no None for momentum; "),
        ((*BIAS, "more"), 1, "groups['*']: no hyperparameter 'more'; "),
        ((*PLATEAU_HERE, "schedule"), 3, "groups['first.*']: there is no 3 for lr; there are 'Constant'"),
        ((*PLATEAU_HERE, "schedule"), "evil.Payload", "groups['first.*']: there is no 'evil.Payload' for lr"),
        ((*PLATEAU_HERE, "fields"), 3, "groups['first.*']: lr: fields must be a mapping, not int"),
        ((*PLATEAU_HERE, "fields"), {}, "groups['first.*']: lr: Plateau needs 'lr'"),
        ((*PLATEAU_HERE, "fields", "lr"), [1], "groups['first.*']: lr: Plateau: lr must be a finite number >= 0"),
        (
            (*PLATEAU_HERE, "progress"),
            {},
            "groups['first.*']: lr: Plateau: progress must have current, best and waited",
        ),
        ((*PLATEAU_HERE, "progress"), "low", "groups['first.*']: lr: progress must be a mapping, not str"),
        ((*PLATEAU_HERE, "progress"), [1], "groups['first.*']: lr: progress must be a mapping, not list"),
        ((*PLATEAU_HERE, "progress", "current"), "low", "lr: Plateau: progress: current must be a finite number >= 0"),
        ((*PLATEAU_HERE, "progress", "current"), None, "lr: Plateau: progress: current must be a finite number >= 0"),
        ((*PLATEAU_HERE, "progress", "best"), "low", "lr: Plateau: progress: best must be a finite number"),
        ((*PLATEAU_HERE, "progress", "waited"), 1.5, "lr: Plateau: progress: waited must be a whole number >= 0"),
        ((*PLATEAU_HERE, "progress", "more"), 1, "lr: Plateau: progress must have current, best and waited"),
        (
            PLATEAU_HERE,
            {"schedule": "OneCycle", "fields": {"lr": 1.0, "steps": 10**400}, "progress": {}},
            "groups['first.*']: ",
        ),
        (
            PLATEAU_HERE,
            {"schedule": "Exponential", "fields": {"lr": 1.0, "factor": 1e308}, "progress": {}},
            "groups['first.*']: ",
        ),
        (
            PLATEAU_HERE,
            {"schedule": "Constant", "fields": {"lr": 1.0}, "progress": {"a": 1}},
            "groups['first.*']: lr: Constant: progress must be empty, not {'a': 1}",
        ),
    ],
)
def test_a_description_that_says_nonsense_is_refused(place, value, message, backend, tmp_path):
    path = tmp_path / "run"
    rules = {"first.*": AdamW(lr=schedules.Plateau(lr=0.1)), "*": Momentum(lr=0.1)}
    optimizer = Optimizer(random_buffer(0, "float32"), rules, backend=backend, ema_decay=0.9)
    for seed in range(3):
        optimizer.step(random_buffer(seed, "float32"))
    optimizer.save(path)
    description, tensors = contents(path)
    here = description
    for key in place[:-1]:
        here = here[key]
    here[place[-1]] = value
    craft(path, description, tensors)
    if place == ("checksums",):
        description["checksums"] = value
        craft(path, json.dumps(description), tensors)
    optimizer.step(random_buffer(3, "float32"))
    refuses(optimizer, path, message)
    with pytest.raises(CheckpointError) as caught:
        optimizer.load(path)
    assert len(str(caught.value)) < len(str(path)) + 400
    optimizer.step(random_buffer(4, "float32"))


@pytest.mark.parametrize(
    "place",
    [(), ("groups", "*"), PLATEAU_HERE, (*PLATEAU_HERE, "progress")],
    ids=["all", "group", "schedule", "progress"],
)
def test_a_description_that_lacks_a_part_is_refused(place, backend, tmp_path):
    path = tmp_path / "run"
    rules = {"first.*": AdamW(lr=schedules.Plateau(lr=0.1)), "*": Momentum(lr=0.1)}
    optimizer = Optimizer(random_buffer(0, "float32"), rules, backend=backend)
    optimizer.save(path)
    description, tensors = contents(path)
    here = description
    for key in place:
        here = here[key]
    for key in list(here):
        part = here.pop(key)
        craft(path, description, tensors)
        refuses(optimizer, path, "None, not 2" if key == "format" else "")
        here[key] = part
        state = optimizer.state_dict()
        if key in {*state} - {"seed"} and not place:
            del state[key]
            with pytest.raises(CheckpointError, match=f"state_dict has no '{key}'"):
                optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": 1, "extra": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"format": ' + "1" * 5000 + "}",
        '{"format": 1, "format": 1}',
        "null",
        "[]",
        "",
        "\ufeff{}",
        '{"format": 1}',
    ],
)
def test_a_description_that_is_no_json_object_is_refused(text, optimizer, tmp_path):
    craft(tmp_path / "run", text, {"params/w": np.ones(1, np.float32)})
    refuses(optimizer, tmp_path / "run")


@pytest.mark.parametrize("key", ["params/more", "state/exp_avg/more", "more/scale", "ema", "state/more/scale", "/", ""])
def test_an_array_of_an_unknown_name_is_refused(key, optimizer, tmp_path):
    optimizer.save(tmp_path / "run")
    description, tensors = contents(tmp_path / "run")
    tensors[key] = np.ones((), np.float32)
    craft(tmp_path / "run", description, tensors)
    refuses(
        optimizer, tmp_path / "run", "unknown name" if "state/more" not in key else "state: 'more' is no state here"
    )


def header(path: Path, text: bytes, data: bytes = b"") -> None:
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{",
        b"\xff",
        "{}".encode("utf-16"),
        b'{"__metadata__": 3}',
        b'{"__metadata__": {"fastopt": 3}}',
        b'{"__metadata__": {"fastopt": "\\ud800"}}',
        b'{"a": {}}',
        b'{"a": 3}',
        b'{"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [0, 1e99], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1' + b"0" * 5000 + b'], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], '
        b'"data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], '
        b'"data_offsets": [4, 8]}}',
        b"[" * 100_000,
    ],
)
def test_a_header_that_says_nonsense_is_refused(text, optimizer, tmp_path):
    path = tmp_path / "run"
    header(path, text, bytes(4))
    refuses(optimizer, path)
    header(path, text, bytes(8))
    refuses(optimizer, path)
    path.write_bytes((2**63).to_bytes(8, "little") + text)
    refuses(optimizer, path, "its header would have 9223372036854775808 bytes")


def test_an_empty_array_that_is_too_large_for_numpy_is_refused(optimizer, tmp_path):
    header(tmp_path / "run", b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 0], "data_offsets": [0, 0]}}')
    refuses(optimizer, tmp_path / "run", "the header's entry 'a' is")


def test_a_file_chooses_nothing_that_is_imported(optimizer, tmp_path, monkeypatch):
    """Names of rules and schedules are looked up among the built-in ones."""
    (tmp_path / "payload.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    optimizer.save(tmp_path / "run")
    description, tensors = contents(tmp_path / "run")
    for name in ("payload.Rule", "payload:Rule", "payload"):
        for change in ({"rule": name}, {"hyperparameters": {"lr": {"schedule": name, "fields": {}, "progress": {}}}}):
            group = description["groups"]["*"] | change
            craft(tmp_path / "run", description | {"groups": description["groups"] | {"*": group}}, tensors)
            refuses(optimizer, tmp_path / "run", "groups['*']: ")
    assert "payload" not in sys.modules


def test_a_schedule_of_ones_own_is_not_taken_for_the_built_in_one_of_that_name(tmp_path):
    class Cosine(schedules.Schedule):
        def __call__(self, step):
            return 0.25

    saved = Optimizer(random_buffer(0, "float32"), SGD(lr=Cosine()), backend=BACKENDS[-1])
    assert saved.state_dict()["groups"]["*"]["hyperparameters"]["lr"] is None
    saved.save(tmp_path / "run")
    saved.load(tmp_path / "run")
    assert saved.lr == 0.25


def test_gradients_that_were_gathered_for_longer_are_refused(backend, dtype):
    saved, other = (Optimizer(random_buffer(0, dtype), SGD(), backend=backend, accumulate=n) for n in (4, 2))
    for seed in range(3):
        saved.step(random_buffer(seed, dtype))
    with pytest.raises(CheckpointError, match="micro_step: 3 gradients are accumulated, and every 2 make a step here"):
        other.load_state_dict(saved.state_dict())
    saved.step(random_buffer(3, dtype))
    other.load_state_dict(saved.state_dict())
    assert other.step_count == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ma.zeros((), np.float32), r"state\['scale'\]\['exp_avg'\] must be a plain array, not a masked one"),
        ([[1.0], [1.0, 2.0]], r"state\['scale'\]\['exp_avg'\] must be an array, not \[\[1.0\], \[1.0, 2.0\]\]"),
        (object(), "state 'exp_avg': 'scale' is object, not float32 as here"),
        ("x" * 10_000, "state 'exp_avg': 'scale' is <U10000, not float32 as here"),
    ],
)
def test_what_is_no_array_in_a_state_dict_is_refused(value, message, backend):
    optimizer = Optimizer(random_buffer(0, "float32"), Adam(), backend=backend)
    state = optimizer.state_dict()
    state["state"]["scale"]["exp_avg"] = value
    before = snapshot(optimizer)
    with pytest.raises(CheckpointError, match=message):
        optimizer.load_state_dict(state)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("key", [1, None, ("groups",), b"groups"])
def test_keys_of_a_state_dict_are_text(key, backend):
    optimizer = Optimizer(random_buffer(0, "float32"), Adam(), backend=backend)
    for place in ("groups", "state"):
        state = optimizer.state_dict()
        state[place][key] = {}
        with pytest.raises(CheckpointError, match=rf"{place} must have text for keys, not "):
            optimizer.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"state_dict must have text for keys, not "):
        optimizer.load_state_dict(optimizer.state_dict() | {key: 1})
    with pytest.raises(CheckpointError, match=r"state_dict has the unknown 'grops'; did you mean 'groups'\?"):
        optimizer.load_state_dict(optimizer.state_dict() | {"grops": 1})
