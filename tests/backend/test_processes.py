"""Forks and threads: children step correctly after their parent used thread pools, and so do two threads at once."""

import importlib.util
import itertools
import os
import sys

import pytest
from conftest import BACKENDS
from harness import python

FIRST_LAYER = "tbb" if importlib.util.find_spec("tbb") else "omp"

#: A training run that prints its bits as a number; what it prints may depend on nothing but its arguments.
COMMON = """
    import os, sys, zlib
    import numpy as np
    import fastopt
    from fastopt import Adam, Momentum, Optimizer

    def bits(optimizer):
        buffers = [optimizer.flat, *(state.flat for state in optimizer.state.values())]
        return zlib.crc32(b"".join(buffer.tobytes() for buffer in buffers)), list(optimizer.counts)

    def make(size, backend, threads=4):
        values = np.random.default_rng(size).standard_normal(size)
        params = fastopt.FlatBuffer({"w": values, "b": np.ones(7)}, "float32")
        return Optimizer(params, {"w": Adam(), "b": Momentum()}, backend=backend, threads=threads, ema_decay=0.9)

    gradients = {}  # one for each optimizer, so that only the first step binds it

    def steps(optimizer, first, last):
        gradient = gradients.setdefault(optimizer, optimizer.params.zeros_like())
        for seed in range(first, last):
            gradient.flat[:] = np.random.default_rng(seed).standard_normal(gradient.size)
            optimizer.step(gradient, max_norm=1.0, nonfinite="raise")
        return bits(optimizer)

    def expect(found, expected):
        if found != expected:
            raise AssertionError((found, expected))

    def run(size, backend, first, last, threads=1):
        return steps(make(size, backend, threads), first, last)
"""

FORK = (
    COMMON
    + """
    def in_child(function):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                function()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert status == 0, status

    parent_backend, child_backend, *sizes = sys.argv[1:]

    def forks(size):
        expected = run(size, "c" if "c" in sys.argv[1:3] else "numba", 0, 6)

        before = make(size, parent_backend)
        other = make(size, parent_backend)
        steps(before, 0, 3)       # starts the pools of threads
        steps(other, 0, 2)

        def child():
            expect(steps(before, 3, 6), expected)                          # made and bound before the fork
            expect(run(size, child_backend, 0, 6, threads=4), expected)    # made after it
            made = make(size, child_backend)
            steps(made, 0, 2)
            def grandchild():
                expect(steps(made, 2, 6), expected)
                expect(run(size, child_backend, 0, 6, threads=4), expected)
            in_child(grandchild)
            expect(steps(made, 2, 6), expected)

        in_child(child)
        expect(steps(before, 3, 6), expected)     # the parent goes on, with its threads
        in_child(lambda: expect(steps(other, 2, 6), expected))
        expect(steps(other, 2, 6), expected)

    for size in map(int, sizes):
        forks(size)
"""
)

#: A pool of forked workers, each of which steps an optimizer whose parameters it got by pickle.
POOL = """
    import multiprocessing

    def work(params):
        return steps(Optimizer(params, Adam(), backend=child_backend), 0, 3)

    params = make(size, child_backend).params
    expected = work(params.copy())
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map(work, [params] * 4):
            expect(found, expected)
"""

#: The choice between backends where both are there.
AUTO = """
    expect(make(7, "auto").backend, "numba")
    def child():
        optimizer = make(size, "auto")
        expect((optimizer.backend, "fork" in optimizer.backend_reason), ("c", True))
        expect(steps(optimizer, 0, 3), run(size, "numba", 0, 3))
    in_child(child)
    expect(make(7, "auto").backend, "numba")
"""


