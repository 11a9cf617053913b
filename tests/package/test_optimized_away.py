"""``python -OO``: fastopt works without docstrings and assertions."""

import pytest
from conftest import BACKENDS
from harness import python


def optimized(code: str, *arguments: str, **environment: str) -> str:
    return python("assert False\n" + code, *arguments, timeout=300, PYTHONOPTIMIZE="2", **environment)


def test_every_module_is_imported():
    optimized(
        """
import importlib, pkgutil, warnings
import fastopt
warnings.filterwarnings("ignore", "fastopt.* is fastopt.* now")
extras = {"click", "jax", "matplotlib", "rich", "sklearn", "threadpoolctl", "torch"}
for module in pkgutil.walk_packages(fastopt.__path__, "fastopt."):
    if module.name != "fastopt.__main__":
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as missing:
            if missing.name not in extras:
                raise
        """
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_rule_steps_and_its_state_is_saved(backend, tmp_path):
    optimized(
        """
import sys
import numpy as np
import fastopt
backend, path = sys.argv[1:]
schedule = fastopt.schedules.Cosine(lr=1e-3, steps=10, warmup=2)
for name, rule in fastopt.RULES.items():
    params = fastopt.FlatBuffer({"w": np.ones((20, 30)), "b": np.zeros((30, 1))}, dtype="float32")
    rules = {"w": rule(lr=schedule), "*": rule()}
    optimizer = fastopt.Optimizer(params, rules, backend=backend, ema_decay=0.9, accumulate=2, threads=2)
    for _ in range(12):  # the first five updates of ScheduleFreeRAdam move nothing
        report = optimizer.step({"w": np.ones((20, 30), "float32"), "b": np.ones((30, 1), "float32")}, max_norm=1.0)
    if (params["w"] == 1).any() or report.step != 6:
        sys.exit(f"{name} made no step")
    optimizer.save(path, extra={"name": name})
    if optimizer.load(path) != {"name": name}:
        sys.exit(f"{name} is not loaded as it was saved")
        """,
        backend,
        str(tmp_path / "checkpoint"),
    )


def test_every_command_runs(tmp_path):
    pytest.importorskip("click")
    optimized(
        """
import os, sys
from fastopt.cli import main
os.chdir(sys.argv[1])
commands = [
    "train --epochs 1 --out run", "landscape -o sgd:lr=0.1", "bench --rule sgd --size 100 --turns 1", "info",
    "rules", "rules adam", "--help", "train --help", "landscape --help", "bench --help", "rules --help", "info --help",
]
for command in commands:
    sys.argv[1:] = command.split()
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
        """,
        str(tmp_path),
    )


def test_the_classes_of_torch_step():
    pytest.importorskip("torch")
    optimized(
        """
import sys
import torch
import fastopt.torch as ft
for name in ft.__all__:
    kind = getattr(ft, name)
    if isinstance(kind, type) and kind is not ft.RuleOptimizer:
        p = torch.ones((10, 4), requires_grad=True)
        optimizer = kind([p], lr=0.1)
        p.sum().backward()
        for _ in range(6):  # the first five of ScheduleFreeRAdam move nothing
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        if (p == 1).any():
            sys.exit(f"{name} made no step")
        """
    )
