"""fastopt: neural-network optimizers for the CPU, the same to the last bit from numba and from C."""

from fastopt import moved, schedules
from fastopt.backend.choice import backends
from fastopt.buffers import FlatBuffer
from fastopt.capi import get_include, get_library
from fastopt.errors import BackendError, CheckpointError, NonFiniteGradientError
from fastopt.optimizer import Optimizer, StepReport
from fastopt.rows import Rows
from fastopt.rule import Rule
from fastopt.rules import (
    ADOPT,
    ASGD,
    FTRL,
    LAMB,
    MADGRAD,
    RULES,
    SGD,
    AdaBelief,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    AdEMAMix,
    AMSGrad,
    LaProp,
    Lion,
    Momentum,
    NAdam,
    Nesterov,
    QHAdam,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeRAdam,
    ScheduleFreeSGD,
    Signum,
    SophiaG,
    Yogi,
)

moved.install()

__version__ = "0.1.0"

__all__ = [
    "ADOPT",
    "ASGD",
    "FTRL",
    "LAMB",
    "MADGRAD",
    "RULES",
    "SGD",
    "AMSGrad",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "BackendError",
    "CheckpointError",
    "FlatBuffer",
    "LaProp",
    "Lion",
    "Momentum",
    "NAdam",
    "Nesterov",
    "NonFiniteGradientError",
    "Optimizer",
    "QHAdam",
    "RAdam",
    "RMSprop",
    "Rows",
    "Rprop",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "Signum",
    "SophiaG",
    "StepReport",
    "Yogi",
    "backends",
    "get_include",
    "get_library",
    "schedules",
]
