"""The states of all parameters: a dict that knows whether anybody has looked into it, and whether they have changed."""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor


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
    states may have been read, or somebody holds one of the dicts, tensors or storages. Who holds no dict can only move
    tensors, as who has got a state dict can: that is seen in half the time.
    """

    #: After so many steps in which nobody has read the states it is worth asking who holds them.
    PATIENCE = 8

    def __init__(self, state: Any, entries: list[dict], tensors: list[Tensor], locals: Callable[..., Any]) -> None:
        """``tensors`` are those of ``entries`` that a step writes to, ``locals`` gives the memory of DTensors here."""
        self._state, self._members, self._entries = state, list(state.values()), entries
        self._held = [*_all_values(entries)]
        self._tensors, self._locals = tensors, locals
        self._addresses = list(map(Tensor.data_ptr, locals(tensors)))
        #: A function of the class: a bound method would hold this object, and it the parameters' memory, in a circle.
        self._look: Callable[[Watch], bool] | None = Watch._differs
        self._quiet, self._patience = 0, self.PATIENCE
        #: How many steps have looked.
        self.looks = 0
        if type(state) is States:
            state.seen = False

    def holds(self, state: Any) -> bool:
        """Whether nothing has changed, as far as anything can have."""
        if state is not self._state:
            return False
        watched = type(state) is States
        if not watched or state.seen:
            self._look, self._quiet, self._patience = Watch._differs, -1, self.PATIENCE
        if self._look is None:
            return True
        self.looks += 1
        if self._look(self):
            return False
        self._quiet += 1
        if self._quiet == self._patience:
            self._look = self._look_for_those_who_hold()
            self._quiet, self._patience = 0, 2 * self._patience
        if watched:
            state.seen = False
        return True

    def _differs(self) -> bool:
        members = list(self._state.values())
        return self._moved() or not (
            len(members) == len(self._members)
            and all(map(is_, self._members, members))
            and all(map(is_, self._held, _all_values(self._entries)))
        )

    def _moved(self) -> bool:
        return self._addresses != list(map(Tensor.data_ptr, self._locals(self._tensors)))

    def _look_for_those_who_hold(self) -> "Callable[[Watch], bool] | None":
        """How to look for what somebody can change who holds one of the dicts, of the tensors, or of their memory."""
        thrice = {
            _references(3)
        }  # an entry is in the state and in two lists here, a tensor in an entry and in two lists
        if self._locals(self._tensors) is not self._tensors or not {*map(sys.getrefcount, self._entries)} <= thrice:
            return Watch._differs
        alone = {*map(sys.getrefcount, self._tensors)} <= thrice
        return None if alone and {*map(_uses, self._tensors)} <= {_uses(torch.empty(1, device="cpu"))} else Watch._moved


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


def _uses(tensor: Any) -> tuple[int, int, int]:
    """How many references torch counts to a tensor and to its storage, and Python to the latter."""
    storage = tensor.untyped_storage()
    return tensor._use_count(), torch._C._storage_Use_Count(storage._cdata), sys.getrefcount(storage)
