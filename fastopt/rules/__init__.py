"""What each rule is: its hyperparameters, states and coefficients, and the paper's formula in float64."""

from importlib import import_module
from types import MappingProxyType
from typing import Any

#: The rules, each in the file of its name. That is imported when it is first asked for: programs use few of them.
NAMES = (
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "AdamW",
    "Adan",
    "AdEMAMix",
    "ADOPT",
    "AMSGrad",
    "ASGD",
    "DAdaptAdam",
    "FTRL",
    "LAMB",
    "LaProp",
    "LARS",
    "Lion",
    "MADGRAD",
    "MARS",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "Prodigy",
    "QHAdam",
    "RAdam",
    "RMSprop",
    "RowwiseAdagrad",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "SGD",
    "Signum",
    "SOAP",
    "SophiaG",
    "SparseAdam",
    "StableAdamW",
    "Yogi",
)


def __getattr__(name: str) -> Any:
    """A rule by its name, or ``RULES``: all of them by name, read-only."""
    found: Any
    if name == "RULES":
        found = MappingProxyType({each: __getattr__(each) for each in NAMES})
    elif name in NAMES:
        found = getattr(import_module(f"{__name__}.{name.lower()}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *NAMES, "RULES"]
