"""States of optax's transformations: trees whose leaves have names, as they are in memory or as Orbax restores them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastopt.checkpoint.foreign import Member, fitted, kept, number, two_that_differ, whole
from fastopt.errors import CheckpointError, quoted

#: What optax calls a state. One that means something else there, as AMSGrad's maximum, is not among them.
_FIELDS: dict[str, tuple[str, ...]] = {
    "acc_delta": ("e_x",),
    "exp_avg": ("mu", "m", "m1", "ema"),
    "exp_avg_diff": ("v",),
    "exp_avg_slow": ("m2",),
    "exp_avg_sq": ("nu", "n"),
    "exp_avg_var": ("nu",),
    "exp_inf": ("nu",),
    "grad_avg": ("mu",),
    "momentum_buffer": ("trace",),
    "previous_grad": ("g",),
    "square_avg": ("nu", "e_g"),
    "sum": ("sum_of_squares",),
}

_KEPT = frozenset(name for names in _FIELDS.values() for name in names)
_COUNTS = ("count", "t")
_HYPERPARAMETERS = {"learning_rate": "lr", "eps": "eps", "weight_decay": "weight_decay", "momentum": "momentum"}

#: The class of optax's that keeps such states, how many empty states its functions put before and after it, and whether
#: there is one more for rules that decay weights by themselves.
_CLASSES: dict[tuple[str, ...], tuple[str, int, int, bool]] = {
    (): ("EmptyState", 0, 1, True),
    ("exp_avg",): ("ScaleByLionState", 0, 1, True),
    ("exp_avg", "exp_avg_sq"): ("ScaleByAdamState", 0, 1, True),
    ("exp_avg", "exp_avg_var"): ("ScaleByBeliefState", 0, 1, False),
    ("exp_avg", "exp_inf"): ("ScaleByAdamState", 0, 1, True),
    ("momentum_buffer",): ("TraceState", 0, 1, True),
    ("square_avg",): ("ScaleByRmsState", 0, 2, True),
    ("square_avg", "acc_delta"): ("ScaleByAdaDeltaState", 1, 1, True),
    ("sum",): ("ScaleByRssState", 0, 1, True),
}


_Nodes = list[tuple[dict[str, Any], dict[str, Any]]]


# Reading


def read(tree: Any, like: Any) -> dict[str, Any]:
    """See :func:`fastopt.checkpoint.read`."""
    nodes = [(fields, injected) for fields, injected in _nodes(tree, {}) if fields]
    shapes = like.layout.shapes
    found: dict[str, dict[str, tuple[Any, int | None, dict[str, Any]]]] = {}
    for node, injected in nodes:
        for field, value in node.items():
            if field in _KEPT:
                leaves = dict(_leaves(value))
                for path, name in _names(leaves, shapes).items():
                    if name in found.setdefault(field, {}):
                        raise CheckpointError(f"the tree has {field} of {quoted(name)} twice")
                    found[field][name] = leaves[path], _count(node), injected
    members = {}
    for group in like.groups.values():
        keepers: dict[str, list[str]] = {kind: [] for kind in group.rule.states}
        for name in group.names:
            for kind in kept(group.rule, shapes[name]):
                keepers[kind].append(name)
        fields = {kind: _field(kind, names, found, nodes) for kind, names in keepers.items() if names}
        for name in group.names:
            mine = {kind: found[field][name] for kind, field in fields.items() if name in keepers[kind]}
            count, injected = next(iter(mine.values()))[1:] if mine else (_any_count(nodes), {})
            members[name] = Member({kind: np.asarray(each[0]) for kind, each in mine.items()}, count, {}, injected)
    return fitted("the tree", members, like)


def _field(kind: str, names: Sequence[str], found: Mapping[str, Mapping[str, Any]], nodes: _Nodes) -> str:
    """The field that has a state of all of these parameters."""
    for field in _FIELDS.get(kind, ()):
        if all(name in found.get(field, {}) for name in names):
            return field
    for field in _FIELDS.get(kind, ()):
        here = found.get(field, {})
        if here:
            lacking = next(name for name in names if name not in here)
            raise CheckpointError(f"the tree has no {field} of {lacking!r} ({kind}), only of {quoted(list(here))}")
    fields = list(dict.fromkeys(field for each, _ in nodes for field in each))
    wanted = " or ".join(_FIELDS.get(kind, ())) or "nothing"
    raise CheckpointError(f"the tree has no {kind}, which is {wanted} in optax; it has {quoted(fields)}")


def _nodes(tree: Any, injected: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The fields of every named tuple and dictionary in a tree, with the hyperparameters that are kept around it.

    Not of those within a state: parameters may have the names of states.
    """
    if isinstance(tree, Mapping) or hasattr(tree, "_fields"):
        fields = _children(tree)
        injected = injected | _injected(fields.get("hyperparams"))
        yield fields, injected
        for field, value in fields.items():
            if field not in _KEPT:
                yield from _nodes(value, injected)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _nodes(value, injected)


