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
    dtype = next(model.parameters()).dtype
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.randn(16, 7, generator=torch.Generator().manual_seed(100 * step + dist.get_rank())).to(dtype)
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


def fsdp(module, name, arguments, **policies):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = net()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh, **policies)
    fully_shard(model, mesh=mesh, **policies)
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


def offloaded(module, name, arguments):
    """FSDP2 that computes in bfloat16 and keeps parameters, gradients and states in the host's memory."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy

    narrow = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32)
    return fsdp(module, name, arguments, offload_policy=CPUOffloadPolicy(pin_memory=False), mp_policy=narrow)


#: How parameters of 16 bits are stored: the last one is to be the same in all replicas, though it is rounded at random.
FORMATS = {
    "master": {"master": "float32", "state_dtype": "bfloat16"},
    "split": {"master": "split"},
    "stochastic": {"rounding": "stochastic", "seed": 5},
}


def narrow_ddp(options):
    model = DistributedDataParallel(net().bfloat16())
    optimizer = fastopt.torch.AdamW(model.parameters(), lr=0.01, **options)
    losses = train(model, optimizer)
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    theirs = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(theirs, mine)
    assert torch.equal(*theirs)
    return losses


def narrow_fsdp(options):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = fully_shard(net().bfloat16())
    optimizer = fastopt.torch.AdamW(model.parameters(), lr=0.01, **options)
    losses = train(model, optimizer)
    assert optimizer.explain().kernels and not optimizer.explain().torch
    again = fastopt.torch.AdamW(model.parameters(), lr=0.01, **options)
    set_optimizer_state_dict(model, again, get_optimizer_state_dict(model, optimizer))
    for before, after in zip(optimizer.state.values(), again.state.values(), strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert after[name].dtype == value.dtype and type(after[name]) is type(value)
    return losses + train(model, again)


def in_8_bits():
    """FSDP2 with states in 8 bits: the codes and scales of the whole tensor, there and back through a checkpoint."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    made = torch.nn.Linear(64, 127)  # one process has a row less
    whole, model = (torch.nn.Linear(64, 127) for _ in range(2))
    for each in (whole, model):
        each.load_state_dict(made.state_dict())
    fully_shard(model)
    options = {"lr": 0.1, "momentum": 0.9, "state_dtype": "8bit"}

    def make(of):
        return fastopt.torch.SGD(of.parameters(), **options)

    def step(of, optimizer, number):
        x = torch.randn(4, 64, generator=torch.Generator().manual_seed(number))  # the same in both processes
        of(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    optimizers = [make(whole), make(model)]
    for number in range(6):
        for of, optimizer in zip((whole, model), optimizers, strict=True):
            step(of, optimizer, number)
        if number == 2:
            saved = get_optimizer_state_dict(model, optimizers[1])
            optimizers[1] = make(model)
            set_optimizer_state_dict(model, optimizers[1], saved)
    assert optimizers[1].explain().kernels and not optimizers[1].explain().torch
    for expected, found in zip(*(optimizer.state.values() for optimizer in optimizers), strict=True):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(found[name].full_tensor(), value) if value.dim() else found[name] == value, name
    refused = fully_shard(torch.nn.Linear(65, 128, bias=False))
    try:
        refused(torch.ones(2, 65)).sum().backward()
        make(refused).step()
    except RuntimeError as error:
        assert "do not have whole blocks of 256 elements" in str(error)
    else:
        raise AssertionError("blocks were cut")


def clipped(module):
    """FSDP2 with gradients that are clipped: the losses, and the norms that both report."""
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(net())
    own = {"clip_grad_norm": 0.1} if module is fastopt.torch else {}
    optimizer = module.SGD(model.parameters(), lr=0.05, momentum=0.9, **own)
    if module is not fastopt.torch:
        optimizer.register_step_pre_hook(lambda *_: norms.append(clip(model.parameters(), 0.1).full_tensor().item()))
    norms, clip = [], torch.nn.utils.clip_grad_norm_
    losses = []
    for _ in range(3):
        losses += train(model, optimizer, steps=1)
        if module is fastopt.torch:
            norms.append(optimizer.grad_norm)
    return losses + norms


def main():
    dist.init_process_group("gloo")
    for kind in (narrow_ddp, narrow_fsdp):
        for options in FORMATS.values():
            losses = kind(options)
            assert losses[-1] < losses[0]
    in_8_bits()
    torch.testing.assert_close(*(torch.tensor(clipped(module)) for module in (fastopt.torch, torch.optim)))
    for kind in (ddp, zero, fsdp, offloaded):
        for name, arguments in RULES.items():
            ours, theirs = (kind(module, name, arguments) for module in (fastopt.torch, torch.optim))
            # A parameter of float32 that differs in its last bit may be another number in bfloat16.
            rtol = 1e-2 if kind is offloaded else 1e-4
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=rtol, atol=1e-6)
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
