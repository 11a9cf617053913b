"""Every kernel's loop is vectorized, in both backends: read from the machine code.

A kernel's expression says how many multiplications, additions, divisions and square roots an element takes. Its machine
code must have a loop with at least as many packed instructions of each kind, on the widest registers, without a call
and without scalar arithmetic. Nor may there be a fused multiply-add anywhere: it would round once less.
"""

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cases import every_kernel

import fastopt
from fastopt.sizes import LANES

pytestmark = pytest.mark.compiled

SOURCE = Path(__file__).parents[2] / "csrc"
DTYPES = ("float32", "float64")

if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
    pytest.skip("reads the machine code of x86-64 and AArch64 in ELF only", allow_module_level=True)


class Instruction(NamedTuple):
    name: str
    operands: str


class Dialect(NamedTuple):
    """How an architecture's instructions look, in the syntax that gcc, LLVM and objdump share."""

    calls: str
    jumps: str
    fused: str
    compares: str  # numbers
    scalar: str  # arithmetic on one element
    packed: dict[str, str]  # by dtype: arithmetic on a register full of elements, with the operation as its group
    widths: dict[str, str]  # a register's kind and its operand, the widest last


DIALECTS = {
    "x86_64": Dialect(
        calls=r"callq?",
        jumps=r"j[a-z]+",
        fused=r"vfn?m(add|sub).*",
        compares=r"v?u?comis[sd]|v?cmp.*[ps][sd]",
        scalar=r"v?(add|sub|mul|div|sqrt)s[sd]",
        packed={"float32": r"v?(add|sub|mul|div|sqrt)ps", "float64": r"v?(add|sub|mul|div|sqrt)pd"},
        widths={"xmm": r"%xmm\d+", "ymm": r"%ymm\d+", "zmm": r"%zmm\d+"},
    ),
    "aarch64": Dialect(
        calls=r"blr?",
        jumps=r"b|b\.?(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|any|none)|cbn?z|tbn?z",
        fused=r"fn?m(add|sub)|fml[as].*|fnml[as]",
        compares=r"fcmp.*|fcm[a-z]{2}|fac[a-z]{2}",
        scalar=r"f(add|sub|mul|div|sqrt) [sd]\d+",
        packed={
            "float32": r"f(add|sub|mul|div|sqrt) (?:v\d+\.4s|z\d+\.s)",
            "float64": r"f(add|sub|mul|div|sqrt) (?:v\d+\.2d|z\d+\.d)",
        },
        widths={"neon": r"[vz]\d+\."},
    ),
}


def operations(kernel: str, folder: str = "kernels") -> Counter:
    """What an element takes: operations by kind, without those that only one side of a selection needs."""
    source = (Path(fastopt.__file__).parent / folder / f"{kernel}.py").read_text()
    names = {ast.Mult: "mul", ast.Add: "add", ast.Sub: "add", ast.Div: "div"}
    found: Counter = Counter()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.BinOp):
            found[names[type(node.op)]] += 1
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "word":  # integers
                return
            found.update({"sqrt": ["sqrt"], "term": ["mul"]}.get(node.func.id, ()))
            found.update(operations("cbrt") if node.func.id == "cbrt" else ())
        for child in ast.iter_child_nodes(node):
            if not isinstance(node, ast.IfExp) or child is node.test:
                visit(child)

    nodes = list(ast.walk(ast.parse(source)))
    (one,) = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "of_element"] or [
        node for node in nodes if isinstance(node, ast.For)
    ]
    for statement in one.body:
        visit(statement)
    return found


def chooses_nothing(kernel: str) -> bool:
    """Whether a kernel has no selection of its own."""
    source = (Path(fastopt.__file__).parent / "kernels" / f"{kernel}.py").read_text()
    return not any(isinstance(node, ast.IfExp) for node in ast.walk(ast.parse(source)))


def parse(assembly: str) -> dict[str, tuple[list[Instruction], dict[str, int]]]:
    """The functions in a listing by objdump or a compiler: instructions, and the index of the one after each label."""
    functions: dict[str, tuple[list[Instruction], dict[str, int]]] = {}
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in assembly.splitlines():
        line = re.sub(r"\s+(#|//).*", "", line)
        if found := re.fullmatch(r"[0-9a-f]+ <(.+)>:|([^\s.#\"][^:\s]*):", line):
            code, labels = functions.setdefault(found[1] or found[2], ([], {}))
        elif found := re.fullmatch(r"(\.\w+):", line):
            labels[found[1]] = len(code)
        elif found := re.fullmatch(r"\s+(?:([0-9a-f]+):\s+)?([a-z][a-z0-9.]*)(?:\s+(.*?))?\s*", line):
            if found[1]:
                labels[found[1]] = len(code)
            code.append(Instruction(found[2], re.sub(r"\s+", " ", found[3] or "")))
    return functions


