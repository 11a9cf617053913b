"""A process that measures one engine: ``python -m fastopt.bench.worker ENGINE THREADS``.

The engine is a backend of fastopt or a peer. The process keeps to as many processors as it may use threads. It reads
requests from its standard input and answers each on its standard output, a line of JSON either way:

- ``{"do": "prepare", "rule", "fields", "size", "mix"}`` is answered by ``{"difference": ulp}`` (null if the rule
  gives no formula), or by ``{"refused": why}`` if the engine cannot make that step, or makes another one.
- ``{"do": "turn", "budget": seconds}`` is answered by ``{"alone", "round"}``: the seconds of steps that follow each
  other, and of a step and its limit in turn (null for a peer), once the threads of the process are asleep again. A
  backend steps new memory in every turn: some places are faster than others. A peer stays where it is: it would have to
  compile anew.
"""

import json
import os
import pkgutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastopt.backend.choice import NAMES
from fastopt.bench import measure, verify
from fastopt.bench.mix import Mix
from fastopt.bench.peers import PEERS, Bound
from fastopt.buffers import aligned_empty, check_dtype
from fastopt.rule import Rule

LEAST = 3  # samples of a turn
FIRST = 3  # steps before the first turn: some libraries compile more than once
SOME = 2**16  # random numbers, over and over: more of them would take longer than the steps


class Engine:
    """What a process measures."""

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self.limit: measure.Call | None = None
        self.step: measure.Call | None = None
        self.place: Callable[[], bool] = lambda: False

    def make(self, rule: Rule, mix: Mix, p: np.ndarray, g: np.ndarray) -> Bound | None:
        if self.name not in NAMES:
            return PEERS[self.name].make(rule, mix, p, g, self.threads)
        optimizer = mix.optimizer(p, rule, self.name, self.threads)
        step = partial(optimizer.step, g, **mix.step_options())
        master, copy = optimizer.master, optimizer.copy
        return Bound(
            step,
            lambda: p if master is None else master["params"],
            lambda: p if copy is None else copy.flat,
        )

    def prepare(self, rule: str, fields: dict[str, Any], size: int, mix: dict[str, Any]) -> dict[str, Any]:
        self.step = self.limit = None  # frees their memory
        made, wanted = pkgutil.resolve_name(rule)(**fields), Mix(**mix)
        difference = None
        if type(made).reference is not Rule.reference:
            difference = verify.difference(partial(self.make, made, wanted), made, wanted)
            if difference is None:
                return {"refused": f"{self.name} has no such rule for {wanted.in_words()}"}
            if difference.excess > 1.0:
                return {"refused": f"{self.name} makes another update: {difference.ulp:.3g} ulp from the formula"}
        self.place = partial(self._place, made, size, wanted)
        if not self.place():
            return {"refused": f"{self.name} has no such rule for {wanted.in_words()}"}
        measure.settle()
        return {"difference": difference and difference.ulp}

    def _place(self, rule: Rule, size: int, mix: Mix) -> bool:
        """Makes the step, and its limit, in new memory; whether the engine has the rule."""
        self.step = self.limit = None
        p = aligned_empty(size, check_dtype("dtype", mix.dtype))
        g = aligned_empty(size, check_dtype("grad_dtype", mix.grad_dtype))
        for seed, array in enumerate((p, g)):
            some = np.random.default_rng(seed).standard_normal(min(size, SOME))
            array[:] = np.resize(some.astype(array.dtype), size)
        bound = self.make(rule, mix, p, g)
        if bound is None:
            return False
        self.step = bound.step
        for _ in range(FIRST):
            self.step()
        if self.name in NAMES:
            from fastopt.bench import limit

            computes = mix.computes
            states = min(len(rule.states), len(limit.TRAFFIC) - 1)  # what more there are makes its arrays longer
            moved = (3 + 2 * states) * computes.itemsize
            self.limit = limit.bind(round(mix.traffic(rule, size) / moved), computes, states, self.threads)
        return True

    def turn(self, budget: float) -> dict[str, Any]:
        if self.name in NAMES:
            self.place()
        assert self.step is not None
        alone = measure.alone(self.step, budget / 2, LEAST)
        in_turn = self.limit and measure.in_turn(self.step, self.limit, budget, LEAST)
        measure.settle()
        return {"alone": alone, "round": in_turn}


def main() -> None:
    # Libraries print what they like: answers have the standard output for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, threads = sys.argv[1], int(sys.argv[2])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    engine = Engine(name, threads)
    for line in sys.stdin:
        request = json.loads(line)
        do = engine.turn if request.pop("do") == "turn" else engine.prepare
        try:
            answer = do(**request)
        except Exception as error:
            answer = {"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
