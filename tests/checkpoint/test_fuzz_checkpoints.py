"""Checkpoints under attack: whatever a file or a state dict holds, reading it refuses, or a step can follow.

Mutations are random and their seeds are in the error messages. ``FASTOPT_FUZZ_SECONDS`` says how long each test tries.
"""

import copy
import json
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BACKENDS
from harness import random_buffer, snapshot
from test_checkpoint import contents, craft

from fastopt import Adadelta, AdamW, CheckpointError, Momentum, NAdam, Optimizer, Rprop, checkpoint, schedules

SECONDS = float(os.environ.get("FASTOPT_FUZZ_SECONDS", "5"))
SHAPES = {"a.w": (2, 3), "a.b": (3,), "b.w": (), "b.b": (0, 4)}

#: What else may take the place of a value.
STRANGE = [
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, 10**72, 10**400, -(10**30)),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e38, 1e39, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "no", "0", "a.w", "a.*", "*", "scale", "Adam", "os.system", "\ud800", "\0", "x" * 5000, "schedule", "1e3"),
    *([], [[]], [None], [0.9], [0.9, 0.999], [1, 2, 3], [0] * 70, {}, {"a": 1}, {"": None}),
    *({"schedule": name, "fields": {"lr": 0.1}, "progress": {}} for name in [*schedules.SCHEDULES, "payload"]),
    {"schedule": "Step", "fields": {"lr": 0.1, "every": 10**300}, "progress": {}},
    {"schedule": "OneCycle", "fields": {"lr": 1e300, "steps": 10**300, "rise": 0.5}, "progress": {}},
    {"schedule": "Plateau", "fields": {"lr": 0.1}, "progress": {"current": 1e300, "best": None, "waited": 10**300}},
    {"current": "low", "best": [], "waited": -1},
]
STRANGE_ARRAYS = [
    *(np.zeros(3), np.zeros((2, 3), "f4")[::-1], np.ma.ones(3), object(), np.array("x"), lambda: 0, {1: 2}),
    *(np.array(np.nan), np.float32(np.inf), np.int64(-1), np.ones(1, "i8"), np.zeros(1, "u1"), np.zeros(256, "f4")),
    *({"storage": "bfloat16", "codes": np.zeros((2, 3), "u2")}, np.array([None]), np.array(2j), np.array("1", "M8[s]")),
]


def own(step: int) -> float:
    """A schedule of the user's, which no checkpoint holds."""
    return 0.1


def make(*scalar: Any) -> Optimizer:
    rules = {
        "a.w": AdamW(lr=schedules.Plateau(lr=0.1)),
        "a.b": NAdam(lr=schedules.Cosine(lr=0.1, steps=9)),
        "b.w": scalar[0] if scalar else Rprop(),
        "*": Momentum(lr=own),
    }
    optimizer = Optimizer(random_buffer(0, "float32", SHAPES), rules, backend=BACKENDS[-1], ema_decay=0.9, accumulate=2)
    for seed in range(3):
        optimizer.step(random_buffer(seed, "float32", SHAPES))
    optimizer.groups["a.w"].rule.lr.observe(1.0)
    return optimizer


def look(optimizer: Optimizer) -> tuple:
    progress = [group.rule.lr.progress() for group in optimizer.groups.values() if hasattr(group.rule.lr, "progress")]
    return snapshot(optimizer), progress


def seeds(part: float = 1.0) -> Iterator[int]:
    """Numbers, for as long as there is time, or for a part of it; at least a few."""
    end = time.monotonic() + SECONDS * part
    seed = 0
    while seed < 20 or time.monotonic() < end:
        yield seed
        seed += 1