def loops(dialect: Dialect, code: list[Instruction], labels: dict[str, int]) -> list[list[Instruction]]:
    """The innermost loops: from the target of each jump back to the jump, and what they jump to that jumps back."""

    def target(index: int) -> int:
        """Where an instruction jumps to."""
        return labels.get(re.sub(r" <.*>$", "", code[index].operands).split(", ")[-1], len(code))

    jumps = [index for index, instruction in enumerate(code) if re.fullmatch(dialect.jumps, instruction.name)]
    spans = [(target(end), end) for end in jumps if target(end) <= end]
    found = []
    for start, stop in spans:
        if any(other != (start, stop) and start <= other[0] and other[1] <= stop for other in spans):
            continue
        loop = code[start : stop + 1]
        for begin in {target(index) for index in jumps if start <= index <= stop < target(index) < len(code)}:
            end = next((index for index in jumps if index >= begin and code[index].name in ("jmp", "b")), begin)
            if start <= target(end) <= stop:
                loop += code[begin : end + 1]
        found.append(loop)
    return found


def arithmetic(dialect: Dialect, loop: list[Instruction], dtype: str, width: str) -> Counter:
    """Packed operations of a loop by kind; nothing if it computes with single elements or calls a function."""
    found: Counter = Counter()
    for name, operands in loop:
        if re.fullmatch(dialect.calls, name) or re.match(dialect.scalar + r"\b", f"{name} {operands}"):
            return Counter()
        packed = re.match(dialect.packed[dtype] + r"\b", f"{name} {operands}")
        if packed and re.search(dialect.widths[width], operands):
            found["add" if packed[1] == "sub" else packed[1]] += 1
    return found


def packed(code: list[Instruction]) -> Counter:
    """All packed operations of a function by kind, whatever else there is."""
    text = "\n".join(f"{each.name} {each.operands}" for each in code)
    found = [re.findall(rf"^{pattern}\b", text, re.MULTILINE) for pattern in DIALECT.packed.values()]
    return Counter("add" if each == "sub" else each for each in chain(*found))


def problem(
    dialect: Dialect, functions: dict, kernel: str, dtype: str, widths: tuple[str, ...], *, without_one: bool = False
) -> str:
    """What is wrong with a kernel's machine code, or nothing."""
    needed = operations(kernel) - Counter(mul=without_one)
    best: Counter = Counter()
    for code, labels in functions.values():
        fused = [instruction for instruction in code if re.fullmatch(dialect.fused, instruction.name)]
        if fused:
            return f"{kernel} {dtype}: fused {fused[0]}"
        for loop in loops(dialect, code, labels):
            found = max((arithmetic(dialect, loop, dtype, width) for width in widths), key=Counter.total)
            if found >= needed:
                return ""
            best = max(best, found, key=Counter.total)
    return f"{kernel} {dtype}: needs a loop with {dict(needed)} on {' or '.join(widths)}, the best one has {dict(best)}"


DIALECT = DIALECTS[platform.machine()]


# numba


def numba_widths() -> tuple[str, ...]:
    """The widest registers of this processor; LLVM leaves those of AVX-512 alone where they slow the clock down."""
    import llvmlite.binding as llvm

    if platform.machine() == "aarch64":
        return ("neon",)
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return ("ymm", "zmm")
    return ("ymm",) if features.get("avx") else ("xmm",)


def numba_code(kernel: str, dtype: str, terms: str, **options) -> dict:
    """What numba makes of a kernel now, past every cache: those say nothing about machine code."""
    numba = pytest.importorskip("numba", exc_type=ImportError)
    from fastopt.backend.versions import Terms, replacements
    from fastopt.kernels import KERNELS, twin

    version = replacements(KERNELS[kernel], Terms[terms])
    dispatcher = twin(KERNELS[kernel], f"machine_code.{dtype}", version, _nrt=False, **options)
    array = getattr(numba, dtype)[::1]
    dispatcher.compile((array,) * KERNELS[kernel].py_func.__code__.co_argcount)
    (assembly,) = dispatcher.inspect_asm().values()
    return parse(assembly)


