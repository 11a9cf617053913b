"""Keras's files, read into an optimizer here: such as Keras has written, and such as have its form."""

import io
import os
import zipfile
from contextlib import suppress

import numpy as np
import pytest

import fastopt
from fastopt import CheckpointError, checkpoint

h5py = pytest.importorskip("h5py")

SHAPES = {"a/kernel": (30, 4), "a/bias": (4,), "b/kernel": (4, 2), "b/bias": (2,)}

#: Optimizers of Keras's with their arguments, and rules; what Keras adds to a root is added to it before or after.
PAIRS = {
    "Adam": ({"learning_rate": 0.01}, fastopt.Adam(eps=1e-7)),
    "Adam-amsgrad": ({"learning_rate": 0.01, "amsgrad": True}, fastopt.Adam(eps=1e-7, amsgrad=True)),
    "AdamW": ({"learning_rate": 0.01, "weight_decay": 0.1}, fastopt.AdamW(eps=1e-7, weight_decay=0.1)),
    "Adamax": ({"learning_rate": 0.01}, fastopt.Adamax(eps=1e-7)),
    "Adagrad": ({"learning_rate": 0.01}, fastopt.Adagrad(eps=1e-7)),
    "Adadelta": ({"learning_rate": 0.5, "epsilon": 1e-6}, fastopt.Adadelta(rho=0.95)),
    "Lion": ({"learning_rate": 0.01}, fastopt.Lion(weight_decay=0.0)),
    "RMSprop": ({"learning_rate": 0.01}, fastopt.RMSprop(alpha=0.9, eps=1e-7)),
    "RMSprop-momentum": ({"learning_rate": 0.01, "momentum": 0.5}, fastopt.RMSprop(alpha=0.9, momentum=0.5, eps=1e-7)),
    "RMSprop-all": (
        {"learning_rate": 0.01, "momentum": 0.5, "centered": True},
        fastopt.RMSprop(alpha=0.9, momentum=0.5, centered=True, eps=1e-7),
    ),
    "SGD": ({"learning_rate": 0.01}, fastopt.SGD()),
    "SGD-momentum": ({"learning_rate": 0.01, "momentum": 0.9}, fastopt.SGD(momentum=0.9)),
}


def gradients(step):
    generator = np.random.default_rng(step)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def file_of(path, variables):
    """A file with the variables of an optimizer, in the form that Keras 3 gives it."""
    with h5py.File(path, "w") as file:
        group = file.create_group("optimizer/vars")
        for number, array in enumerate(variables):
            group[str(number)] = array
    return path


