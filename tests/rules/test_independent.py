"""Rules beside the same rules of other packages, over 30 steps in float64; and where those differ, by what.

Kernels are compared with the paper in test_reference.py: here somebody else has read the paper.
"""

import numpy as np
import pytest

import fastopt

STEPS = 30
SIZE = 50

RNG = np.random.default_rng(7)
START = RNG.standard_normal(SIZE)
GRADIENTS = [scale * RNG.standard_normal(SIZE) for scale in np.geomspace(3, 0.01, STEPS)]


def ours(rule: fastopt.Rule, start: np.ndarray = START) -> np.ndarray:
    """The parameters after each step: shape ``(STEPS, SIZE)``."""
    p = start.copy()
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


def by_torch(kind, start: np.ndarray = START, **arguments) -> np.ndarray:
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = kind([p], **arguments)
    path = []
    for gradient in GRADIENTS:
        p.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        path.append(p.detach().numpy().copy())
    return np.array(path)


def assert_close(path: np.ndarray, other: np.ndarray, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(path, other, rtol=1e-11, atol=atol)


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


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (1.0, 0.7)])
def test_ftrl(l1, l2, beta):
    """From zero on; the package has the paper's form, and zeros where beta, n and the gradient are zero."""
    package = pytest.importorskip("pytorch_optimizer")
    rule = fastopt.FTRL(lr=0.1, beta=beta, l1=l1, l2=l2, initial_accumulator_value=0.0 if beta else 1e-300)
    path = ours(rule, start=np.zeros(SIZE))
    theirs = {"lr": 0.1, "beta": beta, "lambda_1": l1, "lambda_2": l2}
    assert_close(path, by_torch(package.FTRL, start=np.zeros(SIZE), **theirs))
    assert (path == 0).any() == (l1 > 0)


def test_ftrl_starts_where_parameters_are():
    package = pytest.importorskip("pytorch_optimizer")
    unpulled = by_torch(package.FTRL, lr=0.1, beta=0.0)
    assert_close(ours(fastopt.FTRL(lr=0.1, beta=0.0, initial_accumulator_value=1e-300)), unpulled)
    pulled = by_torch(package.FTRL, lr=0.1, beta=1.0)
    assert abs(ours(fastopt.FTRL(lr=0.1)) - pulled).max() > 0.1


def sophia(steps: int, rate: float, beta1: float, beta2: float, rho: float, batch: float, decay: float) -> np.ndarray:
    """The loop of the paper's authors, in NumPy: an estimate of the Hessian after every fourth step."""
    p, m, h = START.copy(), np.zeros(SIZE), np.zeros(SIZE)
    path = []
    for number, gradient in enumerate(GRADIENTS[:steps]):
        p *= 1 - rate * decay
        m = m * beta1 + gradient * (1 - beta1)
        p -= rate * np.sign(m) * np.minimum(abs(m) / (rho * batch * h + 1e-15), 1)
        if number % 4 == 3:
            h = h * beta2 + (1 - beta2) * LABELS[number] ** 2
        path.append(p.copy())
    return np.array(path)


LABELS = [scale * RNG.standard_normal(SIZE) for scale in np.geomspace(0.3, 0.01, STEPS)]


def test_sophiag_in_both_doors(backend):
    torch = pytest.importorskip("torch")
    ft = pytest.importorskip("fastopt.torch")
    arguments = {"lr": 0.01, "betas": (0.9, 0.8), "rho": 0.5, "weight_decay": 0.3, "batch_size": 64.0}
    expected = sophia(STEPS, 0.01, 0.9, 0.8, 0.5, 64.0, 0.3)
    p, q = START.copy(), torch.nn.Parameter(torch.from_numpy(START.copy()))
    ours, theirs = fastopt.Optimizer(p, fastopt.SophiaG(**arguments), backend=backend), ft.SophiaG([q], **arguments)
    clipped = 0
    for number in range(STEPS):
        q.grad = torch.from_numpy(GRADIENTS[number].copy())
        before = p.copy()
        ours.step(GRADIENTS[number])
        theirs.step()
        np.testing.assert_allclose(p, expected[number], rtol=1e-11, atol=1e-12)
        clipped += np.isclose(abs(p - before * (1 - 0.003)), 0.01).mean() / STEPS
        if number % 4 == 3:
            ours.update_hessian(2 * LABELS[number], grad_scale=0.5)
            q.grad = torch.from_numpy(LABELS[number].copy())
            theirs.update_hessian()
            assert ours.step_count == theirs.state[q]["step"] == number + 1
        assert p.tobytes() == q.detach().numpy().tobytes()
    assert 0.3 < clipped < 0.9


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


