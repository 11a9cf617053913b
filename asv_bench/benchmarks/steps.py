"""Time and slowdown of steps: every kernel, backend, dtype and size, on one and on all threads."""

from . import yardstick
from .cases import BACKENDS, CASES, DTYPES, IN_L2, IN_L3, IN_MEMORY, THREADS


class Steps:
    """What the sizes share; by itself no benchmark."""

    params = (list(CASES), BACKENDS, DTYPES, THREADS)
    param_names = ("rule", "backend", "dtype", "threads")
    version = yardstick.VERSION

    def setup(self, swept, rule, backend, dtype, threads):
        self.seconds, self.slowdown = yardstick.look_up(swept, (rule, backend, dtype, threads))


def sweep(size, budget):
    return yardstick.sweep(CASES, BACKENDS, DTYPES, size, THREADS, budget)


# asv tells setup caches apart by the line on which they are written: every class needs its own.


class InL2(Steps):
    """20,000 parameters."""

    def setup_cache(self):
        return sweep(IN_L2, 0.05)

    setup_cache.timeout = 1800

    def track_time(self, swept, *params):
        return self.seconds

    track_time.unit = "seconds"

    def track_slowdown(self, swept, *params):
        return self.slowdown

    track_slowdown.unit = "ratio"


class InL3(Steps):
    """300,000 parameters."""

    def setup_cache(self):
        return sweep(IN_L3, 0.05)

    setup_cache.timeout = 1800

    track_time = InL2.track_time
    track_slowdown = InL2.track_slowdown


class InMemory(Steps):
    """10,000,000 parameters."""

    def setup_cache(self):
        return sweep(IN_MEMORY, 0.1)

    setup_cache.timeout = 3600

    track_time = InL2.track_time
    track_slowdown = InL2.track_slowdown


class WholeStep:
    """A step with unscaled and clipped gradient and weight decay, over the limit of a plain step."""

    params = (BACKENDS, [IN_L3, IN_MEMORY], THREADS)
    param_names = ("backend", "size", "threads")
    version = yardstick.VERSION

    def setup(self, backend, size, threads):
        fastopt = yardstick.import_fastopt()
        self.threads = yardstick.count(threads)
        params = yardstick.random_array(size, "float32", 0)
        gradient = yardstick.random_array(size, "float32", 1)
        rule = fastopt.AdamW(weight_decay=0.1)
        optimizer = fastopt.Optimizer(params, rule, backend=backend, threads=self.threads)
        self.step = lambda: optimizer.step(gradient, max_norm=1.0, grad_scale=1 / 1024)

    def measure(self, size):
        return yardstick.measure(self.step, size, "float32", 2, self.threads, 0.1)

    def track_time(self, backend, size, threads):
        return self.measure(size)[0]

    track_time.unit = "seconds"

    def track_slowdown(self, backend, size, threads):
        return self.measure(size)[1]

    track_slowdown.unit = "ratio"


class ManyParameters:
    """300 small parameters in four groups: weights and biases with their own rules, in turn in memory."""

    params = (BACKENDS, THREADS)
    param_names = ("backend", "threads")
    version = yardstick.VERSION

    def setup(self, backend, threads):
        fastopt = yardstick.import_fastopt()
        self.threads = yardstick.count(threads)
        arrays = {}
        for layer in range(100):
            arrays[f"layer{layer}.weight"] = yardstick.random_array(32 * 32, "float32", layer).reshape(32, 32)
            arrays[f"layer{layer}.bias"] = yardstick.random_array(32, "float32", layer)
            arrays[f"layer{layer}.norm"] = yardstick.random_array(32, "float32", layer)
        params = fastopt.FlatBuffer(arrays)
        gradient = params.zeros_like()
        gradient.flat[:] = yardstick.random_array(params.size, "float32", 1)
        rules = {
            "*.bias": fastopt.AdamW(weight_decay=0.0),
            "*.norm": fastopt.Adam(),
            "layer?.weight": fastopt.AdamW(lr=1e-4),
            "*": fastopt.AdamW(),
        }
        optimizer = fastopt.Optimizer(params, rules, backend=backend, threads=self.threads)
        self.size = params.size
        self.step = lambda: optimizer.step(gradient)

    def measure(self):
        return yardstick.measure(self.step, self.size, "float32", 2, self.threads, 0.1)

    def track_time(self, backend, threads):
        return self.measure()[0]

    track_time.unit = "seconds"

    def track_slowdown(self, backend, threads):
        return self.measure()[1]

    track_slowdown.unit = "ratio"


class FixedCost:
    """A step of one parameter: what the library itself takes."""

    params = (BACKENDS, ["plain", "clipped", "guarded"])
    param_names = ("backend", "step")
    options = {"plain": {}, "clipped": {"max_norm": 1.0}, "guarded": {"nonfinite": "skip"}}  # noqa: RUF012
    unit = "seconds"
    version = yardstick.VERSION

    def setup(self, backend, step):
        self.step = yardstick.smallest_step(backend, **self.options[step])

    def track_time(self, backend, step):
        return yardstick.load("measure").alone(self.step, 0.5)
