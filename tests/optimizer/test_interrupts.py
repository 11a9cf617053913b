"""Ctrl-C: an interrupt takes effect before a step, load or save, or after it, and never in between.

Two ways to show it. A trace function raises before each bytecode instruction in turn, in fastopt's own frames and in
all that they call: a signal handler could run there, or at fewer places. And a storm of real signals falls on thousands
of steps, so that a second one comes while the first is being handled.
"""

import gc
import os
import random
import signal
import stat
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from conftest import BACKENDS
from harness import python, random_buffer, snapshot

from fastopt import SGD, Adam, AMSGrad, FlatBuffer, Momentum, Optimizer, checkpoint, schedules

# What is imported when it is first needed is here by then: Python itself swallows interrupts within an import.
for _name in ("ascent", "averaging", "checkpoint.file", "lookahead"):
    import_module(f"fastopt.{_name}")

SMALL = {"a.w": (5, 3), "a.b": (3,), "b.w": (7,), "b.b": ()}
LARGE = {"a.w": (140_003,), "a.b": (3,), "b.w": (7,), "b.b": ()}
RULES = {"a.*": Adam(lr=schedules.Exponential(lr=0.1, factor=0.999)), "b.w": Momentum(lr=0.01), "*": AMSGrad()}
PLANS = {
    "one group": (SGD(lr=0.1), {}, {}),
    "groups": (RULES, {"ema_decay": 0.9}, {}),
    "clipped": (RULES, {"ema_decay": 0.9}, {"max_norm": 1.0, "nonfinite": "raise", "grad_scale": 0.5}),
    "lookahead": (RULES, {"ema_decay": 0.9, "lookahead": (1, 0.5)}, {}),
    "gathered": (RULES, {"ema_decay": 0.9, "accumulate": 3}, {"max_norm": 1.0, "nonfinite": "skip", "grad_scale": 0.5}),
}


class Interrupted(KeyboardInterrupt):
    pass


def make(plan: str, shapes: dict, backend: str, dtype: str) -> Optimizer:
    rules, options, _ = PLANS[plan]
    return Optimizer(random_buffer(0, dtype, shapes), rules, backend=backend, threads=2, **options)


class Track:
    """What an optimizer looks like after each step of a run that nobody interrupts."""

    def __init__(self, plan: str, shapes: dict, backend: str, dtype: str = "float32") -> None:
        self.gradients = [random_buffer(seed, dtype, shapes) for seed in range(1, 8)]
        self.given = self.gradients[0].copy()  # one buffer for all steps, so that they need not be bound anew
        self.options = PLANS[plan][2]
        self.run = make(plan, shapes, backend, dtype)
        self.looks: list[tuple] = []

    def gradient(self, optimizer: Optimizer) -> FlatBuffer:
        number = 3 * optimizer.counts[0] + optimizer.counts[1]
        self.given.flat[:] = self.gradients[number % len(self.gradients)].flat
        return self.given

    def step(self, optimizer: Optimizer, form: Callable = lambda gradient: gradient) -> None:
        optimizer.step(form(self.gradient(optimizer)), **self.options)

    def check(self, optimizer: Optimizer) -> None:
        """That the optimizer is where the run is, or was, after as many steps."""
        while self.run.counts < optimizer.counts:
            self.step(self.run)
        if self.run.counts == optimizer.counts:
            self.looks = [*self.looks[-3:], snapshot(self.run)]
        assert snapshot(optimizer) in self.looks


# Every instruction


def interrupted_at(number: int, function: Callable[[], Any]) -> bool:
    """Runs a function and raises before its bytecode instruction of that number; says whether it has that many."""
    left = number

    def trace(frame, event, argument):
        nonlocal left
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise Interrupted
        return trace

    before = sys.gettrace()
    gc.disable()  # a collection may call Python code of others
    sys._getframe().f_trace_opcodes = (
        True  # Python 3.12 looks whether any frame asks when tracing starts, and not later
    )
    sys.settrace(trace)
    try:
        function()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    assert left >= 0, "the interrupt was swallowed"
    return False


#: Every plan on every backend, either with one form of gradients and one dtype: a plan meets both of each.
STEPS = [
    (plan, backend, *[("FlatBuffer", "float32"), ("mapping", "float64")][(number + place) % 2])
    for number, plan in enumerate(PLANS)
    for place, backend in enumerate(BACKENDS)
]


