"""The C library without Python: compiled as its README says, run, compared with Python, and under sanitizers."""

import ctypes
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from harness import once_for_all_workers, python

import fastopt
from fastopt import capi

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
HERE = Path(__file__).parent
SOURCES = [str(CSRC / name) for name in ("fastopt.c", "span.c", "stamped.c", "optimizer.c", "parallel.c", "xla.c")]
FLAGS = ["-std=gnu11", "-g", "-fno-math-errno", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}"]


def only(*kernels: str) -> list[str]:
    """Options for a library of these kernels and one sum, for what does not depend on formulas."""
    chosen = " ".join(f"_({kernel})" for kernel in kernels)
    return [f"-DKERNELS(_)={chosen}", "-DSUMS(_)=_(sum_squares)", "-Wno-unused-function"]


#: A kernel for each number of states that most have.
FEW = only("sgd", "lion", "adam", "amsgrad")
#: No other storages, for what does not depend on these either: it is compiled in a tenth of the time of the whole.
NATIVE = ["-DCODECS(_)=_(float32, 1, float32, float32) _(float64, 1, float64, float64)"]
#: And one kernel, for what depends on none.
ONE = [*only("sgd"), *NATIVE]
#: What csrc/example.c and late.c need.
EXAMPLE = [*only("sgd", "adam"), f"{NATIVE[0]} _(bfloat16, 1, bfloat16, bfloat16)"]
CC = os.environ.get("CC", "cc")
COMPILERS = [CC, *(["clang"] if shutil.which("clang") else [])]


pytestmark = pytest.mark.compiled


