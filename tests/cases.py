"""What the numerical tests run on: rules in every form and values in and out of every domain, both derived from the
declarations, and hard data."""

import inspect
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from fastopt.declared import Choice, Field, Flag, Interval, NumberOrCallable, OrNone, Tuple, Whole
from fastopt.rule import Rule

#: The rules whose kernels do all of a step, element by element, and those that have a stage before it.
ELEMENTWISE = {name: rule for name, rule in fastopt.RULES.items() if rule.stage is None}
STAGED = {name: rule for name, rule in fastopt.RULES.items() if rule.stage is not None}

#: Values for fields where half of the default, or 0.05 if that is zero, would change little or nothing in a short run.
TELLING = {
    "momentum": 0.8,
    "t0": 10.0,
    "eps": 1e-3,
    "dampening": 0.3,
    "etas": (0.4, 1.3),
    "step_sizes": (1e-3, 0.1),
    "alpha_warmup": 10.0,
    "beta3_warmup": 20.5,
    "l1": 2.0,
    "d": 1.1,
    "precondition_frequency": 1,
    "max_precond_dim": 3,
    "adjust_lr_fn": "match_rms_adamw",
    "warmup_steps": 20.5,
    "r": 1.5,
    "growth_rate": 1.02,
}


def other(field: Field) -> Any:
    """A value of the field's domain that is not its default."""
    telling = TELLING.get(field.name, field.default)
    if telling != field.default and isinstance(field.domain, Tuple) == isinstance(telling, tuple):
        return telling
    return _other(field.domain, field.default)


def _other(domain: Any, default: Any) -> Any:
    match domain:
        case Flag():
            return not default
        case NumberOrCallable(interval=interval):
            return _other(interval, default)
        case Interval():
            return domain.parse("value", default / 2 if default else 0.05)
        case Whole():
            return domain.parse("value", default + 1)
        case OrNone(domain=inner):
            return _other(inner, default)
        case Tuple(items=items):
            return tuple(map(_other, items, default))
    raise TypeError(f"no other value for {domain!r}: teach tests/cases.py this domain")


def make(rule: type[Rule], changes: dict[str, Any]) -> Rule | None:
    """The rule with these fields, or None if they do not go together."""
    try:
        return rule(**changes)
    except ValueError:
        return None


def switches(rule: type[Rule]) -> list[str]:
    """The fields that can change what a rule computes, not only how much: flags, and numbers that are zero at first."""
    return [name for name, field in rule.fields.items() if field.default in (False, 0.0)]


def every_form(rule: type[Rule]) -> Iterator[Rule]:
    """The rule with each subset of its switches turned on, the smallest subsets first."""
    names = switches(rule)
    for count in range(len(names) + 1):
        for chosen in itertools.combinations(names, count):
            made = make(rule, {name: other(rule.fields[name]) for name in chosen})
            if made is not None:
                yield made


def outside(domain: Any) -> Iterator[Any]:
    """Values that a domain excludes."""
    match domain:
        case NumberOrCallable(interval=interval):
            yield from outside(interval)
        case Interval(low=low, high=high, brackets=brackets):
            yield from (None, "1", "", b"1", [0.5], (0.5,), 0.5j, {}, np.array([0.5]), np.array([0.5, 0.5]), object())
            yield from (True, False, np.True_, np.array(True), np.array("1"), np.array(0.5j), np.array(None))
            yield from (
                np.timedelta64(1, "s"),
                np.array(1, "m8[ns]"),
                np.array(1, "M8[ns]"),
                np.ma.array(0.5),
                np.ma.masked,
            )
            yield from (math.nan, -math.inf, np.float32("nan"), np.array(math.nan))
            if domain.finite:
                yield from (math.inf, np.float64("inf"))
            yield from (-(10**400), 10**400, -(10**5000), np.array(10**400), Fraction(-(10**400), 3))
            if math.isfinite(low):
                yield from (low - 1, math.nextafter(low, -math.inf), Fraction(low) - Fraction(1, 10**6))
            if brackets[0] == "(" and math.isfinite(low):
                yield from (low, int(low), np.float32(low))
            if math.isfinite(high):
                yield from (high + 1, math.nextafter(high, math.inf))
                if brackets[1] == ")":
                    yield from (high, int(high), np.float32(high))
        case Whole(low=low):
            yield from (None, "1", 1.0, 1.5, math.nan, math.inf, [1], np.array([1]), np.float64(1), np.array(1.0))
            yield from (
                True,
                False,
                np.True_,
                np.array(True),
                np.timedelta64(1, "s"),
                np.array(1, "m8[ns]"),
                np.ma.array(1),
            )
            yield from (low - 1, np.int64(low - 1), -(10**400))
        case Flag():
            yield from (None, 0, 1, 1.0, "True", "", [], np.int64(1), math.nan)
        case Choice(words=words):
            yield from (None, 0, "", words[0].upper(), f" {words[0]}", f"{words[0]}x", words[0].encode(), list(words))
        case OrNone(domain=inner):
            yield from (value for value in outside(inner) if value is not None)
        case Tuple(items=items):
            inside = [next(within(item)) for item in items]
            yield from (None, inside[0], "ab"[: len(items)], {}, set(inside), iter(inside), np.array(inside))
            yield from (tuple(inside[:-1]), (*inside, inside[0]), ())
            for index, item in enumerate(items):
                for value in outside(item):
                    yield (*inside[:index], value, *inside[index + 1 :])
        case _:
            raise TypeError(f"no value outside {domain!r}: teach tests/cases.py this domain")


