"""Kernels in users' nopython code and users' own rules: the pages that show them, and what they promise."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import pytest
from cases import ELEMENTWISE
from click.testing import CliRunner
from harness import python

import fastopt
from fastopt import kernels, rules
from fastopt.cli import cli
from fastopt.kernels import KERNELS

PAGES = [Path(module.__file__).with_name("README.md") for module in (kernels, rules)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the examples of the pages define; they run as a file outside the package."""
    text = "\n".join(page.read_text() for page in PAGES)
    examples = "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    file = tmp_path_factory.mktemp("page") / "page.py"
    file.write_text(examples)
    lines = []
    names = {"__name__": "page", "__file__": str(file), "print": lambda *words: lines.append(" ".join(map(str, words)))}
    exec(compile(examples, str(file), "exec"), names)
    assert lines == re.findall(r"print\(.*\)  # (.*)", examples)
    return names


def test_the_pages_print_what_they_promise(page):
    assert {"fit", "factorize", "Ternary"} <= set(page)


BY_TABLE = [name for name, rule in ELEMENTWISE.items() if rule().sums is None]


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in BY_TABLE), ("Adam", "float64")])
def test_a_compiled_loop_has_the_bits_of_an_optimizer(name, dtype):
    rule = fastopt.RULES[name](lr=fastopt.schedules.Exponential(0.01, 0.9))
    kernel = getattr(kernels, rule.kernel)
    count = len(rule.states)
    arguments = ", ".join(["p", "gradients[step]", *(f"states[{i}]" for i in range(count)), "table[step]"])
    source = f"def loop(p, gradients, states, table):\n    for step in range(5):\n        kernel({arguments})\n"
    names = {"kernel": kernel}
    exec(source, names)
    rng = np.random.default_rng(7)
    start, gradients = rng.standard_normal(37).astype(dtype), rng.standard_normal((5, 37)).astype(dtype)
    p = start.copy()
    states = np.array([np.full(37, first) for first in rule.states.values()], dtype).reshape(count, 37)
    numba.njit(names["loop"])(p, gradients, states, rule.table(5, dtype))
    expected = start.copy()
    optimizer = fastopt.Optimizer(expected, rule)
    for gradient in gradients:
        optimizer.step(gradient)
    assert p.tobytes() == expected.tobytes()
    assert states.tobytes() == b"".join(state.flat.tobytes() for state in optimizer.state.values())


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_exported_as_its_serial_twin(name):
    exported = getattr(kernels, name)
    assert exported is not KERNELS[name]
    assert "parallel" not in exported.targetoptions
    assert exported.py_func.__code__ is KERNELS[name].py_func.__code__


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cube_roots_of_all_numbers(dtype):
    """Exactly compared, of random bits with both signs, and of the least and the largest numbers."""
    info = np.finfo(dtype)
    word = np.dtype(f"u{info.bits // 8}")
    given = np.random.default_rng(9).integers(0, np.iinfo(word).max, 2000, word, endpoint=True).view(dtype)
    given = np.append(given[np.isfinite(given)], [info.smallest_subnormal, info.tiny, -info.max, 1, -27])
    for x, root in zip(given, map(dtype, map(kernels.cbrt, given)), strict=True):
        found, away = Fraction(float(root)), Fraction(81, 100) * Fraction(float(np.spacing(abs(root))))
        assert (found - away) ** 3 < Fraction(float(x)) < (found + away) ** 3
    own = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    assert np.array([kernels.cbrt(x) for x in own], dtype).tobytes() == own.tobytes()


def numpy_ternary(rule, p, gradients, dtype):
    m, lr, beta, threshold = np.zeros_like(p), dtype(rule.lr), dtype(rule.beta), dtype(rule.threshold)
    for g in gradients:
        m = beta * m + dtype(1 - rule.beta) * g
        p = dtype(1) * p - np.where(abs(m) > threshold, np.sign(m), 0) * lr
    return p, m


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 33, 200_001])
def test_an_own_rule_runs_serially_and_in_parallel(page, dtype, size):
    rng = np.random.default_rng(3)
    start, gradients = rng.standard_normal(size).astype(dtype), rng.standard_normal((4, size)).astype(dtype)
    p = start.copy()
    optimizer = fastopt.Optimizer(p, page["Ternary"]())
    assert optimizer.backend == "numba"
    for gradient in gradients:
        optimizer.step(gradient)
    expected, m = numpy_ternary(optimizer.rule, start, gradients, dtype)
    assert p.tobytes() == expected.tobytes()
    assert optimizer.state["momentum_buffer"].flat.tobytes() == m.tobytes()