def attack(seed: int, optimizer: Optimizer, load: Callable[[], Any], restore: Callable[[], Any]) -> bool:
    """Loads; says whether that was refused. Nothing may have changed then; otherwise steps must be possible, and the
    old state is restored."""
    before = look(optimizer)
    try:
        load()
    except (CheckpointError, OSError, MemoryError) as error:
        assert look(optimizer) == before, f"seed {seed}: changed, and then refused: {error}"
        assert len(str(error)) < 1000, f"seed {seed}: a long message: {error}"
        return True
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    try:
        for _ in range(2):
            optimizer.step(random_buffer(9, "float32", SHAPES))
    except Exception as error:
        raise AssertionError(f"seed {seed}: loaded, and then no step: {type(error).__name__}: {error}") from error
    optimizer.groups["*"].rule = optimizer.groups["*"].rule.replace(lr=own)
    restore()
    return False


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The keys that lead to each value within."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [place for key, each in items for place in places(each, (*path, key))]


def mutated(chance: random.Random, value: Any) -> Any:
    """A copy with something replaced, left out, added or swapped."""
    made = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        *path, last = chance.choice([place for place in places(made) if place] or [("",)])
        here = made
        for key in path:
            here = here[key]
        what = chance.randrange(6)
        if what == 0 and isinstance(here, dict):
            here.pop(last, None)
        elif what == 1 and isinstance(here, dict):
            here[chance.choice(["more", "", "lr", "a.w", "\ud800", "x" * 300])] = here.pop(last, None)
        elif what == 2:
            others = [place for place in places(made) if place]
            there = made
            for key in (other := chance.choice(others))[:-1]:
                there = there[key]
            here[last] = copy.deepcopy(there[other[-1]])
        elif what == 3 and isinstance(here[last], (int, float)) and not isinstance(here[last], bool):
            given = here[last]
            larger = given * 1.5 if abs(given) < 1e300 else given * 2
            here[last] = chance.choice([given + 1, -given, larger, str(given), [given]])
        else:
            here[last] = copy.deepcopy(chance.choice(STRANGE))
    return made


def with_arrays(chance: random.Random, value: Any, share: float) -> Any:
    """As mutated; with something that files cannot hold in a share of the cases."""
    made = mutated(chance, value)
    if chance.random() < share:
        *path, last = chance.choice([place for place in places(made) if place])
        here = made
        for key in path:
            here = here[key]
        here[last] = chance.choice(STRANGE_ARRAYS)
    return made


@pytest.fixture
def optimizer() -> Optimizer:
    return make()


def test_bytes(optimizer, tmp_path):
    path = tmp_path / "run"
    optimizer.save(path, {"epoch": 3})
    data = path.read_bytes()
    refused = 0
    for seed in seeds():
        chance = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            place = chance.randrange(len(damaged) or 1)
            length = chance.choice((1, 1, 4, 8, 64, 512))
            match chance.randrange(6):
                case 0:
                    damaged[place : place + 1] = bytes([damaged[place] ^ (1 << chance.randrange(8))] if damaged else [])
                case 1:
                    damaged[place : place + length] = chance.randbytes(length)
                case 2:
                    del damaged[place : place + length]
                case 3:
                    damaged[place:place] = chance.randbytes(length)
                case 4:
                    damaged[place : place + length] = bytes(len(damaged[place : place + length]))
                case 5:
                    damaged[:8] = struct.pack("<Q", chance.choice((0, 1, 8, len(data), 2**31, 2**63, 2**64 - 1)))
        path.write_bytes(damaged)
        done = attack(seed, optimizer, lambda: optimizer.load(path), lambda: None)
        assert done or damaged == data, f"seed {seed}: a file that was changed has been loaded"
        refused += done
    assert refused > 10


def test_descriptions_whose_checksums_fit(optimizer, tmp_path):
    path, good = tmp_path / "run", tmp_path / "good"
    optimizer.save(good, {"epoch": 3})
    description, tensors = contents(good)
    refused = 0
    for seed in seeds():
        chance = random.Random(seed)
        given = mutated(chance, description)
        arrays = dict(tensors)
        if chance.random() < 0.1:
            arrays[chance.choice(["params/more", "state/exp_avg", "more", "ema/a.w", "state//a.w"])] = np.ones(
                chance.choice(((), (3,), (0, 5), (2, 3))), chance.choice(("f4", "f8", "f2", "u1", "i8"))
            )
        if chance.random() < 0.1:
            del arrays[chance.choice(sorted(arrays))]
        craft(path, given, arrays)
        refused += attack(seed, optimizer, lambda: optimizer.load(path), lambda: optimizer.load(good))
    assert refused > 10


