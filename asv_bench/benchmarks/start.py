"""What a process waits for before its first step: the import, the compiler, the first step itself."""

import os
import subprocess
import sys
import tempfile
import time

from . import yardstick
from .cases import BACKENDS, CASES, rule

FIRST_STEP = """
import time
start = time.perf_counter()
import numpy, fastopt
imported = time.perf_counter()
params, gradient = numpy.ones(1000, "float32"), numpy.ones(1000, "float32")
fastopt.Optimizer(params, fastopt.AdamW(), backend={backend!r}).step(gradient)
print(time.perf_counter() - start, imported - start)
"""


def in_new_process(backend: str, cache: str) -> list[float]:
    """Seconds from nothing to the end of the first step, and to the end of the import."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    code = FIRST_STEP.format(backend=backend)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [float(word) for word in done.stdout.split()]


class Import:
    """``import fastopt``, NumPy included, in a new process."""

    unit = "seconds"

    def setup(self):
        yardstick.import_fastopt()

    def track_time(self):
        with tempfile.TemporaryDirectory() as cache:
            return min(in_new_process("c", cache)[1] for _ in range(7))


class FirstStep:
    """Import and first step in a new process; warm: numba finds the machine code of an earlier one in its cache."""

    params = (BACKENDS, ["cold", "warm"])
    param_names = ("backend", "cache")
    unit = "seconds"

    def setup(self, backend, cache):
        yardstick.import_fastopt()

    def track_time(self, backend, cache):
        times = []
        with tempfile.TemporaryDirectory() as folder:
            if cache == "warm":
                in_new_process(backend, folder)
            for turn in range(3):
                cold = os.path.join(folder, str(turn))
                times.append(in_new_process(backend, folder if cache == "warm" else cold)[0])
        return min(times)


class Compile:
    """Compiling a kernel for one dtype, serially and in parallel, when numba is already at work."""

    params = (list(CASES),)
    param_names = ("rule",)
    unit = "seconds"

    def setup(self, label):
        self.folder = tempfile.TemporaryDirectory()
        os.environ["NUMBA_CACHE_DIR"] = self.folder.name  # before numba is imported
        self.fastopt = yardstick.import_fastopt()
        self.rule = rule(self.fastopt, label)
        self.compile(self.fastopt.SGD() if self.rule.kernel == "lion" else self.fastopt.Lion())

    def compile(self, rule):
        for size in (1, 100_000):
            params, gradient = (yardstick.random_array(size, "float32", seed) for seed in range(2))
            self.fastopt.Optimizer(params, rule, backend="numba", threads=2).step(gradient)

    def teardown(self, label):
        self.folder.cleanup()

    def track_time(self, label):
        start = time.perf_counter()
        self.compile(self.rule)
        return time.perf_counter() - start
