"""Every kernel in the cache next to the plain loop that a C programmer would write: ``cc -O3 -march=native``.

    python asv_bench/proofs/plain_loop.py [--dtype float32] [--cc gcc] [--contract off]

The plain loop has the body of ``csrc/kernels`` and nothing else: one function, compiled for this processor alone, with
the compiler's own choice of instructions. It may contract into fused multiply-adds, unless told otherwise, which
fastopt's kernels may not, and it is spared errno, with which no square root is vectorized and the loop is 12 times
slower. The buffers fill half of the L2 cache; one thread; the time of a call with one element is subtracted. A ratio of
at most 1 means that the kernel is at least as fast. The exit status is 0 if all are, within 5 percent.
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import fastopt
from fastopt.backend.choice import select
from fastopt.backend.program import Work, run
from fastopt.bench import cases, measure
from fastopt.buffers import aligned_empty
from fastopt.machine import caches
from fastopt.rule import Rule

CSRC = Path(__file__).resolve().parents[2] / "csrc"
ROUNDS = 15
TOLERANCE = 1.05

SOURCE = """
#include <math.h>
#include <stdint.h>
#define real {real}
#define SQRT {sqrt}
#define ABS {abs}
#define TERM(c, x) ((c) * (x))
enum {{ ABSENT, PRESENT }};
#define KERNEL(name, states, coefficients) \\
    void plain_##name({parameters}, const real *k, int64_t n) {{ {coefficients} for (int64_t i = 0; i < n; i++)
#define END_KERNEL }}
#include "kernels/{kernel}.h"
"""


def plain_loop(rule: Rule, dtype: np.dtype, compiler: str, contract: str, folder: str):
    """The plain loop of a rule's kernel as a C function."""
    names = ["p", "g", *rule.states]
    source = Path(folder, f"{rule.kernel}.c")
    single = dtype == np.float32
    source.write_text(
        SOURCE.format(
            real="float" if single else "double",
            sqrt="sqrtf" if single else "sqrt",
            abs="fabsf" if single else "fabs",
            parameters=", ".join(f"{'const ' * (name == 'g')}real *restrict {name}" for name in names),
            coefficients="".join(
                f"const real {name} = k[{i}]; const int {name}_is = {name} == 0 ? ABSENT : PRESENT; "
                for i, name in enumerate(rule.coefficients(1))
            ),
            kernel=rule.kernel,
        )
    )
    library = source.with_suffix(".so")
    flags = ["-O3", "-march=native", "-fno-math-errno", f"-ffp-contract={contract}", "-shared", "-fPIC", f"-I{CSRC}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library), "-lm"], check=True)
    function = getattr(ctypes.CDLL(str(library)), f"plain_{rule.kernel}")
    function.argtypes = [ctypes.c_void_p] * (len(names) + 1) + [ctypes.c_int64]
    function.restype = None
    return function


def buffers(rule: Rule, size: int, dtype: np.dtype) -> list[np.ndarray]:
    """Parameters, gradient and states."""
    generator = np.random.default_rng(0)
    found = [aligned_empty(size, dtype) for _ in range(2 + len(rule.states))]
    for array in found[:2]:
        generator.standard_normal(dtype=dtype, out=array)
    for array, first in zip(found[2:], rule.states.values(), strict=True):
        array.fill(first)
    return found


def ratio(rule: Rule, backend: str, plain, dtype: np.dtype, cache: int) -> float:
    """The kernel's time over the plain loop's."""
    k = rule.table(100, dtype)[-1]
    size = int(0.5 * cache / (2 + len(rule.states)) / dtype.itemsize) // 1000 * 1000 + 1
    ratios = []
    for _ in range(ROUNDS):
        times = []
        for length in (size, 1):
            ours, theirs = buffers(rule, length, dtype), buffers(rule, length, dtype)
            program = select(backend)[0].bind([Work(rule.kernel, tuple(ours), k)], 1)
            loop = partial(plain, *(array.ctypes.data for array in theirs), k.ctypes.data, length)
            times.append(measure.in_turn(partial(run, program.calls), loop, 0.03))
        whole, call = times
        ratios.append((whole.seconds - call.seconds) / (whole.limit - call.limit))
    return statistics.median(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--contract", choices=["fast", "off"], default="fast", help="fused multiply-adds in the loop")
    parser.add_argument("--cc", default="cc", help="the compiler (default: cc)")
    options = parser.parse_args()
    dtype = np.dtype(options.dtype)
    cache = caches().get("L2", 2**19)
    slower = []
    print(f"time over that of the plain loop, {dtype}, in {cache // 1024} KiB of L2\n{'kernel':28}{'numba':>8}{'c':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for kernel, rule in sorted(cases.by_kernel().items()):
            plain = plain_loop(rule, dtype, options.cc, options.contract, folder)
            found = {backend: ratio(rule, backend, plain, dtype, cache) for backend in ("numba", "c")}
            print(f"{kernel:28}{found['numba']:8.2f}{found['c']:8.2f}", flush=True)
            slower += [f"{kernel} ({backend})" for backend, each in found.items() if each > TOLERANCE]
    print(f"slower than the plain loop: {', '.join(slower) or 'none'}   (fastopt {fastopt.__version__})")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
