"""What each rule is: its hyperparameters, states and coefficients, and the paper's formula in float64."""

from types import MappingProxyType

from fastopt.rules.adadelta import Adadelta
from fastopt.rules.adagrad import Adagrad
from fastopt.rules.adam import Adam
from fastopt.rules.adamax import Adamax
from fastopt.rules.adamw import AdamW
from fastopt.rules.adan import Adan
from fastopt.rules.ademamix import AdEMAMix
from fastopt.rules.amsgrad import AMSGrad
from fastopt.rules.asgd import ASGD
from fastopt.rules.lion import Lion
from fastopt.rules.madgrad import MADGRAD
from fastopt.rules.momentum import Momentum
from fastopt.rules.nadam import NAdam
from fastopt.rules.nesterov import Nesterov
from fastopt.rules.radam import RAdam
from fastopt.rules.rmsprop import RMSprop
from fastopt.rules.rprop import Rprop
from fastopt.rules.sgd import SGD
from fastopt.rules.sophiag import SophiaG

#: Every rule by its name, read-only.
RULES = MappingProxyType(
    {
        rule.__name__: rule
        for rule in (
            SGD,
            Momentum,
            Nesterov,
            Adagrad,
            Adadelta,
            RMSprop,
            Adam,
            AMSGrad,
            AdamW,
            Adamax,
            NAdam,
            RAdam,
            ASGD,
            Rprop,
            Lion,
            Adan,
            AdEMAMix,
            MADGRAD,
            SophiaG,
        )
    }
)
