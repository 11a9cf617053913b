"""What a run leaves behind: a table, metrics as JSON, a picture of the curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich.console import Console
from rich.table import Table

import fastopt
from fastopt.files import replacing
from fastopt.machine import versions
from fastopt.pictures import COLOURS, INK, folded, legend_columns, line_style, logarithmic, picture, quiet
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
        f"{len(data.classes)} classes; network {'-'.join(map(str, network.sizes))} in {network.dtype}, "
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


def draw(path: Path, results: Sequence[Result]) -> None:
    """Draw the curves of one run, or those of several side by side, as a PNG."""
    with picture(path) as figure:
        if len(results) == 1:
            _one(figure, results[0])
        else:
            _several(figure, results)


def _one(figure: Figure, result: Result) -> None:
    figure.set_size_inches(11, 4.4)
    loss, scores = figure.subplots(1, 2)
    _title(figure, f"{_name(result)}: {folded(result.label, 110)}")
    for number, (key, label) in enumerate((("train_loss", "training"), ("val_loss", "validation"))):
        _curve(loss, result, key, color=COLOURS[number], linestyle=("-", (0, (5, 2)))[number], label=label)
    for number, key in enumerate(("val_accuracy", "val_precision", "val_recall")):
        style = line_style(number) | {"linestyle": ("-", (0, (5, 2)), (0, (1.2, 1.5)))[number]}
        _curve(scores, result, key, label=key.removeprefix("val_"), **style)
    _loss_axes(loss, "Loss", (result,))
    _score_axes(scores, "Validation scores", (result,))
    for axes in (loss, scores):
        _legend_below(axes)


def _several(figure: Figure, results: Sequence[Result]) -> None:
    labels = [folded(result.label) for result in results]
    columns = legend_columns(labels, 15, 9)
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_size_inches(15, max(5.2, 3.2 + 0.1 * len(results) + 0.18 * lines * (1 + 1 / columns)))
    loss, accuracy, time = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    _title(figure, f"{_name(results[0])}: {len(results)} optimizers from the same start")
    for number, result in enumerate(results):
        _curve(loss, result, "train_loss", label=labels[number], **line_style(number))
        _curve(accuracy, result, "val_accuracy", **line_style(number))
    _loss_axes(loss, "Training loss", results)
    _score_axes(accuracy, "Validation accuracy", results)
    _bars(time, results, labels)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)


def _name(result: Result) -> str:
    return folded(result.run.data.name, 80)


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, color=INK)


def _curve(axes: Axes, result: Result, key: str, **style: Any) -> None:
    history = result.run.history
    epochs, values = [entry["epoch"] for entry in history], [entry[key] for entry in history]
    marker = "o" if len(history) == 1 else None
    axes.plot(epochs, values, linewidth=1.8, marker=marker, **style)


def _loss_axes(axes: Axes, title: str, results: Sequence[Result]) -> None:
    _epoch_axes(axes, title, results)
    logarithmic(axes)


def _score_axes(axes: Axes, title: str, results: Sequence[Result]) -> None:
    _epoch_axes(axes, title, results)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    finals = [entry["val_accuracy"] for result in results for entry in result.run.history]
    if finals:
        top = max(finals)
        bottom = float(np.quantile(finals, 0.05))
        axes.set_ylim(bottom - 0.1 * (top - bottom) - 0.005, min(1.002, top + 0.05 * (top - bottom) + 0.005))


def _epoch_axes(axes: Axes, title: str, results: Sequence[Result]) -> None:
    quiet(axes, title)
    axes.set_xlabel("epoch", color=INK, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    last = max((len(result.run.history) for result in results), default=1)
    if last > 1:
        axes.set_xlim(1, last)
    switch = results[0].run.settings.switch_at
    if switch is not None:
        axes.axvline(switch + 0.5, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        place: dict[str, Any] = {
            "xy": (switch + 0.5, 0.98),
            "xycoords": axes.get_xaxis_transform(),
            "va": "top",
        }
        text = f" {folded(results[0].run.settings.switch_to or '')} takes over"
        axes.annotate(text, fontsize=8, color=INK, **place)


def _bars(axes: Axes, results: Sequence[Result], labels: Sequence[str]) -> None:
    """Microseconds a step: the network's and the optimizer's part, one bar a run, in the table's order."""
    quiet(axes, "Time of a step (µs)")
    axes.grid(visible=False)
    places = np.arange(len(results))
    network = np.array([1e6 * result.run.seconds["network"] / max(1, result.run.steps) for result in results])
    optimizer = np.array([1e6 * result.run.seconds["optimizer"] / max(1, result.run.steps) for result in results])
    axes.barh(places, network, height=0.6, color="#c9c9d1", label="network")
    axes.barh(places, optimizer, left=network, height=0.6, color=COLOURS[0], label="optimizer")
    for place, result in zip(places, results, strict=True):
        text = f" {result.optimizer_share:.0%}"
        axes.text(float(network[place] + optimizer[place]), float(place), text, va="center", fontsize=9, color=INK)
    axes.set_yticks(places, labels)
    axes.margins(x=0.14)
    axes.invert_yaxis()
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
