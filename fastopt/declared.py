"""Frozen values whose fields are declared with their domains: the common base of rules and schedules."""

import inspect
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, dataclass_transform, get_args, get_origin

import numpy as np

from fastopt.errors import did_you_mean, nearest, quoted

REQUIRED: Any = object()


def real(name: str, value: Any, domain: object = "a number") -> float:
    """A value that a user gave for a real number, as a float: the nearest one, infinities and NaN included.

    It may be any real number of Python or NumPy, or an array or tensor without axes that holds one. TypeError if it is
    none of these (text, truth values, time spans, masked arrays, arrays of one element), ValueError if no float is near
    it, as for ``10**400``; both name ``name`` and what is allowed, ``domain``.
    """
    number = _scalar(value)
    if not isinstance(number, numbers.Real) or isinstance(number, _NO_NUMBERS):
        raise TypeError(f"{name} must be {domain}, not {quoted(value)} ({type(value).__name__})")
    try:
        nearest_float = float(number)
    except OverflowError:  # an int or a fraction beyond every float
        nearest_float = math.inf
    if math.isinf(nearest_float) and number != nearest_float:
        raise ValueError(f"{name} must be {domain}, not {quoted(value)}: no float is as large")
    return nearest_float


def whole(name: str, value: Any, domain: object = "a whole number") -> int:
    """A value that a user gave for a whole number, as an int: one of Python's or NumPy's, or an array that holds one.

    TypeError if it is none of these (so is 1.0); the rest is as for :func:`real`.
    """
    number = _scalar(value)
    if not isinstance(number, numbers.Integral) or isinstance(number, _NO_NUMBERS):
        raise TypeError(f"{name} must be {domain}, not {quoted(value)} ({type(value).__name__})")
    return int(number)


_NO_NUMBERS = bool, np.timedelta64  # though NumPy and Python register them as whole numbers


def _scalar(value: Any) -> Any:
    """What an array or tensor without axes holds; else the value itself. NumPy's numbers stay as they are."""
    if isinstance(value, np.generic) or getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    return value if isinstance(value, np.ma.MaskedArray) or _is_time(value) else value.item()


def _is_time(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "mM"  # of some units the items are ints


class Interval:
    """The real numbers between two bounds; a round bracket leaves the bound out. Infinity is left out if ``finite``."""

    def __init__(self, low: float, high: float = math.inf, brackets: str = "[]", *, finite: bool = True) -> None:
        self.low, self.high, self.brackets, self.finite = low, high, brackets, finite

    def __str__(self) -> str:
        if math.isinf(self.high):
            kind = "a finite number" if self.finite else "a number"
            return kind if math.isinf(self.low) else f"{kind} {'>=' if self.brackets[0] == '[' else '>'} {self.low:g}"
        if math.isinf(self.low):
            kind = "a finite number" if self.finite else "a number"
            return f"{kind} {'<=' if self.brackets[1] == ']' else '<'} {self.high:g}"
        return f"a number in {self.brackets[0]}{self.low:g}, {self.high:g}{self.brackets[1]}"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.brackets[0] == "[" else value > self.low
        below = value <= self.high if self.brackets[1] == "]" else value < self.high
        return above and below and (math.isfinite(value) or not self.finite)

    def parse(self, name: str, value: Any) -> float:
        """The value as a float; TypeError if it is no real number, ValueError if it lies outside."""
        number = value if type(value) is float else real(name, value, self)
        if number not in self:
            raise ValueError(f"{name} must be {self}, not {quoted(value)}")
        return number


class Whole:
    """The whole numbers from a lower bound on."""

    def __init__(self, low: int) -> None:
        self.low = low

    def __str__(self) -> str:
        return f"a whole number >= {self.low}"

    def parse(self, name: str, value: Any) -> int:
        """The value as an int; TypeError if it is no whole number, ValueError if it is too small."""
        number = whole(name, value, self)
        if number < self.low:
            raise ValueError(f"{name} must be {self}, not {quoted(value)}")
        return number


class Flag:
    """True or False."""

    def __str__(self) -> str:
        return "True or False"

    def parse(self, name: str, value: Any) -> bool:
        """The value itself; TypeError if it is no bool."""
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be {self}, not {quoted(value)} ({type(value).__name__})")
        return value


class Choice:
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.words))

    def parse(self, name: str, value: Any) -> str:
        """The word; ValueError, with the nearest right one, if it is none of them."""
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"{name} must be {self}, not {quoted(value)}{did_you_mean(value, self.words)}")
        return value


class OrNone:
    """What another domain allows, or None."""

    def __init__(self, domain: Any) -> None:
        self.domain = domain

    def __str__(self) -> str:
        return f"{self.domain}, or None"

    def parse(self, name: str, value: Any) -> Any:
        """None, or what the other domain makes of the value."""
        return None if value is None else self.domain.parse(name, value)


