"""What decides the bits of a run, and the rules that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastopt
from fastopt import specs
from fastopt.errors import InputError
from fastopt.precision import Master, Rounding, StateDtype
from fastopt.storages import STORAGES


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the bits of a run, apart from the data.

    ``optimizer`` and ``switch_to`` are texts such as "adam:lr=0.01", ``schedule`` one such as
    "cosine:warmup=100"; ``batch_size`` None means the whole training set; after epoch ``switch_at``
    the optimizer ``switch_to`` takes over; ``epochs`` is the number that schedules span.
    ``dtype``, ``master``, ``state_dtype`` and ``rounding`` say how parameters and states are stored,
    as fastopt.FlatBuffer and fastopt.Optimizer take them.
    """

    optimizer: str = "adam"
    schedule: str | None = None
    hidden: tuple[int, ...] = (128, 64)
    batch_size: int | None = 32
    dtype: str = "float32"
    master: Master | None = None
    state_dtype: StateDtype | None = None
    rounding: Rounding = "stochastic"
    seed: int = 0
    max_norm: float | None = None
    switch_to: str | None = None
    switch_at: int | None = None
    epochs: int = 30

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Settings:
        return cls(**values | {"hidden": tuple(values["hidden"])})

    @property
    def computes(self) -> np.dtype:
        """The dtype that the network and the optimizer compute in."""
        return STORAGES[self.dtype].computes

    def in_words(self) -> str:
        """How parameters and states are stored."""
        more = [f"master {self.master}"] if self.master is not None else []
        more += [f"states in {self.state_dtype}"] if self.state_dtype is not None else []
        return self.dtype + (f" ({', '.join(more)})" if more else "")


class Phase(NamedTuple):
    """A rule and the first epoch that it trains."""

    first_epoch: int
    rule: fastopt.Rule


def phases(settings: Settings, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The rules of a run in order, each with its own schedule over the epochs that are its own."""
    last = settings.epochs if settings.switch_at is None else settings.switch_at
    found = [Phase(1, _rule("optimizer", settings, last * steps_per_epoch))]
    if settings.switch_to is not None:
        rest = max(1, settings.epochs - last)
        found.append(Phase(last + 1, _rule("switch_to", settings, rest * steps_per_epoch)))
    return tuple(found)


def _rule(field: str, settings: Settings, steps: int) -> fastopt.Rule:
    rule = specs.rule_of_any_shape(getattr(settings, field), field)
    if settings.schedule is None:
        return rule
    return rule.replace(lr=specs.schedule(settings.schedule, rule.rate(1), steps))


def same_setting(field: str, ours: Any, theirs: Any, path: Path) -> bool:
    """Whether a setting is that of the checkpoint ``path``, be it in other words."""
    if None in (ours, theirs) or field not in ("optimizer", "switch_to", "schedule"):
        return bool(ours == theirs)
    try:
        if field == "schedule":
            return specs.split(ours, field) == specs.split(theirs, field)
        return specs.same_rule(ours, theirs, field)
    except InputError as error:  # ours has been used already
        raise fastopt.CheckpointError(f"{path}: {error.named(f'extra.settings.{field}')}") from None


def as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
