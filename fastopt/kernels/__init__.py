"""How each rule is applied, in numba: the loops, callable from nopython code.

``from fastopt.kernels import adam`` gives the serial twin of the parallel kernel in ``fastopt/kernels/adam.py``. Its
arguments are the parameters, the gradient, the states in the rule's order, and the coefficients of the step in the
rule's order: contiguous 1-D arrays of one dtype. Buffers must not overlap.
"""

import hashlib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numba

from fastopt.kernels.adabelief import adabelief as adabelief
from fastopt.kernels.adadelta import adadelta as adadelta
from fastopt.kernels.adagrad import adagrad as adagrad
from fastopt.kernels.adam import adam as adam
from fastopt.kernels.adamax import adamax as adamax
from fastopt.kernels.adan import adan as adan
from fastopt.kernels.ademamix import ademamix as ademamix
from fastopt.kernels.adopt import adopt as adopt
from fastopt.kernels.amsgrad import amsgrad as amsgrad
from fastopt.kernels.asgd import asgd as asgd
from fastopt.kernels.blend import blend as blend
from fastopt.kernels.cautious_adam import cautious_adam as cautious_adam
from fastopt.kernels.cautious_lion import cautious_lion as cautious_lion
from fastopt.kernels.cautious_momentum import cautious_momentum as cautious_momentum
from fastopt.kernels.cautious_nadam import cautious_nadam as cautious_nadam
from fastopt.kernels.cautious_nesterov import cautious_nesterov as cautious_nesterov
from fastopt.kernels.cbrt import cbrt as cbrt
from fastopt.kernels.dadapt_adam import dadapt_adam as dadapt_adam
from fastopt.kernels.ftrl import ftrl as ftrl
from fastopt.kernels.laprop import laprop as laprop
from fastopt.kernels.lion import lion as lion
from fastopt.kernels.madgrad import madgrad as madgrad
from fastopt.kernels.mars import mars as mars
from fastopt.kernels.momentum import momentum as momentum
from fastopt.kernels.nadam import nadam as nadam
from fastopt.kernels.nesterov import nesterov as nesterov
from fastopt.kernels.prodigy import prodigy as prodigy
from fastopt.kernels.qhadam import qhadam as qhadam
from fastopt.kernels.rmsprop import rmsprop as rmsprop
from fastopt.kernels.rmsprop_centered import rmsprop_centered as rmsprop_centered
from fastopt.kernels.rmsprop_centered_momentum import rmsprop_centered_momentum as rmsprop_centered_momentum
from fastopt.kernels.rmsprop_momentum import rmsprop_momentum as rmsprop_momentum
from fastopt.kernels.rprop import rprop as rprop
from fastopt.kernels.schedule_free_adam import schedule_free_adam as schedule_free_adam
from fastopt.kernels.schedule_free_sgd import schedule_free_sgd as schedule_free_sgd
from fastopt.kernels.sgd import sgd as sgd
from fastopt.kernels.sophiag import sophiag as sophiag
from fastopt.kernels.term import term as term
from fastopt.kernels.yogi import yogi as yogi

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError("fastopt.kernels needs numba's compiler, and NUMBA_DISABLE_JIT is set")

#: The parallel kernels that this module imports, by name, as their files declare them.
KERNELS = {name: each for name, each in globals().items() if getattr(each, "targetoptions", {}).get("parallel")}


def twin(kernel, variant: str, names: Mapping[str, Any] = MappingProxyType({}), **options):
    """The dispatcher of a kernel's Python function compiled with other options, and with other global ``names``.

    numba's cache tells functions apart by qualified name and code alone: not by options, not by the functions that they
    call, and before numba 0.68 not by the source file's content. Hence all of them are in the twin's qualified name.
    """
    function = getattr(kernel, "py_func", kernel)
    options = {"error_model": "numpy"} | options
    known = function.__globals__ | names if names else function.__globals__
    copy = types.FunctionType(function.__code__, known, function.__name__, function.__defaults__, function.__closure__)
    stamp = hashlib.sha256(b"".join(_sources(copy)) + repr(sorted(options.items())).encode())
    copy.__module__ = function.__module__
    copy.__doc__ = function.__doc__
    copy.__qualname__ = f"{function.__qualname__}.{variant}.{stamp.hexdigest()[:12]}"
    return numba.njit(**options)(copy)


def _sources(function) -> Iterator[bytes]:
    """The files that a function and the compiled functions that it calls come from.

    Where there is no file, as in an interactive session, it is the byte code.
    """
    seen, found = {function}, [function]
    for each in found:
        try:
            yield Path(each.__code__.co_filename).read_bytes()
        except OSError:
            yield each.__code__.co_code
        called = (_python(each.__globals__.get(name)) for name in each.__code__.co_names)
        found += [callee for callee in called if callee is not None and callee not in seen]
        seen.update(found)


def _python(called):
    """The Python function of what numba compiles, or generates code for."""
    return getattr(called, "py_func", getattr(called, "_defn", None))


globals().update({name: twin(kernel, "serial", nogil=True) for name, kernel in KERNELS.items()})