@pytest.mark.parametrize(("plan", "backend", "form", "dtype"), STEPS)
def test_at_every_instruction_of_a_step(plan, backend, form, dtype):
    track = Track(plan, SMALL, backend, dtype)
    optimizer = make(plan, SMALL, backend, dtype)
    into = {"FlatBuffer": lambda gradient: gradient, "mapping": dict}[form]
    track.step(optimizer, into)
    for phase in range(3):  # so that every kind of step of an accumulation meets every instruction
        number = 0
        while interrupted_at(number, lambda: track.step(optimizer, into)):
            track.check(optimizer)
            number += 1
            if "accumulate" in PLANS[plan][1]:
                while optimizer.counts[1] != phase:
                    track.step(optimizer, into)
                track.check(optimizer)
        assert number > 100
        if "accumulate" not in PLANS[plan][1]:
            break


def test_at_every_instruction_of_a_step_on_threads(backend):
    """With numba fewer threads than there are: the number is set before the kernels and set back after them."""
    track = Track("clipped", LARGE, backend)
    optimizer = make("clipped", LARGE, backend, "float32")
    track.step(optimizer)
    threads = numba_threads() if backend == "numba" else None
    number = 0
    while interrupted_at(number, lambda: track.step(optimizer)):
        track.check(optimizer)
        assert threads is None or numba_threads() == threads
        number += 7
    assert number > 100


def numba_threads() -> int:
    import numba

    return numba.get_num_threads()


