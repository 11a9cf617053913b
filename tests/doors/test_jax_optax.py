"""The optimizers of fastopt.jax.optax beside optax's own: the same numbers, and the same states."""

import numpy as np
import pytest

import fastopt

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
optax = pytest.importorskip("optax")
fj = pytest.importorskip("fastopt.jax")

RNG = np.random.default_rng(5)
PARAMS = {"w": jnp.array(RNG.standard_normal((5, 40)), "float32"), "b": jnp.array(RNG.standard_normal(3), "float32")}
GRADIENTS = [
    jax.tree.map(lambda leaf: jnp.array(scale * RNG.standard_normal(leaf.shape), "float32"), PARAMS)  # noqa: B023
    for scale in np.geomspace(3, 0.01, 8)
]
SCHEDULE = optax.cosine_decay_schedule(0.1, 20)
MASK = {"w": True, "b": False}

CASES = [
    ("adam", {"learning_rate": 0.1}),
    ("adam", {"learning_rate": SCHEDULE, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "nesterov": True}),
    ("adam", {"learning_rate": 0.1, "mu_dtype": jnp.bfloat16}),
    ("adamw", {"learning_rate": 0.1, "weight_decay": 0.3}),
    ("adamw", {"learning_rate": SCHEDULE, "weight_decay": 0.3, "mask": MASK}),
    ("adamw", {"learning_rate": 0.1, "weight_decay": lambda count: 0.1 / (1 + count)}),
    ("nadam", {"learning_rate": 0.1}),
    ("nadamw", {"learning_rate": 0.1, "weight_decay": 0.3}),
    ("adabelief", {"learning_rate": 0.1}),
    ("adabelief", {"learning_rate": 0.1, "eps": 1e-4, "eps_root": 1e-4}),
    ("adadelta", {}),
    ("adadelta", {"learning_rate": 0.5, "rho": 0.8, "weight_decay": 0.1, "weight_decay_mask": MASK}),
    ("adagrad", {"learning_rate": 0.1}),
    ("adagrad", {"learning_rate": SCHEDULE, "initial_accumulator_value": 0.0, "eps": 1e-2}),
    ("adamax", {"learning_rate": 0.1}),
    ("adamaxw", {"learning_rate": 0.1, "weight_decay": 0.3}),
    ("adan", {"learning_rate": 0.1}),
    ("adan", {"learning_rate": SCHEDULE, "b2": 0.7, "eps": 1e-4, "eps_root": 1e-2, "weight_decay": 0.3, "mask": MASK}),
    ("ademamix", {"learning_rate": 0.1, "weight_decay": 0.3}),
    ("ademamix", {"learning_rate": SCHEDULE, "b3": lambda count: 0.99 + 0.001 * count, "alpha": lambda count: count}),
    ("adopt", {"learning_rate": 0.1, "b2": 0.9}),
    ("adopt", {"learning_rate": 0.1, "b2": 0.9, "eps": 0.1, "use_clipping": False}),
    ("adopt", {"learning_rate": SCHEDULE, "clip_value_fn": lambda count: 0.1 * count}),
    ("amsgrad", {"learning_rate": 0.1, "b2": 0.9}),
    ("amsgrad", {"learning_rate": 0.1, "b2": 0.9, "bias_correction_mu": False, "bias_correction_nu": False}),
    ("lamb", {"learning_rate": 0.1, "weight_decay": 0.3, "mask": MASK}),
    ("lars", {"learning_rate": 0.1, "weight_decay": 0.3}),
    ("lars", {"learning_rate": SCHEDULE, "trust_ratio_mask": MASK, "momentum": 0.8, "nesterov": True}),
    ("lion", {"learning_rate": 0.1, "weight_decay": 0.3}),
    ("madgrad", {"learning_rate": 0.1, "weight_decay": 0.1}),
    ("madgrad", {"learning_rate": SCHEDULE, "momentum": 0.0, "eps": 1e-3}),
    ("radam", {"learning_rate": 0.1, "b2": 0.9}),
    ("radam", {"learning_rate": 0.1, "b2": 0.9, "nesterov": True}),
    ("rmsprop", {"learning_rate": 0.1}),
    ("rmsprop", {"learning_rate": 0.1, "eps": 1e-2, "bias_correction": True}),
    ("rmsprop", {"learning_rate": 0.1, "eps": 1e-2, "bias_correction": True, "eps_in_sqrt": False}),
    ("rmsprop", {"learning_rate": 0.1, "eps": 1e-2, "centered": True}),
    ("rmsprop", {"learning_rate": 0.1, "eps_in_sqrt": False, "initial_scale": 0.3}),
    ("rmsprop", {"learning_rate": SCHEDULE, "eps_in_sqrt": False, "momentum": 0.9, "nesterov": True}),
    ("rmsprop", {"learning_rate": 0.1, "eps_in_sqrt": False, "centered": True, "eps": 1e-3}),
    ("rprop", {"learning_rate": 0.1}),
    ("rprop", {"learning_rate": 0.01, "eta_minus": 0.3, "eta_plus": 2, "min_step_size": 0.008, "max_step_size": 0.02}),
    ("schedule_free_adamw", {"learning_rate": 0.1, "weight_decay": 0.3}),
    ("schedule_free_adamw", {"learning_rate": 0.1, "warmup_steps": 5, "b1": 0.8}),
    ("sgd", {"learning_rate": 0.1}),
    ("sgd", {"learning_rate": SCHEDULE, "momentum": 0.9}),
    ("sgd", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "accumulator_dtype": jnp.bfloat16}),
    ("signum", {"learning_rate": 0.1}),
    ("yogi", {"learning_rate": 0.1}),
]


