"""Steps of JAX arrays have the bits of fastopt.Optimizer, in every way in which JAX runs them."""

import pickle

import numpy as np
import pytest
from cases import every_form

import fastopt
from fastopt import schedules
from fastopt.declared import LearningRate

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
fj = pytest.importorskip("fastopt.jax")
ffi = pytest.importorskip("fastopt.jax.ffi")
rows = pytest.importorskip("fastopt.jax.rows")

RNG = np.random.default_rng(3)
START = {"w": RNG.standard_normal((9, 131)).astype("float32"), "b": RNG.standard_normal(7).astype("float32")}
GRADIENTS = [
    {name: (scale * RNG.standard_normal(array.shape)).astype("float32") for name, array in START.items()}
    for scale in np.geomspace(3, 0.01, 6)
]
RULES = [*(rule for kind in fastopt.RULES.values() for rule in kind.forms()), *every_form(fastopt.AdamW)]
RULES = [rule for rule in RULES if rule.stage is None]


def arrays(tree, dtype=None):
    return jax.tree.map(lambda array: jnp.array(array, dtype), tree)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def by_optimizer(rule, start=START, gradients=GRADIENTS, dtype="float32"):
    """Parameters and states after the steps, as mappings in the order in which JAX has them."""
    params = fastopt.FlatBuffer(start, dtype=dtype)
    optimizer = fastopt.Optimizer(params, rule, backend="c", rounding="nearest")
    for gradient in gradients:
        optimizer.step(gradient)
    names = sorted(start)
    states = {state: {name: optimizer.state[state][name] for name in names} for state in sorted(rule.states)}
    if rule.totals:
        states["scalars"] = np.array(list(optimizer.groups["*"].scalars.values()))
    return {name: params[name] for name in names}, states


def by_jax(step, start=START, gradients=GRADIENTS, dtype=None):
    params = arrays(start, dtype)
    state = step.init(params)
    jitted = jax.jit(step, donate_argnums=(0, 2))
    for gradient in gradients:
        params, state = jitted(params, arrays(gradient, dtype), state)
    assert state.step == len(gradients)
    return params, kept(step, state)


def kept(step, state):
    """What a step keeps, as :func:`by_optimizer` gives it."""
    return state.states | ({"scalars": state.scalars} if step.rule.totals else {})


@pytest.fixture(scope="module")
def every_rule():
    """What each rule has made of the parameters: one program, which takes less time to compile than many."""
    steps = [fj.step(rule) for rule in RULES]

    @jax.jit
    def train(params, gradients):
        found = [(params, step.init(params)) for step in steps]
        for gradient in gradients:
            found = [step(old, gradient, state) for step, (old, state) in zip(steps, found, strict=True)]
        return [(new, kept(step, state)) for step, (new, state) in zip(steps, found, strict=True)]

    return train(arrays(START), [arrays(gradient) for gradient in GRADIENTS[:3]])


@pytest.mark.parametrize("place", range(len(RULES)), ids=lambda place: repr(RULES[place]))
def test_every_kernel_and_every_flag_of_one(place, every_rule):
    assert bits(every_rule[place]) == bits(by_optimizer(RULES[place], gradients=GRADIENTS[:3]))


def test_float64_and_mixed_dtypes():
    with jax.enable_x64(True):
        params, states = by_jax(fj.step(fastopt.Adam()), dtype="float64")
        assert bits((params, states)) == bits(by_optimizer(fastopt.Adam(), dtype="float64"))
        step = fj.step(fastopt.Adam())
        mixed = {"w": jnp.array(START["w"], "float64"), "b": jnp.array(START["b"], "float32")}
        state = step.init(mixed)
        for gradient in GRADIENTS:
            mixed, state = step(mixed, arrays(gradient), state)
    assert mixed["w"].dtype == "float64" and mixed["b"].dtype == "float32"
    assert bits(mixed["b"]) == bits(by_optimizer(fastopt.Adam())[0]["b"])


