"""Steps of numbers in any storage: every rule with a literal list of mixes, on every backend that has them."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
from cases import ELEMENTWISE
from conftest import BACKENDS
from reference_engine import ENGINES, choosing

import fastopt
from fastopt import FlatBuffer, Optimizer
from fastopt.declared import LearningRate
from fastopt.rule import Rule, State

__all__ = ["choosing"]  # a fixture

pytestmark = pytest.mark.usefixtures("choosing")

#: Sizes around blocks and tiles, more and less than have 8-bit states, that start in the middle of tiles.
SHAPES = {"w": (70, 61), "b": (13,), "empty": (0, 4), "scale": (), "v": (4097,), "c": (1025,)}

#: The dtype of the parameters, that of the gradient, and what the optimizer is asked for.
MIXES = {
    "float32, gradient in bfloat16": ("float32", "bfloat16", {}),
    "float32, gradient in float16": ("float32", "float16", {}),
    "float32, gradient in float64": ("float32", "float64", {}),
    "float64, gradient in bfloat16": ("float64", "bfloat16", {}),
    "float32, copy, average": ("float32", "bfloat16", {"copy": "bfloat16", "ema_decay": 0.9}),
    "float64, copy in float16": ("float64", "float64", {"copy": "float16"}),
    "float32, states in bfloat16": ("float32", "float32", {"state_dtype": "bfloat16"}),
    "float32, states in bfloat16 to nearest": (
        "float32",
        "float32",
        {"state_dtype": "bfloat16", "rounding": "nearest"},
    ),
    "float32, states in float16": ("float32", "float16", {"state_dtype": "float16", "seed": 7}),
    "float32, states in 8 bits": ("float32", "float32", {"state_dtype": "8bit"}),
    "float64, states in 8 bits": ("float64", "float32", {"state_dtype": "8bit", "ema_decay": 0.5}),
    "bfloat16": ("bfloat16", "bfloat16", {}),
    "bfloat16 to nearest": ("bfloat16", "bfloat16", {"rounding": "nearest"}),
    "bfloat16, average": ("bfloat16", "float32", {"ema_decay": 0.9}),
    "bfloat16, states in 8 bits": ("bfloat16", "bfloat16", {"state_dtype": "8bit"}),
    "bfloat16, master": ("bfloat16", "bfloat16", {"master": "float32"}),
    "bfloat16, split": ("bfloat16", "bfloat16", {"master": "split", "ema_decay": 0.9}),
    "bfloat16, split, states in bfloat16": ("bfloat16", "bfloat16", {"master": "split", "state_dtype": "bfloat16"}),
    "bfloat16, accumulated": ("bfloat16", "bfloat16", {"master": "split", "accumulate": 2}),
    "float16, master, states in float16": ("float16", "float16", {"master": "float32", "state_dtype": "float16"}),
    "float16": ("float16", "float32", {"state_dtype": "bfloat16"}),
}

FORMS = [form for rule in ELEMENTWISE.values() for form in rule.forms()]
#: One for each number of states, and those that have running numbers: what kernels do is known from plain arrays.
DIFFERENT = [*{len(form.states): form for form in FORMS}.values(), *(form for form in FORMS if form.scalars)]


def buffer(seed: int, dtype: str, scale: float = 1.0) -> FlatBuffer:
    rng = np.random.default_rng(seed)
    return FlatBuffer({name: scale * rng.standard_normal(shape) for name, shape in SHAPES.items()}, dtype=dtype)


def made(mix: str, rule, backend: str, **options) -> Optimizer:
    dtype, _, wanted = MIXES[mix]
    return Optimizer(buffer(0, dtype), rule, backend=backend, **wanted | options)


def train(optimizer: Optimizer, mix: str, first: int, stop: int, **options) -> Optimizer:
    for seed in range(first, stop):
        gradient = buffer(seed + 1, MIXES[mix][1])
        optimizer.step(gradient if seed % 2 else dict(gradient), **options)
    return optimizer


def everything(optimizer: Optimizer) -> dict[str, bytes]:
    """All that steps change, by name, as bytes."""
    found = {"params": optimizer.flat.tobytes(), "counts": repr(optimizer.counts).encode()}

    def add(name, value):
        if isinstance(value, dict):
            for key, each in value.items():
                add(f"{name} {key}", each)
        else:
            found[name] = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()

    add("", optimizer.state_dict())
    return found


def assert_same(mine: Optimizer, other: Optimizer) -> None:
    expected = everything(other)
    for name, value in everything(mine).items():
        assert value == expected[name], name


def id_of(rule) -> str:
    return repr(rule)


@pytest.mark.parametrize("mix", MIXES)
def test_the_same_bits_on_every_backend(mix):
    """And in every run, for any number of threads."""
    for rule in DIFFERENT:
        first, *others = (
            train(made(mix, rule, name, threads=threads), mix, 0, 4, max_norm=50.0)
            for name in ENGINES
            for threads in (1, 2)
        )
        for other in others:
            assert_same(other, first)
        assert np.isfinite(first.flat.astype("f8")).all(), rule


@pytest.mark.parametrize("mix", MIXES)
def test_a_run_that_goes_on_has_the_bits_of_one_that_never_stopped(mix, backend, tmp_path):
    groups = {"?": fastopt.Adam(amsgrad=True), "*": fastopt.NAdam()}
    whole = train(made(mix, groups, backend, seed=3), mix, 0, 7)
    begun = train(made(mix, groups, backend, seed=3), mix, 0, 3)
    begun.save(tmp_path / "run")
    loaded = made(mix, groups, backend)
    loaded.load(tmp_path / "run")
    told = Optimizer(begun.params.copy(), groups, backend=backend, **MIXES[mix][2])
    told.load_state_dict(begun.state_dict())
    for other in (loaded, told, pickle.loads(pickle.dumps(begun)), copy.deepcopy(begun), begun):
        assert_same(train(other, mix, 3, 7), whole)


@pytest.mark.parametrize("mix", MIXES)
def test_a_quadratic_is_brought_down(mix):
    """On one backend: the other one has the same bits."""
    dtype, gradient, options = MIXES[mix]
    given = FlatBuffer({"w": [1.0]}, gradient).dtype
    for rule in (fastopt.Adam(lr=0.02), fastopt.Momentum(lr=0.02), fastopt.RMSprop(lr=0.02)):
        params = buffer(0, dtype)
        target = buffer(1, "float64").flat
        optimizer = Optimizer(params, rule, backend=BACKENDS[-1], **options)
        first = np.square(params.flat.astype("f8") - target).mean()
        for _ in range(400 * options.get("accumulate", 1)):
            optimizer.step((params.flat.astype("f8") - target).astype(given))
        assert np.square(params.flat.astype("f8") - target).mean() < 0.01 * first, rule


def test_parameters_are_those_of_the_master(backend):
    for master in ("float32", "split"):
        mix = {"float32": "bfloat16, master", "split": "bfloat16, split"}[master]
        optimizer = train(made(mix, fastopt.AdamW(), backend), mix, 0, 5)
        exact = np.concatenate([optimizer.master[name].reshape(-1) for name in SHAPES])
        assert exact.dtype == np.float32
        near = optimizer.flat.astype(np.float32)
        assert (near != exact).any() and (abs(near - exact) <= abs(exact) / 256).all()
        if master == "split":
            assert list(optimizer.master["w"].parts) == ["upper", "lower"]
            assert np.shares_memory(optimizer.master["w"].parts["upper"], optimizer.flat)
            with pytest.raises(ValueError, match="read-only"):
                optimizer.master["w"][0] = 1
        else:
            assert (near == exact.astype(ml_dtypes.bfloat16)).all()


@pytest.mark.parametrize("rule", FORMS, ids=id_of)
def test_a_master_makes_the_steps_of_float32(rule, backend):
    """Of both kinds: the same bits as float32 parameters, with gradients that float32 holds."""
    exact = train(Optimizer(buffer(0, "bfloat16").copy(), rule, backend=backend, master="float32"), "bfloat16", 0, 4)
    start = FlatBuffer(dict(buffer(0, "bfloat16")), dtype="float32")
    plain = train(Optimizer(start, rule, backend=backend), "bfloat16", 0, 4)
    split = train(Optimizer(buffer(0, "bfloat16"), rule, backend=backend, master="split"), "bfloat16", 0, 4)
    assert exact.master.flat.tobytes() == plain.flat.tobytes()
    for name in SHAPES:
        assert split.master[name].tobytes() == plain.params[name].tobytes()


def test_copy_and_average_follow_what_kernels_compute(backend):
    optimizer = train(made("float32, copy, average", fastopt.Adam(), backend), "float32, copy, average", 0, 5)
    assert (optimizer.copy.flat == optimizer.flat.astype(ml_dtypes.bfloat16)).all()
    assert optimizer.copy.dtype == ml_dtypes.bfloat16
    plain = Optimizer(buffer(0, "float32"), fastopt.Adam(), backend=backend, ema_decay=0.9)
    train(plain, "float32, copy, average", 0, 5)
    assert optimizer.ema.dtype == np.float32 and (optimizer.ema.flat == plain.ema.flat).all()


def test_frozen_parameters_are_averaged_too(backend):
    optimizer = made("bfloat16, split", {"b": fastopt.SGD(), "*": fastopt.Adam()}, backend)
    optimizer.ema.flat.fill(0)
    optimizer.freeze("b")
    before = optimizer.params["b"].copy()
    optimizer.step(buffer(1, "bfloat16"))
    assert (optimizer.params["b"] == before).all()
    np.testing.assert_allclose(optimizer.ema["b"], 0.1 * before.astype("f4"), rtol=1e-6)


def test_gradients_of_sixteen_bits_are_accumulated_in_float32(backend):
    """A thousand ones and a thousandth: in bfloat16 the sum would stop at 256."""
    params = FlatBuffer({"w": np.zeros(5)}, "bfloat16")
    optimizer = Optimizer(params, fastopt.SGD(lr=1.0), backend=backend, master="float32", accumulate=1000)
    for _ in range(1000):
        optimizer.step(np.ones(5, ml_dtypes.bfloat16))
    assert optimizer.accumulated.dtype == np.float32
    assert optimizer.master["w"].tolist() == [-1.0] * 5


@pytest.mark.parametrize("gradient", ["bfloat16", "float16", "float64"])
def test_norms_of_encoded_gradients(gradient, backend):
    optimizer = Optimizer(buffer(0, "float32"), fastopt.SGD(lr=1.0), backend=backend)
    given = buffer(1, gradient)
    before = optimizer.flat.copy()
    report = optimizer.step(given, max_norm=1.0, grad_scale=0.5)
    exact = given.flat.astype("f8")
    assert report.grad_norm == pytest.approx(0.5 * np.linalg.norm(exact), rel=1e-12)
    np.testing.assert_allclose(before - optimizer.flat, exact / np.linalg.norm(exact), atol=1e-6)
    given.flat[5] = np.inf
    before = everything(optimizer)
    for each in (given, dict(given), given.flat):
        assert optimizer.step(each, nonfinite="skip").skipped
        with pytest.raises(fastopt.NonFiniteGradientError):
            optimizer.step(each, nonfinite="raise")
    assert everything(optimizer) == before


def test_a_gradient_that_is_finite_in_float64_alone_is_not(backend):
    optimizer = Optimizer(buffer(0, "float32"), fastopt.SGD(), backend=backend)
    gradient = buffer(1, "float64")
    gradient.flat[3] = 1e60
    assert optimizer.step(gradient, nonfinite="skip") == (0, np.inf, True)


def test_a_mapping_may_mix_dtypes(backend):
    results = []
    for _ in range(2):
        optimizer = Optimizer(buffer(0, "float32"), fastopt.Adam(), backend=backend)
        gradients = dict(buffer(1, "float32"))
        gradients["w"] = gradients["w"].astype(ml_dtypes.bfloat16)
        gradients["v"] = gradients["v"].astype("f8")
        if results:
            gradients = {name: array.astype("f4") for name, array in gradients.items()}
        optimizer.step(gradients)
        results.append(optimizer)
    assert_same(*results)


def test_second_moments_rounded_to_nearest_do_not_fall(backend):
    """A thousandth is less than half of a bfloat16's last place; rounded stochastically they do, on the average."""
    found = {}
    for rounding in ("stochastic", "nearest"):
        params = FlatBuffer({"w": np.zeros(4096)}, "float32")
        optimizer = Optimizer(params, fastopt.Adam(), backend=backend, state_dtype="bfloat16", rounding=rounding)
        optimizer.step(np.ones(4096, np.float32))
        for _ in range(700):
            optimizer.step(np.zeros(4096, np.float32))
        found[rounding] = optimizer.state["exp_avg_sq"]["w"].mean()
    expected = 0.001 * 0.999**700
    assert found["nearest"] == pytest.approx(0.001, rel=0.01)
    assert found["stochastic"] == pytest.approx(expected, rel=0.02)


