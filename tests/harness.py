"""What the behavioural tests share: optimizers over odd layouts, all that a step may change as bytes, new processes."""

import fcntl
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fastopt

_TESTS = Path(__file__).parent

#: PYTHONPATH of a child process that imports modules of the tests, of whatever room.
TEST_PATH = os.pathsep.join(map(str, (_TESTS, *sorted(filter(Path.is_dir, _TESTS.iterdir())))))

#: Odd sizes, a scalar, an empty parameter, and groups whose members do not lie side by side.
SHAPES = {
    "first.weight": (7, 3),
    "first.bias": (3,),
    "scale": (),
    "empty": (0, 4),
    "second.weight": (5, 11),
    "second.bias": (11,),
}


def random_buffer(seed: int, dtype: str, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> fastopt.FlatBuffer:
    """A flat buffer of random numbers."""
    rng = np.random.default_rng(seed)
    return fastopt.FlatBuffer({name: rng.standard_normal(shape) for name, shape in shapes.items()}, dtype=dtype)


def _bytes(buffer: Any) -> bytes:
    """The memory of a flat buffer, or of one that is encoded."""
    return b"".join(array.tobytes() for array in (buffer.memory() if hasattr(buffer, "memory") else [buffer.flat]))


def snapshot(optimizer: fastopt.Optimizer) -> dict[str, Any]:
    """All that a step or a load may change: bits, counts, rules and what is frozen."""
    buffers = {f"state {name}": state for name, state in optimizer.state.items()}
    buffers |= {part: getattr(optimizer, part) for part in ("ema", "accumulated", "master", "copy", "lookahead")}
    found = {name: _bytes(buffer) for name, buffer in buffers.items() if buffer is not None}
    groups = {pattern: (group.rule, group.frozen, dict(group.scalars)) for pattern, group in optimizer.groups.items()}
    return found | {
        "params": optimizer.flat.tobytes(),
        "counts": list(optimizer.counts),
        "groups": groups,
    }


def once_for_all_workers(name: str, make: Callable[[Path], None]) -> Path:
    """A file or folder that ``make`` has made in this run of the tests: the workers of a run share it."""
    made = Path(os.environ["TESTS_SHARED_FOLDER"], name)
    with open(made.with_name(f"{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(made.with_name(f"{name}.part"))
            made.with_name(f"{name}.part").rename(made)
    return made


def python(code: str, *arguments: str, timeout: float = 120, **environment: str) -> str:
    """What a new process prints that runs the code; AssertionError, with all it said, if it fails or hangs."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FASTOPT_")}
    variables |= {"PYTHONPATH": TEST_PATH, "OMP_WAIT_POLICY": "passive"} | environment
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as hung:
        raise AssertionError(f"hung for {timeout} s\n{hung.stdout}\n{hung.stderr}") from None
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
