"""The engines that run kernels, and the choice between them."""

import os
import sys
from collections.abc import Callable, Sequence
from itertools import starmap
from operator import call
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastopt.errors import BackendError, nearest

NAMES = ("numba", "c")
CHOICES = ("auto", *NAMES)

#: Spans from which on numba, which makes a call for each, takes more than twice as long as C, unless they are large.
MANY_SPANS = 16

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


class Available(NamedTuple):
    """Whether a backend can be used here, and why or why not."""

    available: bool
    version: str | None
    reason: str
    details: dict[str, str]

    def __bool__(self) -> bool:
        return self.available


class _Process:
    """What happened to this process: how often it was forked off since fastopt was imported."""

    forks = 0


process = _Process()


def _count_fork() -> None:
    process.forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def _load(name: str) -> Any:
    if name == "numba":
        import numba

        if numba.config.DISABLE_JIT:
            raise BackendError("backend 'numba' is not available: NUMBA_DISABLE_JIT is set")
        from fastopt.backends import numba as module
    else:
        from fastopt.backends import c as module  # type: ignore[no-redef]
    return module


def _get(name: str) -> Backend:
    try:
        return _load(name).backend()
    except ImportError as error:
        raise BackendError(f"backend {name!r} is not available: {_why_not(name, error)}") from error


def _why_not(name: str, error: Exception) -> str:
    if name == "numba":
        return f"{error}. Install it with: pip install numba"
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. There was no C compiler at installation; with one: pip install --force-reinstall fastopt"
    return f"{error}. The compiled library does not load; try: pip install --force-reinstall fastopt"


def backends() -> dict[str, Available]:
    """Which backends can be used here, with versions and reasons: ``{"numba": Available(...), "c": Available(...)}``.

    Looking takes as long as importing them.
    """
    found = {}
    for name in NAMES:
        try:
            found[name] = Available(True, *_load(name).describe())
        except (ImportError, BackendError, ValueError) as error:
            reason = _why_not(name, error) if isinstance(error, ImportError) else str(error)
            found[name] = Available(False, None, reason, {})
    return found


def select(backend: str | None = None, *, own_kernel: bool = False, spans: int = 1) -> tuple[Backend, str]:
    """The backend of that name and why it was taken.

    ``auto``, the default, is replaced by what ``FASTOPT_BACKEND`` says. A backend asked for by name is used or
    :class:`BackendError` is raised; only ``auto`` chooses. Where a rule has a kernel of its own it chooses numba.
    ``spans`` says into how many runs of memory groups cut the parameters.
    """
    source, asked = "backend", backend or "auto"
    if asked == "auto" and os.environ.get("FASTOPT_BACKEND"):
        source, asked = "FASTOPT_BACKEND", os.environ["FASTOPT_BACKEND"]
    if asked not in CHOICES:
        raise ValueError(f"{source} must be one of {', '.join(CHOICES)}, not {asked!r}; {nearest(asked, CHOICES)}")
    if asked != "auto":
        return _get(asked), f"{source} asks for it"
    if own_kernel:
        return _get("numba"), "a rule has a kernel of its own"
    problems: list[str] = []
    for name, why in _preferences(spans):
        try:
            return _get(name), problems[0] if problems else why
        except BackendError as error:
            problems.append(str(error))
    raise BackendError("fastopt has no backend to run on. " + " ".join(f"{problem}." for problem in problems))


def _preferences(spans: int) -> list[tuple[str, str]]:
    if process.forks:
        return [("c", "numba's threads do not survive a fork"), ("numba", "")]
    if "torch" in sys.modules:
        return [("c", "torch is imported, and C borrows its thread pool"), ("numba", "")]
    if spans > MANY_SPANS:
        return [("c", f"groups cut the parameters into {spans} spans, which C steps in one call"), ("numba", "")]
    return [("numba", "numba is the first choice"), ("c", "")]


def resolve_threads(threads: int | None) -> int:
    """How many threads a step may use: the argument, else ``FASTOPT_NUM_THREADS``, else every processor.

    Raises TypeError or ValueError if that is no whole number above zero.
    """
    if threads is None:
        text = os.environ.get("FASTOPT_NUM_THREADS")
        if not text:
            return processors()
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"FASTOPT_NUM_THREADS must be a whole number >= 1, not {text!r}")
        return int(text)
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)):
        raise TypeError(f"threads must be a whole number >= 1 or None, not {threads!r}")
    if threads < 1:
        raise ValueError(f"threads must be a whole number >= 1 or None, not {threads!r}")
    return int(threads)


def processors() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
