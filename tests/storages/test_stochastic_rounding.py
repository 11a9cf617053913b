"""Stochastic rounding: unbiased, between the two neighbours, and from a hash that behaves as random numbers do."""

import numpy as np
import pytest
from engines import DEFINITION, ENGINES, ROUNDED, SHIFTS

from fastopt.storages import STORAGES, noise

pytestmark = pytest.mark.compiled

SEEDS = 4096


def values(name: str) -> np.ndarray:
    """Numbers without codes: ordinary and subnormal ones, with signs where the format has them.

    Without a sign, none is below the smallest code: such numbers are rounded to that.
    """
    rng = np.random.default_rng(0)
    least = {"bfloat16": 2.0**-128, "float16": 2.0**-20, "float8_signed": 2.0**-17, "float8_unsigned": 2.0**-13}[name]
    found = np.exp(rng.uniform(-3, 0, 64)) * np.where(np.arange(64) % 4 == 0, least, 1)
    signs = 1 if name == "float8_unsigned" else rng.choice([-1, 1], 64)
    found = (found * signs).astype(np.float32)
    found[-1] = 1  # the block's scale
    return found


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("engine", [DEFINITION, *ENGINES], ids=lambda engine: engine.name)
def test_the_mean_over_seeds_is_the_value(engine, name, shift):
    exact = values(name)
    total, lowest, highest = np.zeros(64), np.full(64, np.inf), np.full(64, -np.inf)
    for seed in range(SEEDS):
        words = DEFINITION.noise(noise.key(seed, 7, 1), 1000, 64)
        found = DEFINITION.decode(name, engine.encode(name, exact, words, shift), "float64")
        total += found
        np.minimum(lowest, found, out=lowest)
        np.maximum(highest, found, out=highest)
    assert (lowest <= exact).all() and (exact <= highest).all()
    step = highest - lowest
    up = np.divide(exact - lowest, step, out=np.zeros(64), where=step > 0)
    sigma = step * np.sqrt(up * (1 - up) / SEEDS)
    assert (abs(total / SEEDS - exact) <= 4 * sigma + step * 2**-17).all()
    codes = [STORAGES[name].encode(bound.astype(np.float32))[0].astype(int) for bound in (lowest, highest)]
    assert (abs(codes[1] - codes[0]) <= 1).all()
    assert (codes[1] != codes[0]).mean() > 0.9


def test_second_moments_can_fall():
    """0.999 v is nearer to v than to the next code of bfloat16: to nearest it would stay for ever."""
    v = np.full(1000, 1.75, np.float32)
    stuck = v.copy()
    for step in range(1000):
        words = DEFINITION.noise(noise.key(0, step, 1), 0, v.size)
        v = DEFINITION.decode("bfloat16", DEFINITION.encode("bfloat16", np.float32(0.999) * v, words))
        stuck = DEFINITION.decode("bfloat16", DEFINITION.encode("bfloat16", np.float32(0.999) * stuck))
    assert (stuck == 1.75).all()
    assert v.mean() == pytest.approx(1.75 * 0.999**1000, rel=0.01)


def test_another_element_step_seed_or_pair_changes_half_of_the_bits():
    words = DEFINITION.noise(noise.key(3, 4, 1), 0, 2**16)
    elements = np.arange(2**16)
    others = [words[elements ^ 1 << bit] for bit in range(16)]
    others += [DEFINITION.noise(key, 0, 2**16) for key in (noise.key(3, 5, 1), noise.key(2, 4, 1), noise.key(3, 4, 0))]
    for index, other in enumerate(others):
        changed = np.unpackbits((words ^ other).view(np.uint8).reshape(-1, 4), axis=1).mean(0)
        assert abs(changed - 0.5).max() < 0.015, index


def test_words_are_uniform_and_independent():
    words = DEFINITION.noise(noise.key(0, 0, 1), 0, 2**20)
    for stream in (0, 1):
        counts = np.bincount(noise.half(words, stream) >> 6, minlength=1024)
        assert 850 < ((counts - 1024) ** 2 / 1024).sum() < 1200  # chi-square of 1023 degrees: 1023, give or take 45
    low, high = noise.half(words, 0) / 65536 - 0.5, noise.half(words, 1) / 65536 - 0.5
    later = noise.half(DEFINITION.noise(noise.key(0, 1, 1), 0, 2**20), 0) / 65536 - 0.5
    for one, other in ((low, high), (low, later), (low[1:], low[:-1]), (high[1:], high[:-1]), (low[256:], low[:-256])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(2**20)


def test_a_key_is_one_of_a_seed_a_step_and_a_pair():
    keys = {noise.key(seed, step, pair) for seed in range(20) for step in range(50) for pair in range(4)}
    assert len(keys) == 4000
    assert all(0 <= key < 2**64 for key in keys)
    assert noise.key(2**64 - 1, 10**12, 1) != noise.key(0, 10**12, 1)
    for seed, step in [(0, 1), (2**64 - 1, 63), (5, 64), (5, 10**12)]:
        filled = np.zeros(4, np.uint64)
        noise.fill_keys(filled, seed, step)
        assert filled.tolist() == [noise.key(seed, step, pair) for pair in range(4)]
    assert noise.key(0, 1, 0) == 0x44E5B98100C67FB0  # the format: it must never change
    assert noise.words(noise.key(0, 1, 0), 2**32 - 1, 3).tolist() == [191661664, 2606129874, 2201263380]