def test_states_of_eight_bits(backend):
    optimizer = train(made("float32, states in 8 bits", fastopt.Adam(), backend), "float32, states in 8 bits", 0, 3)
    for name, storage in (("exp_avg", "float8_signed"), ("exp_avg_sq", "float8_unsigned")):
        state = optimizer.state[name]
        assert {parameter: each.name for parameter, each in state.storages.items()} == {
            parameter: storage if np.prod(shape) >= 4096 else "float32" for parameter, shape in SHAPES.items()
        }
        assert {part: (array.dtype.name, array.shape) for part, array in state["w"].parts.items()} == {
            "codes": ("uint8", (4270,)),
            "scales": ("float32", (17,)),
        }
        assert state["w"].shape == (70, 61) and not state["w"].flags.writeable
        assert not (state["w"] + 1).parts
        state["b"][3] = 5
        assert state["b"][3] == 5
        state["w"] = np.full((70, 61), 0.5)
        assert (state["w"] == 0.5).all()
        with pytest.raises(ValueError, match=r"^w: could not broadcast"):
            state["w"] = np.ones(3)
        with pytest.raises(KeyError, match="no parameter 'x'"):
            state["x"]
    explained = optimizer.explain()
    assert explained.kernels[0].storages == {
        "params": "float32",
        "exp_avg": "float8_signed and float32",
        "exp_avg_sq": "float8_unsigned, stochastic and float32",
    }
    assert "exp_avg in float8_signed and float32" in str(explained)


