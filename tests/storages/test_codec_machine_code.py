"""Every codec's loops are vectorized, in both engines: read from the machine code.

A loop counts if it works on the widest registers, without a call and without scalar floating point. float8 is written
by two of them, one that finds a block's largest magnitude and one that encodes.
"""

import platform
import re
from functools import cache

import pytest
from engines import FORMATS, ROUNDED, compiled
from test_machine_code import DIALECT, ISAS, loops, numba_widths, parse

from fastopt.storages import STORAGES

pytestmark = pytest.mark.compiled

SCALAR = {"x86_64": r"(?!v?p)\w*s[sd]", "aarch64": r"f\w+ [sd]\d+, .*"}[platform.machine()]

#: A conversion of as many numbers as the widest register holds may name only the narrower one that they fit then.
NARROWING = {"x86_64": r"vcvtp\w+y ", "aarch64": r"(?!)"}[platform.machine()]

#: Functions, and how many loops they must have.
FUNCTIONS = {f"decode_{name}": 1 for name in FORMATS}
FUNCTIONS |= {f"encode_{name}": 2 if name.startswith("float8") else 1 for name in FORMATS}
FUNCTIONS |= {f"encode_{name}_stochastic": FUNCTIONS[f"encode_{name}"] for name in ROUNDED}
FUNCTIONS["fill_noise"] = 1


def vectorized(functions: dict, widths: tuple[str, ...]) -> int:
    """How many loops there are that work on the widest registers."""
    found = 0
    for code, labels in functions.values():
        for loop in loops(DIALECT, code, labels):
            lines = [f"{name} {operands}" for name, operands in loop]
            if any(re.match(rf"({DIALECT.calls}|{SCALAR})\b", line) for line in lines):
                continue
            widest = any(sum(bool(re.search(DIALECT.widths[width], line)) for line in lines) > 1 for width in widths)
            found += widest or any(re.match(NARROWING, line) for line in lines)
    return found


# C


@cache
def c_code(*flags: str) -> dict:
    return parse(compiled(*flags).read_text())


@pytest.mark.parametrize("isa", ISAS[platform.machine()])
@pytest.mark.parametrize("dtype", ["32", "64"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_c(function, dtype, isa):
    name = f"{function}_{dtype}_{isa}"
    code = {name: c_code()[name]}
    assert vectorized(code, (ISAS[platform.machine()][isa],)) >= FUNCTIONS[function]
    assert not [
        line for line in code[name][0] if re.fullmatch(DIALECT.calls, line.name) and "memset" not in line.operands
    ]
    assert not [line for line in code[name][0] if re.fullmatch(DIALECT.fused, line.name)]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_c_without_vectorization_is_noticed(function):
    name = f"{function}_32_baseline"
    code = {name: c_code("-fno-tree-vectorize")[name]}
    assert vectorized(code, (ISAS[platform.machine()]["baseline"],)) < FUNCTIONS[function]


@pytest.mark.parametrize("isa", ISAS[platform.machine()])
def test_c_steps_float32_beside_bfloat16_by_vectors(isa):
    def widest(*flags: str) -> int:
        lines = [f"{name} {operands}" for name, operands in c_code(*flags)[f"step_mixed_32_{isa}"][0]]
        return sum(bool(re.search(DIALECT.widths[ISAS[platform.machine()][isa]], line)) for line in lines)

    assert widest() > 16 > widest("-fno-tree-vectorize")


# numba


def numba_code(function: str, dtype: str) -> dict:
    """What numba makes of a codec, past every cache."""
    numba = pytest.importorskip("numba", exc_type=ImportError)
    from fastopt.codecs import CODECS, noise

    if function == "fill_noise":
        dispatcher, signature = noise.fill_noise, (numba.uint64, numba.int64, numba.uint32[::1])
    else:
        kind, name, *stochastic = re.fullmatch(r"(decode|encode)_(.*?)(_stochastic)?", function).groups()
        codec = CODECS[name]
        parts = [numba.from_dtype(part.dtype)[::1] for part in STORAGES[name].parts]
        values = getattr(numba, dtype)[::1]
        last = (numba.uint32,) * len(codec.arguments)
        if kind == "decode":
            dispatcher, signature = codec.decode, (*parts, values, *last)
        elif stochastic[0]:
            dispatcher = codec.encode_stochastic
            signature = (values, *parts, numba.uint32[::1], numba.uint32, *last)
        else:
            dispatcher, signature = codec.encode, (values, *parts, *last)
    dispatcher = numba.njit(error_model="numpy")(dispatcher.py_func)
    dispatcher.compile(signature)
    (assembly,) = dispatcher.inspect_asm().values()
    return parse(assembly)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_numba(function, dtype):
    code = numba_code(function, dtype)
    assert vectorized(code, numba_widths()) >= FUNCTIONS[function]
    assert not [line for lines, _ in code.values() for line in lines if re.fullmatch(DIALECT.fused, line.name)]


def test_numba_without_vectorization_is_noticed(monkeypatch):
    numba = pytest.importorskip("numba", exc_type=ImportError)
    monkeypatch.setattr(numba.config, "LOOP_VECTORIZE", 0)
    for function in ("decode_bfloat16", "encode_split", "fill_noise"):
        assert vectorized(numba_code(function, "float32"), numba_widths()) == 0