@pytest.mark.skipif("numba" not in BACKENDS or not hasattr(os, "fork"), reason="needs numba and fork")
def test_a_child_that_is_forked_while_something_compiles_can_end():
    python("""
        import os, signal, sys, threading
        from fastopt.backend.compile import once
        begun, end = threading.Event(), threading.Event()
        def compiling():
            begun.set()
            end.wait()
        threading.Thread(target=once, args=("compiling", compiling)).start()
        begun.wait()
        child = os.fork()
        if not child:
            signal.alarm(5)
            once("in the child", int)
            sys.exit()
        status = os.waitpid(child, 0)[1]
        end.set()
        assert status == 0, status
    """)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("parent", "child", "sizes"),
    [
        (parent, child, (["1001"] if parent == child else []) + ["140003" if parent == child == "numba" else "300001"])
        for parent, child in itertools.product(BACKENDS, repeat=2)
    ],
)
def test_a_forked_child_steps_correctly(parent, child, sizes):
    """140,003 parameters in numba, 300,001 in C: the parent's step runs on threads, which the child does not have.

    A pair of the same backend does so after steps that ran on none. Then its child is a worker of a pool, too.
    """
    more = POOL if parent == child else AUTO if (parent, child) == ("numba", "c") else ""
    python(FORK + more, parent, child, *sizes, timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif("numba" not in BACKENDS, reason="numba is not installed")
@pytest.mark.parametrize("layer", [layer for layer in ("omp", "workqueue") if layer != FIRST_LAYER])
def test_a_forked_child_of_every_threading_layer(layer):
    """The test above has numba's first choice."""
    python(FORK, "numba", "numba", "140003", timeout=60, NUMBA_THREADING_LAYER=layer)


#: A parent that has used a pool of threads but never imported fastopt: a child is the first to do that.
STRANGER = """
    import os, sys
    import numpy as np

    user, backend = sys.argv[1:3]

    if user == "libgomp":
        import ctypes
        started = []
        def body(_):
            started.append(1)
        region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(body)
        ctypes.CDLL("libgomp.so.1").GOMP_parallel(region, None, 4, 0)
        assert len(started) == 4
    elif user == "numba":
        import numba
        @numba.njit(parallel=True)
        def ones(x):
            for i in numba.prange(x.size):
                x[i] = 1
        ones(np.zeros(1000))
    assert "fastopt" not in sys.modules

    def work(size):
        import fastopt
        p = np.zeros(size, np.float32)
        optimizer = fastopt.Optimizer(p, fastopt.Adam(), backend=backend, threads=4)
        optimizer.step(np.ones(size, np.float32), max_norm=1e9)
        return len(os.listdir("/proc/self/task")), int(np.unique(p.view(np.uint32)).item())

    def in_child(function):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                function()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
"""

STRANGERS = [pytest.param("libgomp", marks=pytest.mark.skipif(sys.platform != "linux", reason="loads libgomp"))]
if "numba" in BACKENDS:
    STRANGERS.append(pytest.param("numba"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("user", STRANGERS)
def test_a_child_that_imports_fastopt_first_after_its_parent_used_threads(user, backend):
    """A child, a grandchild and a worker of a pool; and in the end the parent, which has its threads."""
    python(
        STRANGER
        + """
    import multiprocessing

    def child():
        expected = work(400_000)
        in_child(lambda: work(400_001))
        assert work(400_002)[1] == expected[1]
    in_child(child)
    in_child(lambda: in_child(lambda: work(400_000)))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.map_async(work, [400_000] * 2).get(40)
    assert "fastopt" not in sys.modules
    assert {bits for _, bits in found} == {work(400_000)[1]}, found
    """,
        user,
        backend,
        timeout=60,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere C is serial")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_child_of_a_parent_without_threads_has_threads_of_its_own(backend):
    """As a daemon and as a worker of a server that forks before it imports anything."""
    python(
        STRANGER
        + """
    def child():
        threads, _ = work(400_000)
        assert threads >= 4, threads
    in_child(child)
    """,
        "nobody",
        backend,
        timeout=60,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads as Linux shows them")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_million_threads_are_as_many_as_there_are_processors(backend):
    """As FASTOPT_NUM_THREADS and as an argument, which starts no more of them."""
    python(
        """
        import os, sys
        for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):    # which allow more
            del os.environ[name]
        import numpy as np
        import fastopt
        p = np.zeros(2_000_000, np.float32)
        g = p.copy()
        started = lambda: len(os.listdir("/proc/self/task"))
        before = None
        for asked in ({}, {"threads": 10**6}):
            optimizer = fastopt.Optimizer(p, fastopt.SGD(), backend=sys.argv[1], **asked)
            before = before or started()
            optimizer.step(g, max_norm=1.0)
            assert optimizer.threads == 10**6
            most = len(os.sched_getaffinity(0)) - 1
            if sys.argv[1] == "numba":
                most += 1 + most    # the thread that compiles, and its pool
            assert 0 <= started() - before <= most, (asked, started() - before)
        """,
        backend,
        FASTOPT_NUM_THREADS="1000000",
    )


THREADS = (
    COMMON
    + """
    import threading

    backend, layer, *sizes = sys.argv[1:]
    if backend == "numba":
        import numba

    def at_once(size):
        expected = run(size, backend, 0, 12)
        started = threading.Barrier(3)
        found = {}

        def work(number):
            started.wait()
            made = [run(size, backend, 0, 12, threads=1 + number) for _ in range(2)]
            found[number] = made

        workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        expect(found, {number: [expected] * 2 for number in range(3)})
        if backend == "numba" and size > 131_072:
            expect(numba.threading_layer(), layer)

    for size in map(int, sizes):    # on no threads, then on some
        at_once(size)
"""
)


@pytest.mark.skipif("numba" not in BACKENDS, reason="numba is not installed")
@pytest.mark.parametrize("layer", sorted({FIRST_LAYER, "omp", "workqueue"}))
def test_threads_step_optimizers_at_once_with_numba(layer):
    """Workqueue ends the process if two parallel regions run at once."""
    python(THREADS, "numba", layer, "1001", "140003", timeout=100, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="3")


@pytest.mark.skipif("c" not in BACKENDS, reason="the C backend is not installed")
def test_threads_step_optimizers_at_once_with_c():
    python(THREADS, "c", "", "1001", "300001", timeout=100)