def theirs_of(name):
    """optax's function of that name, which may be one of ``optax.contrib``."""
    for module in (optax, optax.contrib):
        if hasattr(module, name):
            return getattr(module, name)
    pytest.skip(f"optax {optax.__version__} has no {name}")


def assert_alike(found, expected, rtol=2e-5):
    """Trees of the same structure, dtypes and shapes, whose numbers agree to rounding."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        ours, theirs = (np.asarray(each, "float64") for each in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max(initial=0))


class Tried:
    """A transformation whose step is compiled once."""

    def __init__(self, transformation):
        self.init = transformation.init

        @jax.jit
        def step(params, state, gradient):
            updates, state = transformation.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        self.step = step


def train(params, state, gradients, *tried):
    """Parameters and state after the steps, in turn by the transformations."""
    for index, gradient in enumerate(gradients):
        params, state = tried[index % len(tried)].step(params, state, gradient)
    return params, state


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda value: value if isinstance(value, str) else None)
def test_numbers_and_states(name, arguments):
    ours, theirs = (Tried(kind(**arguments)) for kind in (getattr(fj.optax, name), theirs_of(name)))
    assert_alike(ours.init(PARAMS), theirs.init(PARAMS), rtol=0)
    expected = train(PARAMS, theirs.init(PARAMS), GRADIENTS, theirs)
    rtol = 0.02 if jnp.bfloat16 in arguments.values() else 2e-5  # optax multiplies 16-bit states in 16 bits
    assert_alike(train(PARAMS, ours.init(PARAMS), GRADIENTS, ours), expected, rtol)
    # A run that changes over at every step, there and back:
    assert_alike(train(PARAMS, theirs.init(PARAMS), GRADIENTS, theirs, ours), expected, rtol)


def test_every_optimizer_is_tried():
    assert {name for name, _ in CASES} == set(fj.optax.__all__)


@pytest.mark.parametrize("name", fj.optax.__all__)
def test_every_optimizer_has_the_arguments_of_optax(name):
    from inspect import signature

    ours, theirs = (signature(kind).parameters for kind in (getattr(fj.optax, name), theirs_of(name)))
    described = [
        [(each.name, repr(each.default).split(" at ")[0], each.kind) for each in kind.values()]
        for kind in (ours, theirs)
    ]
    assert described[0] == described[1]


@pytest.mark.parametrize("wrap", [
    lambda module: optax.chain(optax.clip_by_global_norm(1.0), module.adamw(0.1)),
    lambda module: optax.inject_hyperparams(module.adamw)(learning_rate=0.1),
    lambda module: optax.inject_hyperparams(module.radam)(learning_rate=SCHEDULE, b2=0.9),
    lambda module: optax.inject_hyperparams(module.adabelief)(learning_rate=0.1),
    lambda module: optax.masked(module.adam(0.1), MASK),
    lambda module: optax.MultiSteps(module.adam(0.1), every_k_schedule=2),
    lambda module: optax.multi_transform({"a": module.lion(0.1), "b": module.sgd(0.1, 0.9)}, {"w": "a", "b": "b"}),
], ids=["chain", "inject", "inject-radam", "inject-adabelief", "masked", "multi-steps", "multi-transform"])  # fmt: skip
def test_in_transformations_of_optax(wrap):
    ours, theirs = Tried(wrap(fj.optax)), Tried(wrap(optax))
    expected = train(PARAMS, theirs.init(PARAMS), GRADIENTS, theirs)
    assert_alike(train(PARAMS, ours.init(PARAMS), GRADIENTS, ours), expected)
    assert_alike(train(PARAMS, theirs.init(PARAMS), GRADIENTS, theirs, ours), expected)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes(dtype):
    with jax.enable_x64(True):
        params, *gradients = (jax.tree.map(lambda leaf: leaf.astype(dtype), each) for each in (PARAMS, *GRADIENTS))
        ours, theirs = Tried(fj.optax.adamw(0.1)), Tried(optax.adamw(0.1))
        found = train(params, ours.init(params), gradients, ours)
        expected = train(params, theirs.init(params), gradients, theirs)
    if dtype == "float64":
        assert_alike(found, expected, rtol=1e-6)  # corrections are in float32 in optax, too
    else:  # which rounds every operation to 16 bits
        assert_alike(found[1], expected[1], rtol=0.03)


@pytest.mark.parametrize("name", ["adam", "nadam", "rmsprop", "rprop", "yogi"])
def test_gradients_of_fewer_bits_than_states_have(name):
    """Updates have the dtype that they have in optax, and the bits of such gradients in that dtype."""
    narrow = [jax.tree.map(lambda leaf: leaf.astype("bfloat16"), each) for each in GRADIENTS]
    wide = [jax.tree.map(lambda leaf: leaf.astype("float32"), each) for each in narrow]
    ours, theirs = getattr(fj.optax, name)(0.1), theirs_of(name)(0.1)
    shapes = [jax.eval_shape(each.update, narrow[0], each.init(PARAMS), PARAMS)[0] for each in (ours, theirs)]
    assert shapes[0] == shapes[1]
    tried = Tried(ours)
    found, expected = (train(PARAMS, ours.init(PARAMS), gradients, tried) for gradients in (narrow, wide))
    assert_alike(found, expected, rtol=0)


def test_scan_vmap_and_one_call():
    ours, theirs = fj.optax.adamw(0.1), optax.adamw(0.1)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *GRADIENTS)

    def run(transformation, params, gradients):
        def body(carry, gradient):
            updates, state = transformation.update(gradient, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(body, (params, transformation.init(params)), gradients)[0]

    many, both = (jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), each) for each in (PARAMS, stacked))
    found, expected = (jax.jit(jax.vmap(lambda *each: run(kind, *each)))(many, both) for kind in (ours, theirs))  # noqa: B023
    assert_alike(found, expected)
    text = jax.jit(ours.update).lower(GRADIENTS[0], ours.init(PARAMS), PARAMS).as_text()
    assert text.count("@fastopt_xla_step") == 1


def test_flax_and_orbax(tmp_path):
    train_state = pytest.importorskip("flax.training.train_state")
    ocp = pytest.importorskip("orbax.checkpoint")
    states = {
        module: train_state.TrainState.create(apply_fn=None, params=PARAMS, tx=module.adamw(0.1))
        for module in (fj.optax, optax)
    }
    for module, state in states.items():
        for gradient in GRADIENTS[:4]:
            state = jax.jit(lambda state, gradient: state.apply_gradients(grads=gradient))(state, gradient)
        states[module] = state
    ours, theirs = states[fj.optax], states[optax]
    assert_alike(ours.opt_state, theirs.opt_state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "theirs", theirs.opt_state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "theirs", ours.opt_state)
    assert_alike(restored, theirs.opt_state, rtol=0)
    assert_alike(
        *(state.replace(opt_state=restored).apply_gradients(grads=GRADIENTS[5]).params for state in (ours, theirs))
    )


def test_what_no_kernel_does_is_refused():
    for name, arguments, message in [
        ("adam", {"eps_root": 1e-3}, "^adam: eps_root must be 0, not 0.001"),
        ("adamw", {"eps_root": 1e-3}, "^adamw: eps_root must be 0, not 0.001"),
        ("nadam", {"eps_root": 1e-3}, "^nadam: eps_root must be 0, not 0.001"),
        ("nadamw", {"eps_root": 1e-3}, "^nadamw: eps_root must be 0, not 0.001"),
        ("radam", {"eps_root": 1e-3}, "radam: eps_root must be 0, not 0.001"),
        ("adabelief", {"eps": 1e-8}, "adabelief: eps_root must be eps, not 1e-16"),
        ("adabelief", {"nesterov": True}, "adabelief: nesterov must be False, not True"),
        ("ademamix", {"eps_root": 1e-3}, "ademamix: eps_root must be 0, not 0.001"),
        ("adopt", {"nesterov": True}, "adopt: nesterov must be False, not True"),
        ("amsgrad", {"eps_root": 1e-3}, "amsgrad: eps_root must be 0, not 0.001"),
        ("lamb", {"eps_root": 1e-3}, "^lamb: eps_root must be 0, not 0.001"),
        ("rmsprop", {"centered": True, "bias_correction": True}, "rmsprop, centered: bias_correction must be False"),
        ("rprop", {"max_step_size": 0.01}, "rprop: learning_rate must lie between min_step_size and max_step_size"),
    ]:
        with pytest.raises(ValueError, match=message):
            getattr(fj.optax, name)(0.1, **arguments)
    injected = Tried(optax.inject_hyperparams(fj.optax.adam)(learning_rate=0.1, eps_root=1e-3))
    with pytest.raises(Exception, match="adam: eps_root must be 0"):
        train(PARAMS, injected.init(PARAMS), GRADIENTS[:1], injected)


def test_errors_when_traced():
    transformation = fj.optax.adam(0.1)
    state = transformation.init(PARAMS)
    with pytest.raises(ValueError, match="state.mu must have the structure of updates"):
        transformation.update({"w": PARAMS["w"]}, state)
    with pytest.raises(ValueError, match="state.mu must have the shapes of updates"):
        transformation.update(PARAMS | {"b": jnp.ones(4)}, state)
    with pytest.raises(TypeError, match="updates must have arrays of float32, .*, not of int32"):
        transformation.update(PARAMS | {"b": jnp.ones(3, int)}, state)


def test_without_the_c_backend(monkeypatch):
    from fastopt.jax import ffi

    def missing():
        raise fastopt.BackendError("backend 'c' is not available: it has not been built")

    ffi.register.cache_clear()
    monkeypatch.setattr(ffi, "get_library", missing)
    for make in (lambda: fj.step(fastopt.Adam()), lambda: fj.optax.adam(0.1)):
        with pytest.raises(fastopt.BackendError, match="backend 'c' is not available"):
            make()
