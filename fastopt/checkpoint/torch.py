"""State dicts of ``torch.optim``, ``fastopt.torch``, bitsandbytes and torchao: positions turned into names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastopt.checkpoint import dynamic
from fastopt.checkpoint.foreign import Member, fitted, kept, named
from fastopt.checkpoint.zipped import Quantized
from fastopt.errors import CheckpointError, quoted
from fastopt.rule import Rule
from fastopt.storages import find

#: What bitsandbytes calls the part of a parameter's state that is quantized.
_NESTED = "__bnb_optimizer_quant_state__"


def is_state_dict(value: Any) -> bool:
    """Whether a value is a state dict of an optimizer of torch's."""
    return isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys()


def read(state_dict: Mapping[str, Any], like: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """See :func:`fastopt.checkpoint.read`."""
    groups, state = state_dict["param_groups"], state_dict["state"]
    positions: list[Any] = []
    said: list[str] = []
    options: dict[Any, dict[str, Any]] = {}
    for group in groups:
        params = list(group["params"])
        positions += params
        said += list(group.get("param_names") or [])
        options |= {
            position: {k: v for k, v in group.items() if k not in ("params", "param_names")} for position in params
        }
    if names is None and len(said) == len(positions):
        names = said
    rules = {name: group.rule for group in like.groups.values() for name in group.names}
    members = {}
    for name, position in named("the state dict", positions, names).items():
        entry = state.get(position, state.get(name, {}))  # by name, as torch.distributed writes them
        rule = rules.get(name)
        if rule is None:
            members[name] = Member({})  # which is reported with the names of both sides
            continue
        entry = {
            key: _array(value) for key, value in (dict(entry) | dict(entry.get(_NESTED, {}))).items() if key != _NESTED
        }
        hyperparameters = {key: _array(value) for key, value in options[position].items()}
        members[name] = _member(name, entry, rule, kept(rule, like.layout.shapes[name]), hyperparameters)
    seeds = {group["seed"] for group in groups if isinstance(group.get("seed"), int)}
    return fitted("the state dict", members, like, seeds.pop() if len(seeds) == 1 else None)


def _member(name: str, entry: dict[str, Any], rule: Rule, kinds: list[str], hyperparameters: dict[str, Any]) -> Member:
    entry = {key: value for key, value in entry.items() if value is not None}
    step = entry.pop("step", None)
    scalars = {key: float(_item(entry.pop(key))) for key in rule.torch_scalars if key in entry}
    master, slow = entry.pop("master", None), entry.pop("slow", None)
    if "remainder" in entry:
        master = {"storage": "split", "lower": entry.pop("remainder").view(np.uint16)}
    if "state1" in entry:
        entry = dynamic.states(f"the state dict: {name!r}", entry, kinds)
    scales = {kind: entry.pop(f"{kind}_scales") for kind in list(entry) if f"{kind}_scales" in entry}
    state = {}
    for kind, value in entry.items():
        if isinstance(value, Quantized):
            value = dynamic.Coded(*value)
        elif kind in scales:
            signed = getattr(rule.states.get(kind, 0.0), "signed", True)
            value = {"storage": find("8bit", signed=signed).name, "codes": value, "scales": scales[kind]}
        state[kind] = value
    return Member(state, None if step is None else int(_item(step)), scalars, hyperparameters, master, slow)


def _item(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


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

    saved = opt.state_dict()
    state: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    for members, rule, described in ordered(opt, saved["groups"], names):
        params = []
        for name in members:
            params.append(len(state))
            state[len(state)] = entry = {}
            if described["step"]:
                if rule.torch_step:
                    entry["step"] = torch.tensor(float(described["step"]))
                for key, value in _scalars(rule, described).items():
                    entry[key] = torch.tensor(value, dtype=torch.float64 if key in rule.torch_float64 else None)
                for kind, value in saved["state"][name].items():
                    entry |= _tensors(kind, value)
                if saved["master"] is not None:
                    master = saved["master"][name]
                    split = isinstance(master, dict)
                    array = master["lower"].view(np.int16) if split else master
                    entry["remainder" if split else "master"] = torch.from_numpy(array)
                if saved["lookahead"] is not None:
                    entry["slow"] = torch.from_numpy(saved["lookahead"][name])
        groups.append(options(rule, described["step"]) | {"params": params, "param_names": list(members)})
    return {"state": {position: entry for position, entry in state.items() if entry}, "param_groups": groups}


def ordered(opt: Any, groups: Mapping[str, Any], names: Sequence[str] | None) -> list[tuple[list[str], Rule, dict]]:
    """The groups with their parameters in the order of ``names``. ValueError if these are not the parameters."""
    if names is not None and sorted(names) != sorted(opt.layout.shapes):
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
