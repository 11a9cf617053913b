"""Copies of an optimizer, by copy and by pickle, here and in another process: the same bits, in memory of their own."""

import copy
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import BACKENDS
from harness import random_buffer, snapshot

from fastopt import SGD, Adam, AdamW, BackendError, FlatBuffer, Momentum, Optimizer, Rprop, schedules

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def through(protocol: int) -> Callable[[Any], Any]:
    return lambda value: pickle.loads(pickle.dumps(value, protocol))


WAYS = [copy.deepcopy, *map(through, PROTOCOLS)]
IDS = ["deepcopy", *(f"pickle{protocol}" for protocol in PROTOCOLS)]


def own(step: int) -> float:
    """A schedule of the user's that pickle finds by its name."""
    return 0.1 / step


def make(backend: str, dtype: str) -> Optimizer:
    """In the middle of everything: gathering gradients, with an average, schedules that learn, and a frozen group."""
    shared = schedules.Plateau(lr=0.1, patience=0)
    rules = {"*.bias": Momentum(lr=shared), "first.*": AdamW(lr=shared), "scale": SGD(lr=own), "*": Rprop()}
    optimizer = Optimizer(random_buffer(0, dtype), rules, backend=backend, accumulate=3, ema_decay=0.9)
    go_on(optimizer, 0, 7)
    optimizer.freeze("first.*")
    go_on(optimizer, 7, 10)
    return optimizer


def go_on(optimizer: Optimizer, first: int, last: int) -> None:
    for seed in range(first, last):
        if seed == 14:
            optimizer.thaw("first.*")
        optimizer.step(random_buffer(seed, optimizer.dtype.name), max_norm=1.0, nonfinite="skip")
        optimizer.groups["*.bias"].rule.lr.observe(1.0)


def look(optimizer: Optimizer) -> tuple:
    return snapshot(optimizer), [getattr(group.rule.lr, "progress", dict)() for group in optimizer.groups.values()]


def in_another_process(optimizer: Optimizer) -> tuple[tuple, Optimizer]:
    go_on(optimizer, 10, 20)
    return look(optimizer), optimizer


def assert_attached(optimizer: Optimizer) -> None:
    """All of its arrays are its own, and views are views."""
    assert optimizer.flat is optimizer.params.flat and optimizer.layout is optimizer.params.layout
    for buffer in (optimizer.params, optimizer.ema, optimizer.accumulated, *optimizer.state.values()):
        assert buffer.flat.ctypes.data % 64 == 0
        for name in buffer:
            assert not buffer[name].size or np.shares_memory(buffer[name], buffer.flat)


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_a_copy_goes_on_with_the_same_bits(way, backend, dtype):
    optimizer = make(backend, dtype)
    before = look(optimizer)
    made = way(optimizer)
    assert look(made) == before and made.backend == backend and made.threads == optimizer.threads
    assert_attached(made)
    go_on(made, 10, 20)
    after = look(made)
    assert look(optimizer) == before != after
    go_on(optimizer, 10, 20)
    assert look(optimizer) == after


def test_a_copy_in_a_new_process_goes_on_with_the_same_bits(backend, dtype):
    """Spawned: it gets the optimizer by pickle, and nothing else."""
    optimizer = make(backend, dtype)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found, returned = pool.submit(in_another_process, optimizer).result()
    go_on(optimizer, 10, 20)
    assert found == look(returned) == look(optimizer)
    assert_attached(returned)


