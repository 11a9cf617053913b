"""fastopt: neural-network optimizers for the CPU, the same to the last bit from numba and from C."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastopt import rules
from fastopt.backend.choice import backends
from fastopt.buffers import FlatBuffer
from fastopt.capi import get_include, get_library
from fastopt.errors import BackendError, CheckpointError, NonFiniteGradientError
from fastopt.optimizer import Optimizer, StepReport
from fastopt.rows import Rows
from fastopt.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastopt import schedules
    from fastopt.rules.adabelief import AdaBelief
    from fastopt.rules.adadelta import Adadelta
    from fastopt.rules.adafactor import Adafactor
    from fastopt.rules.adagrad import Adagrad
    from fastopt.rules.adam import Adam
    from fastopt.rules.adamax import Adamax
    from fastopt.rules.adamw import AdamW
    from fastopt.rules.adan import Adan
    from fastopt.rules.ademamix import AdEMAMix
    from fastopt.rules.adopt import ADOPT
    from fastopt.rules.amsgrad import AMSGrad
    from fastopt.rules.asgd import ASGD
    from fastopt.rules.dadaptadam import DAdaptAdam
    from fastopt.rules.ftrl import FTRL
    from fastopt.rules.lamb import LAMB
    from fastopt.rules.laprop import LaProp
    from fastopt.rules.lars import LARS
    from fastopt.rules.lion import Lion
    from fastopt.rules.madgrad import MADGRAD
    from fastopt.rules.mars import MARS
    from fastopt.rules.momentum import Momentum
    from fastopt.rules.muon import Muon
    from fastopt.rules.nadam import NAdam
    from fastopt.rules.nesterov import Nesterov
    from fastopt.rules.prodigy import Prodigy
    from fastopt.rules.qhadam import QHAdam
    from fastopt.rules.radam import RAdam
    from fastopt.rules.rmsprop import RMSprop
    from fastopt.rules.rowwiseadagrad import RowwiseAdagrad
    from fastopt.rules.rprop import Rprop
    from fastopt.rules.schedulefreeadamw import ScheduleFreeAdamW
    from fastopt.rules.schedulefreeradam import ScheduleFreeRAdam
    from fastopt.rules.schedulefreesgd import ScheduleFreeSGD
    from fastopt.rules.sgd import SGD
    from fastopt.rules.signum import Signum
    from fastopt.rules.soap import SOAP
    from fastopt.rules.sophiag import SophiaG
    from fastopt.rules.sparseadam import SparseAdam
    from fastopt.rules.stableadamw import StableAdamW
    from fastopt.rules.yogi import Yogi

    RULES: Mapping[str, Any]

__version__ = "0.1.0"

__all__ = [
    "ADOPT",
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
    "MADGRAD",
    "MARS",
    "RULES",
    "SGD",
    "SOAP",
    "AMSGrad",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "BackendError",
    "CheckpointError",
    "DAdaptAdam",
    "FlatBuffer",
    "LaProp",
    "Lion",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "NonFiniteGradientError",
    "Optimizer",
    "Prodigy",
    "QHAdam",
    "RAdam",
    "RMSprop",
    "Rows",
    "RowwiseAdagrad",
    "Rprop",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "Signum",
    "SophiaG",
    "SparseAdam",
    "StableAdamW",
    "StepReport",
    "Yogi",
    "backends",
    "get_include",
    "get_library",
    "schedules",
]


def __getattr__(name: str) -> Any:
    """What is not here yet of ``__all__``: rules and schedules, of which a program needs few, are imported then."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = import_module(f"{__name__}.schedules") if name == "schedules" else getattr(rules, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*{*globals(), *__all__}]
