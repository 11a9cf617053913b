"""``python -OO``: fastopt works without docstrings and assertions."""

import importlib.util

import pytest
from conftest import BACKENDS
from harness import python


def optimized(code: str, *arguments: str, **environment: str) -> str:
    return python("assert False\n" + code, *arguments, timeout=300, PYTHONOPTIMIZE="2", **environment)


#: One rule of each kind: elementwise, with sums, with averages of its own, for matrices.
KINDS = "Adam LAMB ScheduleFreeAdamW Muon"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_rule_steps_and_its_state_is_saved(backend, tmp_path):
    """Of numba's kernels, which load one by one, those of a rule of each kind, if C is there to step all."""
    optimized(
        """
import sys
import numpy as np
import fastopt
backend, path, kinds = sys.argv[1:]
schedule = fastopt.schedules.Cosine(lr=1e-3, steps=10, warmup=2)
for name in kinds.split() or fastopt.RULES:
    rule = fastopt.RULES[name]
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
        "" if backend == BACKENDS[-1] else KINDS,
    )


def test_every_command_runs_and_every_module_is_imported(tmp_path):
    """The classes of torch step in a test beside torch's."""
    optimized(
        """
import importlib, os, pkgutil, sys, warnings
import fastopt
extras = {"click", "jax", "matplotlib", "rich", "sklearn", "threadpoolctl", "torch"}
path, backend, click = sys.argv[1:]
commands = [
    "train --epochs 1 --out run", "landscape -o sgd:lr=0.1",
    f"bench --rule sgd --size 100 --turns 1 --backend {backend}", "info", "rules", "rules adam",
    "--help", "train --help", "landscape --help", "bench --help", "rules --help", "info --help",
]
os.chdir(path)
os.environ["FASTOPT_BACKEND"] = backend
if click == "True":
    from fastopt.cli import main
    for command in commands:
        sys.argv[1:] = command.split()
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
warnings.filterwarnings("ignore", "fastopt.* is fastopt.* now")
for module in pkgutil.walk_packages(fastopt.__path__, "fastopt."):
    if module.name != "fastopt.__main__":
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as missing:
            if missing.name not in extras:
                raise
        """,
        str(tmp_path),
        BACKENDS[-1],
        str(importlib.util.find_spec("click") is not None),
    )
