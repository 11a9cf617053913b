"""DistributedDataParallel, ZeroRedundancyOptimizer and FSDP2: two processes on this machine, the losses of torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")
def test_two_processes_under_torchrun():
    worker = Path(__file__).with_name("distributed_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(worker)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line.split()[:2] for line in done.stdout.splitlines() if "largest difference" in line]
    names = ["AdamW", "SGD", "NAdam", "Adagrad"]
    assert lines == [[kind, name] for kind in ("ddp", "zero", "fsdp") for name in names]
