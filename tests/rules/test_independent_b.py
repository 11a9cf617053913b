"""Rules beside the same rules of other packages, over 30 steps in float64; and where those differ, by what.

Kernels are compared with the paper in test_reference.py: here somebody else has read the paper.
"""

import numpy as np
import pytest

import fastopt

STEPS = 30
SIZE = 50
CLOSE = {"rtol": 1e-11, "atol": 1e-12}

RNG = np.random.default_rng(7)
START = RNG.standard_normal(SIZE)
GRADIENTS = [scale * RNG.standard_normal(SIZE) for scale in np.geomspace(3, 0.01, STEPS)]


def ours(rule: fastopt.Rule) -> np.ndarray:
    """The parameters after each step: shape ``(STEPS, SIZE)``."""
    p = START.copy()
    optimizer = fastopt.Optimizer(p, rule)
    path = []
    for gradient in GRADIENTS:
        optimizer.step(gradient)
        path.append(p.copy())
    return np.array(path)


def by_optax(transformation) -> np.ndarray:
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    path = []
    with jax.enable_x64(True):
        p = jax.numpy.asarray(START)
        state = transformation.init(p)
        for gradient in GRADIENTS:
            updates, state = transformation.update(jax.numpy.asarray(gradient), state, p)
            p = optax.apply_updates(p, updates)
            path.append(np.asarray(p))
    return np.array(path)


def by_torch(kind, **arguments) -> np.ndarray:
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.from_numpy(START.copy()))
    optimizer = kind([p], **arguments)
    path = []
    for gradient in GRADIENTS:
        p.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        path.append(p.detach().numpy().copy())
    return np.array(path)


def assert_close(path: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(path, other, **CLOSE)


@pytest.mark.parametrize("no_prox", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adan(decay, no_prox):
    package = pytest.importorskip("pytorch_optimizer")
    rule = fastopt.Adan(lr=0.05, weight_decay=decay, no_prox=no_prox)
    assert_close(ours(rule), by_torch(package.Adan, lr=0.05, weight_decay=decay, weight_decouple=no_prox))


def test_adan_of_optax_looks_ahead_by_what_beta2_forgets():
    """By 0.08 of the difference of gradients, not by 0.92, and with 1e-8 under the root."""
    optax = pytest.importorskip("optax")

    def distance(beta2: float, eps_root: float = 0.0) -> float:
        rule = fastopt.Adan(lr=0.05, betas=(0.98, beta2, 0.99), weight_decay=0.3, no_prox=True)
        theirs = by_optax(optax.adan(0.05, b2=beta2, eps_root=eps_root, weight_decay=0.3))
        return abs(ours(rule) - theirs).max()

    assert distance(0.5) < 1e-12
    assert distance(0.5, eps_root=1e-8) > 1e-7
    assert distance(0.92) > 0.1


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("warmup", [None, 20, 1000])
def test_ademamix(warmup, decay):
    package = pytest.importorskip("pytorch_optimizer")
    rule = fastopt.AdEMAMix(
        lr=0.02, betas=(0.9, 0.99, 0.999), weight_decay=decay, alpha_warmup=warmup or 0, beta3_warmup=warmup or 0
    )
    theirs = {"lr": 0.02, "betas": rule.betas, "weight_decay": decay, "weight_decouple": True, "t_alpha_beta3": warmup}
    assert_close(ours(rule), by_torch(package.AdEMAMix, alpha=5.0, **theirs))


def test_ademamix_of_optax_counts_the_steps_of_its_schedules_from_zero():
    optax = pytest.importorskip("optax")
    rule = fastopt.AdEMAMix(lr=0.02, betas=(0.9, 0.999, 0.99), weight_decay=0.3, alpha_warmup=20)
    arguments = {"b1": 0.9, "b2": 0.999, "b3": 0.99, "weight_decay": 0.3}

    def distance(first: int) -> float:
        def alpha(count):
            return 5.0 * np.minimum((count + first) / 20, 1)

        return abs(ours(rule) - by_optax(optax.contrib.ademamix(0.02, alpha=alpha, **arguments))).max()

    assert distance(first=1) < 1e-12
    assert distance(first=0) > 1e-4


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_madgrad(momentum, decay):
    """The package adds eps to the learning rate."""
    package = pytest.importorskip("pytorch_optimizer")
    rule = fastopt.MADGRAD(lr=0.01 + 1e-6, momentum=momentum, weight_decay=decay)
    assert_close(ours(rule), by_torch(package.MADGRAD, lr=0.01, momentum=momentum, weight_decay=decay))


def test_the_cube_root_of_madgrad(backend, dtype):
    """It is right for all numbers: with these arguments and states p becomes minus one over it."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(3)
    exponents = rng.integers(info.minexp - info.nmant, info.maxexp - 1, 20_000)
    ordinary = np.ldexp(1 + rng.random(20_000), exponents).astype(dtype)
    v = np.append(ordinary, [info.smallest_subnormal, info.max, 1, 0, np.inf]).astype(dtype)
    optimizer = fastopt.Optimizer(np.zeros(v.size, dtype), fastopt.MADGRAD(momentum=0.0, eps=0.0), backend=backend)
    optimizer.state["grad_sum_sq"].flat[:] = v
    optimizer.state["s"].flat[:] = 1
    optimizer.step(np.zeros(v.size, dtype))
    with np.errstate(divide="ignore"):
        expected = -1 / np.cbrt(v.astype(np.longdouble))
    np.testing.assert_allclose(optimizer.flat, expected, rtol=2 * info.eps)
