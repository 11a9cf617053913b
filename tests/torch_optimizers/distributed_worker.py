"""What each of two processes runs under torchrun: trains a model with torch's optimizer and with ours, and compares."""

import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import fastopt.torch

RULES = {
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "SGD": {"lr": 0.05, "momentum": 0.9},
    "NAdam": {"lr": 0.01},
    "Adagrad": {"lr": 0.05},
}


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(7, 33), torch.nn.Tanh(), torch.nn.Linear(33, 1))


def train(model, optimizer, steps=10):
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.randn(16, 7, generator=torch.Generator().manual_seed(100 * step + dist.get_rank()))
        loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def ddp(module, name, arguments):
    model = DistributedDataParallel(net())
    return train(model, getattr(module, name)(model.parameters(), **arguments))


def zero(module, name, arguments):
    model = DistributedDataParallel(net())
    made = getattr(module, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(), optimizer_class=made, parameters_as_bucket_view=True, **arguments
        )
    losses = train(model, optimizer)
    optimizer.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        assert len(optimizer.state_dict()["state"]) == 4
    return losses


def fsdp(module, name, arguments):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = net()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    optimizer = getattr(module, name)(model.parameters(), **arguments)
    losses = train(model, optimizer)
    states = [value for entry in optimizer.state.values() for value in entry.values() if value.dim()]
    assert all(isinstance(value, DTensor) for value in states)
    if module is fastopt.torch:
        assert optimizer.explain().kernels and not optimizer.explain().torch
    saved = get_optimizer_state_dict(model, optimizer)
    again = getattr(module, name)(model.parameters(), **arguments)
    set_optimizer_state_dict(model, again, saved)
    return losses + train(model, again)


def main():
    dist.init_process_group("gloo")
    for kind in (ddp, zero, fsdp):
        for name, arguments in RULES.items():
            ours, theirs = (kind(module, name, arguments) for module in (fastopt.torch, torch.optim))
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-6)
            assert ours[-1] < ours[0]
            if dist.get_rank() == 0:
                print(
                    kind.__name__,
                    name,
                    "largest difference",
                    max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
                )
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(
        0
    )  # gloo's threads sometimes abort a process that leaves in the ordinary way, with torch's optimizers, too


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2", sys.argv
    main()
