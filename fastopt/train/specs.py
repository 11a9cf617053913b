"""The old path of :mod:`fastopt.specs`, for one version."""

import sys
import warnings

from fastopt import specs

warnings.warn("fastopt.train.specs is fastopt.specs now", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = specs
