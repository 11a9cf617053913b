"""Works and programs: what goes into an engine, what comes out of it, and how that is run."""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import starmap
from operator import call
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from fastopt.errors import BackendError
from fastopt.storage import Stream

if TYPE_CHECKING:
    from threading import Lock

#: A function and its arguments.
Call = tuple

#: The number of the gradient among a kernel's streams: it is read only.
GRADIENT = 1


class Follower(NamedTuple):
    """What is written from a kernel's new parameters, tile by tile, while they are in the cache.

    With a row of coefficients ``k`` it is a moving average: ``stream = k[0] * stream + k[1] * p``. Without, a copy of
    the parameters, rounded to nearest.
    """

    stream: np.ndarray | Stream
    k: np.ndarray | None = None


class Spans(NamedTuple):
    """Those of a work's elements that it is about, if it is not about all: runs of them, none twice.

    Attributes
    ----------
    starts
        The number of the first element of each, int64: a multiple of the block of every storage.
    sources
        The number of the one in the gradient that belongs to it.
    lengths
        How many elements there are in each, at least one.
    """

    starts: np.ndarray
    sources: np.ndarray
    lengths: np.ndarray

    def cut(self, most: int) -> "Spans":
        """The same elements in spans of no more than so many."""
        if not self.lengths.size or self.lengths.max() <= most:
            return self
        counts = -(-self.lengths // most)
        which = np.repeat(np.arange(counts.size), counts)
        offsets = (np.arange(which.size) - (np.cumsum(counts) - counts)[which]) * most
        lengths = np.minimum(self.lengths[which] - offsets, most)
        return Spans(self.starts[which] + offsets, self.sources[which] + offsets, lengths)


class Work(NamedTuple):
    """A kernel, the streams of numbers that it works on, and the coefficients that it reads.

    Attributes
    ----------
    kernel
        The name of a kernel, or a function for numba.
    streams
        Parameters, gradient, then the states in the kernel's order, all of one size. An array holds the numbers in the
        dtype in which the kernel computes, and the kernel works on it in place; a :class:`fastopt.storage.Stream` is
        decoded and encoded tile by tile.
    k
        One row of coefficients, in the dtype in which the kernel computes.
    followers
        What is written from the new parameters.
    keys
        The keys of stochastic rounding, uint64, one for each two streams (see :mod:`fastopt.storages.noise`), which
        the caller changes before every step; elements are counted from the start of the streams. None if nothing is
        rounded stochastically.
    spans
        The elements to work on; None: all. What differs is the gradient, which may have another size then.
    """

    kernel: Any
    streams: tuple[np.ndarray | Stream, ...]
    k: np.ndarray
    followers: tuple[Follower, ...] = ()
    keys: np.ndarray | None = None
    spans: Spans | None = None


@cache
def copy_row(dtype: np.dtype) -> np.ndarray:
    """The row of the kernel ``blend`` that makes it copy: nothing of what was there, and all of what it reads."""
    return np.array([0.0, 1.0], dtype)


def only_gradient(gradient: np.ndarray | Stream, k: np.ndarray) -> Work:
    """The work of a sum that reads the gradient alone: of a kernel without states, whose parameters nobody looks at."""
    return Work("sgd", (gradient, gradient), k)


class Program(NamedTuple):
    """Work made ready: calls of functions implemented in C, and the objects whose memory they use.

    ``lock``, if there is one, must be held while the calls run, all of which return None then. Without, a call may
    return a code: zero, or that of an error, which ``describe`` puts into words and which no later call follows.
    """

    calls: list[Call]
    keeps: tuple
    lock: "Lock | None" = None  # a function before Python 3.13, hence in quotes
    describe: Callable[[int], str] | None = None


class OtherTerms(Exception):
    """A program does not suit its rows any more, which lack other terms than when it was bound; it has written nothing.

    Bound again it does. A term is not there where its coefficient is zero.
    """


class Table(Protocol):
    """Works whose gradients lie elsewhere at every step, made ready for gradients by their addresses."""

    def use(self, rows: slice | np.ndarray, k: np.ndarray, keys: np.ndarray | None = None) -> None:
        """Has the works of these numbers read their coefficients, and keys if they need any, from these arrays.

        The caller keeps them alive.
        """

    def bind(self, gradients: np.ndarray, threads: int) -> Program:
        """The program for gradients at these addresses: int64, one for each work; one at 0 is left out.

        It lasts until the table is bound or changed again.
        """


class Sums(Protocol):
    """The sums over some works, each over one of them, made ready."""

    def use(self, rows: slice | np.ndarray, k: np.ndarray) -> None:
        """Has the works of these numbers read their coefficients from this array. The caller keeps it alive."""

    def take(self, threads: int, gradients: np.ndarray | None = None) -> np.ndarray:
        """The numbers of the sum over each work: float64, of shape (works, numbers), new in every call.

        ``gradients`` are their addresses, as in :meth:`Table.bind`, if they lie elsewhere than when this was made.
        """


class Backend(Protocol):
    """What runs kernels. Both of them give the same bits."""

    name: str

    def bind(self, works: Sequence[Work], threads: int) -> Program:
        """The program that does the work with what the buffers hold when it runs.

        It may raise :class:`OtherTerms` if rows have got or lost zeros since: then it is to be bound again.
        """

    def table(self, works: Sequence[Work], then: Sequence[Work] = (), grain: int = 0) -> Table:
        """A table of works, and of those that ``then`` follow in the same program, with the gradients that they have.

        In ``works`` the gradient of each is replaced at every step, and whatever stands there gives its dtype and size.
        ``grain`` is from how many elements on a thread is worth its cost, if the caller knows better than the backend.
        The caller keeps the memory of all streams alive.
        """

    def sums(self, works: Sequence[Work], name: str, grain: int = 0) -> Sums:
        """The sum of that name, one of ``fastopt/sums/``, over the streams of each work; ``k`` of works is the sum's.

        Followers, and the keys of works, are of no account. Blocks are counted from the start of a work's streams, and
        added in order: nothing depends on the number of threads. The caller keeps the memory of all streams alive.
        """

    def bind_sum_squares(self, gradients: Sequence[np.ndarray | Stream], threads: int) -> Callable[[float], float]:
        """A function from a scale to the sum of ``(scale * g)**2`` over the gradients, in float64, fixed order."""


def array_at(address: int, size: int, dtype: np.dtype) -> np.ndarray:
    """The memory at an address as a 1-D array. Whoever asks keeps that memory alive."""
    if not size:
        return np.empty(0, dtype)
    return np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), dtype)