def test_copy_is_a_deep_copy(backend):
    optimizer = make(backend, "float32")
    made = copy.copy(optimizer)
    go_on(made, 10, 13)
    assert not np.shares_memory(made.flat, optimizer.flat) and made.step_count == optimizer.step_count + 1


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_what_is_copied_together_stays_together(way, backend):
    """The buffer that the model reads is the one that its optimizer writes; so is the schedule that it reports to."""
    schedule = schedules.Plateau(lr=0.5, patience=0)
    params = FlatBuffer({"w": np.ones(3), "b": np.ones(2)}, "float32")
    rules = {"w": Adam(lr=schedule), "*": SGD(lr=schedule)}
    model = {"params": params, "optimizer": Optimizer(params, rules, backend=backend), "schedule": schedule}
    made = way(model)
    assert made["optimizer"].params is made["params"]
    assert {id(group.rule.lr) for group in made["optimizer"].groups.values()} == {id(made["schedule"])}
    made["optimizer"].step(params.copy())
    assert (made["params"]["b"] == 0.5).all() and (params["b"] == 1).all()
    for _ in range(2):
        made["schedule"].observe(1.0)
    assert made["optimizer"].lr == 0.05 and model["optimizer"].lr == 0.5


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_a_plain_array_stays_the_memory_of_its_optimizer(way, backend, dtype):
    params = np.ones(5, dtype)
    made = way({"params": params, "optimizer": Optimizer(params, SGD(lr=0.5), backend=backend)})
    assert made["optimizer"].params is made["params"] and np.shares_memory(made["optimizer"].flat, made["params"])
    made["optimizer"].step(np.ones(5, dtype))
    assert made["params"].tolist() == [0.5] * 5 and params.tolist() == [1] * 5


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_parameters_in_a_file_become_ones_in_memory(way, tmp_path, backend):
    np.ones(5).tofile(tmp_path / "params")
    mapped = np.memmap(tmp_path / "params", np.float64, "r+")
    made = way(Optimizer(mapped, SGD(lr=0.5), backend=backend))
    made.step(np.ones(5))
    mapped.flush()
    assert made.flat.tolist() == [0.5] * 5 and np.fromfile(tmp_path / "params").tolist() == [1] * 5


def test_functions_are_pickled_as_pickle_does_it(backend):
    """By name; one without a name that can be imported is an error. A deep copy shares it."""
    named, unnamed = (Optimizer(np.ones(2), SGD(lr=lr), backend=backend) for lr in (own, lambda step: 0.1))
    assert pickle.loads(pickle.dumps(named)).rule.lr is own
    with pytest.raises((pickle.PicklingError, AttributeError), match="<lambda>"):
        pickle.dumps(unnamed)
    assert copy.deepcopy(unnamed).rule.lr is unnamed.rule.lr


class Named(Optimizer):
    """A user's subclass with an attribute of its own."""

    def __init__(self, *args, name: str, **options) -> None:
        super().__init__(*args, **options)
        self.name = name
        self.seen: list = []


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_subclasses_keep_their_class_and_attributes(way, backend):
    optimizer = Named(np.ones(2), SGD(), backend=backend, name="mine")
    made = way(optimizer)
    made.seen.append(1)
    assert type(made) is Named and made.name == "mine" and optimizer.seen == []


def test_a_group_that_is_copied_with_its_optimizer_is_the_optimizers(backend):
    optimizer = Optimizer(np.ones(2), Adam(), backend=backend)
    group, made = copy.deepcopy((optimizer.groups["*"], optimizer))
    made.step(np.ones(2))
    assert made.groups["*"] is group and group.step == 1 and optimizer.groups["*"].step == 0


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend is installed")
def test_auto_is_decided_where_the_copy_is_made(monkeypatch):
    """What was asked for by name is used there too, or is an error."""
    by_choice, by_name = (Optimizer(np.ones(2), SGD(), backend=backend) for backend in ("auto", "numba"))
    monkeypatch.setenv("FASTOPT_BACKEND", "c")
    assert copy.deepcopy(by_choice).backend == "c" and copy.deepcopy(by_name).backend == "numba"
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(BackendError, match="backend 'numba' is not available"):
        pickle.loads(pickle.dumps(by_name))


def test_threads_are_counted_where_the_copy_is_made(monkeypatch, backend):
    default, two = (Optimizer(np.ones(2), SGD(), backend=backend, threads=threads) for threads in (None, 2))
    monkeypatch.setenv("FASTOPT_NUM_THREADS", "3")
    assert copy.deepcopy(default).threads == 3 and copy.deepcopy(two).threads == 2
