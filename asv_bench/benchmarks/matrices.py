"""Time of steps of rules with a stage, also over that of a product of two such matrices, of which stages consist."""

import numpy as np

from . import yardstick
from .cases import BACKENDS, SIDES, STAGED
from .cases import rule as make_rule


def step_and_product(label: str, backend: str, side: int):
    """A step of a square matrix, and a product of two, as calls."""
    fastopt = yardstick.import_fastopt()
    weights, gradient = (yardstick.random_array(side * side, "float32", seed).reshape(side, side) for seed in (0, 1))
    params = fastopt.FlatBuffer({"weights": weights})
    optimizer = fastopt.Optimizer(params, make_rule(fastopt, label), backend=backend)
    found = np.empty_like(weights)
    return lambda: optimizer.step({"weights": gradient}), lambda: np.matmul(weights, gradient, out=found)


class Stages:
    """A square matrix, on all threads: NumPy's BLAS has its own."""

    params = (list(STAGED), BACKENDS, SIDES)
    param_names = ("rule", "backend", "side")
    version = yardstick.VERSION

    def setup_cache(self):
        swept = {}
        for label in STAGED:
            for backend in BACKENDS:
                for side in SIDES:
                    try:
                        pair = step_and_product(label, backend, side)
                    except NotImplementedError:
                        continue
                    rounds = [yardstick.in_turn(*pair, 0.1) for _ in range(yardstick.ROUNDS)]
                    swept[label, backend, side] = yardstick.conclude(rounds)
        return swept

    setup_cache.timeout = 900

    def setup(self, swept, rule, backend, side):
        self.seconds, self.products = yardstick.look_up(swept, (rule, backend, side))

    def track_time(self, swept, *params):
        return self.seconds

    track_time.unit = "seconds"

    def track_products(self, swept, *params):
        return self.products

    track_products.unit = "products"
