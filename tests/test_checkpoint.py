"""Checkpoints: going on with the same bits in a new process and on the other backend, damage, and what does not fit."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from cases import every_form
from harness import SHAPES, python, random_buffer, snapshot

import fastopt
from fastopt import RULES, SGD, Adam, AdamW, CheckpointError, FlatBuffer, Momentum, Optimizer, RMSprop, Rprop, schedules

BACKENDS = [name for name, found in fastopt.backends().items() if found]


def forms() -> dict[str, fastopt.Rule]:
    """Every rule with each kernel that it can choose, with a schedule of each kind in turn."""
    found = {}
    for name, rule in RULES.items():
        by_kernel = {form.kernel: form for form in every_form(rule)}
        found |= {f"{name}.{kernel}": form for kernel, form in by_kernel.items()}
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


@pytest.mark.parametrize(("saving", "going_on"), [(a, b) for a in BACKENDS for b in BACKENDS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_dict_goes_on_with_the_same_bits(dtype, backend):
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
    path = tmp_path / "run"
    optimizer = Optimizer(np.zeros(20_000), Adam(), backend=BACKENDS[-1])
    moments, versions = random.Random(0), []
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}
    for _ in range(12):
        command = [sys.executable, "-c", "\n".join(line[4:] for line in SAVER.splitlines()), str(path), BACKENDS[-1]]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert process.stdout.read(5) == b"ready"
        time.sleep(moments.uniform(0.0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if path.exists():
            versions.append(version := optimizer.load(path))
            assert (optimizer.flat == version).all() and (optimizer.state["exp_avg"].flat == -version).all()
    assert len(versions) > 6 and max(versions) > 1


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
    refuses(optimizer, path, "format 99, not 1: another version of fastopt wrote it")


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
