"""State dicts of ``torch.optim``, ``fastopt.torch``, bitsandbytes and torchao: positions turned into names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastopt.checkpoint import dynamic, saved
from fastopt.checkpoint.foreign import Member, fitted, kept, named, number, whole
from fastopt.checkpoint.zipped import Quantized
from fastopt.errors import CheckpointError, quoted
from fastopt.rule import Rule, is_signed
from fastopt.storages import find

#: What bitsandbytes calls the part of a parameter's state that is quantized.
NESTED = "__bnb_optimizer_quant_state__"


def is_state_dict(value: Any) -> bool:
    """Whether a value is a state dict of an optimizer of torch's."""
    return isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys()


def read(state_dict: Mapping[str, Any], like: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """See :func:`fastopt.checkpoint.read`."""
    state, groups = state_dict["state"], state_dict["param_groups"]
    if not isinstance(state, Mapping):
        raise CheckpointError(f"the state dict: state must be a mapping, not {type(state).__name__}")
    if not isinstance(groups, (list, tuple)):
        raise CheckpointError(f"the state dict: param_groups must be a list, not {type(groups).__name__}")
    positions: list[Any] = []
    said: list[str] = []
    options: dict[Any, dict[str, Any]] = {}
    seeds = set()
    for index, given in enumerate(groups):
        where = f"the state dict: param_groups[{index}]"
        group = saved.members(where, given)
        params = _listed(f"{where}: params", group.pop("params", None), int | str, "positions")
        positions += params
        given_names = group.pop("param_names", None)
        said += [] if given_names is None else _listed(f"{where}: param_names", given_names)
        options |= dict.fromkeys(params, group)
        if isinstance(group.get("seed"), int):
            seeds.add(group["seed"])
    if names is None and len(said) == len(positions):
        names = said
    rules = {name: group.rule for group in like.groups.values() for name in group.names}
    members = {}
    for name, position in named("the state dict", positions, names).items():
        rule = rules.get(name)
        if rule is None:
            members[name] = Member({})  # which is reported with the names of both sides
            continue
        where = f"the state dict: {name!r}"
        # by name, as torch.distributed writes them
        entry = saved.members(where, state.get(position, state.get(name, {})))
        entry |= saved.members(f"{where}: {NESTED}", entry.pop(NESTED, {}))
        entry = {key: _array(value) for key, value in entry.items()}
        hyperparameters = {key: _array(value) for key, value in options[position].items()}
        members[name] = _member(where, entry, rule, kept(rule, like.layout.shapes[name]), hyperparameters)
    return fitted("the state dict", members, like, seeds.pop() if len(seeds) == 1 else None)


def _listed(where: str, value: Any, kind: Any = str, what: str = "names") -> list[Any]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, kind) for each in value):
        raise CheckpointError(f"{where} must be a list of {what}, not {quoted(value)}")
    return list(value)


def _member(where: str, entry: dict[str, Any], rule: Rule, kinds: list[str], hyperparameters: dict[str, Any]) -> Member:
    entry = {key: value for key, value in entry.items() if value is not None}
    step = whole(f"{where}: step", entry.pop("step")) if "step" in entry else None
    scalars = {key: number(f"{where}: {key}", entry.pop(key)) for key in rule.torch_scalars if key in entry}
    master, slow = entry.pop("master", None), entry.pop("slow", None)
    if "remainder" in entry:
        master = {"storage": "split", "lower": _bits(f"{where}: remainder", entry.pop("remainder"))}
    if "state1" in entry:
        entry = dynamic.states(where, entry, kinds)
    scales = {kind: entry.pop(f"{kind}_scales") for kind in list(entry) if f"{kind}_scales" in entry}
    state = {}
    for kind, value in entry.items():
        if isinstance(value, Quantized):
            value = dynamic.coded(f"{where}: {kind}", *value)
        elif kind in scales:
            storage = find("8bit", signed=is_signed(rule.states.get(kind, 0.0)))
            value = {"storage": storage.name, "codes": value, "scales": scales[kind]}
        state[kind] = value
    return Member(state, step, scalars, hyperparameters, master, slow)