def _children(node: Any) -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items()}
    return dict(zip(node._fields, node, strict=True))


_Path = tuple[str, ...]


def _mapped(tree: Any, change: Callable[[_Path, Any], Any], path: _Path = ()) -> Any:
    """A tree with what ``change`` makes of each leaf."""
    if hasattr(tree, "dtype") and hasattr(tree, "shape"):
        return change(path, tree)
    if isinstance(tree, Mapping):
        return {key: _mapped(value, change, (*path, str(key))) for key, value in tree.items()}
    if hasattr(tree, "_fields"):
        return type(tree)(*(_mapped(value, change, (*path, key)) for key, value in _children(tree).items()))
    if isinstance(tree, (list, tuple)):
        return type(tree)(_mapped(value, change, (*path, str(index))) for index, value in enumerate(tree))
    return tree


def _leaves(tree: Any) -> list[tuple[_Path, Any]]:
    found: list[tuple[_Path, Any]] = []
    _mapped(tree, lambda path, leaf: found.append((path, leaf)))
    return found


def _names(paths: Collection[_Path], shapes: Mapping[str, Any]) -> dict[_Path, str]:
    """The names of the parameters that the leaves of a tree are. CheckpointError if they are others."""
    for separator in "/.":
        named = {path: separator.join(path) for path in paths}
        if shapes.keys() >= {*named.values()}:
            return named
    one = "/".join(next(iter(paths)))
    if one:
        raise CheckpointError(f"the tree has {quoted(one)}, and here there are {quoted(list(shapes))}")
    return {}


def _is_count(field: str, value: Any) -> bool:
    if field not in _COUNTS or getattr(value, "shape", ()) != ():
        return False
    return type(value) is int or getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u")


def _count(fields: Mapping[str, Any]) -> int | None:
    counts = (name for name in _COUNTS if name in fields and _is_count(name, fields[name]))
    return next((whole(f"the tree: {name}", fields[name]) for name in counts), None)


def _any_count(nodes: _Nodes) -> int | None:
    return next((count for count in (_count(fields) for fields, _ in nodes) if count is not None), None)


def _injected(given: Any) -> dict[str, Any]:
    """The hyperparameters that ``optax.inject_hyperparams`` keeps in the state, by their names here."""
    if not isinstance(given, Mapping):
        return {}
    names = [name for name in (*_HYPERPARAMETERS, "b1", "b2") if name in given]
    numbers = {name: number(f"the tree: hyperparams[{name!r}]", given[name]) for name in names}
    found: dict[str, Any] = {_HYPERPARAMETERS[name]: numbers[name] for name in names if name in _HYPERPARAMETERS}
    if {"b1", "b2"} <= numbers.keys():
        found["betas"] = numbers["b1"], numbers["b2"]
    return found


# Writing


def write(opt: Any, state: Any = None) -> Any:
    """See :func:`fastopt.checkpoint.to_optax`."""
    steps = {group.step for group in opt.groups.values()}
    count = steps.pop() if len(steps) == 1 else opt.step_count
    return _replaced(_first(opt) if state is None else state, opt, count)


