"""Groups: patterns, several rules at once, freezing, and changing rules between steps."""

import numpy as np
import pytest
from cases import ELEMENTWISE, by_kernel
from harness import SHAPES, random_buffer, snapshot

from fastopt import (
    MADGRAD,
    SGD,
    SOAP,
    Adam,
    AdamW,
    DAdaptAdam,
    FlatBuffer,
    Lion,
    Momentum,
    Nesterov,
    Optimizer,
    RMSprop,
    Rprop,
    schedules,
)
from fastopt.schedule_free import ScheduleFree

KERNELS = by_kernel()
GROUPS = {"*.bias": Momentum(lr=0.1), "first.*": AdamW(weight_decay=0.1), "*": Adam(lr=0.01)}


def members(optimizer: Optimizer) -> dict[str, tuple[str, ...]]:
    return {pattern: group.names for pattern, group in optimizer.groups.items()}


def test_a_parameter_goes_to_the_first_pattern_that_matches(backend):
    optimizer = Optimizer(random_buffer(0, "float32"), GROUPS, backend=backend)
    assert members(optimizer) == {
        "*.bias": ("first.bias", "second.bias"),
        "first.*": ("first.weight",),
        "*": ("scale", "empty", "second.weight"),
    }
    assert [group.rule for group in optimizer.groups.values()] == list(GROUPS.values())


@pytest.mark.parametrize(
    ("names", "patterns", "expected"),
    [
        (["w[0]", "w0"], ["w[0]"], {"w[0]": ("w[0]", "w0")}),  # a pattern that is a name matches it, too
        (["W", "w"], ["w", "W"], {"w": ("w",), "W": ("W",)}),
        (["a1", "a2", "b1"], ["?1", "a*"], {"?1": ("a1", "b1"), "a*": ("a2",)}),
        (["a1", "a2"], ["[!1]2", "*"], {"[!1]2": ("a2",), "*": ("a1",)}),
        (["a", "b"], ["*", "b"], {"*": ("a", "b"), "b": ()}),  # all of its parameters are taken
        (["ä/β", "x"], ["*/*", "*"], {"*/*": ("ä/β",), "*": ("x",)}),
    ],
)
def test_patterns(names, patterns, expected, backend):
    params = FlatBuffer({name: np.ones(2) for name in names}, dtype="float32")
    optimizer = Optimizer(params, {pattern: SGD() for pattern in patterns}, backend=backend)
    assert members(optimizer) == expected
    optimizer.step(params.copy())
    assert optimizer.step_count == 1


def test_the_lead_of_a_plain_array_is_called_params(backend):
    optimizer = Optimizer(np.ones(3), {"par*": SGD(lr=1.0)}, backend=backend)
    optimizer.step({"params": np.ones(3)})
    assert members(optimizer) == {"par*": ("params",)} and optimizer.flat.tolist() == [0, 0, 0]


def test_every_group_has_the_bits_of_an_optimizer_of_its_own(backend, dtype):
    """All kernels at once, in parameters that are not side by side."""
    kernels = list(KERNELS)
    shapes = {f"{part}.{kernel}": (size,) for part, size in (("a", 5), ("b", 33)) for kernel in kernels}
    rules = {f"*.{kernel}": KERNELS[kernel] for kernel in kernels}
    together = Optimizer(random_buffer(0, dtype, shapes), rules, backend=backend)
    alone = {}
    for kernel in kernels:
        own = FlatBuffer({name: together.params[name] for name in (f"a.{kernel}", f"b.{kernel}")})
        alone[kernel] = Optimizer(own, KERNELS[kernel], backend=backend)
    for seed in range(1, 6):
        gradient = random_buffer(seed, dtype, shapes)
        together.step(gradient)
        for optimizer in alone.values():
            optimizer.step({name: gradient[name] for name in optimizer.params})
    for optimizer in alone.values():
        for name in optimizer.params:
            assert together.params[name].tobytes() == optimizer.params[name].tobytes(), name
            for state in optimizer.state:
                assert together.state[state][name].tobytes() == optimizer.state[state][name].tobytes(), (name, state)


