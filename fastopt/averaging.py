"""Parameters for evaluation in the place of those that steps update, and exactly those again afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import starmap
from operator import call

import numpy as np

from fastopt.encoded import between
from fastopt.groups import Group
from fastopt.state import Aside, OptimizerState
from fastopt.storage import Stream


@contextmanager
def averaged(state: OptimizerState, forget: Callable[[], None]) -> Iterator[None]:
    """Has the parameters, and their copy, be averages while the block runs. ``forget`` unbinds what steps have bound.

    TypeError if there is a group without averages, RuntimeError if the parameters are not in their place.
    """
    state.check_in_place("averaged")
    for group in state.groups.values():
        _check(state, group)
    forget()
    aside = Aside(state, "the parameters are averages within averaged(): leave its block first")
    # One call in C each, without a frame of Python's between it and the question whether it has been made.
    keep, restore = starmap(call, aside.keep()), starmap(call, aside.put_back())
    try:
        try:
            list(keep)
            for group in state.groups.values():
                for name in group.names:
                    _show(state, name, _average(state, group, name))
            yield
        finally:
            if aside.kept:
                list(restore)
    finally:
        if aside.kept:  # where an interrupt came first
            list(restore)
        forget()


def _check(state: OptimizerState, group: Group) -> None:
    if group.names and not group.rule.averages and state.ema is None:
        kind = type(group.rule).__name__
        raise TypeError(
            f"averaged: group {group.pattern!r} must have a rule that averages, as schedule-free ones do, or the "
            f"optimizer ema_decay, not {kind} without: make it with ema_decay=0.999"
        )


def _average(state: OptimizerState, group: Group, name: str) -> np.ndarray:
    """The average of a parameter, 1-D, in the dtype in which kernels compute."""
    if not group.rule.averages:
        assert state.ema is not None
        return state.ema[name].reshape(-1)
    p = _decoded(state.numbers(name, name))
    if not group.step:
        return p
    states = {kind: _decoded(between(state.states[kind], name, name, state.dtype)) for kind in group.rule.states}
    return group.rule.averaged(p, states)


def _decoded(stream: np.ndarray | Stream) -> np.ndarray:
    return stream.decode() if isinstance(stream, Stream) else stream


def _show(state: OptimizerState, name: str, values: np.ndarray) -> None:
    """Writes numbers, rounded to nearest, to where the user reads the parameters."""
    for array in state.shown():
        with np.errstate(all="ignore"):
            array[state.layout.places[name]] = values if array.itemsize > 2 else values.astype(np.float32, copy=False)