#: Each version, each dtype and each way to run.
COMPILED = [
    ("float32", "NO_L2", {"nogil": True}),
    ("float32", "SOME", {"parallel": True}),
    ("float64", "ALL", {"nogil": True}),
]


@pytest.mark.parametrize(
    ("dtype", "terms", "options"),
    COMPILED,
    ids=["-".join((dtype, terms, *options)) for dtype, terms, options in COMPILED],
)
@pytest.mark.parametrize("kernel", every_kernel())
def test_numba(kernel, dtype, terms, options):
    pytest.importorskip("numba", exc_type=ImportError)
    from fastopt.backend.versions import watched
    from fastopt.kernels import KERNELS

    l2, others = watched(KERNELS[kernel])
    terms = "ALL" if terms == "NO_L2" and l2 is None else terms
    functions = numba_code(kernel, dtype, terms, **options)
    known = terms == "NO_L2"  # a term that is not there
    if options.get("parallel"):
        functions = {name: code for name, code in functions.items() if "parfor_gufunc" in name}
        if chooses_nothing(kernel):  # so what is compared are the coefficients, with zero
            compares = any(re.fullmatch(DIALECT.compares, each.name) for code, _ in functions.values() for each in code)
            assert compares == (terms == "SOME")
    else:
        known |= terms == "SOME" and len(others) == 1  # else the row is refused, in the same function
    assert problem(DIALECT, functions, kernel, dtype, numba_widths(), without_one=known) == ""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["lamb", "sum_squares"])
def test_numba_adds_a_row_of_lanes_at_a_time(name, dtype, monkeypatch):
    """What elements contribute to a sum is computed by vectors, and as many of them are added as a row of lanes has."""
    numba = pytest.importorskip("numba", exc_type=ImportError)
    from numba.core.dispatcher import Dispatcher

    from fastopt.backend import compile as compiling
    from fastopt.sums import SUMS

    def problems() -> list[str]:
        monkeypatch.setattr(compiling, "dispatchers", {})
        (assembly,) = compiling.sum_driver(name, np.dtype(dtype), False).inspect_asm().values()
        (code,) = (code for each, (code, _) in parse(assembly).items() if "sums_of_share" in each)
        found = packed(code)
        lanes = LANES * len(SUMS[name].numbers) // 8  # of the widest registers
        needed = operations(name, "sums") + Counter(add=lanes)
        return [f"{each}: {found[each]} of {count}" for each, count in needed.items() if found[each] < count]

    monkeypatch.setattr(Dispatcher, "enable_caching", lambda self: None)  # a cache says nothing about machine code
    assert problems() == []
    monkeypatch.setattr(numba.config, "LOOP_VECTORIZE", 0)
    monkeypatch.setattr(numba.config, "SLP_VECTORIZE", 0)
    assert problems()


@pytest.mark.parametrize("kernel", ["adam", "lion", "sgd"])
def test_numba_steps_chunks_of_bfloat16_by_vectors(kernel, monkeypatch):
    numba = pytest.importorskip("numba", exc_type=ImportError)
    from numba.core.dispatcher import Dispatcher

    from fastopt.backend import compile as compiling
    from fastopt.backend.versions import Terms
    from fastopt.kernels import KERNELS

    def enough() -> bool:
        dispatchers: dict = {}
        monkeypatch.setattr(compiling, "dispatchers", dispatchers)
        buffers = 2 + len(every_kernel()[kernel].states)
        compiling.driver(KERNELS[kernel], np.dtype("float32"), buffers, False, Terms.ALL, compiling.Way.BFLOAT16)
        (dispatcher,) = (found[1] for found in dispatchers.values() if isinstance(found, tuple))
        (assembly,) = dispatcher.inspect_asm().values()
        (code,) = (code for name, (code, _) in parse(assembly).items() if re.match(r"_ZN7fastopt\w*6chunks", name))
        called = [each.operands for each in code if re.search(r"_ZN\d*fastopt", each.operands)]
        assert called == [], "calls what belongs into it"
        return packed(code) >= operations(kernel)

    monkeypatch.setattr(Dispatcher, "enable_caching", lambda self: None)  # a cache says nothing about machine code
    assert enough()
    monkeypatch.setattr(numba.config, "LOOP_VECTORIZE", 0)
    monkeypatch.setattr(numba.config, "SLP_VECTORIZE", 0)
    assert not enough()