def test_a_state_holds_the_parameters_whose_rule_keeps_it(backend):
    optimizer = Optimizer(random_buffer(0, "float32"), GROUPS, backend=backend)
    assert {state: list(buffer) for state, buffer in optimizer.state.items()} == {
        "momentum_buffer": ["first.bias", "second.bias"],
        "exp_avg": ["first.weight", "scale", "empty", "second.weight"],
        "exp_avg_sq": ["first.weight", "scale", "empty", "second.weight"],
    }
    assert Optimizer(random_buffer(0, "float32"), SGD(), backend=backend).state == {}


def test_states_start_with_the_values_of_their_rules(backend, dtype):
    rules = {"first.*": Rprop(lr=0.5), "second.*": Rprop(lr=0.25), "*": Adam()}
    optimizer = Optimizer(random_buffer(0, dtype), rules, backend=backend)
    assert (optimizer.state["step_size"]["first.weight"] == 0.5).all()
    assert (optimizer.state["step_size"]["second.bias"] == 0.25).all()
    assert not optimizer.state["exp_avg"].flat.any()


# Freezing


@pytest.mark.parametrize("form", ["FlatBuffer", "mapping"])
def test_a_frozen_group_stands_still_and_the_rest_goes_on_alone(form, backend, dtype):
    whole = Optimizer(random_buffer(0, dtype), GROUPS, backend=backend, ema_decay=0.9)
    for seed in range(3):
        whole.step(random_buffer(seed, dtype), max_norm=3.0)
    rest_names = [name for name in SHAPES if not name.endswith("bias")]
    rest = Optimizer(
        FlatBuffer({name: whole.params[name] for name in rest_names}),
        {pattern: rule for pattern, rule in GROUPS.items() if pattern != "*.bias"},
        backend=backend,
    )
    rest.load_state_dict(
        state := {
            **(full := whole.state_dict()),
            "groups": {pattern: group for pattern, group in full["groups"].items() if pattern != "*.bias"},
            "state": {name: full["state"][name] for name in rest_names},
            "ema": None,
        }
    )
    assert state["step"] == 3
    whole.freeze("*.bias")
    still = {name: whole.params[name].tobytes() for name in ("first.bias", "second.bias")}
    still_state = whole.state["momentum_buffer"].flat.tobytes()
    for seed in range(3, 8):
        gradient = random_buffer(seed, dtype)
        given = gradient if form == "FlatBuffer" else {name: gradient[name] for name in rest_names}
        one = whole.step(given, max_norm=1.0, nonfinite="raise")
        other = rest.step({name: gradient[name] for name in rest_names}, max_norm=1.0, nonfinite="raise")
        assert one.step == other.step == seed + 1
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-15)
    for name in rest_names:
        np.testing.assert_array_max_ulp(whole.params[name], rest.params[name], maxulp=2)  # the norm's blocks differ
    assert {name: whole.params[name].tobytes() for name in still} == still
    assert whole.state["momentum_buffer"].flat.tobytes() == still_state
    assert [group.step for group in whole.groups.values()] == [3, 8, 8]


def test_without_a_norm_the_rest_has_the_same_bits(backend, dtype):
    whole = Optimizer(random_buffer(0, dtype), GROUPS, backend=backend)
    whole.freeze("first.*")
    rest_names = [name for name in SHAPES if name != "first.weight"]
    rest = Optimizer(
        FlatBuffer({name: whole.params[name] for name in rest_names}),
        {pattern: rule for pattern, rule in GROUPS.items() if pattern != "first.*"},
        backend=backend,
    )
    start = whole.params["first.weight"].tobytes()
    for seed in range(5):
        gradient = random_buffer(seed, dtype)
        whole.step(gradient)
        rest.step({name: gradient[name] for name in rest_names})
    for name in rest_names:
        assert whole.params[name].tobytes() == rest.params[name].tobytes()
        for state in rest.state:
            if name in rest.state[state]:
                assert whole.state[state][name].tobytes() == rest.state[state][name].tobytes()
    assert whole.params["first.weight"].tobytes() == start


