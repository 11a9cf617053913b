"""A backend to judge the others by: streams are decoded and encoded by definition, and kernels run over all of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import BACKENDS

from fastopt.backend.choice import select
from fastopt.backend.program import Follower, Program, Work, run
from fastopt.storage import Stream
from fastopt.storages import noise

if "numba" in BACKENDS:
    from fastopt.backend.numba import NumbaBackend


class ReferenceEngine:
    """Slow and plain: no tiles, no threads. Its calls are Python's, so interrupts find half a step."""

    name = "reference"

    def bind(self, works: Sequence[Work], threads: int) -> Program:
        return Program([(_work, work) for work in works], ())

    def bind_sum_squares(self, gradients: Sequence[np.ndarray | Stream], threads: int) -> Callable[[float], float]:
        def sum_squares(scale: float) -> float:
            arrays = [_decoded(gradient, np.dtype(np.float32)) for gradient in gradients]
            return NumbaBackend().bind_sum_squares(arrays, 1)(scale)

        return sum_squares

    def sums(self, works: Sequence[Work], name: str, grain: int = 0) -> "ReferenceSums":
        return ReferenceSums(works, name)


class ReferenceSums(NamedTuple):
    """Sums over works whose streams are decoded anew each time."""

    works: Sequence[Work]
    name: str

    def take(self, threads: int) -> np.ndarray:
        works = [
            work._replace(streams=tuple(_decoded(stream, work.k.dtype) for stream in work.streams))
            for work in self.works
        ]
        return NumbaBackend().sums(works, self.name).take(1)


def _decoded(stream: np.ndarray | Stream, dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        return stream.decode().astype(dtype) if isinstance(stream, Stream) else stream


def _write(stream: Stream, values: np.ndarray, half: np.ndarray | None = None) -> None:
    for part, code in zip(stream.parts, stream.storage.encode(values, half), strict=True):
        part[...] = code


def _work(work: Work) -> None:
    buffers = [_decoded(stream, work.k.dtype) for stream in work.streams]
    program = NumbaBackend().bind([Work(work.kernel, tuple(buffers), work.k)], 1)
    run(program)
    for number, (stream, values) in enumerate(zip(work.streams, buffers, strict=True)):
        if number != 1 and isinstance(stream, Stream):
            half = None
            if stream.stochastic:
                half = noise.half(noise.words(int(work.keys[number // 2]), 0, stream.size), number)
            _write(stream, values, half)
    for follower in work.followers:
        _follow(follower, buffers[0])


@np.errstate(all="ignore")
def _follow(follower: Follower, p: np.ndarray) -> None:
    values = p
    if follower.k is not None:
        terms = [k * each for k, each in zip(follower.k, (_decoded(follower.stream, p.dtype), p), strict=True) if k]
        values = sum(terms[1:], terms[0])
    if isinstance(follower.stream, Stream):
        _write(follower.stream, values)
    else:
        follower.stream[...] = values


#: The backends by the names that :func:`choosing` knows.
ENGINES = [*BACKENDS, *(["reference"] if "numba" in BACKENDS else [])]


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has ``backend="reference"`` mean the engine of this file."""

    def choose(backend: Any = None, **options: Any) -> Any:
        return (ReferenceEngine(), "it judges") if backend == "reference" else select(backend, **options)

    monkeypatch.setattr("fastopt.optimizer.select", choose)
