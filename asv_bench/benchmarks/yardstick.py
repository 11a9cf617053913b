"""What every commit is measured by: the engine and the limit as they are in this checkout, not in the commit."""

import hashlib
import importlib.util
import os
import sys
import traceback
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import numpy as np

from .cases import rule as make_rule

BENCH = Path(__file__).parents[2] / "fastopt" / "bench"

#: The version of benchmarks that use the yardstick: results by another one are not compared with them.
VERSION = hashlib.sha256(
    b"".join(path.read_bytes() for path in (BENCH / "measure.py", BENCH / "limit.py", Path(__file__)))
).hexdigest()

ROUNDS = 7


@cache
def load(name: str) -> ModuleType:
    """A module of ``fastopt/bench`` of this checkout."""
    name, path = f"yardstick_{name}", BENCH / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def import_fastopt() -> ModuleType:
    """The commit's fastopt. NotImplementedError if its public interface is not there yet."""
    import fastopt

    for name in ("Optimizer", "FlatBuffer", "RULES", "backends"):
        if not hasattr(fastopt, name):
            raise NotImplementedError(f"this commit has no fastopt.{name}")
    return fastopt


def random_array(size: int, dtype: str, seed: int) -> np.ndarray:
    """Standard normal numbers in memory that starts a cache line."""
    array = load("limit").line_aligned(size, np.dtype(dtype))
    np.random.default_rng(seed).standard_normal(dtype=dtype, out=array)
    return array


def count(threads: str) -> int:
    """Threads, from a parameter of a benchmark."""
    if threads != "all":
        return int(threads)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def python_loop() -> dict:
    """A microsecond of pure Python: the measure of steps that memory does not bound."""
    total = {}
    for number in range(50):
        total[number & 7] = number
    return total


def smallest_step(backend: str, **options):
    """A step of one parameter, as a call."""
    fastopt = import_fastopt()
    optimizer = fastopt.Optimizer(random_array(1, "float32", 0), fastopt.AdamW(), backend=backend)
    return partial(optimizer.step, random_array(1, "float32", 1), **options)


def one_round(step, size: int, dtype: str, states: int, threads: int, budget: float):
    """A round of a step and its limit."""
    return in_turn(step, load("limit").bind(size, dtype, states, threads), budget)


def in_turn(step, other, budget: float):
    """A round of a step and what it is compared with."""
    step()
    return load("measure").in_turn(step, other, budget)


def measure(step, size: int, dtype: str, states: int, threads: int, budget: float) -> tuple[float, float]:
    """Seconds and slowdown of a step."""
    rounds = [one_round(step, size, dtype, states, threads, budget) for _ in range(ROUNDS)]
    return conclude(rounds)


def conclude(rounds) -> tuple[float, float]:
    """Seconds and slowdown, from rounds."""
    summary = load("measure").summarize(rounds)
    return summary.seconds, round(summary.ratio, 4)


def sweep(labels, backends, dtypes, size: int, threads, budget: float, other=None) -> dict:
    """Seconds and slowdown of a step for every combination, by ``(label, backend, dtype, threads)``.

    The slowdown is the ratio to the limit, or to ``other``, a call, if there is one.

    Every round goes through all combinations, so that a busy moment of the machine spoils one round of many and not all
    rounds of one. What went wrong with a combination is kept in its place, as text; what the
    commit does not have is left out.
    """
    fastopt = import_fastopt()
    keys = [(a, b, c, d) for c in dtypes for a in labels for b in backends for d in threads]
    found: dict = {}
    failed = {}
    gradients = {dtype: random_array(size, dtype, 1) for dtype in dtypes}
    for turn in range(ROUNDS):
        for key in keys:
            label, backend, dtype, many = key
            if key in failed:
                continue
            try:
                rule = make_rule(fastopt, label)
                params = random_array(size, dtype, turn)
                optimizer = fastopt.Optimizer(params, rule, backend=backend, threads=count(many))
                step = partial(optimizer.step, gradients[dtype])
                if other:
                    taken = in_turn(step, other, budget)
                else:
                    taken = one_round(step, size, dtype, len(rule.states), count(many), budget)
                found.setdefault(key, []).append(taken)
            except NotImplementedError:
                failed[key] = None
            except Exception:
                failed[key] = traceback.format_exc()
    measured = {key: conclude(rounds) for key, rounds in found.items() if key not in failed}
    return measured | {key: text for key, text in failed.items() if text}


def look_up(swept: dict, key: tuple) -> tuple:
    """Seconds and slowdown of a combination. Raises what went wrong with it."""
    if key not in swept:
        raise NotImplementedError(f"this commit has no {key}")
    if isinstance(swept[key], str):
        raise RuntimeError(swept[key])
    return swept[key]
