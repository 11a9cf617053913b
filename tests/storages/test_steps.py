"""Steps over streams in every mix of storages: the same bits from every engine, and those of decoding everything,
applying the kernel to arrays, and encoding what it wrote.
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
from cases import by_kernel, easy, hard
from test_bits import CORNERS, ENGINES, SERIAL, assert_same, coefficients, data, stepped, using

from fastopt.backend import program
from fastopt.backend.choice import select
from fastopt.backend.program import Follower, Work, run
from fastopt.rule import Rule
from fastopt.storage import Stream
from fastopt.storages import STORAGES, find, noise

pytestmark = pytest.mark.compiled

RULES = by_kernel()
SIZES = (0, 1, 255, 256, 257, 1023, 1024, 1025, 16383, 16384, 16385)
LARGE = 100_001
STEPS = 2
SEED = 7


class Mix(NamedTuple):
    """Storages by name, "" for an array of the dtype in which the kernel computes."""

    p: str = ""
    g: str = ""
    states: str = ""
    average: str | None = None
    copy: str | None = None
    stochastic: bool = False
    dtype: str = "float32"

    def __str__(self) -> str:
        words = [self.p, self.g, self.states, self.average, self.copy, "stochastic" * self.stochastic, self.dtype]
        return "-".join("none" if word is None else word or "plain" for word in words)


MIXES = [
    Mix(g="bfloat16"),
    Mix(g="float16"),
    Mix(g="float64"),
    Mix(g="bfloat16", copy="bfloat16"),
    Mix(g="float16", copy="float16", average=""),
    Mix(average=""),
    Mix(average="bfloat16", copy="split"),
    Mix(p="bfloat16", g="bfloat16", states="bfloat16"),
    Mix(p="bfloat16", g="bfloat16", states="bfloat16", stochastic=True),
    Mix(p="float16", g="float16", states="float16", stochastic=True, average=""),
    Mix(p="split", g="bfloat16"),
    Mix(p="split", g="bfloat16", states="bfloat16", stochastic=True, average="split"),
    Mix(g="bfloat16", states="8bit", stochastic=True),
    Mix(p="split", g="bfloat16", states="8bit", stochastic=True, copy="float16"),
    Mix(states="8bit"),
    Mix(g="float32", dtype="float64"),
    Mix(p="bfloat16", g="bfloat16", states="bfloat16", dtype="float64"),
    Mix(g="bfloat16", states="bfloat16", copy="float32", average="", stochastic=True, dtype="float64"),
]


def stream(storage: str, values: np.ndarray, *, signed: bool = True, stochastic: bool = False) -> np.ndarray | Stream:
    """The values in a storage."""
    if not storage:
        return values.copy()
    found = STORAGES.get(storage) or find(storage, signed=signed)
    return Stream(found, tuple(part.copy() for part in found.encode(values)), values.size, stochastic)


def values(numbers: np.ndarray | Stream, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return numbers.decode().astype(dtype) if isinstance(numbers, Stream) else numbers.copy()


def write(numbers: np.ndarray | Stream, new: np.ndarray, random: np.ndarray | None = None) -> None:
    """What the definition writes."""
    if not isinstance(numbers, Stream):
        numbers[:] = new
        return
    for part, encoded in zip(numbers.parts, numbers.storage.encode(new, random), strict=True):
        part[:] = encoded


def make(rule: Rule, mix: Mix, size: int) -> tuple[list, list[Follower]]:
    """Streams of hostile data, and what follows; the last state is one that has no signs."""
    streams, followers = given(rule, mix, size)
    return list(map(copied, streams)), [each._replace(stream=copied(each.stream)) for each in followers]


def copied(numbers: np.ndarray | Stream) -> np.ndarray | Stream:
    if isinstance(numbers, Stream):
        return numbers._replace(parts=tuple(part.copy() for part in numbers.parts))
    return numbers.copy()


@lru_cache(maxsize=2)  # a test makes them for every engine
def given(rule: Rule, mix: Mix, size: int) -> tuple[list, list[Follower]]:
    """What :func:`make` copies."""
    rng = np.random.default_rng(1)
    arrays = data(rng, rule, size, mix.dtype)
    storages = [mix.p, mix.g, *[mix.states] * len(rule.states)]
    streams = []
    for index, (storage, array) in enumerate(zip(storages, arrays, strict=True)):
        if "8bit" in storage:  # in a block with an infinity or NaN all is NaN
            array = np.where(rng.random(size) < 0.999, easy(rng, size, mix.dtype), array)
        signed = index < len(storages) - 1
        streams.append(stream(storage, array if signed else abs(array), signed=signed, stochastic=mix.stochastic))
    followers = []
    if mix.average is not None:
        k = np.array([0.9, 0.1], mix.dtype)
        followers.append(Follower(stream(mix.average, hard(rng, size, mix.dtype)), k))
    if mix.copy is not None:
        followers.append(Follower(stream(mix.copy, np.zeros(size, mix.dtype))))
    return streams, followers


def keys(step: int, streams: int) -> np.ndarray:
    return np.array([noise.key(SEED, step, pair) for pair in range((streams + 1) // 2)], np.uint64)


def expected(rule: Rule, mix: Mix, size: int) -> list[np.ndarray]:
    """By the definition: no tile, no codec, and a kernel of one engine, serial, on arrays."""
    streams, followers = make(rule, mix, size)
    backend, _ = select(ENGINES[0].backend)
    with np.errstate(all="ignore"):
        for step in range(1, STEPS + 1):
            arrays = [values(numbers, mix.dtype) for numbers in streams]
            run(backend.bind([Work(rule.kernel, tuple(arrays), coefficients(rule, step, mix.dtype))], 1))
            for index, (numbers, new) in enumerate(zip(streams, arrays, strict=True)):
                if index != 1:
                    words = noise.words(int(keys(step, len(streams))[index // 2]), 0, size)
                    write(numbers, new, noise.half(words, index) if mix.stochastic else None)
            for follower in followers:
                new = arrays[0]
                if follower.k is not None:
                    new = follower.k[0] * values(follower.stream, mix.dtype) + follower.k[1] * new
                write(follower.stream, new)
    return memory(streams, followers)


def memory(streams: list, followers: list[Follower]) -> list[np.ndarray]:
    """All arrays as they lie in memory."""
    found = [*streams, *(follower.stream for follower in followers)]
    return [part for each in found for part in (each.parts if isinstance(each, Stream) else (each,))]


def computed(engine, rule: Rule, mix: Mix, size: int, parts: list[slice] | None = None) -> list[np.ndarray]:
    """By an engine, in one work or in several parts."""
    streams, followers = make(rule, mix, size)
    k, random = coefficients(rule, 1, mix.dtype), keys(1, len(streams))
    works = []
    for part in parts or [slice(0, size)]:
        cut = [Follower(between(each.stream, part), each.k) for each in followers]
        mine = tuple(between(numbers, part) for numbers in streams)
        works.append(Work(rule.kernel, mine, k, tuple(cut), random if mix.stochastic else None))
    with using(engine):
        backend, _ = select(engine.backend)
        for step in range(1, STEPS + 1):
            k[:], random[:] = coefficients(rule, step, mix.dtype), keys(step, len(streams))
            bound = backend.bind(works, engine.threads)
            run(bound)
    return memory(streams, followers)


def between(numbers: np.ndarray | Stream, part: slice) -> np.ndarray | Stream:
    return numbers.between(part.start, part.stop) if isinstance(numbers, Stream) else numbers[part]


def without_nan_payloads(arrays: list[np.ndarray], mix: Mix, rule: Rule) -> list[np.ndarray]:
    """Codes of 16 bits with one code for every NaN: only its place is promised."""
    streams, followers = make(rule, mix, 0)
    storages = [each.storage if isinstance(each, Stream) else None for each in streams]
    storages += [each.stream.storage if isinstance(each.stream, Stream) else None for each in followers]
    names = [name for storage in storages for name in ([storage.name] * len(storage.parts) if storage else [""])]
    infinities = {"bfloat16": 0x7F80, "float16": 0x7C00, "split": 0x7F80}
    found, skip = [], False
    for name, array in zip(names, arrays, strict=True):
        if skip:  # the lower half of a split float32 that is NaN is zero
            skip = False
        elif name in infinities:
            skip = name == "split"
            array = np.where(array & 0x7FFF > infinities[name], 0x7FFF, array)
        found.append(array)
    return found


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("kernel", RULES)
def test_every_mix_is_what_the_definition_says(kernel, mix):
    rule, size = RULES[kernel], 2 * 1024 + 300
    right = without_nan_payloads(expected(rule, mix, size), mix, rule)
    for engine in ENGINES:
        if engine in (CORNERS[0], CORNERS[-1]) or kernel in ("adam", "sgd"):
            mine = without_nan_payloads(computed(engine, rule, mix, size), mix, rule)
            assert_same(mine, right, engine)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_every_size(mix, size):
    rule = RULES["adam"]
    right = without_nan_payloads(expected(rule, mix, size), mix, rule)
    for engine in ENGINES:
        if engine in CORNERS:
            assert_same(without_nan_payloads(computed(engine, rule, mix, size), mix, rule), right, engine)


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_neither_threads_nor_splits_show(mix):
    """Parts start at tiles, as blocks do; random words count from the start of a work, so those stay whole."""
    rule = RULES["adam"]
    whole = without_nan_payloads(computed(ENGINES[0], rule, mix, LARGE), mix, rule)
    bounds = [0, 3 * 256, 70 * 1024, 70 * 1024, 71 * 1024 + 256, LARGE]
    parts = None if mix.stochastic else [slice(*pair) for pair in itertools.pairwise(bounds)]
    for engine in ENGINES[1:]:
        assert_same(without_nan_payloads(computed(engine, rule, mix, LARGE), mix, rule), whole, engine)
    for engine in ENGINES:
        if parts and engine in CORNERS:
            mine = without_nan_payloads(computed(engine, rule, mix, LARGE, parts), mix, rule)
            assert_same(mine, whole, f"{engine} in parts")


@pytest.mark.parametrize("kernel", RULES)
def test_streams_of_the_dtype_of_the_kernel_are_arrays(kernel):
    """No tile, and the bits of loops over arrays."""
    rule = RULES[kernel]
    start = data(np.random.default_rng(3), rule, 5000, "float32")
    right = stepped(ENGINES[0], rule, start, [slice(0, 5000)], STEPS)
    for engine in ENGINES:
        if engine in SERIAL or (engine in CORNERS and kernel == "adam"):
            arrays = [array.copy() for array in start]
            streams = tuple(Stream(STORAGES["float32"], (array,), array.size) for array in arrays)
            k = coefficients(rule, 1, "float32")
            with using(engine):
                for step in range(1, STEPS + 1):
                    k[:] = coefficients(rule, step, "float32")
                    bound = select(engine.backend)[0].bind([Work(rule.kernel, streams, k)], engine.threads)
                    program.run(bound)
            assert_same(arrays, right, engine)


@pytest.mark.parametrize("size", [0, 1, 1023, 1025, 16384, 16385, LARGE])
@pytest.mark.parametrize("storage", [name for name in STORAGES if name != "float8_unsigned"])
def test_norms_of_encoded_gradients(storage, size):
    """That of the numbers that they stand for, in an array."""
    gradient = stream(storage, easy(np.random.default_rng(4), size, "float32"))
    array = gradient.decode()
    right = select(ENGINES[0].backend)[0].bind_sum_squares([array], 1)(0.37)
    for engine in ENGINES:
        with using(engine):
            backend, _ = select(engine.backend)
            assert backend.bind_sum_squares([gradient, gradient], engine.threads)(0.37) == pytest.approx(2 * right)
            assert backend.bind_sum_squares([gradient], engine.threads)(0.37) == right, engine


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("storage", [name for name in STORAGES if name != "float8_unsigned"])
def test_the_norm_of_a_gradient_that_is_not_finite_is_not(storage, special):
    array = easy(np.random.default_rng(5), 40_000, "float32")
    array[33_333] = special
    for engine in ENGINES:
        with using(engine):
            found = select(engine.backend)[0].bind_sum_squares([stream(storage, array)], engine.threads)(1.0)
        assert not np.isfinite(found), engine
