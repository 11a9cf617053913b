"""What is shipped, and installing it into new virtual environments: with a compiler, without one, and without numba.
Needs pip and PyPI."""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import BACKENDS

ROOT = Path(__file__).parents[2]

#: What a build and the tests need.
SHIPPED = ("csrc", "fastopt", "tests", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml")
LITTER = ("__pycache__", "*.so", "_c_failure.txt", ".hypothesis")

#: Trains on the only backend that is there, and prints what fastopt says of the other.
SCRIPT = """
    import sys
    import numpy as np
    import fastopt
    present, absent = sys.argv[1:]
    found = fastopt.backends()
    assert found[present].available and not found[absent].available, found
    rows = 300 if present == "c" else 3    # C starts threads; numba need not compile its loops for them, too
    params = fastopt.FlatBuffer({"w": np.ones((rows, 1001))}, dtype="float32")
    for backend in ("auto", present):
        optimizer = fastopt.Optimizer(params, fastopt.AdamW(), backend=backend)
        assert optimizer.backend == present
        before = params.flat.copy()
        for _ in range(3):
            optimizer.step(params.copy(), max_norm=1.0)
        assert (params.flat < before).all()
    optimizer.save("checkpoint.safetensors")
    optimizer.load("checkpoint.safetensors")
    try:
        fastopt.Optimizer(params, fastopt.AdamW(), backend=absent)
    except fastopt.BackendError as error:
        assert found[absent].reason in str(error)
    print(found[absent].reason)
"""

if not (ROOT / "csrc" / "CMakeLists.txt").exists():
    pytest.skip("the tests are not beside the sources", allow_module_level=True)


def run(
    *command: object, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("FASTOPT_", "PYTHON", "NUMBA_"))}
    variables |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | (environment or {})
    return subprocess.run(
        list(map(str, command)), env=variables, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def check(*command: object, **options: object) -> str:
    done = run(*command, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """A new virtual environment with nothing in it; the pip that runs the tests installs into it."""

    def __init__(self, folder: Path) -> None:
        check(sys.executable, "-m", "venv", "--without-pip", folder)
        self.python = next(
            path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists()
        )

    def install(self, *what: object) -> None:
        check(sys.executable, "-m", "pip", "--python", self.python, "install", "-q", "--no-compile", *what)

    def wheel(self, source: Path, target: Path, **environment: str) -> subprocess.CompletedProcess:
        """Builds a wheel with what is installed here, and the CMake that is installed for the tests."""
        options = ("--no-deps", "--no-build-isolation", "--no-cache-dir", "-w", target)
        path = os.pathsep.join((str(self.python.parent), str(Path(sys.executable).parent), os.environ["PATH"]))
        pip = (sys.executable, "-m", "pip", "--python", self.python, "wheel")
        return run(*pip, *options, source, environment={"PATH": path} | environment)


@pytest.fixture(scope="module")
def builder(tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("builder"))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    environment.install(*needed)
    return environment


@pytest.fixture(scope="module")
def sdist(builder, tmp_path_factory) -> Path:
    """The source distribution, unpacked. It is made where much else lies about, too."""
    folder, target = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("sdist")
    for name in SHIPPED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns(*LITTER))
        else:
            shutil.copy(path, folder)
    for name in ("notes.txt", ".ci/run", "asv_bench/asv.conf.json", "runs/digits/metrics.json", "fastopt/_c.abi3.so"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for place in ("fastopt/kernels", "tests"):
        (folder / place / "__pycache__").mkdir()
        (folder / place / "__pycache__" / "adam.nbi").touch()
    build = "import sys, scikit_build_core.build as build; build.build_sdist(sys.argv[1])"
    check(builder.python, "-c", build, target, cwd=folder)
    (archive,) = target.iterdir()
    with tarfile.open(archive) as packed:
        packed.extractall(target, filter="data")
    return target / archive.name.removesuffix(".tar.gz")


def files(folder: Path) -> set[str]:
    """What is in a folder of sources, however deep."""
    found = {path for path in folder.rglob("*") if path.is_file()}
    litter = {path for pattern in LITTER for path in folder.rglob(pattern)}
    return {path.relative_to(folder).as_posix() for path in found if litter.isdisjoint((path, *path.parents))}


def test_the_sdist_holds_what_a_build_and_the_tests_need_and_no_more(sdist):
    found = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert found == {name for name in files(ROOT) if name.partition("/")[0] in SHIPPED} | {"PKG-INFO"}


#: For the compiler: the kernels and the sum of the steps above, and the storages that need no codec.
FEW_LOOPS = [
    "-DKERNELS(_)=_(sgd) _(adam)",
    "-DSUMS(_)=_(sum_squares)",
    "-DCODECS(_)=_(float32, 1, float32, float32) _(float64, 1, float64, float64)",
]
NO_COMPILER = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}


def only_wheel(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def shipped_by(wheel: Path) -> set[str]:
    """What a wheel installs, besides what says so."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("fastopt-")}


def in_package() -> set[str]:
    """What is in the package's folder in the sources: modules, stubs, pages and the mark that they have types."""
    found = {f"fastopt/{name}" for name in files(ROOT / "fastopt")}
    assert "fastopt/py.typed" in found
    return found


def test_without_a_compiler_numba_alone_is_installed(builder, sdist, tmp_path):
    done = builder.wheel(sdist, tmp_path, **NO_COMPILER)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = only_wheel(tmp_path)
    assert wheel.name.split("-", 2)[2].startswith("py3-none-")
    assert shipped_by(wheel) == in_package() | {"fastopt/_c_failure.txt"}
    environment = Environment(tmp_path / "environment")
    environment.install(wheel)
    reason = check(environment.python, "-W", "error", "-c", textwrap.dedent(SCRIPT), "numba", "c", cwd=tmp_path)
    assert "No module named 'fastopt._c'" in reason and "/nonexistent/cc" in reason


@pytest.mark.skipif("c" not in BACKENDS, reason="the C backend is not installed, hence there may be no compiler")
@pytest.mark.parametrize(
    ("flags", "reason"), [("-ffast-math", "compile without -ffast-math"), ("-march=nonsense", "nonsense")]
)
def test_the_reason_of_a_failed_build_is_in_the_wheel(builder, sdist, tmp_path, flags, reason):
    done = builder.wheel(sdist, tmp_path, CFLAGS=flags)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = zipfile.ZipFile(only_wheel(tmp_path))
    summary, *log = wheel.read("fastopt/_c_failure.txt").decode().splitlines()
    assert "error" in summary and reason in summary and len(log) > 3
    assert not (sdist / "fastopt" / "_c_failure.txt").exists()


def test_a_compiler_can_be_required(builder, sdist, tmp_path):
    done = builder.wheel(sdist, tmp_path, **NO_COMPILER, FASTOPT_REQUIRE_C="1")
    assert done.returncode != 0 and "/nonexistent/cc" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", [None, "3"])
def test_make_has_as_many_jobs_as_ninja(builder, tmp_path, monkeypatch, asked):
    monkeypatch.delenv("CMAKE_BUILD_PARALLEL_LEVEL", raising=False)
    script = """
    import os, sys
    import scikit_build_core.build
    scikit_build_core.build.build_wheel = lambda *_: os.environ["CMAKE_BUILD_PARALLEL_LEVEL"]
    sys.path.insert(0, sys.argv[1])
    import build_backend
    print(build_backend.build_wheel("."))
    """
    environment = {"CMAKE_BUILD_PARALLEL_LEVEL": asked} if asked else None
    found = check(builder.python, "-c", textwrap.dedent(script), ROOT / "csrc", cwd=tmp_path, environment=environment)
    assert found == f"{asked or os.cpu_count() + 2}\n"


@pytest.mark.skipif("c" not in BACKENDS, reason="the C backend is not installed, hence there may be no compiler")
def test_without_numba_c_alone_is_installed(builder, sdist, tmp_path):
    """Of the library few loops are compiled, in a tenth of the time: the whole of it is what other tests run on."""
    done = builder.wheel(sdist, tmp_path, CFLAGS=shlex.join(FEW_LOOPS))
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = only_wheel(tmp_path)
    assert wheel.name.split("-", 2)[2].startswith("cp311-abi3-")
    library = {"fastopt/lib/libfastopt.dylib" if sys.platform == "darwin" else "fastopt/lib/libfastopt.so"}
    assert shipped_by(wheel) == in_package() | library | {"fastopt/_c.abi3.so", "fastopt/include/fastopt.h"}
    environment = Environment(tmp_path / "environment")
    environment.install("numpy", "cffi", "safetensors")
    environment.install("--no-deps", wheel)
    reason = check(environment.python, "-W", "error", "-c", textwrap.dedent(SCRIPT), "c", "numba", cwd=tmp_path)
    assert reason.strip() == "No module named 'numba'. Install it with: pip install numba"