@pytest.mark.parametrize("size", [1e-39, 1e-42])
def test_numbers_that_are_tiny(size):
    """XLA may flush subnormal numbers to zero on its threads."""
    start = {"w": (size * RNG.standard_normal(70_001)).astype("float32")}
    gradients = [{"w": (size * RNG.standard_normal(70_001)).astype("float32")}] * 3
    rule = fastopt.SGD(lr=0.5, momentum=0.5)
    step = fj.step(rule)
    assert bits(by_jax(step, start, gradients)) == bits(by_optimizer(rule, start, gradients))
    assert np.any(by_optimizer(rule, start, gradients)[0]["w"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    stored = np.dtype(getattr(ml_dtypes, dtype, dtype))
    gradients = [{name: array.astype(stored) for name, array in each.items()} for each in GRADIENTS]
    start = {name: array.astype(stored) for name, array in START.items()}
    found = by_jax(fj.step(fastopt.AdamW()), start, gradients, dtype)
    assert jax.tree.leaves(found[0])[0].dtype == dtype and jax.tree.leaves(found[1])[0].dtype == "float32"
    assert bits(found) == bits(by_optimizer(fastopt.AdamW(), start, gradients, dtype))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_sums_of_long_parameters_in_every_dtype(dtype):
    stored = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype, dtype))
    start = {"w": RNG.standard_normal((3, 50_001)).astype(stored), "b": RNG.standard_normal(7).astype(stored)}
    gradients = [{name: RNG.standard_normal(array.shape).astype(stored) for name, array in start.items()}] * 2
    for rule in (fastopt.LAMB(weight_decay=0.1), fastopt.AdamW(cautious=True), fastopt.Prodigy(d0=0.01)):
        with jax.enable_x64(dtype == "float64"):
            found = by_jax(fj.step(rule, threads=2), start, gradients, dtype)
            assert bits(found) == bits(by_optimizer(rule, start, gradients, dtype))


@pytest.mark.parametrize("rule", [fastopt.NAdam(cautious=True), fastopt.Prodigy(d0=0.01)], ids=repr)
def test_sums_where_dtypes_are_mixed_and_leaves_empty(rule):
    step, gradients = fj.step(rule), GRADIENTS[:1] * 6
    with jax.enable_x64(True):
        params = {"a": jnp.array(START["w"], "float64"), "b": jnp.array(START["b"]), "c": jnp.zeros((0, 3))}
        state = step.init(params)
        for gradient in gradients:
            grads = {"a": jnp.array(gradient["w"]), "b": jnp.array(gradient["b"]), "c": jnp.zeros((0, 3))}
            params, state = step(params, grads, state)
        assert step({}, {}, step.init({}))[0] == {}
    expected, after = by_optimizer(rule, gradients=gradients)
    assert params["c"].shape == (0, 3)
    if rule.totals:  # those of both dtypes, of which one is other than there
        d, d_max, _ = np.asarray(state.scalars).view("float64").ravel()
        assert d == pytest.approx(after["scalars"][0]) and d == d_max > 2 * rule.d0
        np.testing.assert_allclose(params["b"], expected["b"], rtol=1e-5)
    else:
        assert bits(params["b"]) == bits(expected["b"])
    np.testing.assert_allclose(params["a"], expected["w"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [fastopt.AdamW(), fastopt.LAMB(), fastopt.Prodigy()], ids=repr)
def test_in_place_where_it_is_donated(rule):
    step = fj.step(rule)
    params = arrays(START)
    state = step.init(params)
    kept, gradient = arrays(START), arrays(GRADIENTS[0])
    before = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state.states))]
    params, state = jax.jit(step, donate_argnums=(0, 2))(params, gradient, state)
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state.states))] == before
    jax.jit(step)(kept, gradient, step.init(kept))
    assert bits(kept) == bits(dict(sorted(START.items()))), "what is not donated has changed"


@pytest.mark.parametrize("rule", [fastopt.RAdam(lr=0.1), fastopt.DAdaptAdam(d0=0.01)], ids=repr)
def test_scan_and_vmap(rule):
    step = fj.step(rule)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *map(arrays, GRADIENTS))

    @jax.jit
    def train(params, gradients):
        carry = params, step.init(params)
        return jax.lax.scan(lambda carry, gradient: (step(carry[0], gradient, carry[1]), None), carry, gradients)[0]

    params, state = train(arrays(START), stacked)
    expected = bits(by_optimizer(rule))
    assert bits((params, kept(step, state))) == expected
    models = jax.tree.map(lambda array: jnp.stack([array, 2 * array, array]), arrays(START))
    both = jax.tree.map(lambda array: jnp.stack([array, 3 * array, array]), stacked)
    many, states = jax.vmap(train)(models, both)
    for place in (0, 2):
        assert bits(jax.tree.map(lambda array: array[place], (many, kept(step, states)))) == expected  # noqa: B023
    assert states.step.tolist() == [len(GRADIENTS)] * 3


@pytest.mark.parametrize("rule", [fastopt.NAdam(), fastopt.ScheduleFreeAdamW(warmup_steps=9)], ids=repr)
def test_rules_that_keep_numbers(rule):
    table = rule.table(60, np.float32)
    source = rows.source(rule)
    row = jax.jit(lambda number: ffi.row(source, number, (), table.shape[1], np.dtype("float32")))
    for number in [*range(1, 20), 3, 60, 4, 5, 6]:
        assert np.asarray(row(jnp.int32(number))).tobytes() == table[number - 1].tobytes(), number


