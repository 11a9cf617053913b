"""The choice of a backend, what importing does, and numba's cache: missing, damaged and stale."""

import json
import os
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import BACKENDS
from harness import python

import fastopt
from fastopt import SGD, BackendError, Optimizer

PACKAGE = Path(fastopt.__file__).parent

needs_numba = pytest.mark.skipif("numba" not in BACKENDS, reason="numba is not installed")
needs_c = pytest.mark.skipif("c" not in BACKENDS, reason="the C backend is not installed")
needs_both = pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend is installed")

#: Makes imports of these modules fail, as if they were not installed.
BLOCK = """
    import sys
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name in sys.argv[1].split(","):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Missing())
    import numpy as np, fastopt
    def make(**options):
        return fastopt.Optimizer(np.ones(3), fastopt.SGD(lr=1.0), **options)
"""


# Importing


def test_importing_is_light_and_changes_nothing():
    python("""
        import sys, os, threading, warnings, signal
        import numpy as np
        before = dict(os.environ), len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
        filters, errors, handler = list(warnings.filters), np.geterr(), signal.getsignal(signal.SIGINT)
        import fastopt
        heavy = {"numba", "llvmlite", "cffi", "_cffi_backend", "fastopt._c", "fastopt.kernels", "fastopt.backend.c",
                 "fastopt.backend.numba", "torch", "sklearn", "matplotlib", "safetensors", "rich", "click", "scipy"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        fastopt.FlatBuffer({"w": np.ones(3)}), fastopt.AdamW(), fastopt.schedules.Constant(lr=1.0), list(fastopt.RULES)
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        tasks = "/proc/self/task"
        assert before == (dict(os.environ), len(os.listdir(tasks)) if os.path.exists(tasks) else 0)
        assert (filters, errors, handler) == (list(warnings.filters), np.geterr(), signal.getsignal(signal.SIGINT))
        assert threading.active_count() == 1
    """)


@needs_c
def test_the_c_backend_imports_no_numba():
    python("""
        import sys, numpy as np, fastopt
        optimizer = fastopt.Optimizer(np.ones(3), fastopt.Adam(), backend="c")
        optimizer.step(np.ones(3), max_norm=1.0)
        assert not {"numba", "llvmlite", "fastopt.kernels"} & set(sys.modules)
    """)


@needs_numba
def test_the_numba_backend_imports_no_c_and_leaves_numbas_settings_alone():
    python(
        """
        import sys, numba, numpy as np, fastopt
        assert numba.get_num_threads() == 4
        for threads in (1, 2, 3, 4, 9):
            optimizer = fastopt.Optimizer(np.ones(140_003), fastopt.Adam(), backend="numba", threads=threads)
            optimizer.step(np.ones(140_003), max_norm=1.0)
            assert numba.get_num_threads() == 4
        numba.set_num_threads(2)
        optimizer.step(np.ones(140_003), max_norm=1.0)
        assert numba.get_num_threads() == 2
        assert "fastopt._c" not in sys.modules
    """,
        NUMBA_NUM_THREADS="4",
    )


# The choice


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_asked_for_by_name_is_used(name):
    optimizer = Optimizer(np.ones(3), SGD(), backend=name)
    assert (optimizer.backend, optimizer.backend_reason) == (name, "backend asks for it")