def test_seeds_differ_and_repeat(backend):
    bits = [
        train(made("bfloat16", fastopt.SGD(lr=0.01), backend, seed=seed), "bfloat16", 0, 3).flat.tobytes()
        for seed in (0, 0, 1, 2**64 - 1)
    ]
    assert bits[0] == bits[1] and len({*bits}) == 3


class Own(Rule):
    """A rule of the user's own, of which the package knows nothing: heavy-ball momentum."""

    lr: LearningRate = 0.1

    @property
    def states(self):
        return {"speed": 0.0, "size": State(0.0, signed=False)}

    def coefficients(self, step):
        return self.common(self.lr) | {"rate": self.lr}


def own_kernel(p, g, speed, size, k):
    for i in range(p.size):
        x = k[0] * g[i]
        speed[i] = speed[i] * np.float32(0.9) + x
        size[i] = max(size[i], abs(x))
        p[i] -= k[3] * speed[i]


@pytest.mark.parametrize("backend", [name for name in ENGINES if name != "c"])
def test_a_rule_of_the_users_own(backend):
    numba = pytest.importorskip("numba")
    rule = type("Jitted", (Own,), {"kernel": numba.njit(own_kernel)})()
    for mix in ("bfloat16, states in 8 bits", "bfloat16, split", "float32, states in bfloat16"):
        results = [train(made(mix, rule, name), mix, 0, 4) for name in (backend, "reference")]
        assert_same(*results)
        assert results[0].state["size"]["w"].max() > 0


