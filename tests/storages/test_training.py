"""Training with compressed states and split parameters ends where it ends in float32, within what seeds make of it."""

import numpy as np
import pytest

import fastopt
from fastopt.train import Run, Settings, load_data

pytestmark = pytest.mark.compiled

SEEDS = range(10)
EPOCHS = 15
STORED = {
    "float32": {},
    "states in bfloat16": {"state_dtype": "bfloat16"},
    "states in 8 bits": {"state_dtype": "8bit"},
    "split parameters": {"dtype": "bfloat16", "master": "split"},
}


def accuracies(data, **settings) -> np.ndarray:
    """The validation accuracy of each seed."""
    found = []
    for seed in SEEDS:
        run = Run(data, Settings(seed=seed, epochs=EPOCHS, **settings))
        assert run.train(EPOCHS) == "epochs"
        found.append(run.history[-1]["val_accuracy"])
    return np.array(found)


@pytest.mark.parametrize("data", ["digits", "breast-cancer"])
@pytest.mark.parametrize("optimizer", ["adam", "momentum:lr=0.05"])
def test_accuracy_is_within_the_spread_of_the_seeds(data, optimizer):
    loaded = load_data(data)
    found = {name: accuracies(loaded, optimizer=optimizer, **settings) for name, settings in STORED.items()}
    for name, each in found.items():
        print(
            f"{data}, {optimizer}, {name}: {each.mean():.4f}, deviation {each.std(ddof=1):.4f}, least {each.min():.4f}"
        )
    plain = found["float32"]
    for name, each in found.items():
        assert abs(each.mean() - plain.mean()) <= plain.std(ddof=1), name


def loss_after(steps: int, **options) -> float:
    """The mean of ``h p^2 / 2`` over its first value, after so many steps of Adam, of which half are enough."""
    rng = np.random.default_rng(0)
    curvature = (10 ** rng.uniform(-2, 0, 1024)).astype(np.float32)
    p = rng.choice([-1, 1], 1024).astype(np.float32) * rng.uniform(0.4, 0.6, 1024).astype(np.float32)
    gradient = np.empty_like(p)
    optimizer = fastopt.Optimizer(p, fastopt.Adam(lr=1 / steps), threads=1, **options)
    first = float(curvature @ np.square(p))
    for _ in range(steps):
        np.multiply(curvature, p, out=gradient)
        optimizer.step(gradient)
    return float(curvature @ np.square(p)) / first


def test_a_hundred_thousand_steps_end_where_those_of_float32_end():
    """Rounded to nearest the second moment stays where it was when gradients were large, and steps get ever shorter."""
    found = {
        "float32": loss_after(100_000),
        "bfloat16": loss_after(100_000, state_dtype="bfloat16"),
        "8bit": loss_after(100_000, state_dtype="8bit"),
        "bfloat16 to nearest": loss_after(100_000, state_dtype="bfloat16", rounding="nearest"),
    }
    print({name: f"{loss:.2e}" for name, loss in found.items()})
    assert found["float32"] < 1e-8
    assert found["bfloat16"] < 1e-8 and found["8bit"] < 1e-8
    assert found["bfloat16 to nearest"] > 1e-4