def test_numba_without_vectorization_is_noticed(monkeypatch):
    numba = pytest.importorskip("numba", exc_type=ImportError)
    monkeypatch.setattr(numba.config, "LOOP_VECTORIZE", 0)
    functions = numba_code("adam", "float32", "ALL", nogil=True)
    assert "needs a loop" in problem(DIALECT, functions, "adam", "float32", numba_widths())


# C


def compiled(*flags: str) -> dict:
    """What the compiler makes of stamped.c with the flags of CMakeLists.txt and these."""
    compiler = os.environ.get("CC", "cc").split()
    if not shutil.which(compiler[0]):
        (pytest.fail if os.environ.get("FASTOPT_REQUIRE_C") == "1" else pytest.skip)("there is no C compiler")
    (options,) = re.findall(r"target_compile_options\(\w+ PRIVATE (.*)\)", (SOURCE / "CMakeLists.txt").read_text())
    command = [*compiler, "-O3", "-fPIC", *options.split(), *flags, "-S", "-o", "-", "stamped.c"]
    return parse(subprocess.run(command, cwd=SOURCE, check=True, capture_output=True, text=True).stdout)


@cache
def c_code() -> dict:
    """The functions of the installed library or, where it is stripped of their names, of its source."""
    if fastopt.backends()["c"] and shutil.which("objdump"):
        command = ["objdump", "--disassemble", "--no-show-raw-insn", fastopt.get_library()]
        functions = parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if any(name.startswith("sgd_32_") for name in functions):
            return functions
    return compiled()


ISAS = {"x86_64": {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}, "aarch64": {"baseline": "neon"}}


@pytest.mark.parametrize("isa", ISAS[platform.machine()])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", every_kernel())
def test_c(kernel, dtype, isa):
    functions = c_code()
    name = f"{kernel}_{dtype.removeprefix('float')}_{isa}"
    assert name in functions
    widths = (ISAS[platform.machine()][isa],)
    assert problem(DIALECT, {name: functions[name]}, kernel, dtype, widths) == ""
    code, labels = functions[name]
    assert [instruction for instruction in code if re.fullmatch(DIALECT.calls, instruction.name)] == []
    decays = "l2" in every_kernel()[kernel].coefficients(1)
    needed = operations(kernel) - Counter(mul=int(decays))  # the loop without l2
    vectorized = [loop for loop in loops(DIALECT, code, labels) if arithmetic(DIALECT, loop, dtype, *widths) >= needed]
    assert len(vectorized) >= 2 + decays, "one with every term, one that looks at every coefficient, one without l2"


@pytest.mark.parametrize("isa", ISAS[platform.machine()])
@pytest.mark.parametrize("kernel", every_kernel())
def test_c_steps_chunks_of_bfloat16_by_vectors(kernel, isa):
    """Loops over a chunk may be unrolled as a whole, so all of the function is looked at."""
    code, _ = c_code()[f"{kernel}_bfloat16_32_{isa}"]
    assert arithmetic(DIALECT, code, "float32", ISAS[platform.machine()][isa]) >= operations(kernel)


def test_c_has_no_fused_instruction_anywhere():
    fused = {
        name: instruction
        for name, (code, _) in c_code().items()
        for instruction in code
        if re.fullmatch(DIALECT.fused, instruction.name)
    }
    assert fused == {}


def test_c_without_vectorization_is_noticed():
    kernels = "sgd", "adam", "rprop"
    lists = f"-DKERNELS(_)={' '.join(f'_({kernel})' for kernel in kernels)}", "-DSUMS(_)=_(sum_squares)", "-DCODECS(_)="
    functions = compiled("-fno-tree-vectorize", *lists)
    for kernel in kernels:
        width = ISAS[platform.machine()]["baseline"]
        name = f"{kernel}_32_baseline"
        assert "needs a loop" in problem(DIALECT, {name: functions[name]}, kernel, "float32", (width,))


@pytest.mark.parametrize(
    ("machine", "instruction"),
    [
        ("x86_64", "vfmadd231ps\t%ymm0, %ymm1, %ymm2"),
        ("x86_64", "vfnmsub132sd\t(%rdi), %xmm1, %xmm2"),
        ("aarch64", "fmla\tv0.4s, v1.4s, v2.s[0]"),
        ("aarch64", "fmsub\td0, d1, d2, d3"),
    ],
)
def test_a_fused_instruction_is_noticed(machine, instruction):
    functions = parse(f"sgd_32:\n\t{instruction}\n\tret\n")
    assert "fused" in problem(DIALECTS[machine], functions, "sgd", "float32", tuple(DIALECTS[machine].widths))
