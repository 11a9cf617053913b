"""This process: its forks, its processors, and how many threads a step may use."""

import os

from fastopt.declared import whole
from fastopt.errors import quoted


class _Process:
    """What happened to this process: how often it was forked off since fastopt was imported."""

    forks = 0


process = _Process()


def _count_fork() -> None:
    process.forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


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
    number = whole("threads", threads, "a whole number >= 1 or None")
    if number < 1:
        raise ValueError(f"threads must be a whole number >= 1 or None, not {quoted(threads)}")
    return number


def processors() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