def _bits(where: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype not in (np.int16, np.uint16):
        raise CheckpointError(f"{where} must be an array of int16, not {quoted(value)}")
    return value.view(np.uint16)


def _array(value: Any) -> Any:
    """A tensor as an array, or with the codes of bfloat16; whatever else it is, the value itself."""
    if type(value).__module__.startswith("torchao."):
        return Quantized(*(_array(getattr(value, part)) for part in Quantized._fields))
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        import torch

        return {"storage": "bfloat16", "codes": tensor.view(torch.int16).numpy().view(np.uint16)}
    try:
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(f"the state dict has {quoted(type(value))}, which cannot be read: {error}") from None


def write(opt: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """See :func:`fastopt.checkpoint.to_torch`."""
    import torch

    described = opt.state_dict()
    state: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    for members, rule, group in ordered(opt, described["groups"], names):
        params = []
        for name in members:
            params.append(len(state))
            state[len(state)] = entry = {}
            if group["step"]:
                if rule.torch_step:
                    entry["step"] = torch.tensor(float(group["step"]))
                for key, value in _scalars(rule, group).items():
                    entry[key] = torch.tensor(value, dtype=torch.float64 if key in rule.torch_float64 else None)
                for kind, value in described["state"][name].items():
                    entry |= _tensors(kind, value)
                if described["master"] is not None:
                    master = described["master"][name]
                    split = isinstance(master, dict)
                    array = master["lower"].view(np.int16) if split else master
                    entry["remainder" if split else "master"] = torch.from_numpy(array)
                if described["lookahead"] is not None:
                    entry["slow"] = torch.from_numpy(described["lookahead"][name])
        groups.append(options(rule, group["step"]) | {"params": params, "param_names": list(members)})
    return {"state": {position: entry for position, entry in state.items() if entry}, "param_groups": groups}


def ordered(opt: Any, groups: Mapping[str, Any], names: Sequence[str] | None) -> list[tuple[list[str], Rule, dict]]:
    """The groups with their parameters in the order of ``names``. ValueError if these are not the parameters."""
    if names is not None and (len(names) != len(opt.layout.shapes) or {*names} != opt.layout.shapes.keys()):
        raise ValueError(f"names must be the parameters {quoted(list(opt.layout.shapes))}, not {quoted(list(names))}")
    order = list(opt.layout.shapes if names is None else names)
    return [
        (sorted(group.names, key=order.index), group.rule, groups[pattern]) for pattern, group in opt.groups.items()
    ]


def options(rule: Rule, steps: int) -> dict[str, Any]:
    """A rule's hyperparameters as torch's groups have them; of a schedule the rate of the next step."""
    return dict(rule) | {"lr": rule.rate(steps + 1)}


def _scalars(rule: Rule, described: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that torch keeps of each parameter besides the step."""
    if rule.torch_scalars.keys() <= described.get("scalars", {}).keys():
        return {name: described["scalars"][name] for name in rule.torch_scalars}
    scalars = dict(rule.torch_scalars)
    for step in range(1, described["step"] + 1):
        scalars = rule.advance(step, **scalars)
    return scalars


def _tensors(kind: str, value: Any) -> dict[str, Any]:
    """A state as tensors: one, or as ``fastopt.torch`` keeps 8 bits."""
    import torch

    if not isinstance(value, dict):
        if value.dtype.name == "bfloat16":
            return {kind: torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)}
        return {kind: torch.from_numpy(value)}
    if value["storage"] in ("bfloat16", "float16"):
        dtype = torch.bfloat16 if value["storage"] == "bfloat16" else torch.float16
        return {kind: torch.from_numpy(value["codes"].view(np.int16)).view(dtype)}
    return {kind: torch.from_numpy(value["codes"]), f"{kind}_scales": torch.from_numpy(value["scales"])}
