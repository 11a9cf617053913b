"""Other libraries that make the same step: how to install them, which rules they have, and how they are called.

A maker takes a rule, a mix, parameters and a gradient (1-D arrays, of the mix's dtypes) and a number of threads. It
returns a call that makes one step, with all that the mix asks for, and calls that give the parameters as they are then,
and their copy in 16 bits. It returns None if the library lacks the rule, or stores numbers otherwise.

What a step of fastopt does in one pass is a sequence elsewhere: the gradient is converted, unscaled and clipped; then
comes the step, and then the copy.
"""

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastopt
from fastopt.bench.mix import Mix
from fastopt.buffers import check_dtype
from fastopt.rule import Rule


class Bound(NamedTuple):
    """A peer's optimizer, ready to step. ``copy`` is of parameters that are copied in 16 bits."""

    step: Callable[[], object]
    params: Callable[[], np.ndarray]
    copy: Callable[[], np.ndarray]


Maker = Callable[[Rule, Mix, np.ndarray, np.ndarray, int], Bound | None]


class Peer(NamedTuple):
    """A library that is measured against: what it needs, how that is installed, and its maker."""

    modules: tuple[str, ...]
    install: str
    maker: Maker
    #: Whether it knows cautious rules.
    cautious: bool = False

    def make(self, rule: Rule, mix: Mix, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
        """The peer's step by the rule, or None if it makes no such step."""
        known = self.cautious or not getattr(rule, "cautious", False)
        return self.maker(rule, mix, p, g, threads) if known else None

    def missing(self) -> bool:
        """Whether one of its modules is not installed; imports none of them."""
        return any(importlib.util.find_spec(module) is None for module in self.modules)


def _numpy(rule: Rule, mix: Mix, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    """The formula written down in NumPy, an array operation for each arithmetic one."""
    if mix.rounds or mix.state_dtype is not None:
        return None
    low = None if mix.low is None else check_dtype("copy", mix.low)
    params = p.astype(mix.exact)
    state = rule.remembered(params.shape, params.dtype)
    copy = params
    count = 0

    def step() -> None:
        nonlocal params, state, copy, count
        count += 1
        gradient = g.astype(mix.exact, copy=False)
        factor = mix.grad_scale
        if mix.max_norm is not None:
            factor *= min(1.0, mix.max_norm / (abs(factor) * float(np.linalg.norm(gradient)) + 1e-6))
        if factor != 1.0:
            gradient = params.dtype.type(factor) * gradient
        params, state = rule.reference(count, params, gradient, **state)
        if low is not None:
            copy = params.astype(low)

    return Bound(step, lambda: params, lambda: copy)


class _Tensors:
    """The sequence around a step in torch: the parameters with the gradient that is applied, and the copy.

    It unscales and clips ``at_once``, by one multiplication, or as ``GradScaler.unscale_`` and ``clip_grad_norm_`` do.
    A gradient of the parameters' dtype is read where it lies, and scaled into memory of its own: it comes again.
    """

    def __init__(self, mix: Mix, p: np.ndarray, g: np.ndarray, threads: int, *, at_once: bool = False) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.mix, self.at_once = torch, mix, at_once
        exact, self.given = getattr(torch, mix.exact), _tensor(g)
        self.params = torch.nn.Parameter(_tensor(p).to(exact))
        self.low = None if mix.low is None else torch.empty(p.size, dtype=getattr(torch, mix.low))
        self.converts = self.given.dtype != exact
        apart = self.converts or mix.grad_scale != 1.0 or mix.max_norm is not None
        self.gradient = torch.empty_like(self.params) if apart else self.given
        self.params.grad = self.gradient

    def bound(self, step: Callable[[], object]) -> Bound:
        """A step of torch's, or of a library for it, with what comes before and after."""
        prepared, low = self.gradient is not self.given, self.params if self.low is None else self.low

        def sequence() -> None:
            if prepared:
                self.prepare()
            step()
            if self.low is not None:
                self.low.copy_(self.params.detach())

        alone = not prepared and self.low is None
        return Bound(step if alone else sequence, lambda: _array(self.params), lambda: _array(low))

    def prepare(self) -> None:
        """Converts the gradient, unscales and clips it."""
        torch, factor, max_norm = self.torch, self.mix.grad_scale, self.mix.max_norm
        source = self.gradient.copy_(self.given) if self.converts else self.given
        if factor != 1.0 and not self.at_once:
            source, factor = torch.mul(source, factor, out=self.gradient), 1.0
        if max_norm is not None:
            norm = abs(factor) * float(torch.linalg.vector_norm(source))
            factor *= min(1.0, max_norm / (norm + 1e-6))
        if factor != 1.0 or max_norm is not None:
            torch.mul(source, factor, out=self.gradient)


def _tensor(array: np.ndarray) -> Any:
    """A tensor of the array's memory; torch does not know NumPy's bfloat16."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().double().numpy()


def _arguments(rule: Rule, kind: Any) -> dict[str, Any]:
    """The hyperparameters that a torch class takes, with the rule's values: the names are the same."""
    names = inspect.signature(kind).parameters
    return {name: getattr(rule, name) for name in names if hasattr(rule, name)}


def _torch_optimizer(rule: Rule, mix: Mix, tensors: _Tensors, **options: Any) -> Any:
    import torch

    kinds = [getattr(torch.optim, each.__name__, None) for each in type(rule).__mro__]
    kind = next(filter(None, kinds), None)
    if kind is torch.optim.SparseAdam:  # which takes no dense gradient
        return None
    if kind is None or mix.state_dtype != (mix.exact if mix.rounds else None):  # states are as parameters
        return None
    try:
        return kind([tensors.params], **_arguments(rule, kind), **options)
    except (TypeError, RuntimeError):  # there is no fused form of it
        if options:
            return None
        raise


def _torch(rule: Rule, mix: Mix, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    """torch as it comes: on the CPU its loop over parameters."""
    tensors = _Tensors(mix, p, g, threads)
    optimizer = _torch_optimizer(rule, mix, tensors)
    return None if optimizer is None else tensors.bound(optimizer.step)


def _torch_fused(rule: Rule, mix: Mix, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    tensors = _Tensors(mix, p, g, threads)
    optimizer = _torch_optimizer(rule, mix, tensors, fused=True)
    return None if optimizer is None else tensors.bound(optimizer.step)


def _torch_compile(rule: Rule, mix: Mix, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    """torch's step through torch.compile, as its documentation recommends; the learning rate is a tensor."""
    import torch

    tensors = _Tensors(mix, p, g, threads)
    optimizer = _torch_optimizer(rule, mix, tensors)
    if optimizer is None:
        return None
    torch.compiler.reset()  # after some recompilations torch would go on without compiling
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    return tensors.bound(torch.compile(optimizer.step))


def _deepspeed(rule: Any, mix: Mix, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    """DeepSpeed's optimizers for the CPU, with states in float32; its first one compiles for over a minute.

    Around it, what its ZeRO does on the CPU, which unscales and clips at once.
    """
    if mix.exact != "float32" or mix.state_dtype is not None:
        return None
    if type(rule) not in (fastopt.Adam, fastopt.AdamW, fastopt.Adagrad, fastopt.Lion):
        return None
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad  # type: ignore
    from deepspeed.ops.adam import DeepSpeedCPUAdam  # type: ignore
    from deepspeed.ops.lion import DeepSpeedCPULion  # type: ignore

    tensors = _Tensors(mix, p, g, threads, at_once=True)
    params = [tensors.params]
    common: dict[str, Any] = {"lr": rule.lr, "weight_decay": getattr(rule, "weight_decay", 0.0)}
    optimizer: Any
    if isinstance(rule, fastopt.Adam):
        decoupled = isinstance(rule, fastopt.AdamW)
        if rule.amsgrad:
            return None
        optimizer = DeepSpeedCPUAdam(params, betas=rule.betas, eps=rule.eps, adamw_mode=decoupled, **common)
    elif isinstance(rule, fastopt.Adagrad):
        optimizer = DeepSpeedCPUAdagrad(params, eps=rule.eps, **common)
    else:
        optimizer = DeepSpeedCPULion(params, betas=rule.betas, **common)
    return tensors.bound(optimizer.step)


def _in_8_bits(library: str, *rules: type[Rule]) -> Maker:
    """A maker for a library whose optimizers of these rules have 8-bit states, in blocks of 256."""

    def make(rule: Rule, mix: Mix, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
        if mix.exact != "float32" or mix.state_dtype != "8bit" or getattr(rule, "amsgrad", False):
            return None
        if type(rule) not in rules:
            return None
        tensors = _Tensors(mix, p, g, threads)
        kind = getattr(importlib.import_module(f"{library}.optim"), f"{type(rule).__name__}8bit")
        return tensors.bound(kind([tensors.params], **_arguments(rule, kind)).step)

    return make


def _optax_transformation(rule: Any) -> Any:
    import optax.contrib  # type: ignore

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
        case fastopt.Signum(weight_decay=0.0):
            return optax.signum(rule.lr, beta=rule.momentum)
        case fastopt.Lion():
            return optax.lion(rule.lr, *rule.betas, weight_decay=rule.weight_decay)
        case fastopt.AdaBelief(weight_decay=0.0):
            return optax.adabelief(rule.lr, *rule.betas, eps=rule.eps, eps_root=rule.eps)
        case fastopt.Yogi(weight_decay=0.0, initial_accumulator_value=1e-6, bias_correction=True):
            return optax.yogi(rule.lr, *rule.betas, eps=rule.eps)
        case fastopt.ADOPT(weight_decay=0.0):
            return optax.contrib.adopt(rule.lr, *rule.betas, eps=rule.eps)
        case fastopt.AdEMAMix(alpha_warmup=0.0, beta3_warmup=0.0):
            return optax.contrib.ademamix(
                rule.lr, *rule.betas, alpha=rule.alpha, eps=rule.eps, weight_decay=rule.weight_decay
            )
    return None


def _optax(rule: Rule, mix: Mix, p: np.ndarray, g: np.ndarray, threads: int) -> Bound | None:
    """optax under jax.jit, with parameters and state donated, so that it need not copy them."""
    import jax  # type: ignore
    import optax  # type: ignore

    if mix.exact == "float64" or mix.grad_dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    optimizer = _optax_transformation(rule)
    if optimizer is None or rule.maximize or mix.rounds or mix.state_dtype is not None:
        return None
    clip = optax.identity() if mix.max_norm is None else optax.clip_by_global_norm(mix.max_norm)
    optimizer = optax.chain(optax.identity() if mix.grad_scale == 1.0 else optax.scale(mix.grad_scale), clip, optimizer)

    def update(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = optimizer.update(gradient.astype(params.dtype), state, params)
        params = optax.apply_updates(params, updates)
        return params, None if mix.low is None else params.astype(mix.low), state

    compiled = jax.jit(update, donate_argnums=(0, 1))
    params, gradient = jax.numpy.array(p.astype(mix.exact)), jax.numpy.array(g)
    state, copy = optimizer.init(params), None

    def step() -> None:
        nonlocal params, copy, state
        params, copy, state = compiled(params, state, gradient)
        params.block_until_ready()

    return Bound(step, lambda: np.asarray(params), lambda: np.asarray(copy))


_BITSANDBYTES = _in_8_bits("bitsandbytes", fastopt.Adam, fastopt.AdamW, fastopt.Lion)
_TORCHAO = _in_8_bits("torchao", fastopt.Adam, fastopt.AdamW)  # through torch.compile

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
    "bitsandbytes": Peer(("bitsandbytes", "torch"), "pip install bitsandbytes", _BITSANDBYTES),
    "torchao": Peer(("torchao", "torch"), "pip install torchao", _TORCHAO),
    "optax": Peer(("jax", "optax"), "pip install jax optax", _optax),
    "numpy": Peer(("numpy",), "pip install numpy", _numpy, cautious=True),
}
