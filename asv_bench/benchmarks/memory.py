"""Peak memory of a step: there are to be no temporaries the size of a buffer."""

import ctypes
from pathlib import Path

from . import yardstick
from .cases import BACKENDS, CASES, MIXES, STORED_RULES, rule
from .storages import BYTES, optimizer_and_gradient

SIZE = 4_000_000
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(line: str) -> int:
    """Bytes of this process that are in memory: now (``VmRSS``) or at the peak since the reset (``VmHWM``)."""
    found = next(each for each in STATUS.read_text().splitlines() if each.startswith(line))
    return int(found.split()[1]) * 1024


def peak(step, buffers):
    """The most memory in use during a step, over that of ``buffers``, in bytes: 1 means no temporaries."""
    if not (RESET.exists() and hasattr(ctypes.CDLL(None), "malloc_trim")):
        raise NotImplementedError("only Linux with glibc says what the peak of one call is")
    step()  # compiles the kernel and touches every page
    ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed, and a temporary would be no more than that
    before = resident("VmRSS")
    RESET.write_text("5")
    step()
    return round((resident("VmHWM") - before + buffers) / buffers, 4)


class Peak:
    """Every rule: parameters, gradient and states in float32."""

    params = (list(CASES), BACKENDS)
    param_names = ("rule", "backend")
    unit = "ratio"

    def track_peak(self, label, backend):
        fastopt = yardstick.import_fastopt()
        taken = rule(fastopt, label)
        params, gradient = (yardstick.random_array(SIZE, "float32", seed) for seed in range(2))
        optimizer = fastopt.Optimizer(params, taken, backend=backend)
        return peak(lambda: optimizer.step(gradient, max_norm=1.0, grad_scale=0.5), (2 + len(taken.states)) * SIZE * 4)


class Stored:
    """Every way to store numbers: what of it is decoded is so by tiles."""

    params = (STORED_RULES, list(MIXES), BACKENDS)
    param_names = ("rule", "mix", "backend")

    def setup(self, label, mix, backend):
        self.optimizer, self.gradient = optimizer_and_gradient(label, mix, backend, SIZE, yardstick.count("all"))

    def track_peak(self, label, mix, backend):
        dtype, grad_dtype, options = MIXES[mix]
        kept = {"float32": 4, "split": 2, None: 0}[options.get("master")] + 4 * ("ema_decay" in options)
        copy = BYTES[options["copy"]] if "copy" in options else 0
        held = BYTES[dtype] + BYTES[grad_dtype] + kept + copy + self.track_states(label, mix, backend)
        return peak(lambda: self.optimizer.step(self.gradient, max_norm=1.0, grad_scale=0.5), held * SIZE)

    track_peak.unit = "ratio"

    def track_states(self, label, mix, backend):
        """Of each parameter."""
        members = [buffer["w"] for buffer in self.optimizer.state.values()]
        parts = [part for member in members for part in getattr(member, "parts", {"": member}).values()]
        return sum(part.nbytes for part in parts) / SIZE

    track_states.unit = "bytes"
