"""Works and programs: what goes into an engine, what comes out of it, and how that is run."""

from collections.abc import Callable, Sequence
from itertools import starmap
from operator import call
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastopt.errors import BackendError

#: A function and its arguments.
Call = tuple


class Work(NamedTuple):
    """A kernel with the buffers that it updates (parameters, gradient, states) and the coefficients that it reads."""

    kernel: Any
    buffers: tuple[np.ndarray, ...]
    k: np.ndarray


class Program(NamedTuple):
    """Work made ready: calls of functions implemented in C, and the objects whose memory they use.

    ``lock``, if there is one, must be held while the calls run.
    """

    calls: list[Call]
    keeps: tuple
    lock: "Lock | None" = None  # a function before Python 3.13, hence in quotes


class Backend(Protocol):
    """What runs kernels. Both of them give the same bits."""

    name: str

    def bind(self, works: Sequence[Work], threads: int) -> Program:
        """The program that does the work with what the buffers hold when it runs."""

    def bind_sum_squares(self, gradients: Sequence[np.ndarray], threads: int) -> Callable[[float], float]:
        """A function from a scale to the sum of ``(scale * g)**2`` over the gradients, in float64, fixed order."""


def run(calls: Sequence[Call], lock: "Lock | None" = None) -> None:
    """Runs every call, in order: an interrupt is raised before the first or after the last, never in between.

    CPython lets signal handlers run between two instructions of Python code. There are none between these calls: the
    loop over them is in C, and so must be the functions. Taking and giving back the lock are two calls among them.
    """
    if lock is None:
        results = list(starmap(call, calls))
    else:
        results = []
        calls = [(lock.acquire,), *calls, (lock.release,)]
        try:
            results.extend(starmap(call, calls))
        except BaseException:
            if 0 < len(results) < len(calls):  # a call in between has failed
                lock.release()
            raise
    for result in results:
        if type(result) is int and result:
            raise BackendError(f"a kernel could not run (code {result})")
