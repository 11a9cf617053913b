"""How the numbers of parameters and states are stored: what a group asks for, and the tensors that hold them."""

from collections.abc import Collection, Mapping
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastopt.errors import quoted
from fastopt.lookahead import check_lookahead
from fastopt.precision import Precision, check_precision, check_seed
from fastopt.rule import Rule, is_signed
from fastopt.storage import Storage
from fastopt.storages import STORAGES, find
from fastopt.torch import memory, sharded
from fastopt.torch.memory import Numbers

#: The options of a group, which torch's optimizers do not have, with what does as torch does.
OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"master": None, "state_dtype": None, "rounding": None, "seed": 0, "lookahead": None}
)

#: What the states are called that hold parameters of 16 bits exactly, or the lower halves of them.
MASTER, REMAINDER = "master", "remainder"

#: What the state is called that holds the slow weights of lookahead.
SLOW = "slow"

_WHOLE = "float32"

#: The dtypes of tensors by the storage of their numbers.
_TENSORS = {storage.name: dtype for dtype, storage in memory.STORED.items()}


class Options(NamedTuple):
    """What a group asks for: see :class:`fastopt.torch.RuleOptimizer`."""

    master: str | None
    state_dtype: Any
    rounding: str | None
    seed: int
    lookahead: tuple[int, float] | None

    @property
    def as_torch(self) -> bool:
        """Whether they ask for what torch's optimizers do."""
        return self._stored_as_torch and self.lookahead is None

    @property
    def _stored_as_torch(self) -> bool:
        return self.master is None and self.state_dtype is None and self.rounding in (None, "nearest")

    def precision(self, states: Collection[str], dtype: torch.dtype) -> Precision:
        """How numbers are stored where parameters have that dtype. TypeError or ValueError if an option is wrong.

        Only those of 16 bits have a master. Without one their states have 16 bits, too, if nothing else is asked for.
        """
        storage = memory.STORED[dtype]
        narrow = storage.name != storage.computes.name
        asked, whole = self.state_dtype, set[str]()
        if asked == _WHOLE:
            asked, whole = None, set(states)
        elif isinstance(asked, Mapping):
            whole = {name for name, wanted in asked.items() if wanted == _WHOLE and name in states}
            asked = {name: wanted for name, wanted in asked.items() if name not in whole}
        found = check_precision(
            storage.name,
            states,
            master=self.master if narrow else None,
            state_dtype=asked,
            rounding=("nearest" if self._stored_as_torch else "stochastic") if self.rounding is None else self.rounding,
            copy=None,
        )
        if narrow and self.master is None:
            others = dict.fromkeys((name for name in states if name not in whole), storage.name)
            found = found._replace(states=others | dict(found.states))
        return found


def options_of(group: Mapping[str, Any]) -> Options:
    """The options of a group, which need not have been checked: as they are now, whatever is written to them later."""
    found = Options(*(group.get(name, default) for name, default in OPTIONS.items()))
    return found._replace(state_dtype=dict(found.state_dtype)) if isinstance(found.state_dtype, Mapping) else found


def check_options(options: Options, states: Collection[str], dtypes: Collection[torch.dtype]) -> None:
    """TypeError or ValueError if an option is outside its domain, or is not for parameters of one of the dtypes."""
    check_seed(options.seed)
    if options.lookahead is not None:
        check_lookahead(options.lookahead)
    for dtype in (torch.bfloat16, *dtypes):
        if dtype in memory.STORED:
            options.precision(states, dtype)


class Kept(NamedTuple):
    """What a step of a parameter works on besides the gradient, and what its state holds of that, by name."""

    tensors: dict[str, Tensor]
    #: The streams of the kernel: the parameters, where they are exact, and the states.
    numbers: tuple[Numbers, ...]
    #: The names of these states.
    states: tuple[str, ...]
    #: The parameters in 16 bits, where a master is copied to them.
    copy: Numbers | None
    #: The slow weights of lookahead, if there are some.
    slow: Numbers | None = None


def keep(rule: Rule, p: Tensor, entry: Mapping[str, Any], precision: Precision, *, slow: bool = False) -> Kept:
    """The tensors of a parameter's state, or new ones where it has none, or some that kernels cannot work on.

    With ``slow`` there are slow weights among them, which start as the parameter is.

    ValueError, which names it, if a state does not fit the parameter.
    """
    storage, copy, tensors = memory.STORED[p.dtype], None, dict[str, Tensor]()
    exact, computes = Numbers(storage, (p,), precision.is_stochastic(storage)), storage.computes
    states, whole = rule.states, tuple(p.shape)
    places = len(states) + (precision.master is not None) + slow
    if precision.master == "split":
        remainder = _reused(p, REMAINDER, entry.get(REMAINDER), torch.int16)
        if remainder is None:
            remainder = memory.state_like(p, 0, torch.int16, places, places)
        tensors[REMAINDER], exact = remainder, Numbers(STORAGES["split"], (p, remainder))
    elif precision.master is not None:
        master = _reused(p, MASTER, entry.get(MASTER), torch.float32)
        if master is None:
            master = memory.state_like(p, 0.0, torch.float32, places, places).copy_(p.detach())
        tensors[MASTER], exact, copy = master, memory.numbers(master), memory.numbers(p)
    kept: list[str] = []
    numbers, size = [exact], p.numel()
    for place, (name, first) in enumerate(states.items(), 1):
        shape = rule.state_shape(name, whole)
        if shape is None:
            continue
        own = shape == whole
        storage = precision.state_storage(name, first, size if own else prod(shape), computes)
        # A state of another shape lies in memory as that has it, and has nothing else of the parameter's.
        parts = _state(p if own else p.new_empty(shape), entry, name, first, storage, place, places)
        tensors |= zip(names(name, storage), parts, strict=True)
        kept.append(name)
        numbers.append(Numbers(storage, parts, precision.is_stochastic(storage)))
    if slow:
        tensors[SLOW] = _slow(p, entry, len(states) + 1, places)
    return Kept(tensors, tuple(numbers), tuple(kept), copy, memory.numbers(tensors[SLOW]) if slow else None)