def test_signum_of_optax():
    optax = pytest.importorskip("optax")
    assert_close(ours(fastopt.Signum(lr=0.05)), by_optax(optax.signum(0.05)))
    assert_close(ours(fastopt.Signum(lr=0.05, momentum=0.0)), by_optax(optax.sign_sgd(0.05)))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_signum(momentum):
    package = pytest.importorskip("pytorch_optimizer")
    rule = fastopt.Signum(lr=0.05, momentum=momentum, weight_decay=0.3)
    assert_close(ours(rule), by_torch(package.SignSGD, lr=0.05, momentum=momentum, weight_decay=0.3))


def test_laprop_of_pytorch_optimizer_decays_what_it_has_just_added():
    """And if the decay is coupled not at all. It has 1e-15 under the root, and float32 numbers in its ``foreach``."""
    package = pytest.importorskip("pytorch_optimizer")
    plain, decay = {"lr": 0.05}, {"lr": 0.05, "weight_decay": 0.3}
    shrink = 1 - 0.05 * 0.3
    undecayed = ours(fastopt.LaProp(**plain))
    assert_close(undecayed, by_torch(package.LaProp, **plain, foreach=False), atol=1e-8)
    assert_close(undecayed, by_torch(package.LaProp, **decay, foreach=False, weight_decouple=False), atol=1e-8)
    theirs = by_torch(package.LaProp, **decay, foreach=False)
    assert abs(ours(fastopt.LaProp(**decay)) - theirs).max() > 1e-3
    assert_close(shrink * ours(fastopt.LaProp(**decay), START / shrink), theirs, atol=1e-8)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("nus", [(1.0, 1.0), (0.7, 1.0), (0.7, 0.4), (0.0, 0.0)])
def test_qhadam(nus, decoupled):
    """Its bias corrections are float32 numbers, whatever the parameters are."""
    package = pytest.importorskip("pytorch_optimizer")
    rule = fastopt.QHAdam(lr=0.05, nus=nus, weight_decay=0.3, decoupled_weight_decay=decoupled)
    arguments = {"nus": nus, "weight_decay": 0.3, "weight_decouple": decoupled}
    assert_close(ours(rule), by_torch(package.QHAdam, lr=0.05, **arguments), atol=1e-6)


SCHEDULE_FREE = [
    ("ScheduleFreeSGD", "SGDScheduleFree", {"lr": 0.3, "momentum": 0.8}),
    ("ScheduleFreeAdamW", "AdamWScheduleFree", {"lr": 0.05, "betas": (0.8, 0.99)}),
    ("ScheduleFreeRAdam", "RAdamScheduleFree", {"lr": 0.05, "betas": (0.8, 0.99)}),
    ("ScheduleFreeRAdam", "RAdamScheduleFree", {"lr": 0.05, "betas": (0.8, 0.99), "silent_sgd_phase": False}),
]


@pytest.mark.parametrize("power", [2.0, 0.0])
@pytest.mark.parametrize(("rule", "theirs", "arguments"), SCHEDULE_FREE)
@pytest.mark.parametrize("warmup", [0, 12])
def test_schedule_free_rules(rule, theirs, arguments, warmup, power):
    package = pytest.importorskip("schedulefree")
    arguments = arguments | {"weight_decay": 0.3, "r": 1.5, "weight_lr_power": power}
    arguments |= {} if "RAdam" in rule else {"warmup_steps": warmup}

    def in_training(params, **given):
        optimizer = getattr(package, theirs)(params, **given)
        optimizer.train()
        return optimizer

    assert_close(ours(getattr(fastopt, rule)(**arguments)), by_torch(in_training, **arguments, foreach=False))


def test_schedule_free_rules_of_optax():
    """But for its warm-up, which starts with a rate of zero, and weight decay, which only its SGD takes at p."""
    optax = pytest.importorskip("optax")
    free = optax.contrib.schedule_free_sgd(0.3, b1=0.8)
    assert_close(ours(fastopt.ScheduleFreeSGD(lr=0.3, momentum=0.8)), by_optax(free))
    free = optax.contrib.schedule_free_adamw(0.05, b1=0.8, b2=0.99)
    assert_close(ours(fastopt.ScheduleFreeAdamW(lr=0.05, betas=(0.8, 0.99))), by_optax(free))


