"""Peak memory of a step: there are to be no temporaries the size of a buffer."""

from pathlib import Path

from . import yardstick
from .cases import BACKENDS, CASES, rule

SIZE = 4_000_000
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(line: str) -> int:
    """Bytes of this process that are in memory: now (``VmRSS``) or at the peak since the reset (``VmHWM``)."""
    found = next(each for each in STATUS.read_text().splitlines() if each.startswith(line))
    return int(found.split()[1]) * 1024


class Peak:
    """The most memory in use during a step, over that of parameters, gradient and states: 1 means no temporaries."""

    params = (list(CASES), BACKENDS)
    param_names = ("rule", "backend")
    unit = "ratio"

    def setup(self, label, backend):
        if not RESET.exists():
            raise NotImplementedError("only Linux says what the peak of one call is")
        fastopt = yardstick.import_fastopt()
        self.rule = rule(fastopt, label)
        params, self.gradient = (yardstick.random_array(SIZE, "float32", seed) for seed in range(2))
        self.optimizer = fastopt.Optimizer(params, self.rule, backend=backend)
        self.step()  # compiles the kernel and touches every page

    def step(self):
        self.optimizer.step(self.gradient, max_norm=1.0, grad_scale=0.5)

    def track_peak(self, label, backend):
        before = resident("VmRSS")
        RESET.write_text("5")
        self.step()
        buffers = (2 + len(self.rule.states)) * SIZE * 4
        return round((resident("VmHWM") - before + buffers) / buffers, 4)