def within(domain: Any) -> Iterator[Any]:
    """Values that a domain includes: its bounds, if they belong to it, first."""
    match domain:
        case NumberOrCallable(interval=interval):
            yield from within(interval)
            yield from (lambda step: 0.1, schedules.Constant(0.1))
        case Interval(low=low, high=high, brackets=brackets):
            if math.isinf(low):
                yield from (-1e3, np.float64(-0.5))
                low = -1.0
            elif brackets[0] == "[":
                yield from (low, int(low), np.float32(low), -0.0 if low == 0 else low)
            top = min(high, 1e3)
            middle = (low + top) / 2
            yield from (math.nextafter(low, math.inf), Fraction(middle), np.float32(middle), np.array(middle))
            yield from (np.array(middle, "float32"), np.array(Fraction(middle)))
            if brackets[1] == "]" and math.isfinite(high):
                yield from (high, int(high), np.float64(high))
            elif math.isfinite(high):
                yield math.nextafter(high, -math.inf)
            else:
                yield 1.7e308 if domain.finite else math.inf
        case Whole(low=low):
            yield from (low, np.int64(low), np.array(low), np.array(low, "uint8"), low + 1, 10**12)
        case Flag():
            yield from (True, False)
        case Choice(words=words):
            yield from words
        case OrNone(domain=inner):
            yield None
            yield from within(inner)
        case Tuple(items=items):
            columns = [list(within(item)) for item in items]
            for row in range(max(map(len, columns))):
                yield tuple(column[row % len(column)] for column in columns)
                yield [column[-1 - row % len(column)] for column in columns]


def effect(rule: Rule) -> tuple:
    """All that the backends see of a rule, what it makes of sums, and a stage of gradients of two sizes."""
    seen = rule.kernel, rule.sums, rule.states, [rule.coefficients(step) for step in (1, 2, 20)]
    if rule.stage is not None:
        return (*seen, [_path(rule, scale) for scale in (1.0, 1e-5)])
    if rule.sums is None:
        return seen
    values = rule.coefficients(20)
    if rule.totals:
        scalars, adapted = dict(rule.scalars), []
        for step, totals in enumerate([(2.5e-7, 1e-3), (5e-6, 1e-3), (1e-5, 1e-3)], 1):
            scalars = rule.advance(step, totals=totals, **scalars)
            values = rule.coefficients(step, **scalars)
            adapted.append([scalars, rule.measured(step, values, **scalars), rule.adapted(step, values, **scalars)])
        return *seen, adapted
    count = len(inspect.signature(rule.adapted).parameters) - 3
    adapted = [
        str(rule.adapted(20, values, np.array([7.0]), *numbers))
        for numbers in itertools.product(np.array([[1e-8], [0.25], [9.0]]), repeat=count)
    ]
    return *seen, rule.measured(20, values), adapted


def _path(rule: Rule, scale: float) -> list:
    """What four steps of a matrix come to, by the reference."""
    rng = np.random.default_rng(5)
    p, shape = rng.standard_normal((4, 3)), (4, 3)
    states = rule.remembered(shape)
    for step in range(1, 5):
        p, states = rule.reference(step, p, scale * rng.standard_normal(shape), **states)
    return p.tolist()