def made(rule=None):
    return fastopt.Optimizer(fastopt.FlatBuffer(gradients(0)), rule or fastopt.Adam())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras with NumPy 2
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("end", [".weights.h5", ".keras"])
def test_a_run_goes_on_that_keras_has_begun(pair, end, tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    arguments, rule = PAIRS[pair]
    layers = [keras.layers.Input((30,)), keras.layers.Dense(4), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    stayed = getattr(keras.optimizers, pair.partition("-")[0])(**arguments)
    model.compile(optimizer=stayed, loss="mse")
    stayed.build(model.trainable_variables)

    def train(steps):
        for step in steps:
            stayed.apply(list(map(keras.ops.convert_to_tensor, gradients(100 + step).values())))

    train(range(4))
    path = tmp_path / f"run{end}"
    (model.save_weights if end == ".weights.h5" else model.save)(path)
    arrays = [keras.ops.convert_to_numpy(each) for each in model.trainable_variables]
    moved = fastopt.Optimizer(fastopt.FlatBuffer(dict(zip(SHAPES, arrays, strict=True))), rule)
    moved.load_state_dict(checkpoint.read(path, like=moved, names=[*SHAPES]))
    assert moved.step_count == 4 and moved.lr == pytest.approx(arguments["learning_rate"])
    train(range(4, 8))
    for step in range(4, 8):
        moved.step(gradients(100 + step))
    for array, name in zip(model.trainable_variables, SHAPES, strict=True):
        np.testing.assert_allclose(moved.params[name], keras.ops.convert_to_numpy(array), rtol=2e-5, atol=2e-5)


def test_variables_are_taken_by_their_places(tmp_path):
    first, second = gradients(1), gradients(2)
    pairs = [array for name in SHAPES for array in (first[name], np.abs(second[name]))]
    path = file_of(tmp_path / "run.weights.h5", [np.int64(7), np.float32(0.25), *pairs])
    optimizer = made()
    optimizer.load_state_dict(checkpoint.read(path, like=optimizer, names=[*SHAPES]))
    assert optimizer.step_count == 7 and optimizer.lr == 0.25
    for name in SHAPES:
        assert np.array_equal(optimizer.state["exp_avg"][name], first[name])
        assert np.array_equal(optimizer.state["exp_avg_sq"][name], np.abs(second[name]))
    inside = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(tmp_path / "run.keras", "w") as archive:
        archive.writestr("model.weights.h5", inside.getvalue())
    again = made()
    again.load_state_dict(checkpoint.read(tmp_path / "run.keras", like=again, names=[*SHAPES]))
    assert np.array_equal(again.state["exp_avg"].flat, optimizer.state["exp_avg"].flat)


def test_momentum_is_without_the_learning_rate_here(tmp_path):
    path = file_of(tmp_path / "run.weights.h5", [np.int64(7), np.float32(0.25), *gradients(1).values()])
    optimizer = made(fastopt.Momentum())
    optimizer.load_state_dict(checkpoint.read(path, like=optimizer, names=[*SHAPES]))
    for name, array in gradients(1).items():
        assert np.array_equal(optimizer.state["momentum_buffer"][name], -4 * array)
    path = file_of(tmp_path / "slow.weights.h5", [np.int64(7), np.float32(0), *gradients(1).values()])
    with pytest.raises(CheckpointError, match="its learning rate 0.0 is too small to be taken out of the momentum of"):
        checkpoint.read(path, like=optimizer, names=[*SHAPES])
    path = file_of(
        tmp_path / "new.weights.h5", [np.int64(0), np.float32(0), *map(np.zeros_like, gradients(1).values())]
    )
    state = checkpoint.read(path, like=made(fastopt.Momentum()), names=[*SHAPES])["state"]
    assert not any(kinds["momentum_buffer"].any() for kinds in state.values())


def test_what_does_not_fit_is_said(tmp_path):
    head = [np.int64(7), np.float32(0.25)]
    path = file_of(tmp_path / "run.weights.h5", [*head, *gradients(1).values()])
    with pytest.raises(CheckpointError, match=r"run.weights.h5: the file has no names: give names"):
        checkpoint.read(path, like=made(fastopt.Lion()))
    with pytest.raises(CheckpointError, match=r"it has 4 states, and .* have 8 here"):
        checkpoint.read(path, like=made(), names=[*SHAPES])
    with pytest.raises(CheckpointError, match=r"states .*hessian.* are not known to be in one of Keras's files"):
        checkpoint.read(path, like=made(fastopt.SophiaG()), names=[*SHAPES])
    with pytest.raises(CheckpointError, match=r"it has 4 states, and .* have 3 here"):
        checkpoint.read(path, like=made(fastopt.Lion()), names=[*SHAPES][:3])
    with pytest.raises(CheckpointError, match="no optimizer that begins with its step"):
        checkpoint.read(file_of(tmp_path / "other.h5", [np.ones(3)]), like=made(), names=[*SHAPES])
    with pytest.raises(CheckpointError, match=r"names must be text and differ, not be \['a', 'a'"):
        checkpoint.read(path, like=made(fastopt.Lion()), names=["a"] * 4)
    for wrong, match in [
        ((np.nan, 0.1), "step must be a whole number >= 0, not nan"),
        ((1, np.inf), "learning rate must be a finite number, not inf"),
    ]:
        odd = file_of(tmp_path / "odd.h5", [*map(np.float64, wrong), *gradients(1).values()])
        with pytest.raises(CheckpointError, match=match):
            checkpoint.read(odd, like=made(fastopt.Lion()), names=[*SHAPES])
    with h5py.File(tmp_path / "array.h5", "w") as file:
        file["optimizer/vars"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="optimizer/vars must be a group of arrays, not one array"):
        checkpoint.read(tmp_path / "array.h5", like=made(), names=[*SHAPES])
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file.create_group("optimizer/vars")["0"] = h5py.ExternalLink("run.weights.h5", "optimizer/vars/0")
    with pytest.raises(CheckpointError, match="the variable 0 is not in this file"):
        checkpoint.read(tmp_path / "linked.h5", like=made(), names=[*SHAPES])
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 10):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            checkpoint.read(path, like=made(fastopt.Lion()), names=[*SHAPES])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", whole)
    generator = np.random.default_rng(0)
    for name, data in (("run.weights.h5", whole), ("run.keras", packed.getvalue())):
        for _ in range(60):
            bad = bytearray(data)
            bad[int(generator.integers(8, len(data)))] = int(generator.integers(256))
            (tmp_path / name).write_bytes(bad)
            with suppress(CheckpointError):
                checkpoint.read(tmp_path / name, like=made(fastopt.Lion()), names=[*SHAPES])
