"""How the numbers of a step are stored, and what is done to its gradient first: what every engine is asked for."""

from typing import Any, NamedTuple

import numpy as np

import fastopt
from fastopt.precision import COPIES, Precision
from fastopt.rule import Rule
from fastopt.storages import STORAGES, find


class Mix(NamedTuple):
    """The arguments of :class:`fastopt.Optimizer` and of its ``step``, with the dtypes of parameters and gradient."""

    dtype: str = "float32"
    grad_dtype: str = "float32"
    state_dtype: Any = None
    master: Any = None
    copy: Any = None
    rounding: Any = "stochastic"
    max_norm: float | None = None
    grad_scale: float = 1.0

    @property
    def computes(self) -> np.dtype:
        """The dtype that kernels compute in."""
        return STORAGES[self.dtype].computes

    @property
    def exact(self) -> str:
        """The dtype of what a step updates: of the master, if there is one."""
        return self.dtype if self.master is None else self.computes.name

    @property
    def low(self) -> str | None:
        """The dtype of the copy in 16 bits that a step writes, or None: also of parameters that have a master."""
        return self.copy if self.master is None else self.dtype

    @property
    def rounds(self) -> bool:
        """Whether what a step updates is rounded to 16 bits."""
        return self.exact in COPIES

    def in_words(self) -> str:
        """How numbers are stored, and what is done to the gradient."""
        words = [self.dtype]
        words += [f"gradient in {self.grad_dtype}"] if self.grad_dtype != self.dtype else []
        words += [f"{name} {value}" for name, value in (("master", self.master), ("copy", self.copy)) if value]
        words += [f"states in {self.state_dtype}"] if self.state_dtype else []
        words += ["unscaled"] if self.grad_scale != 1.0 else []
        words += ["clipped"] if self.max_norm is not None else []
        return ", ".join(words)

    def optimizer(self, p: np.ndarray, rule: Rule, backend: Any, threads: int) -> fastopt.Optimizer:
        """fastopt's optimizer of parameters that are stored so."""
        return fastopt.Optimizer(
            p,
            rule,
            backend=backend,
            threads=threads,
            master=self.master,
            state_dtype=self.state_dtype,
            rounding=self.rounding,
            copy=self.copy,
        )

    def step_options(self) -> dict[str, Any]:
        """What fastopt's step is asked for besides."""
        options = {"max_norm": self.max_norm, "grad_scale": self.grad_scale}
        return {name: value for name, value in options.items() if value != self._field_defaults[name]}

    def held(self, rule: Rule, size: int) -> int:
        """Bytes of parameters, gradient, states and copy."""
        return self._numbers(size) + self._gradient(size) + self._states(rule, size) + self._copy(size)

    def traffic(self, rule: Rule, size: int) -> int:
        """Bytes that a step moves: reads all but the copy, and writes all but the gradient. A norm reads that again."""
        norms = 1 if self.max_norm is None else 2
        updated = self._numbers(size) + self._states(rule, size)
        return 2 * updated + norms * self._gradient(size) + self._copy(size)

    def _numbers(self, size: int) -> int:
        return find("split" if self.master == "split" else self.exact).nbytes(size)

    def _gradient(self, size: int) -> int:
        return find(self.grad_dtype).nbytes(size)

    def _states(self, rule: Rule, size: int) -> int:
        wanted = {} if self.state_dtype is None else dict.fromkeys(rule.states, self.state_dtype)
        precision = Precision(self.master, wanted, self.rounding, self.copy)
        stored = (precision.state_storage(name, first, size, self.computes) for name, first in rule.states.items())
        return sum(storage.nbytes(size) for storage in stored)

    def _copy(self, size: int) -> int:
        return 0 if self.low is None or self.master == "split" else find(self.low).nbytes(size)
