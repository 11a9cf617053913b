"""Rules with totals in torch: the bits, and the running numbers, of :class:`fastopt.Optimizer`."""

import pytest
import torch
from cases import short
from harness import random_buffer
from test_bits import assert_same
from test_sums import TOTALS, distances

import fastopt
import fastopt.torch as ft


@pytest.mark.parametrize("rule", TOTALS, ids=short)
def test_torch_has_the_same_bits(rule):
    params = random_buffer(0, "float32")
    optimizer = fastopt.Optimizer(params, {"first.*": rule, "*": rule.replace(weight_decay=0.1)})
    tensors = {name: torch.nn.Parameter(torch.from_numpy(array.copy())) for name, array in params.items()}
    first = [tensor for name, tensor in tensors.items() if name.startswith("first")]
    others = [tensor for name, tensor in tensors.items() if not name.startswith("first")]
    groups = [{"params": first}, {"params": others, "weight_decay": 0.1}]
    theirs = ft.optimizer_class(type(rule))(groups, **{name: value for name, value in rule if name != "weight_decay"})
    for step in range(1, 6):
        grads = random_buffer(step, "float32")
        optimizer.step(grads)
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(grads[name].copy())
        theirs.step()
    for name, tensor in tensors.items():
        assert_same([tensor.detach().numpy().reshape(-1)], [params[name].reshape(-1)], name)
        numbers = {key: float(theirs.state[tensor][key]) for key in rule.scalars}
        assert [numbers, numbers] == distances(optimizer)