def shell(*command, **options):
    """Runs a command; its output, or a failure that shows it."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def library():
    """A folder in which the command of csrc/README.md has compiled the library, with few kernels and storages."""

    def compile_in(folder: Path) -> None:
        shutil.copytree(CSRC, folder, ignore=shutil.ignore_patterns("__pycache__"))
        command = re.search(r"^cc .*-shared.*$", (CSRC / "README.md").read_text(), flags=re.MULTILINE)[0]
        shell("sh", "-c", f"{command} {shlex.join(EXAMPLE)}", cwd=folder)

    return once_for_all_workers("library", compile_in)


NUMBER = r"-?0x[0-9a-f.]+p[+-]\d+"


def python_line(gradients, dtype, **options):
    """What the Python optimizer finds from the gradients that the example has printed, and its copy if it keeps one."""
    optimizer = fastopt.Optimizer(np.zeros(2, np.float32), fastopt.Adam(lr=0.05), **options)
    for line in gradients.splitlines():
        optimizer.step(np.array([float.fromhex(word) for word in line.split()], np.float32).astype(dtype))
    assert optimizer.step_count == 200
    return [*optimizer.flat.tolist(), *([] if optimizer.copy is None else optimizer.copy.flat.tolist())]


@pytest.mark.parametrize("compiler", ["cc -std=c11", "c++ -std=c++17 -x c++"])
def test_the_example_finds_what_python_finds(library, tmp_path, compiler):
    program = tmp_path / "example"
    link = ["-x", "none", f"-L{library}", f"-Wl,-rpath,{library}", "-lfastopt", "-lm"]
    shell(
        *compiler.split(), "-Wall", "-Wextra", "-Werror", "-O2", f"-I{CSRC}", CSRC / "example.c", "-o", program, *link
    )
    gradients, line, mixed_gradients, mixed_line, end = re.split(r"^(line .*)\n", shell(program), flags=re.MULTILINE)
    assert not end
    found, mixed = ([float.fromhex(word) for word in re.findall(NUMBER, words)] for words in (line, mixed_line))
    assert found == python_line(gradients, np.float32)
    assert mixed == python_line(mixed_gradients, ml_dtypes.bfloat16, copy="bfloat16")
    np.testing.assert_allclose([*found, *mixed], 3 * [3, -1], atol=0.01)


def test_the_example_against_the_installed_library(tmp_path):
    program = tmp_path / "example"
    folder = Path(capi.get_library()).parent
    link = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lfastopt", "-lm"]
    shell(CC, "-O2", f"-I{capi.get_include()}", CSRC / "example.c", "-o", program, *link)
    assert "line" in shell(program)


def test_cmake_finds_an_installed_library(tmp_path):
    """Few kernels are enough: the example's numbers are another test's."""
    prefix = tmp_path / "prefix"
    flags = shlex.join(["-O2", *EXAMPLE])  # must not start with a quote
    shell("cmake", "-S", CSRC, "-B", tmp_path / "build", f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DCMAKE_C_FLAGS={flags}")
    shell("cmake", "--build", tmp_path / "build")
    shell("cmake", "--install", tmp_path / "build")
    user = tmp_path / "user"
    user.mkdir()
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(user C)\nfind_package(fastopt 2 REQUIRED)\n"
        f"add_executable(user {CSRC / 'example.c'})\ntarget_link_libraries(user PRIVATE fastopt::fastopt m)\n"
    )
    shell("cmake", "-S", user, "-B", user / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    shell("cmake", "--build", user / "build")
    assert "line" in shell(user / "build" / "user")


OPTIONS = [
    "-ffinite-math-only",
    "-fno-signed-zeros",
    "-freciprocal-math",
    "-fassociative-math -fno-signed-zeros -fno-trapping-math",
    "-funsafe-math-optimizations",
    "-ffast-math",
]
MACROS = ["FAST_MATH", "FINITE_MATH_ONLY", "NO_SIGNED_ZEROS", "ASSOCIATIVE_MATH", "RECIPROCAL_MATH"]


#: How the library is compiled with one kernel, whatever the compiler warns of.
QUICK = [*(flag for flag in FLAGS if flag not in ("-Werror", "-g")), *ONE, "-O2", "-fPIC"]


def all_but_loops(compiler):
    """The objects of all sources but stamped.c: all arithmetic, and the test of it, is there."""

    def compile_in(folder: Path) -> None:
        folder.mkdir()
        shell(compiler, *QUICK, "-c", *(source for source in SOURCES if Path(source).name != "stamped.c"), cwd=folder)

    return sorted(once_for_all_workers(f"objects-{Path(compiler).name}", compile_in).iterdir())


def refusal(compiler, *flags):
    """What the compiler says against these flags, or nothing: it need not get further than the preprocessor."""
    command = [compiler, *QUICK, *flags, "-E", "-Wfatal-errors", CSRC / "stamped.c", "-o", os.devnull]
    return subprocess.run(command, capture_output=True, text=True).stderr


def step(compiler, folder, *flags):
    """What the library says of a step when its loops are compiled with these flags."""
    program = folder / "step"
    sources = [CSRC / "stamped.c", HERE / "step.c", *all_but_loops(compiler)]
    shell(compiler, *QUICK, *flags, *sources, "-o", program, "-lpthread", "-ldl", "-lm")
    return shell(program)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_options_that_change_results_are_refused(compiler, options, tmp_path):
    """By the compiler where it defines a macro for them, as GCC does, and by every step where nothing is defined."""
    hidden = [f"-U__{name}__" for name in MACROS]
    said = refusal(compiler, *options.split())
    assert not said or "compile without -ffast-math and its parts" in said
    assert refusal(compiler, *options.split(), *hidden) == ""
    assert "options that change results" in step(compiler, tmp_path, *options.split(), *hidden)


@pytest.mark.skipif(sys.platform != "linux", reason="puts a library before another as Linux does")
def test_a_library_that_changes_results_is_no_backend(tmp_path):
    library = tmp_path / "libfastopt.so"
    hidden = ["-fno-signed-zeros", *(f"-U__{name}__" for name in MACROS)]
    shared = ["-shared", "-Wl,-soname,libfastopt.so", "-o", library]
    shell(CC, *QUICK, *hidden, CSRC / "stamped.c", *all_but_loops(CC), *shared, "-lpthread", "-ldl", "-lm")
    python(
        """
        import numpy as np
        import fastopt
        found = fastopt.backends()["c"]
        assert not found and "options that change results" in found.reason, found
        try:
            fastopt.Optimizer(np.ones(3), fastopt.SGD(), backend="c")
        except fastopt.BackendError as error:
            assert str(error) == found.reason
        else:
            raise AssertionError("the library was used")
        """,
        LD_PRELOAD=str(library),
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_contraction_is_refused_or_has_no_effect(compiler, tmp_path):
    """GCC heeds what the source says of it, Clang does not."""
    clang = "clang" in shell(compiler, "--version")
    expected = "options that change results" if clang else "no error"
    assert expected in step(compiler, tmp_path, "-ffp-contract=fast")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets of x86-64")
@pytest.mark.parametrize("options", ["", "-march=sapphirerapids", "-march=skylake-avx512"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_each_instruction_set_has_its_registers(compiler, options):
    """Also where FLT_EVAL_METHOD is 16, and where the compiler would rather not use the widest registers.

    Whether it does is a matter of options: those of every kernel as it is installed are in test_machine_code.py.
    """
    command = [compiler, "-std=gnu11", "-O3", "-fno-math-errno", *only("adam"), *NATIVE, *options.split()]
    assembly = shell(*command, CSRC / "stamped.c", "-S", "-o", "-")
    functions = re.findall(r"^(\w+)_(32|64)_(avx2|avx512):(.*?)^\s*\.size\b", assembly, flags=re.M | re.S)
    found = {(kernel, dtype, isa): code for kernel, dtype, isa, code in functions if kernel == "adam"}
    assert len(found) == 2 * 2
    assert [name for name, code in found.items() if {"avx2": "%ymm", "avx512": "%zmm"}[name[2]] not in code] == []


def test_address_and_undefined_behaviour_sanitizers(tmp_path):
    """Kernels are one walk over so many arrays, and what they do with numbers is always defined: so few are enough."""
    program = tmp_path / "hammer"
    sanitize = [*FEW, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    shell(CC, *FLAGS, *sanitize, *SOURCES, HERE / "hammer.c", "-o", program, "-lpthread", "-ldl", "-lm")
    assert "same bits, pool libgomp" in shell(program, env=os.environ | {"OMP_NUM_THREADS": "4"})


def test_thread_sanitizer(tmp_path):
    """With a pool of plain threads in the place of libgomp, whose own synchronization the sanitizer does not see."""
    program = tmp_path / "hammer"
    pool = ["-fPIC", "-shared", "-Wl,-soname,libgomp.so.1", "-o", tmp_path / "libgomp.so.1"]
    shell(CC, *FLAGS, "-O1", "-fsanitize=thread", HERE / "pool.c", *pool, "-lpthread")
    kernels = only("sgd", "amsgrad")  # how many states there are makes no difference to threads
    options = [*FLAGS, *kernels, "-O1", "-fsanitize=thread"]
    shell(CC, *options, *SOURCES, HERE / "hammer.c", "-o", program, "-lpthread", "-ldl", "-lm")
    assert "same bits, pool libgomp" in shell(program, env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)})


def test_a_fork_before_the_first_call(tmp_path):
    program = tmp_path / "fork"
    sources = [*SOURCES, HERE / "fork.c"]
    shell(CC, *FLAGS, *ONE, "-O1", "-fopenmp", *sources, "-o", program, "-lpthread", "-ldl", "-lm")
    assert shell(program) == "the child ended with 0\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the library starts no threads")
@pytest.mark.parametrize(("arguments", "pool"), [([], "none"), (["threads"], "libgomp")])
def test_a_fork_before_the_library_is_loaded(library, tmp_path, arguments, pool):
    program = tmp_path / "late"
    shell(CC, "-Wall", "-Wextra", f"-I{CSRC}", HERE / "late.c", "-o", program, "-lpthread", "-ldl", "-lm")
    assert shell(program, library / "libfastopt.so", *arguments) == f"{pool}\n"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
@pytest.mark.parametrize(("grain", "threads"), [(0, 1), (20_000, 2), (1_000, 4), (2**62, 1)])
def test_a_call_uses_a_thread_for_each_grain(grain, threads):
    python(
        """
        import os, sys
        import numpy as np
        from fastopt._c import ffi, lib

        p, g, k = np.ones(50_000, np.float32), np.ones(50_000, np.float32), np.ones(4, np.float32)
        streams = [{"parts": [ffi.cast("void *", array.ctypes.data)]} for array in (p, g)]
        span = ffi.new("fastopt_span *", (p.size, ffi.cast("void *", k.ctypes.data), streams))
        span.kernel = lib.fastopt_find(b"sgd")
        before = len(os.listdir("/proc/self/task"))
        assert lib.fastopt_step(ffi.new("fastopt_call *", (span, 1, 4, 0, int(sys.argv[1])))) == 0
        made = len(os.listdir("/proc/self/task")) - before
        assert made == int(sys.argv[2]) - 1, made
        """,
        str(grain),
        str(threads),
        OMP_NUM_THREADS="4",
    )


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
@pytest.mark.parametrize("setting", [{}, {"OMP_NUM_THREADS": "1"}])
def test_a_million_threads_are_as_many_as_there_are_processors(setting):
    """Unless the host's own parallel regions have more, as in the test above."""
    python(
        """
        import os
        import numpy as np
        from fastopt._c import ffi, lib

        if os.environ.get("OMP_NUM_THREADS") != "1":
            os.environ.pop("OMP_NUM_THREADS", None)
        p, g, k = np.ones(50_000, np.float32), np.ones(50_000, np.float32), np.ones(4, np.float32)
        streams = [{"parts": [ffi.cast("void *", array.ctypes.data)]} for array in (p, g)]
        span = ffi.new("fastopt_span *", (p.size, ffi.cast("void *", k.ctypes.data), streams))
        before = len(os.listdir("/proc/self/task"))
        assert lib.fastopt_step(ffi.new("fastopt_call *", (span, 1, 10**6, 0, 1))) == 0
        made = len(os.listdir("/proc/self/task")) - before
        assert made == len(os.sched_getaffinity(0)) - 1, made
        """,
        **setting,
    )


