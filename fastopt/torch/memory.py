"""What a tensor's memory looks like: whether kernels can work on it as it is, and if not, why."""

import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastopt.backend.program import array_at
from fastopt.encoded import native
from fastopt.machine import ask_for_huge_pages
from fastopt.rows import Rows
from fastopt.storage import Storage, Stream
from fastopt.storages import STORAGES

#: The dtypes that kernels compute in.
DTYPES: dict[torch.dtype, np.dtype] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}

#: How the numbers of parameters, gradients and states are stored that kernels read, by their dtype.
STORED: dict[torch.dtype, Storage] = {
    torch.float32: STORAGES["float32"],
    torch.float64: STORAGES["float64"],
    torch.bfloat16: STORAGES["bfloat16"],
    torch.float16: STORAGES["float16"],
}

#: The types of tensors that are nothing but their memory.
PLAIN = {Tensor, torch.nn.Parameter, torch.nn.Buffer}


def default_dtype() -> np.dtype:
    """The dtype in which torch makes a tensor of a Python number, if it is float64, or else float32."""
    return DTYPES[torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32]


def is_distributed(tensor: Any) -> bool:
    """Whether the tensor is a DTensor. Its module takes long to import, and without it there is none."""
    if type(tensor) in PLAIN:  # as most are
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Tensor:
    """The tensor whose memory is this process's: a DTensor's local part, any other tensor itself."""
    if not is_distributed(tensor):
        return tensor
    part = tensor._local_tensor
    return part if type(part) in PLAIN else part.wait()  # what a collective still works on


def local_gradient(gradient: Any, param: Any) -> Tensor:
    """The local part of a gradient, laid out over the processes as its parameter is."""
    if is_distributed(gradient) and is_distributed(param) and gradient.placements != param.placements:
        gradient = gradient.redistribute(param.device_mesh, param.placements)
    return local(gradient)


def obstacle(tensor: Tensor) -> str | None:
    """Why kernels cannot write to a tensor in place, or None if they can."""
    return _no_kernel(tensor) or (None if is_dense(tensor) else "is not dense in memory")


def gradient_obstacle(gradient: Tensor, param: Tensor) -> str | None:
    """Why kernels cannot read a gradient, not even from a copy of the parameter's layout, or None if they can."""
    reason = _no_kernel(gradient)
    if reason is None and gradient.shape != param.shape:
        reason = f"has the shape {tuple(gradient.shape)} while the parameter has {tuple(param.shape)}"
    return reason and f"has a gradient that {reason}"


def is_sparse(gradient: Any) -> bool:
    """Whether a gradient is a plain sparse tensor in coordinates."""
    return type(gradient) in PLAIN and gradient.layout is torch.sparse_coo


def rows_obstacle(gradient: Tensor, param: Tensor) -> str | None:
    """Why kernels cannot step the rows of a sparse gradient, or None if they can."""
    reason = None
    if is_distributed(param) or not param.is_contiguous():
        reason = "is sparse, while the parameter's rows do not lie in memory one after the other"
    elif gradient.sparse_dim() != 1:
        reason = f"is sparse in {gradient.sparse_dim()} dimensions, and not in the first alone"
    elif gradient.device.type != "cpu" or gradient.dtype not in STORED:
        reason = f"is sparse, on the device {gradient.device}, of {gradient.dtype}"
    elif gradient.shape != param.shape:
        reason = f"has the shape {tuple(gradient.shape)} while the parameter has {tuple(param.shape)}"
    return reason and f"has a gradient that {reason}"


def rows(gradient: Tensor) -> Rows:
    """The rows of a sparse gradient, contiguous, in float32 or float64. They keep its memory alive."""
    values = gradient._values().detach()
    if values.dtype not in DTYPES:
        values = values.float()
    return Rows(gradient._indices()[0].numpy(), values.contiguous().numpy())


def _no_kernel(tensor: Tensor) -> str | None:
    return _unreachable(tensor) or (None if tensor.dtype in STORED else f"has the dtype {tensor.dtype}")


def _unreachable(tensor: Tensor) -> str | None:
    if type(tensor) not in PLAIN and type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"is a {type(tensor).__name__}, a kind of tensor that kernels do not know"
    if tensor.layout is not torch.strided:
        return f"is sparse ({tensor.layout})"
    if not tensor.is_cpu:
        return f"is on the device {tensor.device}"
    return "is a view that negates its memory" if tensor.is_neg() else None


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a piece of memory without gaps and overlaps, in whatever order of the dimensions."""
    expected = 1
    dimensions = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted((stride, size) for stride, size in dimensions if size != 1):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def like(tensor: Tensor, source: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A copy of the source in the memory layout of a dense tensor, in its own dtype or another one."""
    return torch.empty_like(tensor, dtype=dtype or source.dtype, memory_format=torch.preserve_format).copy_(source)


