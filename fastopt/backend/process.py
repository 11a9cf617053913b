"""This process: its forks, its processors, and how many threads a step may use."""

import os
import sys

from fastopt.declared import whole
from fastopt.errors import quoted

THREADS = "a whole number >= 1 or None"


class _Process:
    """What happened to this process.

    ``forks``: how often it was forked off since fastopt was imported, and once more if that had happened before and a
    pool of threads was in memory already: only the thread that forks lives on in a child, so the pool may be dead.
    """

    forks = 0


process = _Process()


def _count_fork() -> None:
    process.forks += 1


def _read(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


def _is_fork() -> bool:
    """Whether this process is a fork that has executed no program since; also if Linux does not say it."""
    try:
        _, _, fields = _read("/proc/self/stat").rpartition(")")
        return bool(int(fields.split()[6]) & 0x40)  # PF_FORKNOEXEC
    except (OSError, ValueError, IndexError):
        return True


def _has_pool() -> bool:
    """Whether a pool of threads that fastopt's engines would use is in memory already, whoever has put it there."""
    if any(f"numba.np.ufunc.{pool}" in sys.modules for pool in ("omppool", "tbbpool", "workqueue")):
        return True
    try:
        return "/libgomp.so" in _read("/proc/self/maps")
    except OSError:
        return True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)
    if sys.platform == "linux" and _is_fork() and _has_pool():
        _count_fork()


def resolve_threads(threads: int | None) -> int:
    """How many threads a step may use: the argument, else ``FASTOPT_NUM_THREADS``, else every processor.

    The engines use no more than there are processors. Raises TypeError or ValueError if that is no whole number above
    zero.
    """
    if threads is None:
        text = os.environ.get("FASTOPT_NUM_THREADS")
        if not text:
            return processors()
        try:
            given = int(text) if text.isdecimal() else 0
        except ValueError:  # more digits than Python converts
            given = 0
        if given < 1:
            raise ValueError(f"FASTOPT_NUM_THREADS must be a whole number >= 1, not {quoted(text)}")
        return given
    given = whole("threads", threads, THREADS)
    if given < 1:
        raise ValueError(f"threads must be {THREADS}, not {quoted(threads)}")
    return given


def processors() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
