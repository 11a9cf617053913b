"""The old path of :mod:`fastopt.errors`, for one version."""

import sys
import warnings

from fastopt import errors

warnings.warn("fastopt.train.errors is fastopt.errors now", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = errors