_nbytes = attrgetter("nbytes")

#: Bytes of a page, within which processors compare the addresses of loads with those of recent stores.
PAGE = 4096

#: Elements from which on it matters where in a page a buffer begins.
LARGE = 16384


def state_like(param: Tensor, first: float, dtype: torch.dtype, place: int, places: int) -> Tensor:
    """A state of a parameter, filled with its first value: the one numbered ``place`` of ``places``, from 1.

    Large buffers come from malloc at one and the same place of a page. Where a kernel walks through several of them
    side by side, processors take each load for one of what was just stored to another buffer, and wait. So states begin
    at places of their own, spread over the page.
    """
    plain = type(param) in PLAIN and param.device.type == "cpu" and is_dense(param)
    if not plain or param.numel() < LARGE:
        return torch.full_like(param, first, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
    room = torch.empty(param.numel() + PAGE // dtype.itemsize, dtype=dtype, device="cpu")
    ask_for_huge_pages(room.data_ptr(), room.nbytes)
    wanted = param.data_ptr() // 64 * 64 + PAGE * place // (places + 1) // 64 * 64
    start = (wanted - room.data_ptr()) % PAGE // dtype.itemsize
    state = torch.empty(0, dtype=dtype, device="cpu").set_(room.untyped_storage(), start, param.shape, param.stride())
    return state.fill_(first)


def flat(tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    """A dense tensor's memory as a 1-D array, in the order in which it lies there. It does not keep it alive."""
    return array_at(tensor.data_ptr(), tensor.numel(), dtype)


class Numbers(NamedTuple):
    """The numbers of a parameter, a gradient or a state: how they are stored, and a tensor for each of the arrays."""

    storage: Storage
    tensors: tuple[Tensor, ...]
    #: Whether they are rounded stochastically.
    stochastic: bool = False

    def stream(self, computes: np.dtype) -> np.ndarray | Stream:
        """The numbers as engines take them, in the order in which they lie in memory. It does not keep that alive."""
        parts = self._parts()
        return native(Stream(self.storage, parts, parts[0].size, self.stochastic), computes)

    def decode(self) -> np.ndarray:
        """The numbers, in the order in which they lie in memory: float32 or float64."""
        return self.storage.decode(*self._parts())

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Copies of some rows, along the first axis, one after the other: of contiguous tensors, without blocks."""
        parts = (part.reshape(len(self.tensors[0]), -1)[indices] for part in self._parts())
        return self.storage.decode(*(part.reshape(-1) for part in parts))

    def _parts(self) -> tuple[np.ndarray, ...]:
        pairs = zip(self.tensors, self.storage.parts, strict=True)
        return tuple([flat(local(tensor), part.dtype) for tensor, part in pairs])


def numbers(tensor: Tensor) -> Numbers:
    """The numbers of a dense tensor."""
    return Numbers(STORED[tensor.dtype], (tensor,))


def is_number(value: Any) -> bool:
    """Whether a value is a tensor of one element that a step can read and write in place."""
    return type(value) in PLAIN and value.numel() == 1 and value.dtype in DTYPES and _no_kernel(value) is None


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors of one shape have their elements in one order. Dimensions of size 1 do not count."""
    if a.stride() == b.stride() or a.numel() <= 1:
        return True
    return all(size == 1 or x == y for size, x, y in zip(a.shape, a.stride(), b.stride(), strict=True))


def matches(state: Tensor, param: Tensor, dtype: torch.dtype) -> bool:
    """Whether kernels can work on a state together with its parameter: that dtype, one place and order of elements."""
    if is_distributed(state) != is_distributed(param):
        return False
    state, param = local(state), local(param)
    return state.dtype == dtype and _unreachable(state) is None and same_layout(state, param)


def overlapping(tensors: Sequence[Tensor]) -> np.ndarray:
    """Which of some dense tensors share an address with another one: their numbers."""
    starts = np.array(list(map(Tensor.data_ptr, tensors)), np.uint64)
    stops = starts + np.array(list(map(_nbytes, tensors)), np.uint64)
    order = np.flatnonzero(stops > starts)
    order = order[np.argsort(starts[order], kind="stable")]
    starts, furthest = starts[order], np.maximum.accumulate(stops[order])
    clash = starts[1:] < furthest[:-1]
    return np.union1d(order[1:][clash], order[:-1][starts[1:] < stops[order][:-1]])
