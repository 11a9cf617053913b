"""The measuring engine: calls that are sampled in turn in one process, and the ratio of their times.

An absolute time on a shared machine says little: it follows the neighbours. So two calls take turns in short samples,
and of either the fastest tenth counts: what a machine's other work does to a sample only ever adds. That makes a
round. Where buffers happen to lie matters too, and a busy moment may last longer than a round: a result is the median
over several rounds, each with buffers of its own.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

Call = Callable[[], object]

#: Seconds that one sample takes at least, if a call is shorter: far less than a scheduler lets a
#: neighbour run for, so that many samples are spared.
SAMPLE = 0.0002

#: Seconds for which a call runs untimed before it is measured.
WARM_UP = 0.01


class Round(NamedTuple):
    """Seconds of one call of a step and of its limit."""

    seconds: float
    limit: float


class Summary(NamedTuple):
    """Medians over rounds; ``ratio`` is that of the rounds' ratios."""

    seconds: float
    limit: float
    ratio: float


@contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the garbage collector out."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def sample(call: Call, repetitions: int) -> float:
    """Seconds per call."""
    turns = range(repetitions)
    start = time.perf_counter()
    for _ in turns:
        call()
    return (time.perf_counter() - start) / repetitions


def calibrate(call: Call, seconds: float = SAMPLE, warm_up: float = WARM_UP) -> int:
    """How many calls make a sample of that many seconds, found while the call warms up; at least one."""
    end = time.perf_counter() + warm_up
    repetitions = 1
    fastest = sample(call, 1)
    while time.perf_counter() < end:
        fastest = min(fastest, sample(call, repetitions))
        repetitions = min(4 * repetitions, _fitting(seconds, fastest))
    return _fitting(seconds, fastest)


def _fitting(seconds: float, each: float) -> int:
    return max(1, round(seconds / max(each, 1e-8)))


def in_turn(step: Call, limit: Call, budget: float, least: int = 8) -> Round:
    """A round: samples of two calls in turn, for so many seconds and at least so many of each."""
    return Round(*_sampled([step, limit], budget, least))


def alone(call: Call, budget: float, least: int = 8) -> float:
    """Seconds of one call, from samples for so many seconds and at least so many."""
    (seconds,) = _sampled([call], budget, least)
    return seconds


def _sampled(calls: Sequence[Call], budget: float, least: int) -> list[float]:
    samples: list[list[float]] = [[] for _ in calls]
    with no_collection():
        order = [(taken, call, calibrate(call)) for taken, call in zip(samples, calls, strict=True)]
        end = time.perf_counter() + budget
        while len(samples[0]) < least or time.perf_counter() < end:
            for taken, call, repetitions in order:
                taken.append(sample(call, repetitions))
            order.reverse()
    return list(map(calm, samples))


def calm(samples: Iterable[float]) -> float:
    """The median of the fastest tenth."""
    ordered = sorted(samples)
    return statistics.median(ordered[: (len(ordered) + 9) // 10])


def summarize(rounds: Sequence[Round]) -> Summary:
    """What rounds say together. ValueError if there are none."""
    if not rounds:
        raise ValueError("rounds must hold at least one")
    rows = [(*each, each.seconds / each.limit) for each in rounds]
    return Summary(*map(statistics.median, zip(*rows, strict=True)))


def settle(longest: float = 0.5, pause: float = 0.002) -> None:
    """Waits until the threads of this process are asleep: pools spin for a while after their last work."""
    end = time.perf_counter() + longest
    while time.perf_counter() < end:
        busy, start = time.process_time(), time.perf_counter()
        time.sleep(pause)
        if time.process_time() - busy < 0.2 * (time.perf_counter() - start):
            return
