"""How parameters, states and copies of them are stored: what an optimizer was asked for, checked."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from fastopt.buffers import name_of
from fastopt.declared import Choice, whole
from fastopt.errors import InputError, nearest, quoted
from fastopt.rule import is_signed
from fastopt.storage import Storage
from fastopt.storages import STORAGES, find

#: Parameters of fewer elements keep their states as kernels compute them, where ``8bit`` was asked for.
SMALL = 4096

Master = Literal["float32", "split"]
StateDtype = Literal["bfloat16", "float16", "8bit"]
Copy = Literal["bfloat16", "float16"]
Rounding = Literal["stochastic", "nearest"]

MASTER: tuple[str, ...] = get_args(Master)
COMPRESSED: tuple[str, ...] = get_args(StateDtype)
COPIES: tuple[str, ...] = get_args(Copy)
ROUNDING = Choice(*get_args(Rounding))

#: What can hold parameters exactly, by how they are stored.
MASTERS: dict[str, tuple[str, ...]] = {"bfloat16": MASTER, "float16": ("float32",)}

_STATES = "None, 'bfloat16', 'float16', '8bit', or a mapping of states to one of these words"
_SEED = "a whole number in [0, 2**64)"


class Precision(NamedTuple):
    """The arguments of :class:`fastopt.Optimizer` that say how numbers are stored.

    ``states`` has the name of a compressed storage, as users write it, for each state that has one.
    """

    master: str | None
    states: Mapping[str, str]
    rounding: str
    copy: str | None

    def state_storage(self, name: str, first: float, size: int, computes: np.dtype) -> Storage:
        """How a state of a parameter with so many elements is stored; ``first`` says whether it has signs."""
        wanted = self.states.get(name)
        if wanted is None or (wanted == "8bit" and size < SMALL):
            return STORAGES[name_of(computes)]
        return find(wanted, signed=is_signed(first))

    def is_stochastic(self, storage: Storage) -> bool:
        """Whether parameters and states in a storage are rounded stochastically.

        Numbers of 8 bits are if they have no signs: a second moment that changes by less than half of a code's distance
        would stand still otherwise. Those that have signs go to the nearest code.
        """
        if storage.name in COPIES:
            return self.rounding == "stochastic"
        return storage.name == "float8_unsigned"


def check_precision(
    dtype: str, states: Collection[str], *, master: Any, state_dtype: Any, rounding: Any, copy: Any
) -> Precision:
    """The arguments for parameters of that dtype, and rules that keep these states.

    TypeError or ValueError, which names the argument, if it is outside its domain.
    """
    check_master(master, dtype)
    check_copy(copy, dtype)
    return Precision(master, _check_states(state_dtype, states), ROUNDING.parse("rounding", rounding), copy)


def check_master(master: Any, dtype: str) -> None:
    """InputError unless it can hold parameters of that dtype exactly, or is None."""
    _check_one("master", master, MASTERS.get(dtype, ()), dtype)


def check_copy(copy: Any, dtype: str) -> None:
    """InputError unless parameters of that dtype can have such a copy, or it is None."""
    _check_one("copy", copy, () if dtype in COPIES else COPIES, dtype)


def _check_one(argument: str, given: Any, allowed: tuple[str, ...], dtype: str) -> None:
    if given is not None and given not in allowed:
        *others, last = map(repr, (None, *allowed))
        words = f"{', '.join(others)} or {last}" if others else last
        raise InputError(argument, f"must be {words} for parameters of {dtype}, not {quoted(given)}")


def _check_states(given: Any, states: Collection[str]) -> dict[str, str]:
    if given is None:
        return {}
    if isinstance(given, str):
        given = dict.fromkeys(states, _compressed("state_dtype", given, _STATES))
    if not isinstance(given, Mapping):
        raise TypeError(f"state_dtype must be {_STATES}, not {quoted(given)}")
    for name, wanted in given.items():
        if name not in states:
            raise ValueError(f"state_dtype: the rules keep no state {quoted(name)}; {nearest(str(name), states)}")
        _compressed(f"state_dtype[{name!r}]", wanted, "one of 'bfloat16', 'float16', '8bit'")
    return dict(given)


def _compressed(argument: str, name: Any, domain: str) -> str:
    if name not in COMPRESSED:
        raise ValueError(f"{argument} must be {domain}, not {quoted(name)}")
    return name


def check_seed(seed: Any) -> int:
    """The seed of stochastic rounding; TypeError or ValueError if it is none."""
    number = whole("seed", seed, _SEED)
    if not 0 <= number < 2**64:
        raise ValueError(f"seed must be {_SEED}, not {quoted(seed)}")
    return number