def changed(rule: type[Rule], name: str) -> Rule:
    """The rule with a field changed, in the smallest company of switches where that makes a difference.

    Some make one only where no weight decays.
    """
    value = other(rule.fields[name])
    undecayed = (form.replace(weight_decay=0.0) for form in every_form(rule) if "weight_decay" in rule.fields)
    for form in itertools.chain(every_form(rule), undecayed):
        made = make(rule, {**dict(form), name: value})
        if made is not None and effect(made) != effect(form):
            return made
    raise AssertionError(f"{rule.__name__}: {name} makes no difference")


def cases(rules: Mapping[str, type[Rule]] = ELEMENTWISE) -> list[Rule]:
    """Each rule: with its defaults, with each field changed, with each kernel that it can choose, with a schedule, and
    with weight decay while maximizing."""
    found: dict[Rule, None] = {}
    for rule in rules.values():
        found[rule()] = None
        for name in rule.fields:
            found[changed(rule, name)] = None
        for form in rule.forms():
            found[form] = None
            if "weight_decay" in rule.fields:
                found[form.replace(weight_decay=0.05, maximize=True)] = None
        found[rule(lr=schedules.Cosine(lr=other(rule.fields["lr"]), steps=100, warmup=10))] = None
    return list(found)


def by_kind(rules: Iterable[Rule]) -> pytest.MarkDecorator:
    """Gives a test the ``rules`` of a class at a time: for what takes less time than a test."""
    found: dict[str, list[Rule]] = {}
    for rule in rules:
        found.setdefault(type(rule).__name__, []).append(rule)
    return pytest.mark.parametrize("rules", found.values(), ids=found)


@contextmanager
def about(rule: Rule) -> Iterator[None]:
    """Has what is raised say of which rule it is."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"of {short(rule)}")
        raise


def short(rule: Rule) -> str:
    """The rule's name with what is not its default: a test's id."""
    changes = ",".join(f"{name}={value!r}" for name, value in rule if value != rule.fields[name].default)
    return f"{type(rule).__name__}({changes})"


def by_kernel() -> dict[str, Rule]:
    """A rule for each kernel that any rule can choose, with weight decay where it has it."""
    found: dict[str, Rule] = {}
    for rule in ELEMENTWISE.values():
        for form in rule.forms():
            if form.kernel not in found:
                found[form.kernel] = form.replace(weight_decay=0.05) if "weight_decay" in rule.fields else form
    return found


class Blend(Rule):
    """The kernel that is no rule's, as if it were one's."""

    kernel = "blend"
    states = {}

    def coefficients(self, step):
        return {"past": 0.97, "add": 0.7}


def every_kernel() -> dict[str, Rule]:
    """:func:`by_kernel`, and the kernels that no rule chooses."""
    return by_kernel() | {"blend": Blend()}


def easy(rng: np.random.Generator, size: int, dtype: str) -> np.ndarray:
    """Random numbers of the magnitudes that training has."""
    return rng.standard_normal(size).astype(dtype)


def hard(rng: np.random.Generator, size: int, dtype: str) -> np.ndarray:
    """Zeros of both signs, infinities, NaN, subnormals, the largest and smallest numbers, those whose squares overflow
    or vanish, and ordinary ones in between."""
    info = np.finfo(dtype)
    tiny, least, largest = info.smallest_normal, info.smallest_subnormal, info.max
    special = np.array(
        [
            0,
            least,
            3 * least,
            tiny - least,
            tiny,
            tiny / 2,
            2 * tiny,
            tiny**0.5,
            largest**0.5,
            largest / 2,
            largest,
            1,
            1 + info.eps,
            1 - info.epsneg,
            np.inf,
            np.nan,
        ],
        dtype,
    )
    special = np.concatenate([special, -special])
    ordinary = easy(rng, size, dtype)
    with np.errstate(over="ignore"):
        spread = np.ldexp(ordinary, rng.integers(info.minexp - info.nmant, info.maxexp, size))
    return np.choose(rng.integers(0, 3, size), [rng.choice(special, size), ordinary, spread])


def bits(array: np.ndarray) -> np.ndarray:
    """The bit patterns, with one for every NaN.

    Where NaN appears is promised; its sign and payload are not. They follow the order of the operands of a commutative
    instruction, which compilers choose, and which numba and C choose differently.
    """
    unsigned = np.array(array, copy=True).view(f"u{array.itemsize}")
    unsigned[np.isnan(array)] = np.array(np.nan, array.dtype).view(unsigned.dtype)
    return unsigned
