"""What steps run, in words: kernels over how much of what, and what torch's own optimizer steps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fastopt.torch.rows import Row


class PlannedKernel(NamedTuple):
    """A kernel that steps run: for parameters of which group and dtype, how many of them, with how many elements.

    ``storages`` says how the parameters (``"params"``), their master and their states are stored, by their names.
    """

    group: int
    kernel: str
    dtype: str
    parameters: int
    elements: int
    storages: Mapping[str, str]

    def __str__(self) -> str:
        counts = f"{self.parameters} parameters, {self.elements} elements of {self.dtype}"
        if {*self.storages.values()} != {self.dtype}:
            counts += "; " + ", ".join(f"{name} in {storage}" for name, storage in self.storages.items())
        return f"param_groups[{self.group}]: {self.kernel} ({counts})"


class Explanation(NamedTuple):
    """What the last step ran, where and why; as text, a line for each kernel and for each parameter beside them.

    Before the first step there is nothing of it but zeros.

    Attributes
    ----------
    backend, reason
        What ran ``kernels``, and why it was taken; empty if there were none.
    kernels
        For which group and dtype, over how many parameters and elements.
    torch
        The parameters that torch's own optimizer stepped, in words, each with the reason.
    plans
        How often it was worked out anew which parameters kernels step and where they lie.
    looks
        How many steps of this plan have looked whether anybody had changed the states.
    copied
        How many gradients lay in another order than their parameters, and were copied.
    """

    backend: str = ""
    reason: str = ""
    kernels: tuple[PlannedKernel, ...] = ()
    torch: tuple[tuple[str, str], ...] = ()
    plans: int = 0
    looks: int = 0
    copied: int = 0

    def __str__(self) -> str:
        ours = [f"{self.backend}: {self.reason}", *map(str, self.kernels)] if self.kernels else ["no kernel"]
        return "\n".join(ours + [f"torch: {param} {reason}" for param, reason in self.torch])


def storages(rows: Sequence[Row]) -> dict[str, str]:
    """How the parameters of some rows, their masters and states are stored, by name, in words."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        kept = row.kept
        named = zip(("params" if kept.copy is None else "master", *kept.states), kept.numbers, strict=True)
        more = [("params", kept.copy), ("slow", kept.slow)]
        for name, numbers in (*((name, each) for name, each in more if each is not None), *named):
            words = f"{numbers.storage.name}, stochastic" if numbers.stochastic else numbers.storage.name
            found.setdefault(name, {})[words] = None
    return {name: " and ".join(words) for name, words in found.items()}