def test_headers(optimizer, tmp_path):
    path = tmp_path / "run"
    optimizer.save(path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for seed in seeds():
        chance = random.Random(seed)
        text = json.dumps(mutated(chance, header)).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        attack(seed, optimizer, lambda: optimizer.load(path), lambda: None)


def test_state_dicts(optimizer):
    good = optimizer.state_dict()
    refused = 0
    for seed in seeds():
        given = with_arrays(random.Random(seed), good, 0.2)
        refused += attack(
            seed,
            optimizer,
            lambda given=given: optimizer.load_state_dict(given),
            lambda: optimizer.load_state_dict(good),
        )
    assert refused > 10


def torchs(optimizer: Optimizer) -> dict[str, Any]:
    """As torch's class would have it, but for one parameter, of which bitsandbytes does."""
    saved = optimizer.state_dict()
    state: dict[Any, Any] = {}
    groups = []
    for position, group in enumerate(saved["groups"].values()):
        (parameter,) = group["parameters"]
        hyperparameters = {key: value for key, value in group["hyperparameters"].items() if key != "lr"}
        groups.append({"lr": 0.25, **hyperparameters, "params": [position], "param_names": [parameter]})
        state[position] = {"step": np.float32(group["step"]), **saved["state"][parameter]}
    state[1] |= {"mu_product": np.float32(0.5)}
    codes, scales, numbers = np.zeros((2, 3), np.uint8), np.ones(1, np.float32), np.linspace(-1, 1, 256, dtype="f4")
    eight = {"state": codes, "absmax": scales, "qmap": numbers}
    parts = {f"{part}{number}": array for number in (1, 2) for part, array in eight.items()}
    state[0] = {"step": 3, "__bnb_optimizer_quant_state__": parts}
    return {"state": state, "param_groups": groups}


def optaxs(optimizer: Optimizer) -> list[Any]:
    """As a chain of optax's functions would have it."""
    states = optimizer.state_dict()["state"]
    first = {
        kind: {"a": {name[2:]: states[name][kind] for name in ("a.w", "a.b")}} for kind in ("exp_avg", "exp_avg_sq")
    }
    step = np.int32(3)
    injected = {"learning_rate": np.float32(0.25), "b1": 0.5, "b2": 0.75, "eps": 1e-8}
    adam = {"count": step, "mu": first["exp_avg"], "nu": first["exp_avg_sq"]}
    delta = {"e_g": {"b": {"w": states["b.w"]["square_avg"]}}, "e_x": {"b": {"w": states["b.w"]["acc_delta"]}}}
    trace = {"trace": {"b": {"b": states["b.b"]["momentum_buffer"]}}}
    return [{"count": step, "hyperparams": injected, "inner_state": [adam, []]}, delta, trace, {"count": step}]


@pytest.mark.parametrize("foreign", [torchs, optaxs])
def test_states_of_other_packages(foreign):
    optimizer = make(*([Adadelta()] if foreign is optaxs else []))
    ours, theirs = optimizer.state_dict(), foreign(optimizer)
    optimizer.load_state_dict(checkpoint.read(theirs, like=optimizer))
    assert optimizer.step_count == 3
    optimizer.load_state_dict(ours)
    refused = 0
    for seed in seeds(0.2):
        given = with_arrays(random.Random(seed), theirs, 0.5)
        refused += attack(
            seed,
            optimizer,
            lambda given=given: optimizer.load_state_dict(checkpoint.read(given, like=optimizer)),
            lambda: optimizer.load_state_dict(ours),
        )
    assert refused > 10


def test_the_mutations_are_those_of_a_checkpoint(tmp_path: Path):
    """What is taken apart above is what a save writes: else the attacks would be on nothing."""
    optimizer = make()
    optimizer.save(tmp_path / "run")
    description, tensors = contents(tmp_path / "run")
    craft(tmp_path / "again", copy.deepcopy(description), tensors)
    before = look(optimizer)
    optimizer.load(tmp_path / "again")
    assert look(optimizer) == before and len(places(description)) > 60
