"""The quick set: the slowdown of every kernel on either backend, and the fixed cost of a step.

One thread and float32: a parallel region waits for its slowest thread, hence for whatever else the machine does. The
kernels are the same code with all threads and in float64, which the full set measures.
"""

from . import yardstick
from .cases import BACKENDS, CASES, IN_L2, IN_L3

BUDGET = 0.05  # seconds of a round of one combination


class Kernels:
    """Every kernel, in the caches: there arithmetic shows, and what neighbours do to the memory does not."""

    params = (list(CASES), BACKENDS)
    param_names = ("rule", "backend")
    unit = "ratio"
    version = yardstick.VERSION

    def setup_cache(self):
        return {size: yardstick.sweep(CASES, BACKENDS, ["float32"], size, ["1"], BUDGET) for size in (IN_L2, IN_L3)}

    setup_cache.timeout = 900

    def setup(self, swept, rule, backend):
        self.slowdown = {size: yardstick.look_up(swept[size], (rule, backend, "float32", "1"))[1] for size in swept}

    def track_slowdown_in_l2(self, swept, rule, backend):
        return self.slowdown[IN_L2]

    def track_slowdown_in_l3(self, swept, rule, backend):
        return self.slowdown[IN_L3]


class FixedCost:
    """A step of one parameter, over the time of a loop in pure Python."""

    params = (BACKENDS, ["plain", "clipped"])
    param_names = ("backend", "step")
    unit = "ratio"
    version = yardstick.VERSION

    def setup(self, backend, step):
        fastopt = yardstick.import_fastopt()
        optimizer = fastopt.Optimizer(yardstick.random_array(1, "float32", 0), fastopt.AdamW(), backend=backend)
        gradient = yardstick.random_array(1, "float32", 1)
        options = {"max_norm": 1.0} if step == "clipped" else {}
        self.step = lambda: optimizer.step(gradient, **options)

    def track_fixed_cost(self, backend, step):
        self.step()
        in_turn = yardstick.load("measure").in_turn
        return yardstick.conclude([in_turn(self.step, python_loop, 0.1) for _ in range(yardstick.ROUNDS)])[1]


def python_loop():
    """A few microseconds of pure Python."""
    total = {}
    for number in range(50):
        total[number & 7] = number
    return total