@needs_both
@pytest.mark.parametrize(
    ("torch", "options", "variable", "backend", "reason"),
    [
        (False, {}, None, "numba", "numba is the first choice"),
        (False, {"backend": "auto"}, "", "numba", "numba is the first choice"),
        (False, {"backend": "auto"}, "auto", "numba", "numba is the first choice"),
        (True, {}, None, "c", "torch is imported, and C borrows its thread pool"),
        (True, {"backend": "numba"}, None, "numba", "backend asks for it"),
        (True, {}, "numba", "numba", "FASTOPT_BACKEND asks for it"),
        (False, {}, "c", "c", "FASTOPT_BACKEND asks for it"),
        (False, {"backend": "numba"}, "c", "numba", "backend asks for it"),
        (False, {"backend": "c"}, "numba", "c", "backend asks for it"),
        (False, {"backend": "c"}, "nonsense", "c", "backend asks for it"),
    ],
)
def test_auto(torch, options, variable, backend, reason, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    if torch:
        monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    if variable is not None:
        monkeypatch.setenv("FASTOPT_BACKEND", variable)
    optimizer = Optimizer(np.ones(3), SGD(lr=1.0), **options)
    optimizer.step(np.ones(3))
    assert (optimizer.backend, optimizer.backend_reason) == (backend, reason) and not optimizer.flat.any()


@needs_both
def test_auto_takes_c_where_numba_may_not_compile():
    out = python(BLOCK + "    print(make().backend_reason)", "", NUMBA_DISABLE_JIT="1")
    assert out.strip() == "backend 'numba' is not available: NUMBA_DISABLE_JIT is set"


@needs_both
@pytest.mark.parametrize(("layers", "backend"), [(8, "numba"), (9, "c")])
def test_auto_takes_c_for_many_spans(layers, backend, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    names = [f"layer{layer}.{part}" for layer in range(layers) for part in ("weight", "bias")]
    params = fastopt.FlatBuffer({name: np.zeros(3) for name in names})
    groups = {"*.bias": fastopt.SGD(), "*": fastopt.SGD(weight_decay=0.1)}
    optimizer = fastopt.Optimizer(params, groups)
    assert (optimizer.backend, "18 spans" in optimizer.backend_reason) == (backend, layers == 9)
    assert fastopt.Optimizer(params, groups, backend="numba").backend == "numba"
    assert fastopt.Optimizer(params, fastopt.SGD()).backend == "numba"


@needs_c
def test_without_numba():
    python(
        BLOCK
        + """
    optimizer = make()
    assert optimizer.backend == "c" and optimizer.step(np.ones(3)).step == 1
    reason = "backend 'numba' is not available: No module named 'numba'. Install it with: pip install numba"
    assert optimizer.backend_reason == reason
    found = fastopt.backends()
    assert not found["numba"] and found["numba"].reason == "No module named 'numba'. Install it with: pip install numba"
    assert found["c"].available and found["c"].version == sys.argv[2]
    for ask in ({"backend": "numba"},):
        try:
            make(**ask)
        except fastopt.BackendError as error:
            assert "backend 'numba' is not available" in str(error)
        else:
            raise AssertionError
    """,
        "numba",
        ".".join(re.findall(r"FASTOPT_ABI_M(?:AJ|IN)OR (\d+)", Path(fastopt.get_include(), "fastopt.h").read_text())),
    )


@needs_numba
@pytest.mark.parametrize("missing", ["fastopt._c", "cffi", "_cffi_backend"])
def test_without_c(missing):
    python(
        BLOCK
        + """
    if sys.argv[1] == "cffi":
        sys.exit()  # the compiled module needs only _cffi_backend
    assert make().backend == "numba"
    found = fastopt.backends()
    assert found["numba"] and not found["c"] and found["c"].version is None and sys.argv[1] in found["c"].reason
    try:
        make(backend="c")
    except fastopt.BackendError as error:
        way_out = "pip install cffi" if sys.argv[1] == "_cffi_backend" else "with a C compiler: pip install"
        assert "backend 'c' is not available" in str(error) and way_out in str(error)
    else:
        raise AssertionError
    sys.modules["torch"] = type(sys)("torch")
    optimizer = make()
    assert optimizer.backend == "numba" and "backend 'c' is not available" in optimizer.backend_reason
    """,
        missing,
    )


@needs_c
def test_a_clone_that_hides_the_installed_package_says_so(tmp_path):
    """Started in a clone, Python imports the folder ``fastopt`` there."""
    installed = tmp_path / "installed" / "fastopt"
    clone = tmp_path / "clone" / "fastopt"
    for copy in (installed, clone):
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.so", "_c_failure.txt"))
    shutil.copy(import_module("fastopt._c").__file__, installed)
    reason = python(HIDDEN, str(clone.parent), str(installed.parent))
    assert f"in {clone}, which hides {installed}: start Python in another folder or with its option -P" in reason
    reason = python(HIDDEN, str(clone.parent), str(tmp_path))
    assert f"It has not been built for {clone}; with a C compiler: pip install" in reason


HIDDEN = """
    import os, sys
    import _cffi_backend, numpy  # before their folder, in which the tests' own fastopt may lie, is out of sight
    sys.meta_path = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
    sys.path = sys.argv[1:] + [path for path in sys.path if not os.path.exists(os.path.join(path, "fastopt"))]
    import fastopt
    print(fastopt.backends()["c"].reason)
"""


def test_why_the_c_backend_could_not_be_built_is_said(tmp_path):
    clone = tmp_path / "fastopt"
    shutil.copytree(PACKAGE, clone, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (clone / "_c_failure.txt").write_text("x.c:1: error: no such thing\n\nand more\n")
    reason = python(HIDDEN, str(tmp_path))
    assert f"Building it failed: x.c:1: error: no such thing ({clone / '_c_failure.txt'} has more)." in reason
    assert "and more" not in reason


def test_without_any_backend():
    """One error that says what to install; all that needs no kernel works."""
    python(
        BLOCK
        + """
    params = np.ones(3)
    for asked, parts in (
        ("auto", ["fastopt has no backend to run on.", "pip install numba", "C compiler"]),
        ("numba", ["backend 'numba' is not available", "pip install numba"]),
        ("c", ["backend 'c' is not available", "C compiler"]),
    ):
        try:
            fastopt.Optimizer(params, fastopt.Adam(), backend=asked)
        except fastopt.BackendError as error:
            assert all(part in str(error) for part in parts), error
        else:
            raise AssertionError(asked)
    assert not any(fastopt.backends().values()) and params.tolist() == [1, 1, 1]
    assert fastopt.Adam(lr=0.1).coefficients(1)["eps"] == 1e-8 and fastopt.FlatBuffer({"w": params}).size == 3
    """,
        "numba,fastopt._c",
    )


def test_backends_says_what_is_there():
    found = fastopt.backends()
    assert list(found) == ["numba", "c"]
    for name in BACKENDS:
        assert found[name] and found[name].version and found[name].reason
    if "c" in BACKENDS:
        assert found["c"].details["instruction set"] in found["c"].details["instruction sets"].split(", ")


# Environment variables


THREADS = "FASTOPT_NUM_THREADS must be a whole number >= 1, not "


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "FASTOPT_BACKEND",
            "nmuba",
            "FASTOPT_BACKEND must be one of auto, numba, c, not 'nmuba'; did you mean 'numba'?",
        ),
        ("FASTOPT_BACKEND", "C", "FASTOPT_BACKEND must be one of auto, numba, c, not 'C'; did you mean 'c'?"),
        ("FASTOPT_NUM_THREADS", "0", THREADS + "'0'"),
        ("FASTOPT_NUM_THREADS", "-2", THREADS + "'-2'"),
        ("FASTOPT_NUM_THREADS", "two", THREADS + "'two'"),
        ("FASTOPT_NUM_THREADS", "1.5", THREADS + "'1.5'"),
    ],
)
def test_bad_environment_variables(variable, value, message, monkeypatch):
    monkeypatch.setenv(variable, value)
    params = np.ones(3)
    with pytest.raises(ValueError) as error:
        Optimizer(params, SGD())
    assert str(error.value).startswith(message) and params.tolist() == [1, 1, 1]