def _slow(p: Tensor, entry: Mapping[str, Any], place: int, places: int) -> Tensor:
    dtype = torch.float64 if p.dtype == torch.float64 else torch.float32
    there = _reused(p, SLOW, entry.get(SLOW), dtype)
    return memory.state_like(p, 0.0, dtype, place, places).copy_(exact(p, entry).detach()) if there is None else there


def exact(p: Tensor, entry: Mapping[str, Any]) -> Tensor:
    """The parameter as steps update it: itself, or what its state holds of it in more bits."""
    if entry.get(MASTER) is not None:
        return entry[MASTER]
    if entry.get(REMAINDER) is None:
        return p
    remainder = _reused(p, REMAINDER, entry[REMAINDER], torch.int16)
    assert remainder is not None
    return _laid_out(p, Numbers(STORAGES["split"], (p, remainder)).decode(), torch.float32)


def decoded(p: Tensor, entry: Mapping[str, Any], name: str, first: float) -> Tensor:
    """A state that is there and began as ``first``, as a tensor of floats: if it is stored in 8 bits, a copy."""
    given = entry[name]
    if given.dtype != torch.uint8:
        return given
    before = _in_bytes(p, entry, name, first)
    return _laid_out(before.tensors[0], before.decode(), torch.float32)


def names(state: str, storage: Storage) -> list[str]:
    """What the tensors of a state are called: ``exp_avg``, and in 8 bits ``exp_avg_scales``, too."""
    return [state, *(f"{state}_{part.name}" for part in storage.parts[1:])]


def _reused(p: Tensor, name: str, given: Any, dtype: torch.dtype) -> Tensor | None:
    """A tensor that is there, or a copy in the parameter's layout and that dtype; None if there is none."""
    if given is None:
        return None
    _check_shape(p, name, given)
    return given if memory.matches(given, p, dtype) else memory.like(p, given, dtype)


def _check_shape(p: Tensor, name: str, given: Any) -> None:
    if not isinstance(given, Tensor):
        raise ValueError(f"needs a tensor for the state {name!r}, not {quoted(given)}")
    if given.shape != p.shape:
        raise ValueError(f"needs a state {name!r} of the shape {tuple(p.shape)}, not {tuple(given.shape)}")


def _state(
    p: Tensor, entry: Mapping[str, Any], name: str, first: float, storage: Storage, place: int, places: int
) -> tuple[Tensor, ...]:
    """The tensors of a state in a storage: those that are there, what they hold in that storage, or new ones."""
    given = entry.get(name)
    if isinstance(given, Tensor) and given.dtype == torch.uint8:
        before = _in_bytes(p, entry, name, first)
        if before.storage is storage and memory.matches(before.tensors[0], p, torch.uint8):
            return before.tensors
        given = _laid_out(before.tensors[0], before.decode(), torch.float32)
    if len(storage.parts) == 1:
        dtype = _TENSORS[storage.name]
        reused = _reused(p, name, given, dtype)
        return (memory.state_like(p, first, dtype, place, places) if reused is None else reused,)
    if memory.is_distributed(p) and not sharded.has_whole_blocks(p, storage.block):
        raise ValueError(
            f"is a DTensor, of which processes do not have whole blocks of {storage.block} elements: "
            "its states cannot be stored in 8 bits"
        )
    values = _reused(p, name, given, torch.float32)
    if values is None:
        code, scale = (part.item(0) for part in storage.encode(np.full(1, first, np.float32)))
        codes = memory.state_like(p, code, torch.uint8, place, places)
        scales = torch.full(storage.lengths(memory.local(p).numel())[1:], scale, dtype=torch.float32, device="cpu")
    else:
        found, encoded = storage.encode(memory.numbers(values).decode())
        codes, scales = _laid_out(p, found, torch.uint8), torch.from_numpy(encoded)
    return codes, sharded.blocks_like(p, scales, storage.block)


def _in_bytes(p: Tensor, entry: Mapping[str, Any], name: str, first: float) -> Numbers:
    """A state that is there in 8 bits, which may lie in memory in another order than the parameter."""
    storage = find("8bit", signed=is_signed(first))
    parts: Any = map(entry.get, names(name, storage))
    codes, scales = parts
    _check_shape(p, name, codes)
    wanted = storage.lengths(p.numel())[1:]
    alike = memory.is_distributed(scales) == memory.is_distributed(p)
    if not (isinstance(scales, Tensor) and alike) or tuple(scales.shape) != wanted:
        raise ValueError(f"has a state {name!r} in 8 bits without {wanted[0]} {names(name, storage)[1]}")
    if not memory.is_dense(codes):
        codes = codes.contiguous()
    return Numbers(storage, (codes, scales.to("cpu", torch.float32).contiguous()))


def _laid_out(tensor: Tensor, values: np.ndarray, dtype: torch.dtype) -> Tensor:
    """A tensor of numbers that are in the order in which those of another one lie in memory."""
    made = torch.empty_like(tensor, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
    memory.flat(memory.local(made), values.dtype)[:] = values
    return made
