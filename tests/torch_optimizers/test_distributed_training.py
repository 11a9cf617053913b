"""DistributedDataParallel, ZeroRedundancyOptimizer, FSDP2, DeepSpeed: two processes on this machine, torch's losses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")


def in_two_processes(worker):
    worker = Path(__file__).with_name(worker)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(worker)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return [line.split() for line in done.stdout.splitlines() if "largest difference" in line]


def test_zero_of_deepspeed():
    pytest.importorskip("deepspeed")
    lines = in_two_processes("deepspeed_worker.py")
    assert [line[:3] for line in lines] == [
        ["stage", stage, dtype] for stage in "12" for dtype in ("float32", "bfloat16")
    ]


def test_two_processes_under_torchrun():
    lines = [line[:2] for line in in_two_processes("distributed_worker.py")]
    names = ["AdamW", "SGD", "NAdam", "Adagrad"]
    assert lines == [[kind, name] for kind in ("ddp", "zero", "fsdp", "offloaded") for name in names]
