"""The quick set: every kernel on either backend, and the fixed cost of a step.

One thread and float32: a parallel region waits for its slowest thread, hence for whatever else the machine does. The
kernels are the same code with all threads and in float64, which the full set measures.

In L2 steps are bound by arithmetic and by Python, and the limit by the cache: where a neighbour shares the core's
caches, the limit becomes a fifth slower and steps do not. So there a step's time is compared with that of Python.
"""

import os

from . import yardstick
from .cases import BACKENDS, CASES, IN_L2, IN_L3

#: Seconds of a round of one combination: less where only whether it runs is asked.
BUDGET = float(os.environ.get("ASV_QUICK_BUDGET", "0.05"))


class Kernels:
    """Every kernel, in the caches: there arithmetic shows, and what neighbours do to the memory does not."""

    params = (list(CASES), BACKENDS)
    param_names = ("rule", "backend")
    version = yardstick.VERSION

    def setup_cache(self):
        return {
            size: yardstick.sweep(CASES, BACKENDS, ["float32"], size, ["1"], BUDGET, other)
            for size, other in ((IN_L2, yardstick.python_loop), (IN_L3, None))
        }

    setup_cache.timeout = 900

    def setup(self, swept, rule, backend):
        self.ratio = {size: yardstick.look_up(swept[size], (rule, backend, "float32", "1"))[1] for size in swept}

    def track_time_in_l2(self, swept, rule, backend):
        return self.ratio[IN_L2]

    track_time_in_l2.unit = "Python loops"

    def track_slowdown_in_l3(self, swept, rule, backend):
        return self.ratio[IN_L3]

    track_slowdown_in_l3.unit = "ratio"


class FixedCost:
    """A step of one parameter, over the time of a loop in pure Python."""

    params = (BACKENDS, ["plain", "clipped"])
    param_names = ("backend", "step")
    unit = "Python loops"
    version = yardstick.VERSION

    def setup(self, backend, step):
        self.step = yardstick.smallest_step(backend, **({"max_norm": 1.0} if step == "clipped" else {}))

    def track_fixed_cost(self, backend, step):
        rounds = [yardstick.in_turn(self.step, yardstick.python_loop, 2 * BUDGET) for _ in range(yardstick.ROUNDS)]
        return yardstick.conclude(rounds)[1]
