"""Steps in other storages than float32: the time of an element in the cache, and what memory makes of it.

From both follows the gain on a machine of given bandwidth for each core: where there is little, bytes decide.
"""

import inspect
import itertools
import statistics
import traceback
from functools import partial

from . import yardstick
from .cases import BACKENDS, IN_CACHE, IN_MEMORY, MIXES, STORED_RULES, rule

#: Bytes of a number; of 8 bits with the share of a scale for each 256.
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "8bit": 1 + 4 / 256}


def optimizer_and_gradient(label, mix, backend, size, threads):
    """An optimizer that stores so, and a gradient. NotImplementedError if the commit does not have the mix."""
    fastopt = yardstick.import_fastopt()
    dtype, grad_dtype, options = MIXES[mix]
    if not options.keys() <= inspect.signature(fastopt.Optimizer).parameters.keys():
        raise NotImplementedError(f"this commit has no {mix}")
    params, gradient = (
        fastopt.FlatBuffer({"w": yardstick.random_array(size, "float32", seed)}, dtype=kind)
        for seed, kind in enumerate((dtype, grad_dtype))
    )
    return fastopt.Optimizer(params, rule(fastopt, label), backend=backend, threads=threads, **options), gradient


def step(label, mix, backend, size, threads):
    """A step as a call."""
    optimizer, gradient = optimizer_and_gradient(label, mix, backend, size, threads)
    return partial(optimizer.step, gradient)


def traffic(mix: str, states: int) -> float:
    """Bytes that a step moves for each parameter, by the number of states."""
    dtype, grad_dtype, options = MIXES[mix]
    master = options.get("master")
    updated = (4 if master else BYTES[dtype]) + states * BYTES[options.get("state_dtype", "float32")]
    written = BYTES[dtype] if master == "float32" else BYTES[options["copy"]] if "copy" in options else 0
    average = 8 if "ema_decay" in options else 0
    return 2 * updated + BYTES[grad_dtype] + written + average


def sweep(measure) -> dict:
    """What ``measure`` finds for each combination; what went wrong in its place, as text."""
    found = {}
    for key in itertools.product(STORED_RULES, MIXES, BACKENDS):
        try:
            found[key] = measure(*key)
        except NotImplementedError:
            continue
        except Exception:
            found[key] = traceback.format_exc()
    return found


def in_cache(label, mix, backend):
    """Nanoseconds of an element: by how much a step of twice as many takes longer. What Python costs is not in it."""
    once = step(label, mix, backend, IN_CACHE, 1)
    once()
    twice = [step(label, mix, backend, 2 * IN_CACHE, 1) for _ in range(yardstick.ROUNDS)]
    rounds = [yardstick.in_turn(each, once, 0.05) for each in twice]
    return (statistics.median((taken.seconds - taken.limit) / IN_CACHE * 1e9 for taken in rounds),)


def in_memory(label, mix, backend):
    """Seconds of a step, and its slowdown over a loop that moves as many bytes."""
    fastopt = yardstick.import_fastopt()
    threads, states = yardstick.count("all"), len(rule(fastopt, label).states)
    elements = round(IN_MEMORY * traffic(mix, states) / traffic("float32", states))
    rounds = []
    for _ in range(yardstick.ROUNDS):
        limit = yardstick.load("limit").bind(elements, "float32", states, threads)
        rounds.append(yardstick.in_turn(step(label, mix, backend, IN_MEMORY, threads), limit, 0.1))
    return yardstick.conclude(rounds)


class InCache:
    """4,096 elements and twice as many, on one thread."""

    params = (STORED_RULES, list(MIXES), BACKENDS)
    param_names = ("rule", "mix", "backend")
    unit = "nanoseconds"
    version = yardstick.VERSION

    def setup_cache(self):
        return sweep(in_cache)

    setup_cache.timeout = 1800

    def setup(self, swept, *params):
        (self.nanoseconds,) = yardstick.look_up(swept, params)

    def track_element(self, swept, *params):
        return self.nanoseconds


class InMemory:
    """10,000,000 elements, on all threads."""

    params = InCache.params
    param_names = InCache.param_names
    version = yardstick.VERSION

    def setup_cache(self):
        return sweep(in_memory)

    setup_cache.timeout = 3600

    def setup(self, swept, *params):
        self.seconds, self.slowdown = yardstick.look_up(swept, params)

    def track_time(self, swept, *params):
        return self.seconds

    track_time.unit = "seconds"

    def track_slowdown(self, swept, *params):
        return self.slowdown

    track_slowdown.unit = "ratio"