def _first(opt: Any) -> Any:
    """The state that optax's own function for the rule starts with, for parameters in a dictionary by name."""
    import optax

    if len(opt.groups) != 1:
        raise ValueError("state must be given where there are several groups: what optax's init gives")
    (group,) = opt.groups.values()
    kinds = tuple(group.rule.states)
    if kinds not in _CLASSES:
        raise ValueError(f"state must be given: no function of optax's is known to keep {', '.join(kinds)}")
    name, before, after, decays = _CLASSES[kinds]
    kind = getattr(optax, name)
    tree = (
        {each: np.empty(opt.layout.shapes[each], opt.state[kinds[0]][each].dtype) for each in group.names}
        if kinds
        else {}
    )
    fields = {field: np.zeros((), np.int32) if field in _COUNTS else tree for field in kind._fields}
    after += decays and bool(getattr(group.rule, "decoupled_weight_decay", False))
    empty = optax.EmptyState()
    last = optax.ScaleByScheduleState(np.zeros((), np.int32)) if callable(group.rule.lr) else empty
    ends = [empty] * (after - 1) + [last]
    if name == "ScaleByRmsState":
        ends = [last, empty]
    return (*[empty] * before, kind(**fields), *ends)


def _replaced(node: Any, opt: Any, count: int) -> Any:
    """A tree with the states and the counts of an optimizer in place of those that are there.

    ``count`` is for what counts without a state of any parameter, as a schedule does beside the states that it is for.
    """
    steps = _steps(node, opt)
    if len({*steps.values()}) == 1:
        count = next(iter(steps.values()))
    elif steps:
        count = opt.step_count
    if isinstance(node, Mapping) or hasattr(node, "_fields"):
        fields = _children(node)
        if not _KEPT.isdisjoint(fields):
            _check_alike(fields, steps)
        made = {field: _replaced_field(field, value, opt, count) for field, value in fields.items()}
        if isinstance(node, Mapping):
            return dict(zip(node, made.values(), strict=True))
        return type(node)(**made)
    if isinstance(node, (list, tuple)):
        return type(node)(_replaced(each, opt, count) for each in node)
    return node


def _check_alike(fields: Mapping[str, Any], steps: Mapping[str, int]) -> None:
    """ValueError if parameters that have one count have made different numbers of steps."""
    counts = [field for field, value in fields.items() if _is_count(field, value)]
    if counts and len({*steps.values()}) > 1:
        (one, first), (other, second) = two_that_differ(steps)
        raise ValueError(
            f"state has one {counts[0]} for {one!r}, which has made {first} steps, and {other!r}, {second}"
        )


def _steps(node: Any, opt: Any) -> dict[str, int]:
    """How many steps the parameters have made whose states a node has."""
    held = [value for fields, _ in _nodes(node, {}) for field, value in fields.items() if field in _KEPT]
    names = {name for value in held for name in _names(dict(_leaves(value)), opt.layout.shapes).values()}
    return {name: group.step for group in opt.groups.values() for name in group.names if name in names}


def _replaced_field(field: str, value: Any, opt: Any, count: int) -> Any:
    if _is_count(field, value):
        return np.asarray(count, np.asarray(value).dtype)
    if field not in _KEPT:
        return _replaced(value, opt, count)
    names = _names(dict(_leaves(value)), opt.layout.shapes)
    rules = {name: group.rule for group in opt.groups.values() for name in group.names}

    def put(path: _Path, leaf: Any) -> Any:
        if path not in names:
            return leaf
        name = names[path]
        kind = next((kind for kind in rules[name].states if field in _FIELDS.get(kind, ())), None)
        if kind is None:
            raise ValueError(f"state has {field} of {name!r}, of which there are {quoted(list(rules[name].states))}")
        array = np.asarray(opt.state[kind][name])
        if array.shape != leaf.shape:
            raise ValueError(f"state has {field} of {name!r} in the shape {leaf.shape}, not {array.shape}")
        return array.astype(leaf.dtype)

    return _mapped(value, put)
