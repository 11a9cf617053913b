"""Checkpoints: an optimizer as a dictionary keyed by parameter name, as one file, and as the state of other packages.

What another package has saved goes into an optimizer here, and back, by parameter name:

>>> optimizer.load_state_dict(checkpoint.read("adamw.pt", like=optimizer))
>>> torch_optimizer.load_state_dict(checkpoint.to_torch(optimizer))
"""

import os
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from fastopt.errors import quoted


@overload
def read(source: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]: ...
@overload
def read(source: Any, like: Any, *, names: Sequence[str] | None = None) -> dict[str, Any]: ...
def read(source: Any, like: Any = None, *, names: Sequence[str] | None = None) -> Any:
    """A checkpoint as plain data: for an optimizer, or a file of fastopt's as it is.

    Parameters
    ----------
    source
        A path: of a file of fastopt's, of ``torch.save``, or of Keras's weights (``.weights.h5``, ``.keras``; they need
        h5py). Or what others give in memory: a state dict of ``torch.optim``, ``fastopt.torch``, bitsandbytes (8 or 32
        bits) or torchao (8 bits), alone or as the only one in a mapping; a state of optax's, also as Orbax restores it;
        a state dict of :class:`fastopt.Optimizer`.
    like
        The :class:`fastopt.Optimizer` that shall go on. Without it ``source`` is a file of fastopt's, and the result
        its description and its arrays, after every checksum has been compared.
    names
        The names of the parameters, in order, where the source knows their positions only. torch's state dicts may have
        names (``param_names``); optax's trees have: keys, joined by ``/`` or ``.``.

    Returns
    -------
    What :meth:`fastopt.Optimizer.load_state_dict` takes: states with the dtype that they have there (``convert=True``
    has that one round them to another), step counts, and the hyperparameters that both have by the same name. 8 bits of
    bitsandbytes and torchao are float32 here, decoded when they are loaded or asked for (``numpy.asarray``). What the
    source does not hold, averages and copies, is as in ``like``, in which nothing has changed.

    Notes
    -----
    A run goes on with the same bits where the other package has the same arithmetic (``fastopt.torch``), and else to
    within rounding. Keras's Adam adds ``epsilon`` before the bias correction of the second moment and all others after
    it, which hardly shows while it is small. No code of a file is run: see ``checkpoint/zipped.py``.

    Raises
    ------
    TypeError
        An argument is not as described.
    CheckpointError
        The source is damaged or does not fit: names and states of both sides are given.
    OSError
        It cannot be read.
    """
    if like is None:
        from fastopt.checkpoint import file  # what it imports in turn is for files alone

        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(f"source must be a path where there is no like, not {quoted(source)}")
        return file.read(source)
    _check("like", like)
    from fastopt.checkpoint import others

    return others.read(source, like, names)


def to_torch(opt: Any, *, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The state of an optimizer as a state dict of the class of the same name in ``torch.optim`` or ``fastopt.torch``.

    ``names`` is the order in which the parameters are there; by default that of the optimizer's groups. States keep
    their dtype, of 8 bits ``fastopt.torch`` takes them. Needs torch.
    """
    _check("opt", opt)
    from fastopt.checkpoint import torch

    return torch.write(opt, names)


def to_bitsandbytes(opt: Any, *, names: Sequence[str] | None = None, bits: int = 8) -> dict[str, Any]:
    """The state of an optimizer as a state dict of the bitsandbytes class of that name, with 8 or 32 bits.

    As there, parameters of fewer than 4096 elements keep float32. ``names`` is as for :func:`to_torch`. Needs torch.
    """
    _check("opt", opt)
    from fastopt.checkpoint import bitsandbytes

    return bitsandbytes.write(opt, names, bits)


def to_optax(opt: Any, state: Any = None) -> Any:
    """The state of an optimizer as optax has it: ``state``, as ``init`` gives it, with what is here in its place.

    Without ``state`` it is that of optax's own function for the rule, with parameters in a dictionary by name. Needs
    optax then.
    A count is that of the group whose states are beside it. ValueError if they are of groups that have made different
    numbers of steps.
    """
    _check("opt", opt)
    from fastopt.checkpoint import optax

    return optax.write(opt, state)


def _check(name: str, given: Any) -> None:
    if not hasattr(given, "groups"):  # its class imports this package
        raise TypeError(f"{name} must be a fastopt.Optimizer, not {quoted(given)}")