# Arguments

BAD = [
    ({"master": "float64"}, ValueError, r"^master must be None, 'float32' or 'split' for parameters of bfloat16, not"),
    ({"master": True}, ValueError, "^master must be None, 'float32' or 'split'"),
    ({"state_dtype": "float8"}, ValueError, "^state_dtype must be None, 'bfloat16', 'float16', '8bit', or a mapping"),
    ({"state_dtype": 8}, TypeError, "^state_dtype must be None, 'bfloat16', 'float16', '8bit', or a mapping"),
    ({"state_dtype": {"exp_avg": None}}, ValueError, r"^state_dtype\['exp_avg'\] must be one of 'bfloat16', 'float16'"),
    (
        {"state_dtype": {"exp": "8bit"}},
        ValueError,
        "^state_dtype: the rules keep no state 'exp'; did you mean",
    ),
    ({"state_dtype": {1: "8bit"}}, ValueError, "^state_dtype: the rules keep no state 1"),
    ({"rounding": "up"}, ValueError, "^rounding must be one of 'stochastic', 'nearest', not 'up'"),
    ({"rounding": None}, ValueError, "^rounding must be one of"),
    ({"rounding": np.zeros(0)}, ValueError, "^rounding must be one of"),
    ({"seed": -1}, ValueError, r"^seed must be a whole number in \[0, 2\*\*64\), not -1"),
    ({"seed": 2**64}, ValueError, "^seed must be a whole number"),
    ({"seed": 1.0}, TypeError, "^seed must be a whole number"),
    ({"seed": True}, TypeError, "^seed must be a whole number"),
    ({"copy": "float16"}, ValueError, "^copy must be None for parameters of bfloat16, not 'float16'"),
    ({"copy": "float32"}, ValueError, "^copy must be None for parameters of bfloat16, not 'float32'"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_arguments_outside_their_domains(options, error, message):
    params = buffer(0, "bfloat16")
    before = params.flat.tobytes()
    with pytest.raises(error, match=message):
        Optimizer(params, fastopt.Adam(), **options)
    assert params.flat.tobytes() == before


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_masters_that_parameters_cannot_have(dtype):
    for master in ("float32", "split"):
        if (dtype, master) != ("float16", "float32"):
            with pytest.raises(ValueError, match=f"^master must be None.* for parameters of {dtype}, not '{master}'"):
                Optimizer(buffer(0, dtype), fastopt.Adam(), master=master)


def test_without_ml_dtypes_bfloat16_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"^dtype: .*pip install ml_dtypes"):
        FlatBuffer({"w": [1.0]}, dtype="bfloat16")
    with pytest.raises(ImportError, match=r"^copy: .*pip install ml_dtypes"):
        Optimizer(buffer(0, "float32"), fastopt.Adam(), copy="bfloat16")


# Checkpoints


def stored(optimizer: Optimizer) -> str:
    """How everything is stored, whatever is rounded how."""
    return str([kernel.storages for kernel in optimizer.explain().kernels]).replace(", stochastic", "")


@pytest.mark.parametrize("there", MIXES)
@pytest.mark.parametrize(
    "here", ["float32, copy, average", "bfloat16, split", "bfloat16, states in 8 bits", "bfloat16"]
)
def test_other_storages_are_loaded_only_by_choice(there, here, tmp_path):
    backend = BACKENDS[-1]
    options = {"ema_decay": 0.5, "accumulate": 2}
    saved = train(made(there, fastopt.Adam(), backend, **options), there, 0, 5)
    saved.save(tmp_path / "run")
    loaded = made(here, fastopt.Adam(), backend, **options)
    before = everything(loaded)
    if stored(loaded) != stored(saved):
        with pytest.raises(fastopt.CheckpointError, match=r"convert=True|has it and .* has not"):
            loaded.load(tmp_path / "run")
        assert everything(loaded) == before
    loaded.load(tmp_path / "run", convert=True)
    assert loaded.counts == saved.counts
    for name in SHAPES:
        exact = (saved.master or saved.params)[name].astype("f8")
        mine = (loaded.master or loaded.params)[name].astype("f8")
        np.testing.assert_allclose(mine, exact, rtol=2**-8)
        for state in ("exp_avg", "exp_avg_sq"):
            largest = abs(saved.state[state][name]).max(initial=0)
            np.testing.assert_allclose(
                loaded.state[state][name], saved.state[state][name], rtol=0.07, atol=largest / 2**9
            )
        if loaded.copy is not None:
            np.testing.assert_array_equal(loaded.copy[name], loaded.params[name].astype(ml_dtypes.bfloat16))
    train(loaded, here, 5, 7)


def test_codes_of_another_kind_are_refused():
    mix, backend = "float32, states in 8 bits", BACKENDS[-1]
    optimizer = train(made(mix, fastopt.Adam(), backend), mix, 0, 2)
    before = everything(optimizer)
    good = optimizer.state_dict()["state"]["w"]["exp_avg"]
    assert list(good) == ["storage", "codes", "scales"] and good["codes"].shape == (70, 61)
    for change, message in [
        ({"scales": np.ones(34, np.float32)}, r"has scales of the shape \(34,\), not \(17,\) as here"),
        ({"scales": np.ones(17)}, "has scales of float64, not float32 as here"),
        ({"codes": good["codes"].astype("u2")}, "has codes of uint16, not uint8 as here"),
        ({"codes": good["codes"].reshape(-1)}, r"has codes of the shape \(4270,\), not \(70, 61\) as here"),
        ({"codes": None}, "codes"),
        ({"storage": "float8_unsigned"}, "is float8_unsigned, not float8_signed as here; convert=True"),
        ({"storage": "float9"}, "storage must be one of float32, .* not 'float9'"),
        ({"storage": 5}, "storage must be one of"),
        ({"more": np.ones(3)}, "has the unknown part 'more'; there are 'codes', 'scales'"),
    ]:
        state = optimizer.state_dict()
        state["state"]["w"]["exp_avg"] = good | change
        for convert in (False, True):
            if convert and "unsigned" in str(change):
                continue
            with pytest.raises(fastopt.CheckpointError, match=message):
                optimizer.load_state_dict(state, convert=convert)
            assert everything(optimizer) == before
    state["state"]["w"]["exp_avg"] = {name: good[name] for name in ("storage", "codes")}
    with pytest.raises(fastopt.CheckpointError, match="has codes, not codes and scales as here"):
        optimizer.load_state_dict(state)
    for seed in (-1, 2**64, 1.0, True, "0"):
        with pytest.raises(fastopt.CheckpointError, match=r"^seed must be a whole number in \[0, 2\*\*64\)"):
            optimizer.load_state_dict(optimizer.state_dict() | {"seed": seed})
    with pytest.raises(TypeError, match="^convert must be True or False"):
        optimizer.load_state_dict(optimizer.state_dict(), convert=1)
    assert everything(optimizer) == before


def test_files_hold_what_others_can_read(tmp_path):
    import safetensors.numpy

    mix, backend = "bfloat16, split, states in bfloat16", BACKENDS[-1]
    optimizer = train(made(mix, fastopt.Adam(), backend), mix, 0, 2)
    optimizer.save(tmp_path / "run")
    found = safetensors.numpy.load_file(tmp_path / "run")
    assert found["params/w"].dtype == ml_dtypes.bfloat16
    assert found["params/w"].tobytes() == optimizer.params["w"].tobytes()
    assert found["state/exp_avg/w"].astype("f4").tobytes() == optimizer.state["exp_avg"]["w"].tobytes()
    assert found["master.split.lower/w"].dtype == np.uint16