def test_an_own_rule_resumes_with_the_same_bits(page, tmp_path):
    rng = np.random.default_rng(5)
    gradients = rng.standard_normal((6, 50)).astype(np.float32)
    whole, part, rest = (fastopt.FlatBuffer({"w": np.ones(50)}, dtype="float32") for _ in range(3))
    rule = page["Ternary"](lr=fastopt.schedules.Linear(0.1, steps=6), weight_decay=0.1, maximize=True)
    for params, some in (whole, gradients), (part, gradients[:3]):
        optimizer = fastopt.Optimizer(params, rule)
        for gradient in some:
            optimizer.step(gradient, max_norm=2.0)
    optimizer.save(tmp_path / "half.safetensors")
    resumed = fastopt.Optimizer(rest, page["Ternary"]())
    resumed.load(tmp_path / "half.safetensors")
    for gradient in gradients[3:]:
        resumed.step(gradient, max_norm=2.0)
    assert rest.flat.tobytes() == whole.flat.tobytes()


def test_kernels_without_the_compiler_are_refused():
    python(
        """
        try:
            from fastopt.kernels import adam
        except ImportError as error:
            assert "NUMBA_DISABLE_JIT is set" in str(error)
        else:
            raise AssertionError(adam)
        """,
        NUMBA_DISABLE_JIT="1",
    )


def test_the_c_backend_refuses_an_own_kernel_by_name(page):
    with pytest.raises(fastopt.BackendError, match="C backend has no kernel.*ternary.*backend='numba'"):
        fastopt.Optimizer(np.ones(3), page["Ternary"](), backend="c").step(np.ones(3))


def test_a_kernel_that_takes_other_states_is_refused(page):
    class Wrong(page["Ternary"]):
        states = {"velocity": 0.0}

    with pytest.raises(ValueError, match=r"Wrong: its kernel must take \(p, g, velocity, k\), not \(p, g, mom"):
        fastopt.Optimizer(np.ones(3), Wrong())


def test_a_plain_python_function_can_be_a_kernel():
    def descend(p, g, k):
        for i in range(p.size):
            p[i] = p[i] - k[3] * (k[0] * g[i])

    class Plain(fastopt.Rule):
        lr: fastopt.declared.LearningRate = 0.5
        kernel = descend
        states = {}

        def coefficients(self, step):
            return self.common(self.lr) | {"step_size": self.lr}

    p = np.ones(3)
    fastopt.Optimizer(p, Plain()).step(np.array([1.0, 2.0, 3.0]))
    assert p.tolist() == [0.5, 0.0, -0.5]


@pytest.fixture
def installed(page, tmp_path, monkeypatch):
    """The rule of the page as a module that Python finds, as that of an installed package."""
    examples = re.findall(r"```python\n(.*?)```", PAGES[1].read_text(), flags=re.DOTALL)
    rule = next(example for example in examples if "class Ternary" in example)
    (tmp_path / "steps.py").write_text(rule)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_an_own_rule_is_measured(installed):
    command = ["bench", "--rule", "steps.Ternary:beta=0.5", "--size", "1000", "--json"]
    done = installed.invoke(cli, command, catch_exceptions=False)
    found = json.loads(done.stdout)
    assert [(result["engine"], result["kernel"]) for result in found["results"]] == [("numba", "ternary")]
    assert [refusal["engine"] for refusal in found["refused"]] == ["c"]


def test_an_own_rule_of_more_states_than_any_other_is_measured(installed):
    names = [f"s{number}" for number in range(6)]
    Path("long.py").write_text(f"""
import numba
import fastopt
from fastopt.declared import LearningRate

@numba.njit(error_model="numpy")
def kernel(p, g, {", ".join(names)}, k):
    for i in range(p.size):
        p[i] -= k[-2] * g[i]

class Long(fastopt.Rule):
    lr: LearningRate = 0.1
    states = {dict.fromkeys(names, 0.0)}
    kernel = kernel

    def coefficients(self, step):
        return self.common(self.lr) | {{"step_size": self.lr}}
""")
    command = ["bench", "--rule", "long.Long", "--size", "1000", "--turns", "1", "--json"]
    done = installed.invoke(cli, command, catch_exceptions=False)
    assert [result["engine"] for result in json.loads(done.stdout)["results"]] == ["numba"]


def test_an_own_rule_trains(installed):
    command = ["train", "--optimizer", "steps.Ternary:lr=0.001", "--epochs", "2", "--out", "run"]
    assert installed.invoke(cli, command, catch_exceptions=False).exit_code == 0
    assert Path("run", "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("steps.Turnery", "Turnery"), ("nosuch.Rule", "nosuch"), ("steps.prange", "must be a subclass of")],
)
def test_an_own_rule_that_is_not_there(installed, name, message):
    done = installed.invoke(cli, ["train", "--optimizer", name])
    assert done.exit_code == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
