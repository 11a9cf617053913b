"""The picture of a run's curves, or of several side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fastopt.pictures import COLOURS, INK, folded, legend_columns, line_style, logarithmic, picture, quiet
from fastopt.train.report import Result


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