# Rules that take norms of each parameter first


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lamb(decay):
    optax = pytest.importorskip("optax")
    rule = fastopt.LAMB(lr=0.05, weight_decay=decay, always_adapt=True)
    assert_close(ours(rule), by_optax(optax.lamb(0.05, eps=1e-6, weight_decay=decay)))


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars(nesterov):
    """With the decay within the norm of the gradient, which is the same where there is none."""
    optax = pytest.importorskip("optax")
    rule = fastopt.LARS(lr=5.0, momentum=0.9, nesterov=nesterov, always_adapt=True, eps=0.0)
    theirs = optax.lars(5.0, weight_decay=0.0, momentum=0.9, nesterov=nesterov, trust_coefficient=1e-3, eps=0.0)
    assert_close(ours(rule), by_optax(theirs))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_mars(decay):
    """Without eps, which it adds before the bias correction; 1e-15 under the root is there all the same."""
    package = pytest.importorskip("pytorch_optimizer")
    rule = fastopt.MARS(lr=0.05, weight_decay=decay, eps=0.0)
    arguments = {"betas": rule.betas, "eps": 0.0, "weight_decay": decay, "optimize_1d": True, "foreach": False}
    assert_close(ours(rule), by_torch(package.MARS, lr=0.05, **arguments), atol=1e-8)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_stableadamw(decay):
    package = pytest.importorskip("optimi")
    rule = fastopt.StableAdamW(lr=0.05, weight_decay=decay)
    theirs = by_torch(package.StableAdamW, lr=0.05, weight_decay=decay, triton=False, foreach=False)
    assert_close(ours(rule), theirs, atol=1e-10)


# Matrices


def test_muon_is_optaxs_in_float32():
    """Which corrects the bias of the momentum: without Nesterov's that is a factor, of which the step knows nothing."""
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    rng = np.random.default_rng(8)
    for shape in ((16, 16), (12, 30), (30, 12)):
        start = rng.standard_normal(shape).astype(np.float32)
        params = fastopt.FlatBuffer({"w": start})
        optimizer = fastopt.Optimizer(params, fastopt.Muon(lr=0.02, nesterov=False))
        other = optax.contrib.muon(0.02, nesterov=False, weight_decay=0.1)
        p = jax.numpy.asarray(start.T)  # its matrices are those of x @ w
        state = other.init(p)
        for _ in range(10):
            gradient = rng.standard_normal(shape).astype(np.float32)
            optimizer.step({"w": gradient})
            updates, state = other.update(jax.numpy.asarray(gradient.T), state, p)
            p = optax.apply_updates(p, updates)
        np.testing.assert_allclose(params["w"], np.asarray(p).T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(12, 12), (20,)])
def test_soap_is_that_of_pytorch_optimizer(shape):
    """Which decays after the step."""
    torch = pytest.importorskip("torch")
    others = pytest.importorskip("pytorch_optimizer")
    rng = np.random.default_rng(9)
    start = rng.standard_normal(shape)
    params = fastopt.FlatBuffer({"w": start})
    rule = fastopt.SOAP(weight_decay=0.0, precondition_frequency=3)
    optimizer = fastopt.Optimizer(params, rule)
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    other = others.SOAP([p], lr=rule.lr, betas=rule.betas, weight_decay=0.0, precondition_frequency=3)
    for _ in range(20):
        gradient = rng.standard_normal(shape)
        optimizer.step({"w": gradient})
        p.grad = torch.from_numpy(gradient.copy())
        other.step()
    # Its bases are rounded to float32.
    np.testing.assert_allclose(params["w"], p.detach().numpy(), rtol=0, atol=1e-5)


PRODIGY = [
    ({}, {}),
    ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ({"weight_decay": 0.1, "decoupled_weight_decay": False}, {"weight_decay": 0.1, "decouple": False}),
    ({"use_bias_correction": True, "d_coef": 0.5}, {"use_bias_correction": True, "d_coef": 0.5}),
    ({"safeguard_warmup": True, "lr": 0.5, "beta3": 0.9}, {"safeguard_warmup": True, "lr": 0.5, "beta3": 0.9}),
    ({"growth_rate": 1.2, "d0": 1e-3}, {"growth_rate": 1.2, "d0": 1e-3}),
]


