"""``python -m fastopt.bench.training_step``: whole training steps, timed."""

import json

import pytest
import torch

from fastopt.bench import training_step

QUICK = ("--rounds", "1", "--steps", "1", "--copies", "2", "--threads", str(torch.get_num_threads()))


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


def test_all_optimizers_train_the_parameters_of_one_copy(monkeypatch):
    """So that none of them has the better place in memory; and every copy is another place."""
    places = []

    class Trainee(training_step.Trainee):
        def step(self, x, y):
            places.append([p.data_ptr() for p in self.network.parameters()])
            return super().step(x, y)

    monkeypatch.setattr(training_step, "check_agreement", lambda *args, **kwargs: None)
    monkeypatch.setattr(training_step, "Trainee", Trainee)
    training_step.compare(training_step.two_layer_net, "AdamW", rounds=2, steps=1, copies=2)
    assert len(places) == 2 * 3 * 3
    first, second = places[:9], places[9:]
    assert all(place == first[0] for place in first) and all(place == second[0] for place in second)
    assert first[0] != second[0]


def test_an_optimizer_that_trains_otherwise_is_noticed(monkeypatch):
    monkeypatch.setattr(training_step.fastopt.torch, "SGD", lambda params: torch.optim.SGD(params, lr=10.0))
    with pytest.raises(AssertionError):
        training_step.main([*QUICK, "--rule", "SGD", "--model", "two-layer net"])