@needs_c
@pytest.mark.parametrize(
    ("value", "end"), [("avx1024", "'avx1024'; "), ("BASELINE", "'BASELINE'; did you mean 'baseline'?")]
)
def test_a_bad_instruction_set(value, end):
    """Each in a new process: it is chosen once."""
    out = python(
        BLOCK
        + """
    params = np.ones(3)
    try:
        fastopt.Optimizer(params, fastopt.SGD(), backend="c")
    except ValueError as error:
        print(error)
    assert params.tolist() == [1, 1, 1]
    """,
        "",
        FASTOPT_ISA=value,
    )
    assert out.startswith("FASTOPT_ISA: this processor has no instruction set " + end)


@needs_c
def test_every_instruction_set_that_is_there_can_be_forced():
    for name in fastopt.backends()["c"].details["instruction sets"].split(", "):
        out = python(
            BLOCK
            + """
    optimizer = fastopt.Optimizer(np.ones(100), fastopt.Adam(), backend="c")
    optimizer.step(np.full(100, 0.3), max_norm=1.0)
    print(fastopt.backends()["c"].details["instruction set"])
        """,
            "numba",  # which need not be imported for this
            FASTOPT_ISA=name,
        )
        assert out.strip() == name


@pytest.mark.parametrize(("value", "threads"), [("1", 1), ("3", 3), ("", None)])
def test_the_number_of_threads(value, threads, backend, monkeypatch):
    monkeypatch.setenv("FASTOPT_NUM_THREADS", value)
    assert Optimizer(np.ones(3), SGD(), backend=backend).threads == (threads or len(os.sched_getaffinity(0)))
    assert Optimizer(np.ones(3), SGD(), backend=backend, threads=2).threads == 2


def test_more_threads_than_there_can_be(backend):
    """Small steps are serial; that many are never started."""
    optimizer = Optimizer(np.ones(100), SGD(lr=1.0), backend=backend, threads=2**40)
    optimizer.step(np.ones(100), max_norm=100.0)
    assert not optimizer.flat.any()


# numba's cache

#: Steps by a few kernels, serial and parallel, and prints the bits and how many kernels came from the cache.
STEPS = """
    import json, sys, zlib
    import numpy as np
    package, runs = sys.argv[1], json.loads(sys.argv[2])
    if package:  # a copy, before an editable installation of the original
        sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in f"{each!r}{type(each).__module__}"]
        sys.path.insert(0, package)
    import fastopt
    assert fastopt.__file__.startswith(package), fastopt.__file__
    found = {}
    for rule, size in runs:
        params = np.linspace(-1, 1, size)
        optimizer = fastopt.Optimizer(params, fastopt.RULES[rule](lr=0.1), backend="numba", threads=4)
        for _ in range(3):
            optimizer.step(np.sin(np.arange(size)))
        found[f"{rule} {size}"] = zlib.crc32(params.tobytes())
    from fastopt.backend.compile import dispatchers
    hits = sum(sum(kernel.stats.cache_hits.values()) for kernel in dispatchers.values())
    print(json.dumps([found, hits]))
"""
RUNS = [("SGD", 100), ("SGD", 140_003)]