def descended(step, start: np.ndarray = START) -> np.ndarray:
    """Where 60 steps arrive on the way to a place at a distance of about one, with noise; ``step`` takes gradients."""
    rng = np.random.default_rng(8)
    target, p = rng.standard_normal(SIZE), start
    for _ in range(60):
        p = step(p - target + 0.1 * rng.standard_normal(SIZE))
    return p


def by_class(kind, **arguments):
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.from_numpy(START.copy()))
    optimizer = kind([p], **arguments)

    def step(gradient: np.ndarray) -> np.ndarray:
        p.grad = torch.from_numpy(gradient)
        optimizer.step()
        return p.detach().numpy().copy()

    return descended(step), optimizer.param_groups[0]["d"]


def by_rule(rule: fastopt.Rule, pattern: str = "*", other: fastopt.Rule | None = None):
    """The same by a rule, or by two in turn, of which one has the elements from the 20th on."""
    params = fastopt.FlatBuffer({"first": START[:20], "second": START[20:]}, dtype="float64")
    optimizer = fastopt.Optimizer(params, {pattern: rule} | ({} if other is None else {"*": other}))

    def step(gradient: np.ndarray) -> np.ndarray:
        optimizer.step({"first": gradient[:20], "second": gradient[20:]})
        return np.concatenate([*params.values()])

    return descended(step), [group.scalars["d"] for group in optimizer.groups.values()]


@pytest.mark.parametrize(("ours", "theirs"), PRODIGY, ids=str)
def test_prodigy(ours, theirs, capsys):
    package = pytest.importorskip("prodigyopt")
    expected, d = by_class(package.Prodigy, **theirs)
    path, found = by_rule(fastopt.Prodigy(**ours))
    assert found == [pytest.approx(d, rel=1e-9)] and d > 0.01
    np.testing.assert_allclose(path, expected, rtol=1e-8, atol=1e-9)


def test_groups_of_prodigy_have_one_distance_as_long_as_they_make_the_same_steps():
    """In prodigyopt, too, which takes the betas of the first group for all."""
    torch, package = pytest.importorskip("torch"), pytest.importorskip("prodigyopt")
    tensors = [torch.nn.Parameter(torch.from_numpy(part.copy())) for part in (START[:20], START[20:])]
    groups = [{"params": tensors[:1]}, {"params": tensors[1:], "weight_decay": 0.1}]
    optimizer = package.Prodigy(groups)

    def step(gradient: np.ndarray) -> np.ndarray:
        for tensor, part in zip(tensors, (gradient[:20], gradient[20:]), strict=True):
            tensor.grad = torch.from_numpy(part)
        optimizer.step()
        return np.concatenate([tensor.detach().numpy() for tensor in tensors])

    expected = descended(step)
    path, (first, second) = by_rule(fastopt.Prodigy(), "first", fastopt.Prodigy(weight_decay=0.1))
    assert first == second == pytest.approx(optimizer.param_groups[0]["d"], rel=1e-9)
    np.testing.assert_allclose(path, expected, rtol=1e-8, atol=1e-9)


def by_optax_class(transformation) -> np.ndarray:
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    with jax.enable_x64(True):
        p = jax.numpy.asarray(START)
        state = transformation.init(p)

        def step(gradient: np.ndarray) -> np.ndarray:
            nonlocal p, state
            updates, state = transformation.update(jax.numpy.asarray(gradient), state, p)
            p = optax.apply_updates(p, updates)
            return np.asarray(p)

        return descended(step)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_prodigy_of_optax_corrects_biases(decay):
    optax = pytest.importorskip("optax")
    expected = by_optax_class(optax.contrib.prodigy(1.0, weight_decay=decay))
    path, _ = by_rule(fastopt.Prodigy(use_bias_correction=True, weight_decay=decay))
    np.testing.assert_allclose(path, expected, rtol=1e-8, atol=1e-9)
    assert abs(by_rule(fastopt.Prodigy(weight_decay=decay))[0] - expected).max() > 1e-3