#: Each in a process of its own. In numba they are different loops: over spans and over tiles, serial and on threads.
FIRST_STEPS = [
    ("SMALL", {"ema_decay": 0.9}),
    ("LARGE", {"accumulate": 2}),
    ("SMALL", {"copy": "bfloat16", "state_dtype": "float16"}),
    ("LARGE", {"copy": "bfloat16", "ema_decay": 0.9}),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_runs_no_python_between_the_calls_of_its_first_steps(backend):
    """As numba does where it meets an array of a type for the first time: an instruction of it would be in between."""
    python(
        """
        import os, sys
        import numba, numpy, pytest    # what each child would import again

        def first_steps(shapes, options):
            import fastopt.backend.program
            import test_interrupts as tests

            assert not fastopt.backend.process.process.forks    # as in any new process
            parameters = tests.random_buffer(0, "float32", getattr(tests, shapes))
            optimizer = fastopt.Optimizer(parameters, tests.RULES, backend=sys.argv[1], threads=2, **options)
            found = []

            def note(frame, event, argument):
                caller = frame.f_back  # None for a compiled function, for which numba shows a frame
                if event == "call" and caller and caller.f_code is fastopt.backend.program.run.__code__:
                    found.append(frame.f_code)

            sys.setprofile(note)
            for _ in range(3):
                optimizer.step(parameters.copy())
            sys.setprofile(None)
            assert optimizer.step_count and not found, found

        for case in eval(sys.argv[2]):
            if (child := os.fork()) == 0:
                first_steps(*case)
                sys.exit()
            assert os.waitpid(child, 0)[1] == 0, case
        """,
        backend,
        repr(FIRST_STEPS),
    )


def test_at_every_instruction_of_averages(backend):
    """Also where the block begins and ends: then nothing is left of them as soon as nobody holds the exception."""
    optimizer = Optimizer(random_buffer(0, "float32", SMALL), RULES, backend=backend, ema_decay=0.5, copy="float16")
    optimizer.step(random_buffer(1, "float32", SMALL))
    before = snapshot(optimizer)

    def evaluate():
        with optimizer.averaged():
            assert snapshot(optimizer) != before

    number = 0
    while interrupted_at(number, evaluate):
        optimizer.state_dict()  # refused within the block
        assert snapshot(optimizer) == before
        number += 1
    assert number > 100


def test_at_instructions_of_an_ascent_and_the_step_after_it(backend):
    gradient, rules = random_buffer(1, "float32", SMALL), {"a.*": Adam(), "*": Momentum()}
    first, second = (Optimizer(random_buffer(0, "float32", SMALL), rules, backend=backend) for _ in range(2))
    looks = [snapshot(first)]
    second.ascend(gradient)
    looks.append(snapshot(second))
    number = 0
    while interrupted_at(number, partial(first.ascend, gradient)):
        assert snapshot(first) in looks
        first.descend()
        assert snapshot(first) == looks[0]
        number += 7
    assert number > 100 and snapshot(first) == looks[1]
    first.step(gradient)
    looks.append(snapshot(first))
    number = 0
    while interrupted_at(number, partial(second.step, gradient)):
        found = snapshot(second)
        assert found in looks
        if found == looks[2]:
            break
        if found == looks[0]:
            second.ascend(gradient)
        number += 7
    assert number > 100 and snapshot(second) == looks[2]


def test_at_every_instruction_where_programs_are_bound(backend):
    """The first step, one with another gradient, and one after freezing: none may be left with a wrong program."""
    track = Track("groups", SMALL, backend)
    optimizer = make("groups", SMALL, backend, "float32")
    number = 0

    def rebind():
        fresh = track.gradient(optimizer).copy()
        optimizer.freeze("b.w")
        optimizer.thaw("b.w")
        optimizer.step(fresh, **track.options)

    while interrupted_at(number, rebind):
        optimizer.thaw("b.w")
        track.check(optimizer)
        track.step(optimizer)
        track.check(optimizer)
        number += 37
    assert number > 500


def test_at_every_instruction_of_a_step_with_another_gradient(backend):
    """None of the two may be read when the other is given."""
    optimizer = Optimizer(np.zeros(5), SGD(lr=1.0), backend=backend)
    ones, tens = np.ones(5), np.full(5, 10.0)
    optimizer.step(ones)
    number, interrupted = 0, True
    while interrupted:
        before, count = optimizer.flat.copy(), optimizer.step_count
        interrupted = interrupted_at(number, partial(optimizer.step, tens))
        optimizer.step(ones)
        steps_with_tens = optimizer.step_count - count - 1
        np.testing.assert_array_equal(optimizer.flat, before - 10 * steps_with_tens - 1)
        number += 1
    assert number > 300 and steps_with_tens == 1


def test_at_every_instruction_of_freezing(backend):
    """What frozen says is what steps do."""
    optimizer = make("groups", SMALL, backend, "float32")
    gradient = random_buffer(1, "float32", SMALL)
    optimizer.step(gradient)
    number = 0
    change = optimizer.freeze
    while interrupted_at(number, lambda: change("b.w")):
        before, count = optimizer.params["b.w"].tobytes(), optimizer.groups["b.w"].step
        optimizer.step(gradient)
        stood = optimizer.params["b.w"].tobytes() == before
        assert optimizer.groups["b.w"].frozen == stood == (optimizer.groups["b.w"].step == count)
        (optimizer.thaw if change == optimizer.freeze else optimizer.freeze)("b.w")
        optimizer.step(gradient)
        number += 1
    assert number > 10


#: An open file that is dropped before it has a name is closed, with this warning.
DROPPED = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@DROPPED
@pytest.mark.parametrize("kind", ["load", "load_state_dict"])
def test_at_every_instruction_of_a_load(kind, backend, tmp_path):
    """Frozen groups, counts, learnt schedules and buffers change together, or none of them."""
    path = str(tmp_path / "run")

    def trained(seeds: tuple[int, ...]) -> Optimizer:
        rules = {"a.*": Adam(lr=schedules.Plateau(lr=0.1, patience=0)), "*": Momentum()}
        optimizer = Optimizer(random_buffer(0, "float32", SMALL), rules, backend=backend)
        for seed in seeds:
            optimizer.step(random_buffer(seed, "float32", SMALL))
            optimizer.groups["a.*"].rule.lr.observe(1.0)
        return optimizer

    def look(optimizer: Optimizer) -> tuple:
        return snapshot(optimizer), optimizer.groups["a.*"].rule.lr(1)

    saved = trained((1, 2, 3))
    saved.freeze("*")
    saved.save(path)
    state, after = saved.state_dict(), look(saved)
    gradient = random_buffer(4, "float32", SMALL)
    saved.step(gradient)
    later = look(saved)
    optimizer = trained((5, 6))
    optimizer.step(gradient)
    if kind == "load_state_dict":
        optimizer.flat[:] = np.frombuffer(after[0]["params"], np.float32)
    before = look(optimizer)
    load = {"load": lambda: optimizer.load(path), "load_state_dict": lambda: optimizer.load_state_dict(state)}[kind]
    # some of the instructions, and on each backend others: it runs the same Python code
    number, found = 10 * BACKENDS.index(backend), before
    while found == before:
        interrupted = interrupted_at(number, load)
        found = look(optimizer)
        assert found in (before, after) if interrupted else found == after
        number += 20
    assert number > 500
    for last in range(number - 20, number + 30):
        if interrupted_at(last, load):
            assert look(optimizer) == after
    optimizer.step(gradient)  # with programs of what is frozen now
    assert look(optimizer) == later


@DROPPED
def test_at_every_instruction_of_a_save(tmp_path):
    """The old file or the new one, nothing beside it, and the process as it was."""
    path = str(tmp_path / "run")
    optimizer = Optimizer(np.zeros(3), Adam(), backend=BACKENDS[-1])
    optimizer.save(path, 0)
    os.chmod(path, 0o640)
    mask = os.umask(0o022)
    try:
        number = extra = 0
        while interrupted_at(number, partial(optimizer.save, path, number + 1)):
            found = checkpoint.read(path)[0]["extra"]
            assert found in (extra, number + 1)
            extra = found
            assert os.listdir(tmp_path) == ["run"] and stat.S_IMODE(os.stat(path).st_mode) == 0o640
            assert os.umask(0o022) == 0o022
            number += 1
        assert number > 500 and extra > 0
    finally:
        os.umask(mask)


# A storm of signals


class Storm:
    """Raises from a signal handler at random times, but only inside of one function, however deep."""

    def __init__(self, function: Callable, seed: int, longest: float = 6e-4) -> None:
        self.code, self.random, self.longest, self.raised = function.__code__, random.Random(seed), longest, 0
        self.over = False

    def __enter__(self) -> "Storm":
        gc.disable()  # a collection may call Python code of others, where an exception is reported and goes no further
        self.before = signal.signal(signal.SIGALRM, self.strike)
        self.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self.over = True  # a signal that has come already may still strike, and must not set the timer again
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        gc.enable()

    def wait(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self.random.choice([1e-6, 1e-5, self.random.uniform(1e-5, self.longest)]))

    def strike(self, number, frame) -> None:
        if self.over:
            return
        running = set()
        while frame is not None:
            running.add(frame.f_code)
            frame = frame.f_back
        self.wait()  # last, or a handler that takes longer than the wait would be interrupted by itself without end
        if self.code in running and running.isdisjoint((Track.check.__code__, Storm.strike.__code__)):
            self.raised += 1
            raise Interrupted


@pytest.mark.parametrize(
    ("plan", "shapes", "times", "longest"),
    [
        ("one group", SMALL, 500, 6e-4),
        ("groups", SMALL, 500, 6e-4),
        ("clipped", SMALL, 500, 6e-4),
        ("gathered", SMALL, 500, 6e-4),
        ("gathered", LARGE, 50, 3e-3),
    ],
    ids=["one group", "groups", "clipped", "gathered", "large"],
)
def test_a_storm_leaves_no_half_made_step(plan, shapes, times, longest, backend):
    track = Track(plan, shapes, backend)
    track.step(track.run)  # compiles
    track = Track(plan, shapes, backend)
    optimizer = make(plan, shapes, backend, "float32")
    with Storm(Optimizer.step, seed=1, longest=longest) as storm:
        while storm.raised < times:
            try:
                track.step(optimizer)
            except Interrupted:
                track.check(optimizer)
    track.step(optimizer)
    track.check(optimizer)


@pytest.mark.skipif("numba" not in BACKENDS, reason="numba is not installed")
def test_a_storm_does_no_harm_to_a_compilation(tmp_path):
    """The first step, without a cache: it goes on in the background, and ends."""
    python(
        """
        import time
        import fastopt
        import test_interrupts as tests
        track = tests.Track("one group", tests.LARGE, "c" if "c" in tests.BACKENDS else "numba")
        optimizer = tests.make("one group", tests.LARGE, "numba", "float32")
        with tests.Storm(fastopt.Optimizer.step, seed=3, longest=2e-2) as storm:
            while optimizer.step_count < 3:
                try:
                    track.step(optimizer)
                except tests.Interrupted:
                    time.sleep(1e-3)
        track.check(optimizer)
        assert storm.raised > 5
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )


@DROPPED
def test_a_storm_leaves_whole_files(tmp_path):
    path = tmp_path / "run"
    optimizer = Optimizer(np.zeros(1000), Adam(), backend=BACKENDS[-1])
    optimizer.save(path, 0)
    found = 0
    with Storm(Optimizer.save, seed=2) as storm:
        for version in range(1, 300):
            optimizer.flat.fill(version)
            try:
                optimizer.save(path, version)
            except Interrupted:
                pass
            else:
                found = version
            saved, tensors = checkpoint.read(path)
            assert saved["extra"] in (found, version) and (tensors["params/params"] == saved["extra"]).all()
            found = saved["extra"]
    assert storm.raised > 20


def test_ctrl_c_is_raised_and_the_next_step_goes_on(backend):
    """The default handler of SIGINT, while kernels run."""
    track = Track("groups", LARGE, backend)
    optimizer = make("groups", LARGE, backend, "float32")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        raised = 0
        for _ in range(20):
            schedule = optimizer.groups["a.*"].rule.lr

            def pressed(step, schedule=schedule):
                os.kill(os.getpid(), signal.SIGINT)
                return schedule(step)

            optimizer.groups["a.*"].rule = optimizer.groups["a.*"].rule.replace(lr=pressed)
            try:
                track.step(optimizer)
            except KeyboardInterrupt:
                raised += 1
            optimizer.groups["a.*"].rule = optimizer.groups["a.*"].rule.replace(lr=schedule)
            track.check(optimizer)
            track.step(optimizer)
        assert raised == 20
    finally:
        signal.signal(signal.SIGINT, before)