class Tuple:
    """A tuple with a domain for each item."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))})"

    def parse(self, name: str, value: Any) -> tuple:
        """The items, parsed; TypeError if it is no sequence of that length."""
        if not isinstance(value, (tuple, list)) or len(value) != len(self.items):
            raise TypeError(f"{name} must be {self}, not {quoted(value)}")
        pairs = zip(self.items, value, strict=True)
        return tuple(item.parse(f"{name}[{index}]", each) for index, (item, each) in enumerate(pairs))


class NumberOrCallable:
    """A number of an interval, or a callable that gives one for each step."""

    def __init__(self, interval: Interval) -> None:
        self.interval = interval

    def __str__(self) -> str:
        return f"{self.interval}, or a callable that gives one for each step"

    def parse(self, name: str, value: Any) -> Any:
        """The number as a float, or the callable itself."""
        return value if callable(value) else self.interval.parse(name, value)


Real = Annotated[float, Interval(-math.inf)]
AtLeastOne = Annotated[float, Interval(1.0)]
NonPositive = Annotated[float, Interval(-math.inf, 0.0)]
Positive = Annotated[float, Interval(0.0, brackets="(]")]
NonNegative = Annotated[float, Interval(0.0)]
UnitInterval = Annotated[float, Interval(0.0, 1.0, "[)")]
OpenUnitInterval = Annotated[float, Interval(0.0, 1.0, "()")]
ClosedUnitInterval = Annotated[float, Interval(0.0, 1.0)]
LearningRate = Annotated[float | Callable[[int], float], NumberOrCallable(Interval(0.0))]


class Field:
    """A declared field: its name, default (``REQUIRED`` if it has none) and domain."""

    __slots__ = ("default", "domain", "name")

    def __init__(self, name: str, default: Any, domain: Any) -> None:
        self.name, self.default, self.domain = name, default, domain


def _domain(name: str, annotation: Any) -> Any:
    if annotation is bool:
        return Flag()
    if get_origin(annotation) is tuple:
        return Tuple(*(_domain(name, each) for each in get_args(annotation)))
    if type(None) in get_args(annotation):
        return OrNone(_domain(name, get_args(annotation)[0]))
    if get_origin(annotation) is not Annotated:
        raise TypeError(
            f"{name} must have a domain, as LearningRate in fastopt.declared, or be a ClassVar, not {annotation}"
        )
    return annotation.__metadata__[0]


@dataclass_transform(frozen_default=True)
class Declared:
    """A frozen value: two are equal when their class and their fields are.

    A subclass declares fields as ``name: domain = default``, where the domain is ``bool``, a tuple of domains, an
    ``Annotated`` type that carries one, or ``domain | None``; ``name: ClassVar = value`` turns an inherited field into
    a constant. Values are validated and normalized when one is made. ``fields`` maps each name to its :class:`Field`,
    new ones before inherited ones.
    """

    fields: ClassVar[Mapping[str, Field]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        annotations = inspect.get_annotations(cls, eval_str=True)
        constants = {name for name, kind in annotations.items() if ClassVar in (kind, get_origin(kind))}
        own = {
            name: Field(name, cls.__dict__.get(name, REQUIRED), _domain(f"{cls.__name__}: {name}", annotation))
            for name, annotation in annotations.items()
            if name not in constants
        }
        inherited = {name: own.get(name, field) for name, field in cls.fields.items() if name not in constants}
        cls.fields = MappingProxyType({name: own[name] for name in own if name not in inherited} | inherited)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kind, fields = type(self).__name__, self.fields
        if len(args) > len(fields):
            raise TypeError(f"{kind} takes at most {len(fields)} arguments ({', '.join(fields)}), not {len(args)}")
        given = dict(zip(fields, args, strict=False))
        for name, value in kwargs.items():
            if name not in fields:
                raise TypeError(f"{kind} has no argument {name!r}; {nearest(name, fields)}")
            if name in given:
                raise TypeError(f"{kind} got {name!r} twice, by position and by name")
            given[name] = value
        for name, field in fields.items():
            value = given.get(name, field.default)
            if value is REQUIRED:
                raise TypeError(f"{kind} needs {name!r}: {field.domain}")
            self.__dict__[name] = field.domain.parse(f"{kind}: {name}", value)
        self.check()

    @classmethod
    def unchecked(cls, **fields: Any) -> Self:
        """A value with these fields, all of them, as they are: for numbers that a host vouches for, not the domains."""
        made = cls.__new__(cls)
        made.__dict__.update(fields)
        return made

    def check(self) -> None:
        """Raises ValueError where fields that are right by themselves do not go together."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: use .replace({name}=...) for a changed copy")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return ((name, self.__dict__[name]) for name in self.fields)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple(self) == tuple(other)  # type: ignore[call-overload]

    def __hash__(self) -> int:
        return hash((type(self), tuple(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self)})"

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), dict(self))

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated as a new one is."""
        return type(self)(**(dict(self) | changes))


def _rebuild(cls: type[Declared], fields: dict[str, Any]) -> Declared:
    return cls(**fields)
