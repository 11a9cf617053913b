"""What another package has saved of its optimizer, by parameter name, and how an optimizer here takes it over."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fastopt.checkpoint.saved import count, finite
from fastopt.errors import CheckpointError, nearest, quoted
from fastopt.rule import Rule


class Member(NamedTuple):
    """What is saved of a parameter.

    ``state`` has values as a state dict of :class:`fastopt.Optimizer` has them, by the names that states have here.
    ``step`` is None where nobody counts. ``master`` is what holds the parameter exactly, ``slow``
    are the slow weights of lookahead.
    """

    state: dict[str, Any]
    step: int | None = None
    scalars: Mapping[str, float] = {}
    hyperparameters: Mapping[str, Any] = {}
    master: Any = None
    slow: Any = None


def named(what: str, members: Sequence[Any], names: Sequence[str] | None) -> dict[str, Any]:
    """Members by name, which are saved by position. CheckpointError if there are not as many names."""
    if names is None:
        raise CheckpointError(f"{what} has no names: give names=[...], those of its {len(members)} parameters in order")
    if len(names) != len(members):
        raise CheckpointError(
            f"{what} has {len(members)} parameters, and names has {len(names)}: {quoted(list(names))}"
        )
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise CheckpointError(f"names must be text and differ, not be {quoted(list(names))}")
    return dict(zip(names, members, strict=True))


def whole(where: str, value: Any) -> int:
    """A count, which others save as a float, too, or as an array of one. Otherwise CheckpointError."""
    number = _item(value)
    return count(where, int(number) if isinstance(number, float) and number.is_integer() else number)


def number(where: str, value: Any) -> float:
    """A finite number, which others save as an array of one, too. Otherwise CheckpointError."""
    return finite(where, _item(value))


def _item(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and getattr(value, "size", None) == 1 else value


def fitted(what: str, members: Mapping[str, Member], like: Any, seed: int | None = None) -> dict[str, Any]:
    """What :meth:`fastopt.Optimizer.load_state_dict` takes, for an optimizer of the parameters that ``members`` names.

    Hyperparameters that both have by the same name are taken over, but for callables of the optimizer's. Averages,
    copies, masters and slow weights that ``members`` has not are those of the optimizer, and not copied.
    CheckpointError, with the names of both sides, if something does not fit.
    """
    for name in members:
        if name not in like.layout.shapes:
            raise CheckpointError(
                f"{what} has {quoted(name)}, which is unknown here; {nearest(name, like.layout.shapes)}"
            )
    for name in like.layout.shapes:
        if name not in members:
            raise CheckpointError(f"{what} has no parameter {name!r}; {nearest(name, members)}")
    groups: dict[str, Any] = {}
    state: dict[str, Any] = {}
    for pattern, group in like.groups.items():
        here = {name: members[name] for name in group.names}
        where = f"{what}: groups[{pattern!r}]"
        started = {name for name, member in here.items() if member.state or member.step}
        if started and len(started) != len(here) and group.rule.states:
            lacking = next(name for name in here if name not in started)
            raise CheckpointError(f"{where}: {min(started)!r} has been stepped and {lacking!r} has not")
        if group.step and group.rule.states and not started:
            raise CheckpointError(f"{where}: no step has been made, and {group.step} here: read it for a new optimizer")
        state |= {name: _states(what, name, member, group.rule, like) for name, member in here.items()}
        groups[pattern] = _group(where, here, group, bool(started))
    return {
        "step": max((group["step"] for group in groups.values()), default=0),
        "micro_step": 0,
        "seed": seed,
        "groups": groups,
        "state": state,
        "ema": None if like.ema is None else dict(like.ema),
        "accumulated": None if like.accumulated is None else dict(like.accumulated.zeros_like()),
        "master": _master(what, members, like),
        "copy": None if like.copy is None else dict(like.copy),
        "lookahead": _slow(what, members, like),
    }


def kept(rule: Rule, shape: tuple[int, ...]) -> list[str]:
    """The states that a rule keeps of a parameter of that shape."""
    return [kind for kind in rule.states if rule.state_shape(kind, shape) is not None]


def _states(what: str, name: str, member: Member, rule: Rule, like: Any) -> dict[str, Any]:
    """The states of a parameter; those that are here, where nobody has made a step."""
    kinds = kept(rule, like.layout.shapes[name])
    keeps = f"{type(rule).__name__} keeps {_words(kinds)}"
    for kind in member.state:
        if kind not in kinds:
            raise CheckpointError(f"{what} has a state {quoted(kind)} of {name!r}, of which {keeps}")
    for kind in kinds if member.state else ():
        if kind not in member.state:
            raise CheckpointError(f"{what} has no state {kind!r} of {name!r}, only {_words(member.state)}")
    if kinds and not member.state and member.step:
        raise CheckpointError(f"{what} has no states of {name!r}: {keeps}")
    return member.state or {kind: _here(like.state[kind], name) for kind in kinds}


def _here(buffer: Any, name: str) -> Any:
    """A member of a buffer, as a state dict has it: the memory itself."""
    if not hasattr(buffer, "storages"):
        return buffer[name]
    storage, shape = buffer.storages[name], buffer.layout.shapes[name]
    arrays = zip(storage.parts, buffer.parts(name).values(), strict=True)
    parts = {part.name: array.reshape(shape) if part.every == 1 else array for part, array in arrays}
    return parts["values"] if parts.keys() == {"values"} else {"storage": storage.name, **parts}


def _group(where: str, members: Mapping[str, Member], group: Any, started: bool) -> dict[str, Any]:
    described = group.describe()
    rule = group.rule
    counted = {name: member.step for name, member in members.items() if member.step is not None}
    if len(set(counted.values())) > 1:
        (one, first), (other, second) = two_that_differ(counted)
        raise CheckpointError(f"{where}: {one!r} has made {first} steps and {other!r} {second}")
    step = next(iter(counted.values()), None)
    if step is None:  # nobody counts: whether it is the first step is known all the same
        step = max(described["step"], 1) if started else (described["step"] if not rule.states else 0)
    described["step"] = step
    if "scalars" in described:
        numbers = [
            {name: member.scalars[name] for name in rule.scalars if name in member.scalars}
            for member in members.values()
        ]
        if numbers and all(each == numbers[0] and each.keys() == rule.scalars.keys() for each in numbers):
            described["scalars"] = numbers[0]
        else:
            del described["scalars"]  # those that follow from the step
    described["hyperparameters"] = _hyperparameters(where, members, rule, described["hyperparameters"])
    return described


def _hyperparameters(where: str, members: Mapping[str, Member], rule: Rule, here: dict[str, Any]) -> dict[str, Any]:
    found = dict(here)
    given = {name: member.hyperparameters for name, member in members.items()}
    for field in {field: None for values in given.values() for field in values}:
        values = {name: _number(each[field]) for name, each in given.items() if each.get(field) is not None}
        if not values:
            continue
        if len({repr(value) for value in values.values()}) > 1:
            (one, first), (other, second) = two_that_differ(values)
            raise CheckpointError(f"{where}: {field} is {quoted(first)} for {one!r} and {quoted(second)} for {other!r}")
        value = next(iter(values.values()))
        if field in here:
            if not callable(getattr(rule, field)):
                found[field] = value
        elif isinstance(constant := getattr(rule, field, None), bool) and not _is_flag(value, constant):
            raise CheckpointError(f"{where}: {field} is {quoted(value)}, and {constant} for {type(rule).__name__}")
    return found


def two_that_differ(values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Two members of a mapping whose values are not the same."""
    first = next(iter(values.items()))
    return first, next(item for item in values.items() if repr(item[1]) != repr(first[1]))


