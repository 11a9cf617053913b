"""Every kernel called from a C program, the same kernel called through Python, and a whole ``Optimizer.step``.

    python asv_bench/proofs/call_from_c.py [--size 1000000] [--dtype float32] [--threads 2] [--cc gcc]

All step the same memory, in turn. The C program is compiled on the spot: it calls ``fastopt_step`` in a loop and reads
the clock. Ratios are over its time. The exit status is 0 if every kernel costs the same both ways, within 5 percent.
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastopt
from fastopt.backend.c import CBackend, ffi
from fastopt.backend.process import processors
from fastopt.backend.program import Work
from fastopt.bench import cases, measure
from fastopt.buffers import aligned_empty
from fastopt.rule import Rule

ROUNDS = 9
SAMPLES = 40
TOLERANCE = 0.05

SOURCE = """
#define _POSIX_C_SOURCE 199309L
#include <stdlib.h>
#include <time.h>
#include <fastopt.h>

double seconds(const fastopt_call *call, int32_t (*step)(const fastopt_call *), int repetitions)
{
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < repetitions; i++)
        if (step(call))
            abort();
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec)) / repetitions;
}
"""


def c_program(compiler: str, folder: str) -> Callable[..., float]:
    """The loop as a C function: seconds for one step."""
    source, library = Path(folder, "loop.c"), Path(folder, "loop.so")
    source.write_text(SOURCE)
    command = [compiler, "-O2", "-shared", "-fPIC", f"-I{fastopt.get_include()}", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).seconds
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int), ctypes.c_double
    return function


class Timing(NamedTuple):
    """Seconds of a step from C, of the kernel called through Python, and of ``Optimizer.step``; medians over rounds of
    the last two over the first."""

    c: float
    kernel: float
    step: float
    kernel_ratio: float
    step_ratio: float


def compare(rule: Rule, size: int, dtype: np.dtype, threads: int, seconds: Callable[..., float]) -> Timing:
    """The three ways to the same step over the same memory."""
    rounds = [_round(rule, size, dtype, threads, seconds) for _ in range(ROUNDS)]
    ratios = [(kernel / c, step / c) for c, kernel, step in rounds]
    return Timing(*(statistics.median(column) for table in (rounds, ratios) for column in zip(*table, strict=True)))


def _round(
    rule: Rule, size: int, dtype: np.dtype, threads: int, seconds: Callable[..., float]
) -> tuple[float, float, float]:
    p, g = (aligned_empty(size, dtype) for _ in range(2))
    for array in (p, g):
        np.random.default_rng(0).standard_normal(dtype=dtype, out=array)
    optimizer = fastopt.Optimizer(p, rule, backend="c", threads=threads)
    states = (buffer.flat for buffer in optimizer.state.values())
    k = rule.table(2, dtype)[-1]
    program = CBackend().bind([Work(rule.kernel, (p, g, *states), k)], threads)
    kernel = partial(*program.calls[0])
    step = partial(optimizer.step, g)
    arguments = int(ffi.cast("intptr_t", *kernel.args)), fastopt.capi.address("fastopt_step")
    taken: tuple[list[float], ...] = ([], [], [])
    with measure.no_collection():
        repetitions = measure.calibrate(step)
        for _ in range(SAMPLES):
            taken[0].append(seconds(*arguments, repetitions))
            taken[1].append(measure.sample(kernel, repetitions))
            taken[2].append(measure.sample(step, repetitions))
    c, through_python, whole = map(measure.calm, taken)
    return c, through_python, whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=processors())
    parser.add_argument("--cc", default="cc", help="the compiler (default: cc)")
    options = parser.parse_args()
    print(f"{options.size:,} parameters, {options.dtype}, {options.threads} threads")
    print(f"{'kernel':28}{'C, us':>10}{'Python, us':>12}{'ratio':>8}{'step, us':>12}{'ratio':>8}")
    differing = []
    with tempfile.TemporaryDirectory() as folder:
        seconds = c_program(options.cc, folder)
        for kernel, rule in sorted(cases.by_kernel().items()):
            found = compare(rule, options.size, np.dtype(options.dtype), options.threads, seconds)
            print(
                f"{kernel:28}{found.c * 1e6:10.1f}{found.kernel * 1e6:12.1f}{found.kernel_ratio:8.3f}"
                f"{found.step * 1e6:12.1f}{found.step_ratio:8.3f}",
                flush=True,
            )
            differing += [kernel] if abs(found.kernel_ratio - 1) > TOLERANCE else []
    print(f"more than {TOLERANCE:.0%} apart: {', '.join(differing) or 'none'}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