def joined(programs: Sequence[Program], *then: Call) -> Program:
    """The program of these, one after the other, and of calls that follow them."""
    # No generators: Python swallows an interrupt that comes while it closes one that has not come to its end.
    locks = [program.lock for program in programs if program.lock is not None]
    words = [program.describe for program in programs if program.describe is not None]
    calls = [call for program in programs for call in program.calls]
    return Program([*calls, *then], (*programs,), locks[0] if locks else None, words[0] if words else None)


def run(program: Program, *then: Call) -> None:
    """Runs a program and what follows it: an interrupt is raised before the first call or after the last.

    CPython lets signal handlers run between two instructions of Python code. There are none between these calls: the
    loop over them is in C, and so must be the functions. Taking and giving back the lock are two calls among them.

    BackendError if a call returns the code of an error: those after it are not made.
    """
    calls, _, lock, describe = program  # at once, which is faster: every step does it
    if then:
        calls = [*calls, *then]
    if lock is None:
        if code := next(filter(None, starmap(call, calls)), None):
            words = f"code {code}" if describe is None else describe(code)
            raise BackendError(f"a kernel could not run: {words}")
        return
    results: list[Any] = []
    calls = [(lock.acquire,), *calls, (lock.release,)]
    try:
        results.extend(starmap(call, calls))
    except BaseException:
        if 0 < len(results) < len(calls):  # a call in between has failed
            lock.release()
        raise


def make_all(calls: Iterable[Call]) -> None:
    """Makes calls, whatever they return, as :func:`run` does: no interrupt comes in between."""
    list(starmap(call, calls))