@pytest.mark.parametrize(
    "lr", [schedules.Cosine(0.1, steps=400), schedules.Plateau(0.1), schedules.OneCycle(0.3, steps=700)], ids=repr
)
def test_schedules_of_our_own_in_a_long_run_that_jumps(lr):
    """Rows are made ahead, in windows: each step must get its own, after a jump and back, too."""
    rule = fastopt.Adam(lr=lr)
    fj.step(rule)
    table = rule.table(700, np.float32)
    source = rows.source(rule)
    row = jax.jit(lambda number: ffi.row(source, number, (), table.shape[1], np.dtype("float32")))
    for number in [*range(1, 530), 3, 4, 699, 5, *range(600, 660)]:
        assert np.asarray(row(jnp.int32(number))).tobytes() == table[number - 1].tobytes(), number


def test_a_plateau_that_has_learnt():
    lr = schedules.Plateau(0.5, patience=0)
    step = fj.step(fastopt.SGD(lr=lr))
    params = {"w": jnp.zeros(3)}
    run = jax.jit(step)
    state = step.init(params)
    params, state = run(params, {"w": jnp.ones(3)}, state)
    for metric in (1.0, 2.0):
        lr.observe(metric)
    params, state = run(params, {"w": jnp.ones(3)}, state)
    assert params["w"].tolist() == pytest.approx([-0.55] * 3)


SCALARS = [kind for kind in fastopt.RULES.values() if kind().scalars and kind().stage is None]


@pytest.mark.parametrize(
    "kind", [fastopt.AdamW, fastopt.LAMB, lambda lr: fastopt.NAdam(lr=lr, cautious=True), *SCALARS]
)
def test_other_schedules_are_traced(kind):
    calls = []

    def lr(step):
        calls.append(step)
        return jnp.where(step < 3, 0.1, 0.01)

    found = by_jax(fj.step(kind(lr=lr)))
    assert len(calls) == 1 and isinstance(calls[0], jax.core.Tracer)
    rates = [float(np.float32(0.1)) if step < 3 else float(np.float32(0.01)) for step in range(1, 7)]
    assert bits(found) == bits(by_optimizer(kind(lr=lambda step: rates[step - 1])))


@pytest.mark.parametrize(("rule", "target"), [
    (fastopt.Adam(), "fastopt_xla_step"), (fastopt.LAMB(), "fastopt_xla_adapted_step")
])  # fmt: skip
def test_many_leaves_are_one_call(rule, target):
    params = [jnp.ones(3)] * 40
    step = fj.step(rule)
    text = jax.jit(step).lower(params, params, step.init(params)).as_text()
    assert text.count(f"@{target}") == 1


def test_gradients_of_another_dtype_and_empty_leaves():
    step = fj.step(fastopt.Adam())
    params = {"a": jnp.ones((2, 2)), "b": jnp.zeros((0, 3)), "c": None, "d": jnp.float32(2)}
    grads = {"a": jnp.ones((2, 2), jnp.bfloat16), "b": jnp.zeros((0, 3)), "c": None, "d": jnp.float16(1)}
    new, _ = jax.jit(step)(params, grads, step.init(params))
    assert new["b"].shape == (0, 3) and new["c"] is None and float(new["d"]) == np.float32(2) - np.float32(1e-3)
    assert fj.step(fastopt.SGD())({}, {}, fj.step(fastopt.SGD()).init({}))[0] == {}