DADAPT = [
    ({}, {}),
    ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ({"weight_decay": 0.1, "decoupled_weight_decay": True}, {"weight_decay": 0.1, "decouple": True}),
    ({"use_bias_correction": True, "lr": 0.5}, {"use_bias_correction": True, "lr": 0.5}),
    ({"growth_rate": 1.2, "d0": 1e-3}, {"growth_rate": 1.2, "d0": 1e-3}),
]


@pytest.mark.parametrize(("ours", "theirs"), DADAPT, ids=str)
def test_dadaptadam(ours, theirs, capsys):
    package = pytest.importorskip("dadaptation")
    expected, d = by_class(package.DAdaptAdam, **theirs)
    path, found = by_rule(fastopt.DAdaptAdam(**ours))
    assert found == [pytest.approx(d, rel=1e-9)] and d > 1e-3
    np.testing.assert_allclose(path, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_dadapt_adamw_of_optax_corrects_biases(decay):
    optax = pytest.importorskip("optax")
    expected = by_optax_class(optax.contrib.dadapt_adamw(1.0, weight_decay=decay))
    rule = fastopt.DAdaptAdam(use_bias_correction=True, weight_decay=decay, decoupled_weight_decay=True)
    np.testing.assert_allclose(by_rule(rule)[0], expected, rtol=1e-8, atol=1e-9)
    assert abs(by_rule(rule.replace(use_bias_correction=False))[0] - expected).max() > 1e-4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rowwiseadagrad_of_fbgemm():
    """In float32: the sums are those of the same additions, and its steps multiply where ours divide."""
    torch = pytest.importorskip("torch")
    try:
        from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    except (ImportError, OSError) as error:  # its libraries are made for one version of torch
        pytest.skip(f"fbgemm_gpu: {error}")
    where = 30, 8, EmbeddingLocation.HOST, training.ComputeDevice.CPU
    table = training.SplitTableBatchedEmbeddingBagsCodegen(
        [where], optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, learning_rate=0.1, eps=1e-3
    )
    (weights,) = table.split_embedding_weights()
    rng = np.random.default_rng(3)
    weights.data.copy_(torch.from_numpy(rng.standard_normal((30, 8)).astype(np.float32)))
    params = fastopt.FlatBuffer({"table": weights.detach().numpy().copy()}, dtype="float32")
    optimizer = fastopt.Optimizer(params, fastopt.RowwiseAdagrad(lr=0.1, eps=1e-3))
    for _ in range(STEPS):
        indices, values = rng.choice(30, 6, replace=False), rng.standard_normal((6, 8)).astype(np.float32)
        table(torch.from_numpy(indices), torch.arange(7)).backward(torch.from_numpy(values))
        optimizer.step({"table": fastopt.Rows(indices, values)})
    ((sums,),) = table.split_optimizer_states()
    np.testing.assert_allclose(optimizer.state["sum"]["table"], sums.numpy(), rtol=1e-6)
    np.testing.assert_allclose(params["table"], weights.detach().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 2, 3), (7,), ()])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_rowwiseadagrad_row_by_row(shape, decay):
    """Written down for one row after the other, after the code of FBGEMM; and of one axis it is Adagrad."""
    rng = np.random.default_rng(3)
    start = rng.standard_normal(shape)
    params = fastopt.FlatBuffer({"table": start}, dtype="float64")
    optimizer = fastopt.Optimizer(params, fastopt.RowwiseAdagrad(lr=0.1, eps=1e-3, weight_decay=decay))
    expected = start.reshape(len(start) if shape else 1, -1)
    moments = [0.0] * len(expected)
    other = start.reshape(-1).copy()
    adagrad = fastopt.Optimizer(other, fastopt.Adagrad(lr=0.1, eps=1e-3))
    for _ in range(STEPS):
        gradient = rng.standard_normal(shape)
        optimizer.step({"table": gradient})
        adagrad.step(gradient.reshape(-1).copy())
        for number, (row, values) in enumerate(zip(gradient.reshape(expected.shape), expected, strict=True)):
            moments[number] += sum(float(each) ** 2 for each in row) / len(row)
            values *= 1 - 0.1 * decay
            values -= 0.1 / (moments[number] ** 0.5 + 1e-3) * row
    np.testing.assert_allclose(params["table"].reshape(expected.shape), expected, rtol=1e-12, atol=1e-14)
    if len(shape) < 2 and not decay:
        np.testing.assert_allclose(params["table"].reshape(-1), other, rtol=1e-12, atol=1e-14)