def test_a_thawed_group_goes_on_where_it_stood(backend, dtype):
    """Its count decides the bias corrections of Adam: they must be those of its own steps."""
    frozen, expected = (Optimizer(random_buffer(0, dtype), GROUPS, backend=backend) for _ in range(2))
    for seed in range(4):
        for optimizer in (frozen, expected):
            optimizer.step(random_buffer(seed, dtype))
    frozen.freeze("*")
    assert frozen.groups["*"].frozen
    for seed in range(10, 14):
        frozen.step(random_buffer(seed, dtype))
    frozen.thaw("*")
    for seed in range(4, 8):
        for optimizer in (frozen, expected):
            optimizer.step(random_buffer(seed, dtype))
    assert [group.step for group in frozen.groups.values()] == [12, 12, 8] and frozen.step_count == 12
    for name in frozen.groups["*"].names:
        assert frozen.params[name].tobytes() == expected.params[name].tobytes()
        assert frozen.state["exp_avg_sq"][name].tobytes() == expected.state["exp_avg_sq"][name].tobytes()
    assert frozen.params["first.bias"].tobytes() != expected.params["first.bias"].tobytes()


def test_freezing_and_thawing_twice_is_once(backend):
    optimizer, expected = (Optimizer(random_buffer(0, "float32"), GROUPS, backend=backend) for _ in range(2))
    for _ in range(2):
        optimizer.freeze("*")
    for _ in range(2):
        optimizer.thaw("*")
    for each in (optimizer, expected):
        each.step(random_buffer(1, "float32"))
    assert snapshot(optimizer) == snapshot(expected)


def test_with_every_group_frozen_a_step_counts_and_updates_nothing(backend):
    optimizer = Optimizer(random_buffer(0, "float32"), GROUPS, backend=backend)
    for pattern in GROUPS:
        optimizer.freeze(pattern)
    before = snapshot(optimizer)
    report = optimizer.step({}, max_norm=1.0, nonfinite="raise")
    assert report == (1, 0.0, False)
    after = snapshot(optimizer)
    assert after["params"] == before["params"] and after["counts"] == [1, 0, 0, 0, 0]


# Changing rules between steps


@pytest.mark.parametrize(
    "rule", [rule() for rule in ELEMENTWISE.values() if rule is not Rprop], ids=lambda rule: type(rule).__name__
)
def test_a_new_learning_rate_takes_effect_at_the_next_step(rule, backend, dtype):
    """As a schedule with the same values does; Rprop takes only its first learning rate. The averages of MADGRAD and of
    schedule-free rules go on, and so does the momentum of DAdaptAdam, which has the rate in it."""
    rates = [0.1, 0.1, 0.02, 0.3, 0.0]
    changed = Optimizer(random_buffer(0, dtype), rule, backend=backend)
    scheduled = Optimizer(random_buffer(0, dtype), rule.replace(lr=lambda step: rates[step - 1]), backend=backend)
    for seed, rate in enumerate(rates):
        changed.lr = rate
        assert changed.lr == changed.rule.lr == rate == scheduled.lr
        changed.step(random_buffer(seed, dtype))
        before = scheduled.flat.copy()
        scheduled.step(random_buffer(seed, dtype))
    assert changed.flat.tobytes() == scheduled.flat.tobytes()
    averaging = isinstance(rule, (MADGRAD, ScheduleFree, DAdaptAdam))
    if not averaging and (not getattr(rule, "weight_decay", 0) or rule.decoupled_weight_decay):
        np.testing.assert_array_equal(scheduled.flat, before)  # a rate of zero moves nothing


def test_the_learning_rates_of_groups(backend):
    optimizer = Optimizer(random_buffer(0, "float32"), GROUPS, backend=backend)
    with pytest.raises(
        AttributeError, match=r"groups differ in lr: use .groups\[pattern\].rule.lr; patterns: \['\*.bias', "
    ):
        _ = optimizer.lr
    with pytest.raises(AttributeError, match=r"several rules: use .groups\[pattern\].rule; patterns: \['\*.bias', "):
        _ = optimizer.rule
    for name in ("lr", "rule"):
        with pytest.raises(AttributeError, match=f"there is no group, hence no {name}"):
            getattr(Optimizer(FlatBuffer({}, dtype="float32"), {}, backend=backend), name)
    optimizer.lr = schedules.Linear(lr=0.5, steps=10)
    assert optimizer.lr == 0.5
    optimizer.step(random_buffer(1, "float32"))
    assert optimizer.lr == pytest.approx(0.5 * 8 / 9)
    assert [group.rule.weight_decay for group in optimizer.groups.values()] == [0.0, 0.1, 0.0]


