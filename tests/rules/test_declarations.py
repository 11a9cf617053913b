"""Every rule has its three files, which agree with it, and every field refuses what its domain excludes."""

import ast
import inspect
import math
import pickle
import tracemalloc
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from cases import ELEMENTWISE, STAGED, about, by_kernel, by_kind, cases, every_form, other, outside, short, within

import fastopt
from fastopt import schedules
from fastopt.declared import REQUIRED, Declared, Field, NumberOrCallable, Whole, real

PACKAGE = Path(fastopt.__file__).parent
C_KERNELS = Path(__file__).parents[2] / "csrc" / "kernels"

#: Those with a stage have a kernel, too.
EVERY_CASE = cases() + cases(STAGED)
every_case = by_kind(EVERY_CASE)

CHOSEN = sorted({form.kernel for rule in ELEMENTWISE.values() for form in every_form(rule)})

#: Those and the kernels that work on other buffers than parameters.
EVERY = sorted([*CHOSEN, "blend"])


def stems(folder: Path, pattern: str) -> list[str]:
    return sorted(path.stem for path in folder.glob(pattern) if path.stem not in ("__init__", "all", "term", "cbrt"))


# Completeness: three files for one rule


def test_every_rule_has_its_file_and_every_file_its_rule():
    assert sorted(map(str.lower, fastopt.RULES)) == stems(PACKAGE / "rules", "*.py")
    for name, rule in fastopt.RULES.items():
        assert rule.__name__ == name
        assert rule.__module__ == f"fastopt.rules.{name.lower()}"
        assert getattr(fastopt, name) is rule
        assert (rule.__doc__ or "").startswith(f"{name}: ")


def test_every_rule_is_public():
    public = {name: getattr(fastopt, name) for name in fastopt.__all__}
    rules = {name: each for name, each in public.items() if isinstance(each, type) and issubclass(each, fastopt.Rule)}
    assert rules == {"Rule": fastopt.Rule, **fastopt.RULES}


def test_every_kernel_has_its_numba_file():
    assert stems(PACKAGE / "kernels", "*.py") == EVERY


def test_every_kernel_has_its_c_file():
    assert stems(C_KERNELS, "*.h") == EVERY


def test_every_kernel_is_in_the_numba_table():
    pytest.importorskip("numba", exc_type=ImportError)
    from fastopt import kernels

    assert sorted(kernels.KERNELS) == EVERY
    for name in EVERY:
        assert kernels.KERNELS[name].py_func.__module__ == f"fastopt.kernels.{name}"


def test_every_kernel_is_in_the_c_table(backends):
    if "c" not in backends:
        pytest.skip("the C backend is not installed")
    from fastopt.backend import c

    assert sorted(c.kernels()) == EVERY


