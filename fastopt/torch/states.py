"""The states of all parameters: a dict that knows whether anybody has looked into it, and whether they have changed."""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor

from fastopt.torch import memory


class States(defaultdict):
    """What ``optimizer.state`` is: a ``defaultdict`` that notes in ``seen`` that it was read or changed.

    Whoever has looked may hold a part of the state and change it at any time, so that steps must look, too. What is
    pickled or copied is a plain ``defaultdict``.
    """

    #: Whether anybody has looked since a step has last said False.
    seen = True

    def __reduce__(self) -> tuple:
        return defaultdict, (self.default_factory,), None, None, iter(self.items())


def _noting(method: Callable[..., Any]) -> Callable[..., Any]:
    def noted(self: States, *args: Any, **kwargs: Any) -> Any:
        self.seen = True
        return method(self, *args, **kwargs)

    noted.__name__, noted.__doc__ = method.__name__, method.__doc__
    return noted


_COPYING = ["__copy__", "__or__", "__ror__", "copy"]
_READING = ["__getitem__", "__iter__", "__missing__", "__reversed__", "get", "items", "keys", "values"]
_WRITING = ["__delitem__", "__ior__", "__setitem__", "clear", "pop", "popitem", "setdefault", "update"]
for _name in _COPYING + _READING + _WRITING:
    setattr(States, _name, _noting(getattr(defaultdict, _name)))


class Watch:
    """Whether the state dicts of some parameters, and the memory of their tensors, are still what they were.

    Looking takes as long as all the rest of a step of small tensors, so a step looks only while it must: while the
    states may have been read, or somebody holds one of the dicts, tensors or storages.
    """

    #: After so many steps in which nobody has read the states it is worth asking who holds them.
    PATIENCE = 8

    def __init__(self, state: Any, entries: list[dict], tensors: list[Tensor], locals: Callable[..., Any]) -> None:
        """``tensors`` are those of ``entries`` that a step writes to, ``locals`` gives the memory of DTensors here."""
        self._state, self._members, self._entries = state, list(state.values()), entries
        self._held = [*_all_values(entries)]
        self._tensors, self._locals = tensors, locals
        self._addresses = list(map(Tensor.data_ptr, locals(tensors)))
        self._looks, self._quiet, self._patience = True, 0, self.PATIENCE
        #: How many steps have looked.
        self.looks = 0
        if type(state) is States:
            state.seen = False

    def holds(self, state: Any) -> bool:
        """Whether nothing has changed, as far as anything can have."""
        if state is not self._state:
            return False
        watched = type(state) is States
        looked = not watched or state.seen
        if not (looked or self._looks):
            return True
        self.looks += 1
        if self._differs():
            return False
        if looked:
            self._looks, self._quiet, self._patience = True, 0, self.PATIENCE
        else:
            self._quiet += 1
            if self._quiet == self._patience:
                self._looks = self._is_held()
                self._quiet, self._patience = 0, 2 * self._patience
        if watched:
            state.seen = False
        return True

    def _differs(self) -> bool:
        members = list(self._state.values())
        return not (
            len(members) == len(self._members)
            and all(map(is_, self._members, members))
            and all(map(is_, self._held, _all_values(self._entries)))
            and self._addresses == list(map(Tensor.data_ptr, self._locals(self._tensors)))
        )

    def _is_held(self) -> bool:
        """Whether anybody else holds one of the dicts or tensors, a tensor that shares their memory, or that memory."""
        thrice = {
            _references(3)
        }  # an entry is in the state and in two lists here, a tensor in an entry and in two lists
        if (
            self._locals(self._tensors) is not self._tensors
            or not {*map(sys.getrefcount, self._entries)} <= thrice
            or not {*map(sys.getrefcount, self._tensors)} <= thrice
        ):
            return True
        known = memory.aliases()
        tensor, storage, handles = _uses(torch.empty(1, device="cpu"), known)
        return not {_uses(each, known) for each in self._tensors} <= {(tensor, storage, handles)}


_END = object()


def _all_values(entries: Sequence[dict]) -> chain:
    """The values of some dicts, one dict after the other, and a mark."""
    return chain(chain.from_iterable(map(dict.values, entries)), (_END,))


def _references(containers: int) -> int:
    """What ``sys.getrefcount``, mapped over a container, says of an object that so many containers hold."""
    first, *rest = ([None] for _ in range(containers))
    first[0] = object()  # type: ignore[call-overload]
    for other in rest:
        other[0] = first[0]
    return next(map(sys.getrefcount, first))


def _uses(tensor: Any, known: Mapping[int, int]) -> tuple[int, int, int]:
    """How many references torch counts to a tensor, to its storage, less the known ones, and Python to the latter."""
    storage = tensor.untyped_storage()
    count = torch._C._storage_Use_Count(storage._cdata) - known.get(storage._cdata, 0)
    return tensor._use_count(), count, sys.getrefcount(storage)
