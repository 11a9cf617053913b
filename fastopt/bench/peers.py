"""Other libraries that make the same step: how to install them, which rules they have, and how they are called.

A maker takes a rule, parameters and a gradient (1-D arrays of one dtype) and a number of threads. It returns a call
that makes one step, and one that gives the parameters as they are then. It returns None if the library lacks the rule.
"""

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastopt
from fastopt.rule import Rule


class Bound(NamedTuple):
    """A peer's optimizer, ready to step."""

    step: Callable[[], object]
    params: Callable[[], np.ndarray]


Maker = Callable[[Rule, np.ndarray, np.ndarray, int], Bound | None]


class Peer(NamedTuple):
    """A library that is measured against: what it needs, how that is installed, and its maker."""

    modules: tuple[str, ...]
    install: str
    make: Maker

    def missing(self) -> bool:
        """Whether one of its modules is not installed; imports none of them."""
        return any(importlib.util.find_spec(module) is None for module in self.modules)


def _numpy(rule: Rule, p: np.ndarray, g: np.ndarray, threads: int) -> Bound:
    """The formula written down in NumPy, an array operation for each arithmetic one."""
    state = {name: np.full_like(p, first) for name, first in rule.states.items()}
    count = 0

    def step() -> None:
        nonlocal p, state, count
        count += 1
        p, state = rule.reference(count, p, g, **state)

    return Bound(step, lambda: p)


def _arguments(rule: Rule, kind: Any) -> dict[str, Any]:
    """The hyperparameters that a torch class takes, with the rule's values: the names are the same."""
    names = inspect.signature(kind).parameters
    return {name: getattr(rule, name) for name in names if hasattr(rule, name)}


def _torch_optimizer(rule: Rule, p: np.ndarray, g: np.ndarray, threads: int, **options: Any) -> Any:
    import torch

    kinds = [getattr(torch.optim, each.__name__, None) for each in type(rule).__mro__]
    kind = next(filter(None, kinds), None)
    if kind is None:
        return None
    torch.set_num_threads(threads)
    tensor = torch.nn.Parameter(torch.from_numpy(p))
    tensor.grad = torch.from_numpy(g)
    try:
        return kind([tensor], **_arguments(rule, kind), **options)
    except (TypeError, RuntimeError):  # there is no fused form of it
        if options:
            return None
        raise


def _torch(rule: Rule, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    """torch as it comes: on the CPU its loop over parameters."""
    optimizer = _torch_optimizer(rule, p, g, threads)
    return None if optimizer is None else Bound(optimizer.step, lambda: p)


def _torch_fused(rule: Rule, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    optimizer = _torch_optimizer(rule, p, g, threads, fused=True)
    return None if optimizer is None else Bound(optimizer.step, lambda: p)


def _torch_compile(rule: Rule, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    """torch's step through torch.compile, as its documentation recommends; the learning rate is a tensor."""
    import torch

    optimizer = _torch_optimizer(rule, p, g, threads)
    if optimizer is None:
        return None
    torch.compiler.reset()  # after some recompilations torch would go on without compiling
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    return Bound(torch.compile(optimizer.step), lambda: p)


def _deepspeed(rule: Any, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    """DeepSpeed's optimizers for the CPU, with states in float32; its first one compiles for over a minute."""
    if p.dtype != np.float32 or type(rule) not in (fastopt.Adam, fastopt.AdamW, fastopt.Adagrad, fastopt.Lion):
        return None
    import torch
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad  # type: ignore
    from deepspeed.ops.adam import DeepSpeedCPUAdam  # type: ignore
    from deepspeed.ops.lion import DeepSpeedCPULion  # type: ignore

    torch.set_num_threads(threads)
    tensor = torch.nn.Parameter(torch.from_numpy(p))
    tensor.grad = torch.from_numpy(g)
    common: dict[str, Any] = {"lr": rule.lr, "weight_decay": getattr(rule, "weight_decay", 0.0)}
    optimizer: Any
    if isinstance(rule, fastopt.Adam):
        decoupled = isinstance(rule, fastopt.AdamW)
        if rule.amsgrad:
            return None
        optimizer = DeepSpeedCPUAdam([tensor], betas=rule.betas, eps=rule.eps, adamw_mode=decoupled, **common)
    elif isinstance(rule, fastopt.Adagrad):
        optimizer = DeepSpeedCPUAdagrad([tensor], eps=rule.eps, **common)
    else:
        optimizer = DeepSpeedCPULion([tensor], betas=rule.betas, **common)
    return Bound(optimizer.step, lambda: p)


def _optax_transformation(rule: Any) -> Any:
    import optax  # type: ignore

    match rule:
        case fastopt.SGD(weight_decay=0.0, dampening=0.0):
            return optax.sgd(rule.lr, momentum=rule.momentum or None, nesterov=rule.nesterov)
        case fastopt.AdamW(amsgrad=False):
            return optax.adamw(rule.lr, *rule.betas, eps=rule.eps, weight_decay=rule.weight_decay)
        case fastopt.Adam(amsgrad=False, weight_decay=0.0):
            return optax.adam(rule.lr, *rule.betas, eps=rule.eps)
        case fastopt.Adamax(weight_decay=0.0):
            return optax.adamax(rule.lr, *rule.betas, eps=rule.eps)
        case fastopt.Adadelta(weight_decay=0.0):
            return optax.adadelta(rule.lr, rho=rule.rho, eps=rule.eps)
        case fastopt.RMSprop(weight_decay=0.0, centered=False, momentum=0.0):
            return optax.rmsprop(rule.lr, decay=rule.alpha, eps=rule.eps, eps_in_sqrt=False)
        case fastopt.Lion():
            return optax.lion(rule.lr, *rule.betas, weight_decay=rule.weight_decay)
    return None


def _optax(rule: Rule, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    """optax under jax.jit, with parameters and state donated, so that it need not copy them."""
    import jax  # type: ignore
    import optax  # type: ignore

    if p.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    optimizer = _optax_transformation(rule)
    if optimizer is None or rule.maximize:
        return None

    def update(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))
    params, gradient = jax.numpy.array(p), jax.numpy.array(g)
    state = optimizer.init(params)

    def step() -> None:
        nonlocal params, state
        params, state = compiled(params, state, gradient)
        params.block_until_ready()

    return Bound(step, lambda: np.asarray(params))


_TORCH = "pip install torch"

#: The peers by the name that ``--against`` takes.
PEERS = {
    "torch": Peer(("torch",), _TORCH, _torch),
    "torch-fused": Peer(("torch",), _TORCH, _torch_fused),
    "torch-compile": Peer(("torch",), _TORCH, _torch_compile),
    "deepspeed": Peer(
        ("deepspeed", "torch"),
        "DS_ACCELERATOR=cpu DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed ninja pybind11",
        _deepspeed,
    ),
    "optax": Peer(("jax", "optax"), "pip install jax optax", _optax),
    "numpy": Peer(("numpy",), "pip install numpy", _numpy),
}
