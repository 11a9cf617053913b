"""Lookahead: slow weights that follow parameters in strides of their steps, and take them along."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastopt.backend.program import Backend, Program, Work
from fastopt.lookahead import PAIR, works_of_stride
from fastopt.sizes import GRAIN_AWAKE
from fastopt.storage import Stream
from fastopt.storages import noise
from fastopt.torch.rows import Row


class Striding(NamedTuple):
    """A row with slow weights: its number in the plan, its work, its seed, the steps of a stride, and their weight."""

    number: int
    row: Row
    work: Work
    seed: int
    steps: int
    alpha: float


class Strides:
    """The slow weights of a plan's rows, which the last step of each stride moves: see :mod:`fastopt.lookahead`."""

    def __init__(self, rows: Sequence[Striding], backend: Backend) -> None:
        self._numbers = np.array([each.number for each in rows], np.intp)
        self._steps = np.array([each.steps for each in rows])
        self._seeds = np.array([each.seed for each in rows], np.uint64)
        self._keys = np.zeros((len(rows), 1), np.uint64)
        following, taking = list[Work](), list[Work]()
        for each, keys in zip(rows, self._keys, strict=True):
            assert each.row.kept.slow is not None
            p, dtype = each.work.streams[0], each.row.computes
            slow = each.row.kept.slow.stream(dtype)
            pair = works_of_stride(p, slow, each.alpha, dtype, each.work.followers, keys)
            following.append(pair[0])
            taking.append(pair[1])
        #: First slow weights follow the parameters, then these are put there: each table, and what its works read.
        self._tables = [
            (backend.table(works, (), GRAIN_AWAKE), np.array([_address(work.streams[1]) for work in works], np.int64))
            for works in (following, taking)
        ]

    def programs(self, before: np.ndarray, after: np.ndarray, threads: int) -> list[Program]:
        """What ends strides in the step before and after which the plan's rows have made so many steps."""
        before, after = before[self._numbers], after[self._numbers]
        ends = (after != before) & (after % self._steps == 0)
        if not ends.any():
            return []
        self._keys[ends, 0] = noise.key(self._seeds[ends], after[ends].astype(np.uint64), PAIR)
        return [table.bind(np.where(ends, addresses, 0), threads) for table, addresses in self._tables]


def _address(stream: np.ndarray | Stream) -> int:
    return (stream.parts[0] if isinstance(stream, Stream) else stream).ctypes.data