def numba_names(kernel: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The states that a kernel takes and the coefficients that it unpacks, as its source names them."""
    source = (PACKAGE / "kernels" / f"{kernel}.py").read_text()
    (function,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    arguments = [argument.arg for argument in function.args.args]
    assert (arguments[:2], arguments[-1]) == (["p", "g"], "k"), f"{kernel}: takes {arguments}"
    (unpacking,) = (
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("to_fixed_tuple(")
    )
    names = tuple(name.id for name in unpacking.targets[0].elts)
    given, count = unpacking.value.args
    assert given.id == "k", f"{kernel}: unpacks {given.id}"
    assert count.value == len(names), f"{kernel}: unpacks {count.value} coefficients as {len(names)} names"
    return tuple(arguments[2:-1]), names


@every_case
def test_kernels_take_the_states_and_coefficients_of_the_rule(rules, backends):
    for rule in rules:
        expected = tuple(rule.kernel_states), tuple(rule.coefficients(1))
        assert numba_names(rule.kernel) == expected, rule
        if "c" in backends:
            from fastopt.backend import c

            assert c.kernels()[rule.kernel] == expected, rule


@every_case
def test_coefficients(rules):
    for rule in rules:
        with about(rule):
            check_coefficients(rule)


def check_coefficients(rule: fastopt.Rule) -> None:
    names = list(rule.coefficients(1))
    assert names[:3] == ["grad_scale", "l2", "shrink"]
    for step in (1, 2, 3, 1000, 10**6):
        values = rule.coefficients(step)
        assert list(values) == names
        assert all(type(value) is float and math.isfinite(value) for value in values.values()), (step, values)
    table = rule.table(7)
    assert table.shape == (7, len(names)) and table.dtype == np.float64
    assert table[4].tolist() == list(rule.coefficients(5).values())
    assert rule.table(7, np.float32).tolist() == table.astype(np.float32).tolist()


@pytest.mark.parametrize("rule", fastopt.RULES.values(), ids=lambda rule: rule.__name__)
def test_coefficients_of_a_long_run_need_no_memory(rule):
    betas = (0.91, 0.99, 0.97)
    made = rule(**{"betas": betas[: len(rule().betas)]} if "betas" in rule.fields else {})
    tracemalloc.start()
    try:
        made.coefficients(100_000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rule", fastopt.RULES.values(), ids=lambda rule: rule.__name__)
def test_every_rule_has_a_rate_and_a_direction(rule):
    assert isinstance(rule.fields["lr"].domain, NumberOrCallable)
    assert next(iter(rule.fields)) == "lr"
    assert rule().coefficients(1)["grad_scale"] == 1.0
    assert rule(maximize=True).coefficients(1) == rule().coefficients(1) | {"grad_scale": -1.0}
    assert type(rule.ulp) is int if rule.stage is None else 0 < rule.tolerance < 0.01


# Domains: what each field takes and what it refuses


CLASSES = {cls.__name__: cls for cls in (*fastopt.RULES.values(), *schedules.SCHEDULES.values())}
FIELDS = {f"{cls.__name__}.{name}": (cls, cls.fields[name]) for cls in CLASSES.values() for name in cls.fields}
by_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
by_field = pytest.mark.parametrize(("cls", "field"), FIELDS.values(), ids=FIELDS)


def required(cls: type[Declared]) -> dict[str, Any]:
    """Values for the fields that have no default: large ones, so that others may be smaller."""
    values = {}
    for name, field in cls.fields.items():
        if field.default is REQUIRED:
            values[name] = 10**13 if isinstance(field.domain, Whole) else 0.5
    return values


@by_field
def test_a_field_refuses_what_its_domain_excludes(cls, field):
    count = 0
    for value in outside(field.domain):
        with pytest.raises((TypeError, ValueError)) as caught:
            cls(**required(cls) | {field.name: value})
        message = str(caught.value)
        assert message.startswith(f"{cls.__name__}: {field.name}"), f"{value!r}: {message}"
        assert "must be" in message and "not" in message, f"{value!r}: {message}"
        if isinstance(value, (str, bytes, float)):
            assert repr(value) in message
        assert len(message) < 300, "a long value is quoted in part"
        count += 1
    assert count >= 7


@by_field
def test_a_field_takes_what_its_domain_includes(cls, field):
    for value in within(field.domain):
        try:
            made = cls(**required(cls) | {field.name: value})
        except ValueError as error:  # a value that does not go with the defaults of other fields
            assert not str(error).startswith(f"{cls.__name__}: {field.name} must be {field.domain}"), value
            continue
        normal = getattr(made, field.name)
        if callable(value):
            assert normal is value
            continue
        assert normal == (tuple(value) if isinstance(value, list) else value)
        for item in normal if isinstance(normal, tuple) else [normal]:
            assert type(item) in (float, int, bool, str, type(None))


@by_field
def test_a_refusal_changes_nothing(cls, field):
    made = cls(**required(cls))
    before = dict(made)
    with pytest.raises((TypeError, ValueError)):
        made.replace(**{field.name: object()})
    assert dict(made) == before


@pytest.mark.parametrize(
    "value", [2, np.uint8(2), np.float16(2), np.array(2), np.array(2.0), Fraction(2), np.longdouble(2)]
)
def test_a_real_number_is_what_float_takes_without_loss(value):
    assert real("x", value) == 2.0 and type(real("x", value)) is float
    assert math.isnan(real("x", np.array(math.nan))) and real("x", -math.inf) == -math.inf
    for wrong in ("2", True, np.True_, np.timedelta64(2, "s"), np.array([2.0]), np.ma.array(2.0), 2j, None):
        with pytest.raises(TypeError, match="x must be a number, not "):
            real("x", wrong)
    for large in (10**400, -(10**5000), Fraction(10**400, 3)):
        with pytest.raises(ValueError, match="x must be a number, not .*: no float is as large"):
            real("x", large)


def test_an_unchecked_value_keeps_what_domains_would_refuse():
    uphill = fastopt.Adam.unchecked(**dict(fastopt.Adam()) | {"lr": -0.1})
    assert uphill.lr == -0.1 and uphill.coefficients(1)["step_size"] < 0
    assert fastopt.Adam.unchecked(**dict(fastopt.Adam())) == fastopt.Adam()
    with pytest.raises(ValueError, match="lr must be"):
        uphill.replace(eps=0.0)


def test_annotations_that_are_text_and_those_that_give_no_domain():
    class Text(Declared):
        size: "fastopt.declared.Positive" = 2.0
        kind: "ClassVar" = "constant"

    assert Text(3.0).size == 3.0 and [*Text.fields] == ["size"]
    with pytest.raises(TypeError, match="Plain: size must have a domain, .*, not <class 'float'>"):
        type("Plain", (Declared,), {"__annotations__": {"size": float}, "size": 2.0})


@by_class
def test_an_unknown_name_gets_the_nearest_right_one(cls):
    for name in cls.fields:
        for wrong in (name + "x", name.upper() + "_"):
            with pytest.raises(TypeError, match=f"{cls.__name__} has no argument '{wrong}'; did you mean '{name}'[?]"):
                cls(**required(cls), **{wrong: 0.5})
    are = "is" if len(cls.fields) == 1 else "are"
    with pytest.raises(TypeError, match=f"{cls.__name__} has no argument 'qqqqqq'; there {are} 'lr'"):
        cls(**required(cls), qqqqqq=1)


@by_class
def test_a_field_without_default_is_asked_for(cls):
    for name in required(cls):
        given = required(cls)
        del given[name]
        with pytest.raises(TypeError, match=f"{cls.__name__} needs {name!r}: "):
            cls(**given)


@by_class
def test_too_many_or_doubled_arguments_are_refused(cls):
    with pytest.raises(TypeError, match=f"{cls.__name__} takes at most {len(cls.fields)} arguments"):
        cls(*[0.5] * (len(cls.fields) + 1))
    with pytest.raises(TypeError, match=f"{cls.__name__} got 'lr' twice"):
        cls(0.5, **required(cls) | {"lr": 0.5})


INSTANCES = {short(rule): rule for rule in EVERY_CASE}
INSTANCES |= {str(made): made for made in [cls(**required(cls)) for cls in schedules.SCHEDULES.values()]}


@pytest.mark.parametrize("value", INSTANCES.values(), ids=INSTANCES)
def test_a_declared_value_is_frozen_equal_by_value_and_survives_copies(value):
    names = vars(schedules) | fastopt.RULES
    for copy in (pickle.loads(pickle.dumps(value)), deepcopy(value), eval(repr(value), dict(names)), value.replace()):
        assert type(copy) is type(value) and copy == value and hash(copy) == hash(value) and repr(copy) == repr(value)
        assert {copy, value} == {value}
    for name, field in value.fields.items():
        with pytest.raises(AttributeError, match=f"{type(value).__name__} is frozen"):
            setattr(value, name, getattr(value, name))
        with pytest.raises(AttributeError, match="is frozen"):
            delattr(value, name)
        if field.default is not REQUIRED and getattr(value, name) == field.default:
            try:
                changed = value.replace(**{name: other(field) if isinstance(value, fastopt.Rule) else nudged(field)})
            except ValueError:  # a combination that the rule refuses
                continue
            assert changed != value and repr(changed) != repr(value)
    with pytest.raises(AttributeError):
        value.unheard_of = 1
    assert value != tuple(value) and value != dict(value)


def nudged(field: Field) -> Any:
    """A value of the field's domain that is not its default."""
    return next(value for value in within(field.domain) if value != field.default)


@by_class
def test_positions_follow_the_declaration(cls):
    made = cls(**required(cls))
    assert list(dict(made)) == list(cls.fields)
    assert cls(*(value for _, value in made)) == made


@by_class
def test_annotations_of_callers_can_be_read(cls):
    assert inspect.getdoc(cls)
    for name, field in cls.fields.items():
        assert str(field.domain), name


# What does not go together


@pytest.mark.parametrize("changes", [{"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_momentum_without_dampening(changes):
    with pytest.raises(ValueError, match="SGD: nesterov needs momentum > 0 and dampening = 0, not momentum="):
        fastopt.SGD(nesterov=True, **changes)


def test_step_sizes_are_ordered():
    with pytest.raises(ValueError, match=r"Rprop: step_sizes must be \(smallest, largest\), not \(2.0, 1.0\)"):
        fastopt.Rprop(step_sizes=(2, 1))


@pytest.mark.parametrize("rule", fastopt.RULES.values(), ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, None, "0.1", True, 10**400], ids=lambda v: str(v)[:9])
def test_what_a_schedule_gives_is_checked(rule, value):
    made = rule(lr=lambda step: value)
    with pytest.raises((TypeError, ValueError), match=rf"{rule.__name__}: lr: the schedule's value at step 1 must be"):
        made.states, made.coefficients(1)


def test_there_is_a_rule_for_every_kernel():
    assert sorted(by_kernel()) == CHOSEN
