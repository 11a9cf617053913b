"""What the tests share: four threads on any machine, an environment without fastopt's variables, and the backends."""

import atexit
import gc
import importlib.util
import os
import shutil
import signal
import tempfile

import pytest

import fastopt

# Before numba and libgomp are loaded: so that four threads can be tested on two processors. BLAS keeps its own number.
os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "4"
os.environ.setdefault("OPENBLAS_NUM_THREADS", str(os.cpu_count()))
os.environ["OMP_WAIT_POLICY"] = "passive"  # threads that wait, of four on two processors, leave them to those that work
os.environ["PYTHONSAFEPATH"] = "1"  # child processes import the installed package, not the folder that they start in
if "TESTS_SHARED_FOLDER" not in os.environ:  # what one worker of a run has compiled, others need not
    os.environ["TESTS_SHARED_FOLDER"] = _shared = tempfile.mkdtemp(prefix="fastopt-tests-")
    atexit.register(shutil.rmtree, _shared, ignore_errors=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
for _name in ("FASTOPT_BACKEND", "FASTOPT_NUM_THREADS", "FASTOPT_ISA"):
    os.environ.pop(_name, None)

#: Tests that need torch, where there is none.
collect_ignore = [] if importlib.util.find_spec("torch") else ["torch_optimizers"]

BACKENDS = [name for name, available in fastopt.backends().items() if available]


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.environ.get("FASTOPT_REQUIRE_C") == "1" and "c" not in BACKENDS:
        pytest.exit(f"FASTOPT_REQUIRE_C is set, but: {fastopt.backends()['c'].reason}", returncode=1)
    if not BACKENDS:
        pytest.exit("fastopt has no backend to test", returncode=1)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    gc.disable()  # of ten thousand tests none is garbage, and to look for it takes half of the time
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend that is installed."""
    return request.param


@pytest.fixture
def backends() -> list[str]:
    """The names of all backends that are installed."""
    return BACKENDS


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """The name of each dtype."""
    return request.param
