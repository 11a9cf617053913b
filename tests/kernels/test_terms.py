"""A coefficient of zero means that its term is not there: 0 * infinity, which is NaN, appears in no kernel.

So an infinite parameter stays infinite where nothing decays it, and no NaN comes out of finite numbers.
"""

import ast
import types
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cases import ELEMENTWISE, about, by_kind, cases, every_form, every_kernel, within
from conftest import BACKENDS
from test_bits import SERIAL, assert_same, coefficients, data, using

import fastopt
from fastopt.backend.choice import select
from fastopt.backend.program import Work, run
from fastopt.rule import Rule

pytestmark = pytest.mark.compiled

PACKAGE = Path(fastopt.__file__).parent
CSRC = Path(__file__).parents[2] / "csrc"
KERNELS = every_kernel()

#: What is shown of whole steps is shown on one backend: the other one has the same bits, with these terms and without.
BACKEND = BACKENDS[-1]

#: A coefficient that multiplies also where it is zero: what is not finite in a gradient must reach the parameters.
PLAIN = {"grad_scale"}

#: Rules whose second moment remembers though its beta is zero: as a maximum, as a variance around what beta1 remembers,
#: as a sum.
UNFORGETTING = {"AMSGrad", "AdaBelief", "Yogi", "ScheduleFreeRAdam"}


@cache
def tree(kernel: str) -> ast.FunctionDef:
    source = (PACKAGE / "kernels" / f"{kernel}.py").read_text()
    (function,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return function


def terms(kernel: str) -> list[ast.Call]:
    """The calls of ``term`` in a kernel."""
    calls = (node for node in ast.walk(tree(kernel)) if isinstance(node, ast.Call))
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "term"]


def guarded(kernel: str) -> list[str]:
    """The coefficients of a kernel that stand in terms."""
    return sorted({call.args[0].id for call in terms(kernel)})


@cache
def factors(kernel: str) -> set[str]:
    """The names that are multiplied in a kernel's loop outside of ``term``."""
    products = (
        node for node in ast.walk(tree(kernel)) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
    )
    return {side.id for node in products for side in (node.left, node.right) if isinstance(side, ast.Name)}


def variants(rule: type[Rule]):
    """The rule in every form, with each of its fields at each value that its domain includes."""
    for form in every_form(rule):
        for name, field in rule.fields.items():
            for value in within(field.domain):
                try:
                    yield form.replace(**{name: value})
                except ValueError:  # what does not go with the other fields
                    continue


