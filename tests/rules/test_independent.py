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


def by_torch(kind, start=START, **arguments) -> np.ndarray:
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = kind([p], **arguments)
    path = []
    for gradient in GRADIENTS:
        p.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        path.append(p.detach().numpy().copy())
    return np.array(path)


def assert_close(path: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(path, other, **CLOSE)


@pytest.mark.parametrize("eps", [1e-16, 1e-3])
def test_adabelief_of_optax_is_ours_with_eps_under_the_root_and_beside_it(eps):
    optax = pytest.importorskip("optax")
    rule = fastopt.AdaBelief(lr=0.05, eps=eps)
    assert_close(ours(rule), by_optax(optax.adabelief(0.05, eps=eps, eps_root=eps)))


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adabelief(decay, decoupled):
    package = pytest.importorskip("pytorch_optimizer")
    rule = fastopt.AdaBelief(lr=0.05, eps=1e-3, weight_decay=decay, decoupled_weight_decay=decoupled)
    arguments = {"lr": 0.05, "eps": 1e-3, "weight_decay": decay, "weight_decouple": decoupled}
    assert_close(ours(rule), by_torch(package.AdaBelief, **arguments))
    rectified = by_torch(package.AdaBelief, **arguments, rectify=True)  # what the authors' class does by default
    assert abs(ours(rule) - rectified).max() > 0.1


def test_yogi_of_optax():
    optax = pytest.importorskip("optax")
    assert_close(ours(fastopt.Yogi(lr=0.05)), by_optax(optax.yogi(0.05)))


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("first", [0.0, 0.1])
def test_yogi(first, decoupled):
    package = pytest.importorskip("pytorch_optimizer")
    rule = fastopt.Yogi(lr=0.05, initial_accumulator_value=first, weight_decay=0.3, decoupled_weight_decay=decoupled)
    arguments = {"initial_accumulator": first, "weight_decay": 0.3, "weight_decouple": decoupled}
    assert_close(ours(rule), by_torch(package.Yogi, lr=0.05, **arguments))


def test_yogi_without_bias_correction_is_the_server_of_fedyogi():
    """Written out: no package has it without the frame of federated learning around it."""
    lr, beta1, beta2, tau = 0.05, 0.8, 0.95, 0.01
    p, m, v, path = START, np.full(SIZE, tau**2), np.full(SIZE, tau**2), []
    for gradient in GRADIENTS:
        m = beta1 * m + (1 - beta1) * gradient
        v = np.where(v > gradient**2, v - (1 - beta2) * gradient**2, v + (1 - beta2) * gradient**2)
        p = p - lr * m / (np.sqrt(v) + tau)
        path.append(p)
    arguments = {"betas": (beta1, beta2), "eps": tau, "initial_accumulator_value": tau**2}
    assert_close(ours(fastopt.Yogi(lr=lr, **arguments, bias_correction=False)), np.array(path))


def test_adopt_of_optax():
    pytest.importorskip("optax")
    from optax.contrib import adopt

    assert_close(ours(fastopt.ADOPT(lr=0.05)), by_optax(adopt(0.05)))


@pytest.mark.parametrize("decoupled", [False, True])
def test_adopt_of_pytorch_optimizer_clips_at_the_next_steps_bound_and_decays_in_the_first_step(decoupled):
    """The paper counts steps from 0 there, and moves no parameter in the first one; nor does the authors' class."""
    package = pytest.importorskip("pytorch_optimizer")
    decay = 0.3
    rule = fastopt.ADOPT(lr=0.05, weight_decay=decay, decoupled_weight_decay=decoupled)
    arguments = {"lr": 0.05, "weight_decay": decay, "weight_decouple": decoupled}
    assert abs(ours(rule) - by_torch(package.ADOPT, **arguments)).max() > 0.01
    start = START / (1 - 0.05 * decay) if decoupled else START
    theirs = by_torch(package.ADOPT, start, **arguments, clip_lambda=lambda step: (step - 1) ** 0.25)
    assert_close(ours(rule), theirs)
