"""``python -m fastopt.bench.training_step``: whole training steps, timed."""

import json

import pytest
import torch

from fastopt.bench import training_step

QUICK = ("--rounds", "1", "--steps", "1", "--threads", str(torch.get_num_threads()))


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_every_rule_that_torch_fuses_is_compared(rule, capsys):
    assert training_step.main([*QUICK, "--rule", rule, "--model", "two-layer net", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    assert list(found) == ["fastopt", "torch fused", "torch default"]
    for timing in found.values():
        assert all(value > 0 for value in timing.values())
        assert timing["optimizer"] < timing["whole"]
    assert [value for name, value in found["fastopt"].items() if "ratio" in name] == [1.0] * 3


def test_the_transformer_has_150_tensors_and_a_million_parameters(capsys):
    assert training_step.main([*QUICK, "--model", "transformer"]) == 0
    assert "transformer: 150 tensors, 1016452 parameters" in capsys.readouterr().out


def test_an_optimizer_that_trains_otherwise_is_noticed(monkeypatch):
    monkeypatch.setattr(training_step.fastopt.torch, "SGD", lambda params: torch.optim.SGD(params, lr=10.0))
    with pytest.raises(AssertionError):
        training_step.main([*QUICK, "--rule", "SGD", "--model", "two-layer net"])
