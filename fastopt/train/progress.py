"""How far a run is: a bar on a terminal, else a plain line every few epochs; both on stderr."""

import sys
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fastopt.train.loop import Run

LINES = 10
SECONDS_BETWEEN_UPDATES = 0.1


def watch(label: str, epochs: int) -> AbstractContextManager[Any]:
    """A watcher, to be entered, for a run of up to ``epochs`` epochs."""
    console = Console(stderr=True)
    return Bar(console, label, epochs) if console.is_terminal else Lines(label, epochs)


class Bar:
    """A progress bar with the latest scores, which goes when the run ends."""

    def __init__(self, console: Console, label: str, epochs: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[scores]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(label, total=epochs, scores="")
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def batch(self, run: Run) -> None:
        now = perf_counter()
        if now - self._shown > SECONDS_BETWEEN_UPDATES:
            self._shown = now
            self._progress.update(self._task, completed=run.steps / run.steps_per_epoch)

    def epoch(self, run: Run) -> None:
        self._progress.update(self._task, completed=run.epoch - 1, scores=line(run.history[-1]))


class Lines:
    """About ten lines of text in a whole run."""

    def __init__(self, label: str, epochs: int) -> None:
        self._label, self._epochs = label, epochs
        self._every = max(1, round(epochs / LINES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def batch(self, run: Run) -> None:
        pass

    def epoch(self, run: Run) -> None:
        entry = run.history[-1]
        if entry["epoch"] % self._every == 0 or entry["epoch"] == self._epochs:
            text = f"{self._label}  epoch {entry['epoch']}/{self._epochs}  {line(entry)}"
            print(text, file=sys.stderr, flush=True)


def line(entry: dict[str, Any]) -> str:
    """One epoch of a history in a few words."""
    return f"loss {entry['train_loss']:.4f}  validation accuracy {entry['val_accuracy']:.2%}"