@pytest.mark.parametrize("rule", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_every_factor_that_can_be_zero_stands_in_a_term(rule):
    for made in variants(rule):
        for step in (1, 2, 7, 1000):
            try:
                values = made.coefficients(step)
            except (OverflowError, ValueError):  # too large
                continue
            zero = {name for name, value in values.items() if abs(value) < 2.0**-150}  # as float32
            wrong = zero & factors(made.kernel) - PLAIN
            assert not wrong, f"{made!r}: {wrong} can be zero in step {step}: write term(c, x) in {made.kernel}.py"


@pytest.mark.parametrize("kernel", KERNELS)
def test_both_languages_have_the_same_terms(kernel):
    source = (CSRC / "kernels" / f"{kernel}.h").read_text()
    assert source.count("TERM(") == len(terms(kernel))
    assert all(f"TERM({name}, " in source for name in guarded(kernel))


def without(kernel: str, name: str):
    """The kernel's Python function for NumPy's scalars, in which the terms of a coefficient are written as zeros."""

    class Removed(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            if not (isinstance(node.func, ast.Name) and node.func.id == "term"):
                return node
            return ast.copy_location(ast.Name("nothing", ast.Load()), node) if node.args[0].id == name else node

    function = Removed().visit(ast.parse(ast.unparse(tree(kernel))).body[0])
    function.decorator_list = []
    names: dict = {"prange": range, "sqrt": np.sqrt, "to_fixed_tuple": lambda k, n: tuple(k)}
    names["term"] = lambda c, x: c * x if c else c  # others may be zero, too
    if kernel == "madgrad":
        names["cbrt"] = pytest.importorskip("fastopt.kernels.cbrt", exc_type=ImportError).cbrt.py_func
    exec(compile(ast.fix_missing_locations(ast.Module([function], [])), kernel, "exec"), names)

    def run_on(*buffers: np.ndarray) -> None:
        bound = types.FunctionType(names[kernel].__code__, names | {"nothing": buffers[-1].dtype.type(0)})
        with np.errstate(all="ignore"):
            bound(*buffers)

    return run_on


#: Terms are in the expressions, whatever the dtype; Adam's are looked at in both.
GUARDED = [(kernel, name, "float32") for kernel in KERNELS for name in guarded(kernel)]
GUARDED += [("adam", name, "float64") for name in guarded("adam")]


@pytest.mark.parametrize(("kernel", "name", "dtype"), GUARDED)
def test_a_coefficient_of_zero_is_a_term_that_is_not_there(kernel, name, dtype):
    rule = KERNELS[kernel]
    start = data(np.random.default_rng(8), rule, 700, dtype)
    k = coefficients(rule, 1, dtype)
    if name in (others := list(rule.coefficients(1))):
        k[others.index(name)] = 0
    expected = [buffer.copy() for buffer in start]
    without(kernel, name)(*expected, k)
    for engine in SERIAL:
        with using(engine):
            buffers = [buffer.copy() for buffer in start]
            program = select(engine.backend)[0].bind([Work(kernel, tuple(buffers), k)], engine.threads)
        run(program)
        assert_same(plus_zero(buffers), plus_zero(expected), f"{engine} without {name}")


def plus_zero(buffers: list[np.ndarray]) -> list[np.ndarray]:
    """The buffers without negative zeros: of a term that is not there the sign of zero is not promised."""
    return [buffer + buffer.dtype.type(0) for buffer in buffers]


def undecayed() -> list[Rule]:
    """Every case in which nothing pulls a parameter towards zero."""
    found = []
    for rule in cases():
        made = rule.replace(weight_decay=0.0) if "weight_decay" in rule.fields else rule
        if made not in found:
            found.append(made)
    return found


@by_kind(undecayed())
def test_infinite_parameters_stay_infinite(rules, dtype):
    for rule in rules:
        with about(rule):
            infinite_parameters_stay(rule, dtype)


def infinite_parameters_stay(rule: Rule, dtype: str) -> None:
    p = np.array([-np.inf, 0.5, np.inf] * 7, dtype)
    optimizer = fastopt.Optimizer(p, rule, backend=BACKEND, ema_decay=0.9, accumulate=2)
    for _ in range(30):
        optimizer.step(np.array([0, 0.1, 0] * 7, dtype))
    for values in (p, optimizer.ema.flat):
        assert np.isneginf(values[::3]).all() and np.isposinf(values[2::3]).all() and np.isfinite(values[1::3]).all()
    for name, state in optimizer.state.items():
        assert not np.isnan(state.flat).any(), name


def test_the_example(backend):
    p = np.array([-np.inf, 0.5])
    fastopt.Optimizer(p, fastopt.SGD(lr=1e-3), backend=backend).step(np.array([0, 0.1]))
    assert p.tolist() == [-np.inf, 0.4999]


def test_an_average_without_memory_is_the_parameters(backend, dtype):
    p = np.array([np.nan, 1.0], dtype)
    optimizer = fastopt.Optimizer(p, fastopt.SGD(lr=1.0), backend=backend, ema_decay=0.0)
    p[0] = 3
    optimizer.step(np.array([1, 1], dtype))
    assert optimizer.ema.flat.tolist() == [2, 0]


@by_kind(cases())
def test_finite_gradients_make_no_nan(rules, dtype):
    """Though their squares overflow: with an infinite second moment the update is zero."""
    for rule in rules:
        with about(rule):
            no_nan_comes_out(rule, dtype)


def no_nan_comes_out(rule: Rule, dtype: str) -> None:
    huge = np.repeat(float(np.finfo(dtype).max) ** np.array([0.55, 0.8]), 40)
    p = np.ones(huge.size, dtype)
    optimizer = fastopt.Optimizer(p, rule, backend=BACKEND)
    rng = np.random.default_rng(9)
    buffers = {"params": p} | {name: state.flat for name, state in optimizer.state.items()}
    for step in range(40):
        sizes = np.where(rng.random(p.size) < 0.2, 1.0, huge if step % 5 < 2 else 0.0)
        optimizer.step((sizes * rng.standard_normal(p.size)).astype(dtype))
        for name, buffer in buffers.items():
            assert not np.isnan(buffer).any(), (step, name)


@pytest.mark.parametrize("kind", [r for r in ELEMENTWISE.values() if "betas" in r.fields], ids=lambda r: r.__name__)
@pytest.mark.parametrize("betas", [(0.0, 0.0, 0.0), (0.0, 0.9, 0.9), (0.9, 0.0, 0.0)])
def test_moments_without_memory_forget_what_overflowed(kind, betas, dtype):
    p = np.ones(3, dtype)
    if betas[0] not in kind.fields["betas"].domain.items[0]:
        betas = (0.1, *betas[1:])  # of schedule-free rules it is no moment
    optimizer = fastopt.Optimizer(p, kind(lr=0.1, betas=betas[: len(kind().betas)]), backend=BACKEND)
    huge = float(np.finfo(dtype).max) ** 0.6
    for size in (huge, 1.0, 1.0):
        optimizer.step(np.full(3, size, dtype))
    assert np.isfinite(p).all()
    if betas[1] == 0 and kind.__name__ not in UNFORGETTING:
        assert (p < 1).all()


def test_the_first_steps_of_radam_do_not_look_at_the_second_moment(backend):
    p = np.ones(3, np.float32)
    fastopt.Optimizer(p, fastopt.RAdam(lr=1e-3), backend=backend).step(np.full(3, 1e20, np.float32))
    assert p == pytest.approx(np.full(3, -1e17), rel=1e-6)


@by_kind(undecayed())
def test_references_leave_terms_out_as_kernels_do(rules):
    for rule in rules:
        states = rule.remembered((2,))
        p = np.array([-np.inf, np.inf])
        for step in range(1, 20):
            p, states = rule.reference(step, p, np.zeros(2), **states)
        assert p.tolist() == [-np.inf, np.inf], rule


def test_terms_and_factors_are_found():
    """Else the tests above would show nothing."""
    assert guarded("sgd") == ["l2", "shrink", "step_size"]
    assert factors("sgd") == {"grad_scale"}
