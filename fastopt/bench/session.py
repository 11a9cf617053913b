"""A run of the bench: one process for each engine, of which one at a time works."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from fastopt.backend.choice import NAMES
from fastopt.bench import cases, measure
from fastopt.bench.mix import Mix
from fastopt.rule import Rule

TURNS = 5  # of each engine for each step, unless others are asked for
BUDGET = 0.06  # seconds of a turn, if a step is not longer

#: How engines are kept from disturbing each other: what the command says about it.
ISOLATION = (
    "Every engine runs in a process of its own, since each brings its own thread pool. The processes take turns: one "
    "works, and passes on when its threads are asleep. A step and its limit take turns within one process, in "
    "new memory each time."
)


class Result(NamedTuple):
    """One engine's step. Times are in seconds; ``slowdown`` is over the limit, ``ratio`` over the faster backend.
    ``mix`` says in words how numbers are stored, and what is done to the gradient.

    ``seconds`` is of steps that follow each other, and find in the caches what the one before has left there. For a
    backend's ``slowdown`` step and limit take turns, and neither does; a peer's is its time over the backends' limit.
    ``difference_ulp`` is that from the rule's formula, or None if a user's own rule gives none. ``spread`` is the upper
    quartile of the times of the turns over the lower one: near 1 on a quiet machine.
    """

    rule: str
    kernel: str
    engine: str
    size: int
    dtype: str
    mix: str
    threads: int
    seconds: float
    nanoseconds_per_element: float
    gigabytes_per_second: float
    limit_seconds: float | None
    slowdown: float | None
    ratio: float | None
    spread: float
    difference_ulp: float | None


class Refusal(NamedTuple):
    """A rule that an engine was not measured with, and why."""

    engine: str
    rule: str
    reason: str


class Failure(RuntimeError):
    """A process of the bench ended by itself."""


class Worker:
    """The process of one engine."""

    def __init__(self, engine: str, threads: int) -> None:
        self.engine = engine
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        # Modules come from where they come from here, and not from the folder in which the bench runs: a clone has a
        # fastopt without its compiled part.
        search = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastopt.bench.worker", engine, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ
            | {"PYTHONPATH": search}
            | {"OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": "cpu", "JAX_PLATFORMS": "cpu"},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request. Failure, with the last line that the process wrote, if it has ended."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self._log.seek(0)
            lines = [line for line in self._log.read().splitlines() if line.strip()]
            last = lines[-1] if lines else "it said nothing"
            raise Failure(f"{self.engine}: its process ended with status {self._process.returncode}: {last}")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream:
                stream.close()


def run(
    rules: Sequence[Rule],
    sizes: Sequence[int],
    mix: Mix,
    threads: int,
    engines: Sequence[str],
    advance: Callable[[str], None],
    turns: int = TURNS,
) -> tuple[list[Result], list[Refusal]]:
    """Measures every rule, size and engine; calls ``advance`` before each step with what comes next."""
    results: list[Result] = []
    refusals: dict[Refusal, None] = {}
    workers: list[Worker] = []
    try:
        workers += [Worker(engine, threads) for engine in engines]
        for rule in rules:
            for size in sizes:
                advance(f"{cases.label(rule)}, {size:,}")
                measured, refused = _measure(workers, rule, size, mix, turns)
                refusals |= dict.fromkeys(refused)
                results += _results(measured, rule, size, mix, threads)
    finally:
        for worker in workers:
            worker.__exit__()
    return results, list(refusals)


class Turns(NamedTuple):
    """An engine's difference from the formula, and its turns: steps alone, and steps and limit in turn."""

    difference: float | None
    alone: list[float]
    rounds: list[measure.Round]


def _measure(
    workers: list[Worker], rule: Rule, size: int, mix: Mix, turns: int
) -> tuple[dict[str, Turns], list[Refusal]]:
    """The turns of every engine that makes the step, with its difference from the formula, and who does not."""
    ready: dict[str, Turns] = {}
    refused = []
    for worker in list(workers):
        try:
            request = {"rule": cases.path(rule), "fields": dict(rule), "size": size, "mix": mix._asdict()}
            answer = worker.ask(do="prepare", **request)
        except Failure as failure:
            if worker.engine in NAMES:
                raise
            workers.remove(worker)
            worker.__exit__()
            answer = {"refused": str(failure)}
        if "refused" in answer:
            refused.append(Refusal(worker.engine, cases.label(rule), answer["refused"]))
        else:
            ready[worker.engine] = Turns(answer["difference"], [], [])
    for _ in range(turns):
        for worker in workers:
            if worker.engine in ready:
                answer = worker.ask(do="turn", budget=BUDGET)
                if "refused" in answer:
                    raise Failure(f"{worker.engine}: {answer['refused']}")
                ready[worker.engine].alone.append(answer["alone"])
                if answer["round"]:
                    ready[worker.engine].rounds.append(measure.Round(*answer["round"]))
    return ready, refused


def _results(measured: dict[str, Turns], rule: Rule, size: int, mix: Mix, threads: int) -> list[Result]:
    """The results of one step: of the backends, then of the peers, which are compared with the faster backend."""
    moved = mix.traffic(rule, size)
    summaries = {engine: measure.summarize(turns.rounds) for engine, turns in measured.items() if turns.rounds}
    seconds = {engine: statistics.median(turns.alone) for engine, turns in measured.items()}
    fastest = min((seconds[engine] for engine in summaries), default=None)
    limit = min((summary.limit for summary in summaries.values()), default=None)
    results = []
    own_limit: float | None
    slowdown: float | None
    for engine, turns in measured.items():
        low, _, high = statistics.quantiles(turns.alone * 2, n=4, method="inclusive")
        each = seconds[engine]
        if engine in summaries:
            own_limit, slowdown = summaries[engine].limit, summaries[engine].ratio
        else:
            own_limit, slowdown = limit, None if limit is None else each / limit
        results.append(
            Result(
                cases.label(rule),
                rule.kernel if isinstance(rule.kernel, str) else rule.kernel.__name__,
                engine,
                size,
                mix.dtype,
                mix.in_words(),
                threads,
                each,
                each / size * 1e9,
                moved / each / 1e9,
                own_limit,
                slowdown,
                None if fastest is None else each / fastest,
                high / low,
                turns.difference,
            )
        )
    return results


def memory_needed(rules: Sequence[Rule], size: int, mix: Mix, engines: Sequence[str]) -> int:
    """Bytes that the processes take for buffers together, with the limit's own and what peers copy."""
    return 2 * max(mix.held(rule, size) for rule in rules) * len(engines)