def _is_flag(value: Any, flag: bool) -> bool:
    return isinstance(value, (bool, int, float)) and value == flag


def _number(value: Any) -> Any:
    """A hyperparameter without arrays: tuples of numbers, numbers, words."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_number, value))
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _master(what: str, members: Mapping[str, Member], like: Any) -> dict[str, Any] | None:
    given = {name: member.master for name, member in members.items() if member.master is not None}
    if like.master is None:
        if given:
            raise CheckpointError(f"{what} has a master of {next(iter(given))!r}, and this optimizer has none")
        return None
    if given and len(given) != len(members):
        lacking = next(name for name in members if name not in given)
        raise CheckpointError(f"{what} has a master of {next(iter(given))!r} and none of {lacking!r}")
    if given:
        return given
    held = {name: _here(like.master, name) for name in like.layout.shapes}
    for each in held.values():
        if isinstance(each, dict):
            each.pop("upper")  # which the user has
    return held


def _slow(what: str, members: Mapping[str, Member], like: Any) -> dict[str, Any] | None:
    given = {name: member.slow for name, member in members.items() if member.slow is not None}
    if like.lookahead is not None:
        return dict(like.lookahead) | given
    if given:
        raise CheckpointError(f"{what} has slow weights of {next(iter(given))!r}, and this optimizer has no lookahead")
    return None


def _words(names: Collection[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
