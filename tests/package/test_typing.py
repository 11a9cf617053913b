"""Users' type checkers see fastopt's types: a small program of a user's, checked as strictly as mypy can."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastopt

FOLDER = Path(fastopt.__file__).parent

#: Each ``type: ignore`` is a mistake that mypy is to find: strictly, one that it does not find is an error.
PROGRAM = """
from collections.abc import Mapping
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt import kernels, schedules


class Sign(fastopt.Rule):
    lr: float = 0.1
    kernel = "lion"

    @property
    def states(self) -> Mapping[str, float]:
        return {"exp_avg": 0.0}

    def coefficients(self, step: int) -> dict[str, float]:
        return self.common(self.rate(step)) | {"step_size": self.rate(step), "beta1": 0.0, "one_minus_beta1": 1.0}


def half(step: int) -> float:
    return 0.5 / step


params = fastopt.FlatBuffer({"w": np.ones((2, 3)), "b": np.zeros(3)}, dtype="float32")
gradient = params.zeros_like()
gradient["w"] = 0.5
optimizer = fastopt.Optimizer(params, fastopt.AdamW(lr=1e-3), backend="auto", threads=2, ema_decay=0.9, accumulate=2)
report = optimizer.step(gradient, max_norm=1.0, grad_scale=0.5, nonfinite="skip")
assert_type(report, fastopt.StepReport)
assert_type(report.step, int)
assert_type(report.skipped, bool)
weights: NDArray[Any] = params["w"]
assert_type(optimizer.backend, str)
assert_type(optimizer.state["exp_avg"], fastopt.FlatBuffer)
if optimizer.ema is not None:
    average: NDArray[Any] = optimizer.ema["w"]
optimizer.step({"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)})
optimizer.step(np.zeros(9, np.float32))
optimizer.step("gradient")  # type: ignore[arg-type]
optimizer.freeze("*")
optimizer.thaw("*")
optimizer.save("run.safetensors", extra={"epoch": 3})
extra = optimizer.load("run.safetensors")
optimizer.load_state_dict(optimizer.state_dict())

schedule = schedules.Cosine(lr=1e-3, steps=100, warmup=10)
assert_type(schedule(1), float)
assert_type(fastopt.SGD(lr=half, momentum=0.9).replace(nesterov=True), fastopt.SGD)
fastopt.Adam(learning_rate=1e-3)  # type: ignore[call-arg]
fastopt.Adam(lr="fast")  # type: ignore[arg-type]
rules = {"b": Sign(), "*": fastopt.Adam(lr=schedule, betas=(0.9, 0.99))}
other = fastopt.Optimizer(np.ones(5, np.float32), rules)
for name, kind in fastopt.RULES.items():
    rule: fastopt.Rule = kind()
    assert_type(rule.coefficients(1), dict[str, float])
    assert_type(rule.states, Mapping[str, float])
for backend, available in fastopt.backends().items():
    assert_type(available.reason, str)
assert_type(fastopt.get_include(), str)
try:
    optimizer.step(gradient)
except (fastopt.NonFiniteGradientError, fastopt.BackendError, fastopt.CheckpointError) as error:
    print(error)
kernels.adam(np.ones(3), np.ones(3), np.ones(3), np.ones(3), np.ones(10))
"""

IN_TORCH = """
import torch

import fastopt.torch as ft

model = torch.nn.Linear(2, 3)
optimizer = ft.AdamW(model.parameters(), lr=1e-3)
loss = model(torch.ones(2)).sum()
loss.backward()
optimizer.step()
optimizer.zero_grad()
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
ft.accelerate(torch.optim.SGD(model.parameters(), lr=0.1)).step()
"""


def mypy(programs: dict[str, str], folder: Path) -> str:
    """What mypy says of a user's programs, which lie in a folder of their own."""
    for name, program in programs.items():
        (folder / name).write_text(textwrap.dedent(program))
    environment = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    options = ["--strict", "--cache-dir", str(folder / "cache"), "--no-color-output", "--no-error-summary"]
    if FOLDER.parent.name not in ("site-packages", "dist-packages"):  # installed to be edited: mypy does not find it
        environment["MYPYPATH"] = str(FOLDER.parent)
        options.append("--follow-imports=silent")
    command = [sys.executable, "-m", "mypy", *options, *programs]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


def test_the_package_says_that_it_is_typed():
    assert (FOLDER / "py.typed").read_text() == ""


def test_users_programs_are_checked(tmp_path):
    pytest.importorskip("mypy")
    programs = {"program.py": PROGRAM}
    if importlib.util.find_spec("torch"):
        programs["in_torch.py"] = IN_TORCH
    assert mypy(programs, tmp_path) == ""
