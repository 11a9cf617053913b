"""Blocks of a DTensor's elements that processes have: those of the whole tensor, where none is cut."""

from typing import Any

from torch import Size, Tensor

from fastopt.torch import memory


def has_whole_blocks(tensor: Any, every: int) -> bool:
    """Whether each process has whole blocks of so many elements, and as many as torch's rule gives it of their list.

    It says the same in all processes.
    """
    from torch.distributed.tensor import Replicate, Shard

    split = [number for number, each in enumerate(tensor.placements) if type(each) is not Replicate]
    if not split:
        return True
    if len(split) > 1 or tensor.placements[split[0]] != Shard(0) or not tensor.is_contiguous():
        return False
    processes = tensor.device_mesh.size(split[0])
    rows = -(-tensor.shape[0] // processes)  # of all processes but the last ones
    part, blocks = rows * (tensor.numel() // max(tensor.shape[0], 1)), -(-tensor.numel() // every)
    return part % every == 0 and -(-blocks // processes) == part // every


def blocks_like(tensor: Any, local: Tensor, every: int) -> Tensor:
    """A number for each block, of which this process has those in ``local``: laid out over processes as a tensor is."""
    from torch.distributed.tensor import DTensor

    if not memory.is_distributed(tensor):
        return local
    shape = Size([-(-tensor.numel() // every)])
    return DTensor.from_local(local, tensor.device_mesh, tensor.placements, run_check=False, shape=shape, stride=(1,))
