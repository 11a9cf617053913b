"""What each rule is: its hyperparameters, states and coefficients, and the paper's formula in float64."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastopt.rule import Rule
from fastopt.rules.adabelief import AdaBelief as AdaBelief
from fastopt.rules.adadelta import Adadelta as Adadelta
from fastopt.rules.adafactor import Adafactor as Adafactor
from fastopt.rules.adagrad import Adagrad as Adagrad
from fastopt.rules.adam import Adam as Adam
from fastopt.rules.adamax import Adamax as Adamax
from fastopt.rules.adamw import AdamW as AdamW
from fastopt.rules.adan import Adan as Adan
from fastopt.rules.ademamix import AdEMAMix as AdEMAMix
from fastopt.rules.adopt import ADOPT as ADOPT
from fastopt.rules.amsgrad import AMSGrad as AMSGrad
from fastopt.rules.asgd import ASGD as ASGD
from fastopt.rules.dadaptadam import DAdaptAdam as DAdaptAdam
from fastopt.rules.ftrl import FTRL as FTRL
from fastopt.rules.lamb import LAMB as LAMB
from fastopt.rules.laprop import LaProp as LaProp
from fastopt.rules.lars import LARS as LARS
from fastopt.rules.lion import Lion as Lion
from fastopt.rules.madgrad import MADGRAD as MADGRAD
from fastopt.rules.mars import MARS as MARS
from fastopt.rules.momentum import Momentum as Momentum
from fastopt.rules.muon import Muon as Muon
from fastopt.rules.nadam import NAdam as NAdam
from fastopt.rules.nesterov import Nesterov as Nesterov
from fastopt.rules.prodigy import Prodigy as Prodigy
from fastopt.rules.qhadam import QHAdam as QHAdam
from fastopt.rules.radam import RAdam as RAdam
from fastopt.rules.rmsprop import RMSprop as RMSprop
from fastopt.rules.rowwiseadagrad import RowwiseAdagrad as RowwiseAdagrad
from fastopt.rules.rprop import Rprop as Rprop
from fastopt.rules.schedulefreeadamw import ScheduleFreeAdamW as ScheduleFreeAdamW
from fastopt.rules.schedulefreeradam import ScheduleFreeRAdam as ScheduleFreeRAdam
from fastopt.rules.schedulefreesgd import ScheduleFreeSGD as ScheduleFreeSGD
from fastopt.rules.sgd import SGD as SGD
from fastopt.rules.signum import Signum as Signum
from fastopt.rules.soap import SOAP as SOAP
from fastopt.rules.sophiag import SophiaG as SophiaG
from fastopt.rules.sparseadam import SparseAdam as SparseAdam
from fastopt.rules.stableadamw import StableAdamW as StableAdamW
from fastopt.rules.yogi import Yogi as Yogi

#: Every rule that this module imports, by its name, read-only.
RULES: Mapping[str, Any] = MappingProxyType(
    {name: each for name, each in globals().items() if isinstance(each, type) and Rule in each.__mro__[1:]}
)
