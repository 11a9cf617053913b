"""What each of two processes runs: trains a model with DeepSpeed's ZeRO and offloaded states, and says the losses."""

import sys

import deepspeed
import torch

import fastopt.torch


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 33), torch.nn.Tanh(), torch.nn.Linear(33, 1))


def train(module, stage, dtype):
    model = net()
    optimizer = module.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu"}},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype is torch.bfloat16},
    }
    engine, _, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    losses = []
    for step in range(10):
        seed = torch.Generator().manual_seed(100 * step + torch.distributed.get_rank())
        x = torch.randn(8, 16, generator=seed).to(dtype)
        loss = (engine(x) - x.sum(dim=1, keepdim=True)).square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    if module is fastopt.torch:
        assert optimizer.explain().kernels and not optimizer.explain().torch
    return losses


def main():
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo alone: nothing is compiled
    deepspeed.init_distributed("gloo")
    for stage in (1, 2):
        for dtype in (torch.float32, torch.bfloat16):
            ours, theirs = (train(module, stage, dtype) for module in (fastopt.torch, torch.optim))
            # A sum of squares of ours and of theirs may differ in its last bit, and in bfloat16 a loss then by one.
            torch.testing.assert_close(
                torch.tensor(ours), torch.tensor(theirs), rtol=1e-2 if dtype is torch.bfloat16 else 1e-5, atol=0
            )
            assert ours[-1] < ours[0]
            if torch.distributed.get_rank() == 0:
                difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
                print("stage", stage, str(dtype).removeprefix("torch."), "largest difference", difference)
    torch.distributed.barrier()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