def test_errors_when_traced():
    step = fj.step(fastopt.Adam())
    params = {"w": jnp.ones(3)}
    state = step.init(params)
    cases = [
        (params, {"v": jnp.ones(3)}, state, ValueError, "grads must have the structure of params"),
        (params, {"w": jnp.ones(4)}, state, ValueError, r"grads must have the shapes of params, \(3,\), not \(4,\)"),
        (params, {"w": jnp.ones(3, int)}, state, TypeError, "grads must have arrays of float32, .*, not of int32"),
        (params, {"w": "x"}, state, TypeError, "grads must have arrays of float32, .*, not 'x'"),
        (params, params, None, TypeError, "state must be a StepState with the states exp_avg, exp_avg_sq, not None"),
        (params, params, fj.step(fastopt.Lion()).init(params), TypeError, "state must be a StepState with the states"),
        (params, params, state._replace(step=jnp.float32(1)), TypeError, "state.step must be a whole number, not"),
        (params, params, state._replace(step=jnp.ones(2, int)), TypeError, "state.step must be a whole number, not"),
    ]
    for *given, error, message in cases:
        with pytest.raises(error, match=message):
            step(*given)
    with pytest.raises(TypeError, match="params must have arrays of float32, .*, not of complex64"):
        step.init({"w": jnp.ones(3, complex)})
    with pytest.raises(TypeError, match="rule must be a rule"):
        fj.step("adam")
    with pytest.raises(ValueError, match="threads must be"):
        fj.step(fastopt.Adam(), threads=0)
    with pytest.raises(TypeError, match="rule must be one without a stage, which is NumPy's work, not Muon"):
        fj.step(fastopt.Muon())
    with pytest.raises(ValueError, match="too large for float64: the coefficients of step 1"):
        fj.step(fastopt.Prodigy(d0=1e200))
    traced = fj.step(fastopt.NAdam(lr=lambda step: 0.1))
    with pytest.raises(TypeError, match="state must be a StepState with the scalars mu_product, not"):
        traced(params, params, fj.step(fastopt.NAdam()).init(params))
    with pytest.raises(TypeError, match="state must be a StepState with the scalars d, d_max, d_numerator, not"):
        fj.step(fastopt.Prodigy())(params, params, fj.step(fastopt.Prodigy()).init(params)._replace(scalars=()))
    with pytest.raises(TypeError, match="lr must give a number"):
        fj.step(fastopt.Adam(lr=lambda step: jnp.ones(2)))(params, params, state)


def test_a_rule_with_a_kernel_of_its_own():
    class Own(fastopt.Rule):
        lr: LearningRate = 0.1
        kernel = staticmethod(lambda p, g, k: None)
        states = {}

    with pytest.raises(TypeError, match="rule must have a kernel of the C backend"):
        fj.step(Own())


@pytest.mark.parametrize("kind", [fastopt.Adam, fastopt.LAMB])
def test_what_fails_while_a_program_runs_is_an_error_there(kind):
    step = fj.step(kind(lr=lambda step: jnp.where(step < 2, 0.1, -1.0)))
    params = {"w": jnp.ones(3)}
    run = jax.jit(step)
    params, state = run(params, params, step.init(params))
    with pytest.raises(Exception, match=f"{kind.__name__}: lr must be a finite number >= 0, not -1.0"):
        jax.block_until_ready(run(params, params, state))


def test_threads_and_instruction_sets_do_not_show(monkeypatch):
    params = {"w": jnp.array(RNG.standard_normal(100_003), "float32")}
    found = []
    for isa in fastopt.backends()["c"].details["instruction sets"].split(", "):
        monkeypatch.setenv("FASTOPT_ISA", isa)
        for threads in (1, 2):
            step = fj.step(fastopt.AdamW(), threads=threads)
            found.append(bits(jax.jit(step)(params, params, step.init(params))))
    assert all(each == found[0] for each in found)


def test_a_step_that_comes_out_of_a_pickle_is_made_anew(monkeypatch):
    """Or another process would know neither its rule nor the handlers."""
    packed = pickle.dumps(fj.step(fastopt.Adam(lr=0.625), threads=2))
    known, source = [], rows.source
    monkeypatch.setattr(ffi, "register", lambda: known.append("handlers"))
    monkeypatch.setattr(rows, "source", lambda rule: known.append(rule) or source(rule))
    step = pickle.loads(packed)
    assert known == ["handlers", step.rule] == ["handlers", fastopt.Adam(lr=0.625)] and step.threads == 2


def test_rules_that_look_alike():
    """Programs find a rule by its text: another one of the same text must not be taken for it."""

    class Adam(fastopt.Adam):
        def coefficients(self, step):
            return super().coefficients(step) | {"step_size": 0.0}

    params = {"w": jnp.ones(3)}
    moved, still = fj.step(fastopt.Adam(lr=0.25)), fj.step(Adam(lr=0.25))
    assert float(moved(params, params, moved.init(params))[0]["w"][0]) != 1
    assert float(still(params, params, still.init(params))[0]["w"][0]) == 1
    assert rows.source(fastopt.Adam(lr=0.25)) == rows.source(moved.rule) != rows.source(still.rule)


def test_schedules_that_learn_and_look_alike(monkeypatch):
    """Each is found as what it is, however many there are: none is compared with all before it."""
    compared = []
    equal = schedules.Plateau.__eq__
    monkeypatch.setattr(schedules.Plateau, "__eq__", lambda self, other: compared.append(self) or equal(self, other))
    rules = [fastopt.Adam(lr=schedules.Plateau(0.375)) for _ in range(64)]
    found = [rows.source(rule) for rule in rules]
    assert len(set(found)) == 64 and [rows.source(rule) for rule in rules] == found
    assert len(compared) <= 2 * 64