def stepped(package: Path | str = "", runs: list = RUNS, code: str = STEPS, **environment: str) -> tuple[dict, int]:
    """The bits of each run, in a new process, and how many kernels came from the cache."""
    environment = {"NUMBA_NUM_THREADS": "4", "PYTHONDONTWRITEBYTECODE": "1"} | environment
    bits, hits = json.loads(python(code, str(package), json.dumps(runs), **environment))
    return bits, hits


def copy_package(folder: Path) -> Path:
    shutil.copytree(
        PACKAGE, folder / "fastopt", ignore=shutil.ignore_patterns("__pycache__", "train", "torch", "bench")
    )
    return folder


def cache_files(folder: Path, suffix: str = ".nb?") -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


@pytest.fixture(scope="module")
def cached(tmp_path_factory) -> tuple[Path, dict]:
    """A cache that one process has filled, and the bits that it found."""
    folder = tmp_path_factory.mktemp("cache")
    bits, hits = stepped(NUMBA_CACHE_DIR=str(folder))
    assert hits == 0 and len(cache_files(folder)) == 6  # two kernels, and what learns the type of an array
    return folder, bits


@needs_numba
def test_a_second_process_takes_kernels_from_the_cache(cached):
    folder, bits = cached
    assert stepped(NUMBA_CACHE_DIR=str(folder)) == (bits, 3)


@needs_numba
@pytest.mark.parametrize("kind", ["below a file", "named", "full"])
def test_without_a_cache_directory_that_can_be_written(kind, cached, tmp_path):
    package, code = "", STEPS
    if kind == "full":
        environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
        limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
        code = f"\n    {limit}\n    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))" + STEPS
    else:  # neither beside the source nor in the user's folder can anything be made, not even by root
        package = copy_package(tmp_path / "package")
        for folder in [path for path in package.rglob("*") if path.is_dir()]:
            (folder / "__pycache__").write_text("")
        environment = {"XDG_CACHE_HOME": str(package / "fastopt" / "__init__.py"), "HOME": "/proc"}
        if kind == "named":
            environment["NUMBA_CACHE_DIR"] = "/proc/fastopt"
    bits, hits = stepped(package, RUNS[:1], code, **environment)
    assert bits.items() <= cached[1].items() and hits == 0
    assert not list(tmp_path.rglob("*.nbc"))


#: What a disk may make of a file.
DAMAGES = (lambda data: b"", lambda data: data[: len(data) // 2], lambda data: os.urandom(len(data)))


@needs_numba
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_cache_does_no_harm(suffix, cached, tmp_path):
    """Two kernels and what learns the type of an array: each loads a file of its own, damaged in another way."""
    folder, bits = cached
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    files = cache_files(tmp_path, suffix)
    for path, damage in zip(files, DAMAGES, strict=True):
        path.write_bytes(damage(path.read_bytes()))
    assert stepped(NUMBA_CACHE_DIR=str(tmp_path)) == (bits, 0)


@needs_numba
def test_an_edited_kernel_takes_effect_in_spite_of_cached_code(tmp_path):
    """Even if its byte code and its file's size and time stay, as after a checkout or in a reproducible build."""
    package, runs = copy_package(tmp_path), [("Adam", 100), ("Adam", 140_003), ("Momentum", 100)]
    before, _ = stepped(package, runs)
    source = package / "fastopt" / "kernels" / "adam.py"
    text, times = source.read_text(), source.stat()
    longer = text.replace("from math import sqrt", "from math import cosh as sqrt")
    edited = longer[:3] + longer[3 + len(longer) - len(text) :]  # as much less of the text that the file starts with
    assert edited != text and len(edited) == len(text) and edited.startswith('"""')
    source.write_text(edited)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    after, hits = stepped(package, runs)
    assert hits == 2 and {run for run in before if before[run] == after[run]} == {"Momentum 100"}


def test_an_unknown_backend():
    for asked in ("nmuba", "C", 5, b"c"):
        with pytest.raises(ValueError, match="backend must be one of auto, numba, c, not"):
            Optimizer(np.ones(3), SGD(), backend=asked)
    assert issubclass(BackendError, RuntimeError) and sys.modules["fastopt"] is fastopt
