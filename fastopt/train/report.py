"""What a run leaves behind: a table, and metrics as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import fastopt
from fastopt.files import replacing
from fastopt.machine import versions
from fastopt.train.loop import Run


@dataclass(frozen=True)
class Result:
    """A run that has ended: ``ended`` is what ``Run.train`` returned, ``checkpoint`` its file's name."""

    label: str
    run: Run
    ended: str
    checkpoint: str

    @property
    def step_seconds(self) -> float:
        return self.run.seconds["network"] + self.run.seconds["optimizer"]

    @property
    def steps_per_second(self) -> float:
        return self.run.steps / self.step_seconds if self.step_seconds else 0.0

    @property
    def optimizer_share(self) -> float:
        return self.run.seconds["optimizer"] / self.step_seconds if self.step_seconds else 0.0

    @property
    def final(self) -> dict[str, Any] | None:
        return self.run.history[-1] if self.run.history else None

    @property
    def last_epoch(self) -> int:
        """The epoch that it ended in or after."""
        return self.run.epoch if self.ended == "diverged" else self.run.epoch - 1


def headline(results: Sequence[Result]) -> str:
    """One line about the data, the network and the backend of the runs."""
    run = results[0].run
    data, network = run.data, run.network
    return (
        f"{data.name}: {len(data.y_train):,} training and {len(data.y_val):,} validation samples, "
        f"{len(data.classes)} classes; network {'-'.join(map(str, network.sizes))} in {run.settings.in_words()}, "
        f"{network.params.flat.size:,} parameters; backend {run.optimizer.backend}"
    )


def show(results: Sequence[Result], console: Console | None = None) -> None:
    """Print final scores and speeds: a list for one run, a table for several, the best in bold."""
    console = console or Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(_list(results[0]) if len(results) == 1 else _table(results))
    for result in results:
        if result.ended != "epochs":
            console.print(f"{result.label}: {result.ended} in epoch {result.last_epoch}")


def _list(result: Result) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="left")
    table.add_column(justify="right", style="bold")
    final = result.final
    names = ("validation accuracy", "precision (macro)", "recall (macro)")
    for name, value in zip(names, _scores(final), strict=True):
        table.add_row(name, value)
    table.add_row("validation loss", _loss(final, "val_loss"))
    table.add_row("training loss", _loss(final, "train_loss"))
    table.add_row("epochs", str(len(result.run.history)))
    table.add_row("steps per second", f"{result.steps_per_second:,.0f}")
    table.add_row("optimizer's share of a step", f"{result.optimizer_share:.0%}")
    table.add_row("seconds", f"{sum(result.run.seconds.values()):.2f}")
    return table


def _table(results: Sequence[Result]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("optimizer", overflow="fold")
    for heading in (
        "accuracy",
        "precision",
        "recall",
        "training\nloss",
        "epochs",
        "steps/s",
        "optimizer's\nshare",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    best = max((result.final["val_accuracy"] for result in results if result.final), default=None)
    for result in results:
        final = result.final
        speed = (f"{result.steps_per_second:,.0f}", f"{result.optimizer_share:.0%}")
        cells = (*_scores(final), _loss(final, "train_loss"), str(len(result.run.history)), *speed)
        table.add_row(result.label, *cells, style="bold" if final and final["val_accuracy"] == best else None)
    return table


def _scores(final: dict[str, Any] | None) -> list[str]:
    return [f"{final[key]:.2%}" if final else "-" for key in ("val_accuracy", "val_precision", "val_recall")]


def _loss(final: dict[str, Any] | None, key: str) -> str:
    return f"{final[key]:.4f}" if final else "-"


def write_metrics(path: Path, results: Sequence[Result], config: dict[str, Any]) -> None:
    """Write configuration, versions, data, and each run's history, final scores and times as JSON."""
    data = results[0].run.data
    content = {
        "config": config,
        "versions": {"fastopt": fastopt.__version__} | versions(),
        "data": {
            "name": data.name,
            "features": data.features,
            "classes": list(data.classes),
            "training_rows": len(data.y_train),
            "validation_rows": len(data.y_val),
        },
        "runs": [_metrics(result) for result in results],
    }
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")


def _metrics(result: Result) -> dict[str, Any]:
    run = result.run
    return {
        "optimizer": result.label,
        "rules": [repr(phase.rule) for phase in run.phases],
        "settings": asdict(run.settings),
        "storages": dict(run.optimizer.explain().kernels[0].storages),
        "backend": run.optimizer.backend,
        "parameters": int(run.network.params.flat.size),
        "checkpoint": result.checkpoint,
        "ended": result.ended,
        "steps": run.steps,
        "final": result.final,
        "seconds": run.seconds,
        "steps_per_second": result.steps_per_second,
        "optimizer_share": result.optimizer_share,
        "history": run.history,
    }