def test_every_hyperparameter_can_change_between_steps(backend, dtype):
    """The bits are those of a new optimizer that starts from where the old one stood, with the changed rule."""
    for kernel, rule in KERNELS.items():
        changed = rule.replace(maximize=True, lr=0.5)
        one = Optimizer(random_buffer(0, dtype), rule, backend=backend)
        one.step(random_buffer(1, dtype))
        state = one.state_dict()
        state["groups"]["*"]["hyperparameters"] |= {"maximize": True, "lr": 0.5}
        other = Optimizer(one.params.copy(), changed, backend=backend)
        other.load_state_dict(state)
        one.rule = changed
        for optimizer in (one, other):
            optimizer.step(random_buffer(2, dtype))
        assert snapshot(one) == snapshot(other), kernel


@pytest.mark.parametrize(
    ("rule", "replacement", "error", "message"),
    [
        (Adam(), AdamW(), TypeError, r"rule must be of the kind Adam for group '\*', not AdamW"),
        (Adam(), 0.1, TypeError, r"rule must be of the kind Adam for group '\*', not 0.1"),
        (Adam(), Adam, TypeError, r"rule must be of the kind Adam for group '\*'"),
        (Adam(), Adam(amsgrad=True), ValueError, r"amsgrad=True.* keeps other states than Adam\("),
        (SGD(momentum=0.9), SGD(), ValueError, "keeps other states"),
        (SGD(momentum=0.9), SGD(momentum=0.9, nesterov=True), ValueError, "keeps other states"),
        (RMSprop(), RMSprop(centered=True), ValueError, "keeps other states"),
        (Momentum(), Nesterov(), TypeError, "must be of the kind Momentum"),
        (SOAP(), SOAP(max_precond_dim=1), ValueError, "keeps other states"),
    ],
)
def test_a_rule_of_another_kind_is_refused(rule, replacement, error, message, backend):
    optimizer = Optimizer(random_buffer(0, "float32"), rule, backend=backend)
    optimizer.step(random_buffer(1, "float32"))
    before = snapshot(optimizer)
    with pytest.raises(error, match=message):
        optimizer.rule = replacement
    with pytest.raises(error, match=message):
        optimizer.groups["*"].rule = replacement
    assert snapshot(optimizer) == before
    optimizer.step(random_buffer(2, "float32"))


@pytest.mark.parametrize(
    ("lr", "error"),
    [
        (-1.0, ValueError),
        (np.nan, ValueError),
        (np.inf, ValueError),
        ("0.1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_a_bad_learning_rate_changes_no_group(lr, error, backend):
    optimizer = Optimizer(random_buffer(0, "float32"), GROUPS, backend=backend)
    before = snapshot(optimizer)
    with pytest.raises(error, match="lr must be a finite number >= 0, not"):
        optimizer.lr = lr
    assert snapshot(optimizer) == before


def test_rules_that_share_a_kernel_keep_their_own_coefficients(backend, dtype):
    rules = {"first.*": Lion(lr=0.1), "second.*": Lion(lr=0.2, maximize=True), "*": Lion(lr=0.4)}
    start = random_buffer(0, dtype)
    optimizer = Optimizer(start.copy(), rules, backend=backend)
    gradient = random_buffer(1, dtype)
    optimizer.step(gradient)
    for name, rate in (("first.weight", -0.1), ("second.bias", 0.2), ("scale", -0.4)):
        moved = optimizer.params[name] - start[name]
        np.testing.assert_allclose(moved, rate * np.sign(gradient[name]), rtol=1e-5)


def test_the_average_of_what_is_frozen_and_rounded_at_random_moves_on(backend):
    params = FlatBuffer({"stepped": np.ones(5), "frozen": np.ones(5)}, dtype="bfloat16")
    optimizer = Optimizer(params, {"frozen": SGD(), "*": SGD()}, backend=backend, ema_decay=0.75)
    optimizer.freeze("frozen")
    optimizer.ema["frozen"] = 0
    optimizer.step({"stepped": np.ones(5, np.float32)})
    np.testing.assert_array_equal(optimizer.ema["frozen"], np.full(5, 0.25, np.float32))