def test_the_version_is_that_of_the_header_and_of_cmake():
    header = (CSRC / "fastopt.h").read_text()
    major, minor = (int(re.search(rf"FASTOPT_ABI_{part} (\d+)", header)[1]) for part in ("MAJOR", "MINOR"))
    assert ctypes.CDLL(capi.get_library()).fastopt_abi() == 1000 * major + minor
    assert f"VERSION {major}.{minor}." in (CSRC / "CMakeLists.txt").read_text()


def test_every_function_of_the_header_has_a_pointer():
    header = (CSRC / "fastopt.h").read_text()
    functions = re.findall(r"^[a-z][\w *]*?\b(fastopt_\w+)\(", header, flags=re.MULTILINE)
    assert sorted(functions) == sorted(capi.ENTRY_POINTS)


@pytest.mark.parametrize("name", capi.ENTRY_POINTS)
def test_capsules_hold_the_addresses(name):
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    shared = ctypes.pythonapi.PyCapsule_New
    shared.argtypes = (ctypes.py_object,)  # as somebody else wants it
    capsule = capi.capsule(name)
    assert shared.argtypes == (ctypes.py_object,)
    assert get(capsule, capi.ENTRY_POINTS[name].encode()) == capi.address(name)


def test_an_address_can_be_called():
    find = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p)(capi.address("fastopt_find"))
    assert find(b"sgd") == 0
    assert find(b"no such") == -1


def test_an_unknown_entry_point_is_named():
    with pytest.raises(ValueError, match="'fastopt_stepp'; did you mean 'fastopt_step'"):
        capi.address("fastopt_stepp")


def test_importing_the_pointers_needs_no_backend():
    code = "import sys; sys.modules['fastopt._c'] = None; import fastopt; fastopt.get_library()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "BackendError: backend 'c' is not available" in done.stderr
    assert "with a C compiler: pip install" in done.stderr
