"""Optimizers and schedules as text: ``name:key=value,key=value``."""

import pkgutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from fastopt import rules, schedules
from fastopt.errors import BackendError, InputError, one_of
from fastopt.rule import Rule

FORM = "NAME or NAME:key=value,key=value, with / inside a tuple, as in adam:lr=0.01,betas=0.9/0.99"


def rule(text: str, argument: str = "optimizer") -> Rule:
    """The rule that ``text`` describes, such as "sgd:lr=0.1" or "adam:betas=0.9/0.99,amsgrad=true".

    Names count in upper or lower case. A name with dots is that of a rule of the user's own: the
    module and the class, as in "package.module.Ternary:lr=0.1". It is imported, so a text that comes
    from a file must not get here unless it ``names_built_in``. Raises InputError naming ``argument``
    for an unknown name or key and for a value that the rule does not allow.
    """
    name, values = split(text, argument)
    path = _path(text)
    kind = _imported(path, argument) if "." in path else _named(name, rules.RULES, argument)
    return _build(kind, text, values, argument)


def rule_of_any_shape(text: str, argument: str = "optimizer") -> Rule:
    """As :func:`rule`, for parameters that are not all matrices. InputError if the rule is for these alone."""
    made = rule(text, argument)
    try:
        made.check_shape(argument, (2,))
    except ValueError:
        raise InputError(argument, f"must be a rule for parameters of any shape, not {text!r}") from None
    return made


def refused(error: Exception) -> InputError:
    """Why fastopt.Optimizer cannot be made of a rule that a text describes, as an InputError.

    It is for "backend" where there is no such backend, or the environment asks for a wrong one, and else for
    "optimizer": the rule has numbers that are too large for the dtype.
    """
    engine = isinstance(error, BackendError) or str(error).startswith("FASTOPT_")
    return InputError("backend" if engine else "optimizer", str(error))


def distinct(texts: Sequence[str], most: int, of: Callable[[str], Hashable]) -> dict[str, Any]:
    """What ``of`` makes of each text. InputError for "optimizer" if it is one twice, or there are over ``most``."""
    if len(texts) > most:
        raise InputError("optimizer", f"must be given up to {most} times, not {len(texts)}")
    found: dict[Any, str] = {}
    for text in texts:
        made = of(text)
        if made in found:
            twice = f"{text!r} twice" if found[made] == text else f"{found[made]!r} and {text!r}, the same"
            raise InputError("optimizer", f"must be a different one each time, not {twice}")
        found[made] = text
    return {text: made for made, text in found.items()}


def names_built_in(text: str) -> bool:
    """Whether a text names a rule of fastopt's, known or not, and not the module of one of the user's own."""
    return "." not in _path(text)


def same_rule(ours: str, theirs: str, argument: str = "optimizer") -> bool:
    """Whether two texts describe the same rule. What ``theirs`` names is not imported."""
    here = rule(ours, argument)
    if names_built_in(theirs):
        return here == rule(theirs, argument)
    return _path(ours) == _path(theirs) and here == _build(type(here), theirs, split(theirs, argument)[1], argument)


def schedule(text: str, lr: float, steps: int, argument: str = "schedule") -> Any:
    """The schedule that ``text`` describes, from the learning rate ``lr`` on, over ``steps`` steps.

    ``steps`` fills in the schedule's field of that name, and a third of it the field ``every``,
    unless the text gives them. Raises InputError naming ``argument``.
    """
    name, values = split(text, argument)
    kind = _named(name, schedules.SCHEDULES, argument)
    if "lr" in values:
        raise InputError(argument, f"must leave lr to --optimizer, as in adam:lr=0.01, not {text!r}")
    filled = {"lr": lr, "steps": steps, "every": max(1, steps // 3)}
    known = {key: value for key, value in filled.items() if key in kind.fields}
    return _build(kind, text, known | values, argument)


def split(text: str, argument: str) -> tuple[str, dict[str, Any]]:
    """The name in lower case and the values by key. Raises InputError naming ``argument``."""
    name, colon, rest = text.partition(":")
    values: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise InputError(argument, f"must be {FORM}, not {text!r}, where {part!r} is not key=value")
        if key in values:
            raise InputError(argument, f"must give each key once, not {key} twice, as in {text!r}")
        values[key] = _value(value)
    return name.strip().lower(), values


def _path(text: str) -> str:
    return text.partition(":")[0].strip()


def _imported(path: str, argument: str) -> type[Rule]:
    try:
        kind = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(argument, f"must be the module and the name of a rule, not {path!r}: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, Rule)):
        raise InputError(argument, f"must be a subclass of fastopt.Rule, not {path!r}")
    return kind


def _named(name: str, kinds: Mapping[str, Any], argument: str) -> Any:
    by_lower = {key.lower(): kind for key, kind in kinds.items()}
    if name not in by_lower:
        raise InputError(argument, f"must be {one_of(name, by_lower)}")
    return by_lower[name]


def _build(kind: Any, text: str, values: dict[str, Any], argument: str) -> Any:
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise InputError(argument, f"{text!r}: {error}") from None


def _value(text: str) -> Any:
    """A tuple if there is a slash, else true, false, none, an integer, a float, or the text itself."""
    if "/" in text:
        return tuple(_value(part) for part in text.split("/"))
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float) if "_" not in text else ():
        try:
            return number(text)
        except ValueError:
            continue
    return text
