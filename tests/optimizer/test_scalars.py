"""Running numbers: what a rule keeps between steps besides buffers and their count, and the rows that they change."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from harness import random_buffer, snapshot

import fastopt
from fastopt import CheckpointError, NAdam, Optimizer
from fastopt.declared import LearningRate
from fastopt.rule import Row, Rule

RULE = NAdam(lr=0.1, betas=(0.8, 0.9), momentum_decay=0.5)


class Shrinking(Rule):
    """SGD by a rate that every step multiplies by the learning rate."""

    lr: LearningRate = 0.5
    kernel = "sgd"
    states = {}
    scalars = {"size": 1.0}

    def advance(self, step, size):
        return {"size": size * self.rate(step)}

    def coefficients(self, step, size=None):
        size = self.scalars_after(step - 1)["size"] if size is None else size
        return self.common(self.rate(step)) | {"step_size": float(size)}


def run(optimizer: Optimizer, first: int, last: int) -> Optimizer:
    for seed in range(first, last):
        optimizer.step(random_buffer(seed, optimizer.dtype.name))
    return optimizer


def start(rule: Rule = RULE, **options) -> Optimizer:
    return Optimizer(random_buffer(0, "float32"), rule, **options)


@pytest.mark.parametrize("rule", fastopt.RULES.values(), ids=lambda rule: rule.__name__)
def test_running_numbers_follow_from_the_step_while_the_rule_stays(rule):
    made, scalars = rule(), dict(rule().scalars)
    for step in range(1, 500):
        assert made.coefficients(step, **scalars) == made.coefficients(step)
        scalars = made.advance(step, **scalars)
        assert scalars.keys() == made.scalars.keys()
        assert scalars == pytest.approx(made.scalars_after(step), rel=1e-15, abs=2**-64)


def test_a_rule_of_ones_own_keeps_running_numbers(backend):
    optimizer = Optimizer(np.ones(1), Shrinking(), backend=backend)
    for expected in (0.0, -0.5, -0.75):
        optimizer.step(np.ones(1))
        assert optimizer.flat.tolist() == [expected]
    optimizer.lr = 0.0
    optimizer.step(np.ones(1))
    assert optimizer.flat.tolist() == [-0.875]  # what was reached by the old rates
    optimizer.step(np.ones(1))
    assert optimizer.flat.tolist() == [-0.875]


def test_torch_keeps_the_running_numbers_of_ones_own_rule():
    torch = pytest.importorskip("torch")
    ft = pytest.importorskip("fastopt.torch")
    p = torch.ones(1, requires_grad=True)
    optimizer = ft.optimizer_class(Shrinking)([p])
    for expected in (0.0, -0.5, -0.75):
        p.grad = torch.ones(1)
        optimizer.step()
        assert p.tolist() == [expected]
    assert optimizer.state_dict()["state"][0] == {"step": 3.0, "size": 0.125}


def test_a_checkpoint_holds_them(tmp_path):
    whole, half = run(start(), 1, 9), run(start(), 1, 5)
    momenta = [0.8 * (1 - 0.5 * 0.96 ** (0.5 * step)) for step in range(1, 5)]
    saved = half.state_dict()["groups"]["*"]["scalars"]
    assert saved == {"mu_product": pytest.approx(math.prod(momenta), rel=1e-15)}
    half.save(tmp_path / "half")
    resumed = start()
    resumed.load(tmp_path / "half")
    assert snapshot(run(resumed, 5, 9)) == snapshot(whole)
    assert "scalars" not in start(fastopt.Adam()).state_dict()["groups"]["*"]


@pytest.mark.parametrize("rule", [rule() for rule in fastopt.RULES.values() if rule.totals], ids=repr)
def test_those_that_follow_from_sums_are_in_checkpoints_and_go_to_torch_and_back(rule, tmp_path):
    def down(optimizer: Optimizer, steps: int) -> Optimizer:
        for _ in range(steps):
            optimizer.step(optimizer.flat.copy())
        return optimizer

    whole, half, resumed, read = (start(rule) for _ in range(4))
    down(whole, 20)
    down(half, 10).save(tmp_path / "half")
    resumed.load(tmp_path / "half")
    assert 1e3 * rule.d0 < half.groups["*"].scalars["d"] != whole.groups["*"].scalars["d"]
    assert snapshot(down(resumed, 10)) == snapshot(whole)
    pytest.importorskip("torch")
    read.load_state_dict(fastopt.checkpoint.read(fastopt.checkpoint.to_torch(half), like=read))
    read.flat[:] = half.flat
    assert snapshot(down(read, 10)) == snapshot(whole)


def test_one_that_has_none_goes_on_with_the_same_bits():
    """They were recomputed once, and not saved."""
    whole, half = run(start(), 1, 9), run(start(), 1, 5)
    saved = half.state_dict()
    del saved["groups"]["*"]["scalars"]
    half.groups["*"].scalars["mu_product"] = 0.5
    half.load_state_dict(saved)
    assert snapshot(run(half, 5, 9)) == snapshot(whole)


@pytest.mark.parametrize(
    ("scalars", "message"),
    [
        (None, "scalars must be a mapping, not NoneType"),
        ({}, r"the running numbers are \[\], not \['mu_product'\] as here"),
        ({"mu_product": 0.5, "d": 1.0}, r"the running numbers are \['mu_product', 'd'\], not"),
        ({"mu_product": "0.5"}, r"scalars\['mu_product'\] must be a finite number, not '0.5'"),
        ({"mu_product": True}, r"scalars\['mu_product'\] must be a finite number, not True"),
        ({"mu_product": math.nan}, r"scalars\['mu_product'\] must be a finite number, not nan"),
        ({"mu_product": math.inf}, r"scalars\['mu_product'\] must be a finite number, not inf"),
        pytest.param(
            {"mu_product": 10**400}, r"scalars\['mu_product'\] must be a finite .*: no float is as large", id="huge"
        ),
        ({"mu_product": 1 / (0.8 * (1 - 0.5 * 0.96**2.5))}, "has no step 5: float division by zero"),
    ],
    ids=str,
)
def test_what_cannot_be_running_numbers_is_refused(scalars, message):
    optimizer = run(start(), 1, 5)
    before, saved = snapshot(optimizer), optimizer.state_dict()
    saved["groups"]["*"]["scalars"] = scalars
    with pytest.raises(CheckpointError, match=rf"groups\['\*'\]: .*{message}"):
        optimizer.load_state_dict(saved)
    assert snapshot(optimizer) == before


def test_running_numbers_of_a_rule_that_has_none_are_refused():
    optimizer = start(fastopt.Adam())
    saved = optimizer.state_dict()
    saved["groups"]["*"]["scalars"] = {"mu_product": 1.0}
    with pytest.raises(CheckpointError, match=r"the running numbers are \['mu_product'\], not \[\] as here"):
        optimizer.load_state_dict(saved)


def test_other_momenta_take_effect_from_the_first_step_on():
    """As all bias corrections do, and as if the product had never been running."""
    optimizer, step = run(start(), 1, 5), 5
    optimizer.rule = changed = RULE.replace(betas=(0.5, 0.9))
    run(optimizer, step, step + 1)
    assert optimizer.groups["*"].k.tolist() == changed.table(step, np.float32)[-1].tolist()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_go_on_by_themselves(how):
    optimizer = run(start(), 1, 5)
    made, expected = how(optimizer), snapshot(run(start(), 1, 9))
    for each in (optimizer, made):
        assert snapshot(run(each, 5, 9)) == expected


def test_they_stand_still_with_a_frozen_group_and_after_an_error():
    optimizer = run(start({"*.bias": RULE, "*": RULE}), 1, 3)
    optimizer.freeze("*.bias")
    run(optimizer, 3, 4)
    first, other = (dict(group.scalars) for group in optimizer.groups.values())
    assert first == RULE.scalars_after(2) and other == RULE.scalars_after(3)
    optimizer.groups["*"].rule = RULE.replace(lr=1e39)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="too large for float32"):
        run(optimizer, 4, 5)
    with pytest.raises(fastopt.NonFiniteGradientError):
        optimizer.step(np.full(optimizer.flat.size, np.nan, np.float32), nonfinite="raise")
    assert snapshot(optimizer) == before
    json.dumps(optimizer.state_dict()["groups"])


def test_a_sum_too_small_to_divide_by_leaves_the_step_size():
    rule = fastopt.DAdaptAdam()
    for totals in ((0.0, 0.0), (1e-320, 5e-324)):
        assert rule.advance(2, totals=totals, **rule.scalars)["d"] == rule.d0


# Rows


def test_a_row_is_filled():
    row = Row(np.zeros(4, np.float32))
    fastopt.SGD(lr=0.5, weight_decay=0.25).fill(row, 3, 0.125)
    assert row.array.tolist() == [0.125, 0.25, 1.0, 0.5]


def test_what_a_dtype_cannot_hold_is_named():
    rule = fastopt.SGD(lr=1e39)
    with pytest.raises(ValueError, match=r"SGD\(lr=1e\+39, .*: too large for float32: \{'step_size': 1e\+39\}"):
        rule.fill(Row(np.zeros(4, np.float32)), 1)
    with pytest.raises(ValueError, match=r"too large for float32: \{'step_size': 1e\+39\}"):
        rule.table(2, np.float32)
    assert rule.table(1)[0, 3] == 1e39
    with pytest.raises(ValueError, match=r"ScheduleFreeSGD\(.*too large for float64: the weight of step 1"):
        fastopt.Optimizer(np.zeros(1), fastopt.ScheduleFreeSGD(lr=1e300))


@pytest.mark.parametrize("rule", fastopt.RULES.values(), ids=lambda rule: rule.__name__)
def test_forms_choose_different_kernels(rule):
    forms = rule.forms()
    assert forms[0] == rule() and all(type(form) is rule for form in forms)
    assert len({form.kernel for form in forms}) == len(forms)


def test_what_a_dtype_cannot_hold_of_a_sum_is_named():
    rows = np.zeros((2, len(fastopt.LAMB().coefficients(1))), np.float32)
    rule, sums = (
        fastopt.LAMB(lr=1.0),
        np.array([[1.0, 1.0], [1e80, 1e-4]]),
    )  # squares: parameter, update
    with pytest.raises(
        ValueError, match=r"LAMB\(lr=1.0, .*: too large for float32: \{'shrink': .*, 'step_size': 1\.0.*e\+43\}"
    ):
        rule.fill_adapted(rows, 1, rule.scaled(1), np.ones(2), sums)
    assert not rows.any()
    with pytest.raises(ValueError, match=r"too large for float32: \{'decay': 1e\+39\}"):
        fastopt.LAMB(weight_decay=1e39).fill_measured(Row(np.zeros(9, np.float32)), 1)
