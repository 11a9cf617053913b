"""What `fastopt train` does: several runs from one start, their files, stopping and going on."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastopt.train import progress, report
from fastopt.train.checkpoint import read_extra
from fastopt.train.data import BUILT_IN, Dataset, load_data
from fastopt.train.errors import InputError
from fastopt.train.interrupt import Interrupt
from fastopt.train.loop import Backend, Run, Settings, check_data

MANY_EPOCHS = 1000


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to train: ``optimizers`` from the same start, each with ``settings`` of otherwise one kind.

    ``epochs`` is the last epoch; ``tolerance`` ends a run earlier once it has converged.
    """

    source: str
    target: str | None
    optimizers: tuple[str, ...]
    settings: Settings
    epochs: int
    tolerance: float | None
    out: Path
    backend: Backend = "auto"
    threads: int | None = None


class Interrupted(Exception):
    """Ctrl-C ended a run; ``checkpoint`` has all of it, and ``label`` is the optimizer it was at."""

    def __init__(self, label: str, epoch: int, checkpoint: Path) -> None:
        super().__init__(f"{label} interrupted in epoch {epoch}")
        self.label, self.epoch, self.checkpoint = label, epoch, checkpoint


def new_request(values: dict[str, Any]) -> tuple[Request, Dataset]:
    """The request that ``values``, by name of argument, ask for, and its data; defaults for what is missing.

    Raises InputError.
    """
    source, target = values.get("data", "digits"), values.get("target")
    data = load_data(source, target)
    tolerance = values.get("until_converged")
    epochs = values.get("epochs", Settings.epochs if tolerance is None else MANY_EPOCHS)
    optimizers = _distinct(values.get("optimizer", (Settings.optimizer,)))
    settings = _settings(values, epochs)
    if "batch_size" not in values:
        settings = replace(settings, batch_size=min(Settings.batch_size or 1, len(data.y_train)))
    request = Request(
        source=source if source in BUILT_IN else os.path.abspath(source),
        target=target,
        optimizers=optimizers,
        settings=settings,
        epochs=epochs,
        tolerance=tolerance,
        out=values.get("out", Path("runs") / data.name),
        backend=values.get("backend", "auto"),
        threads=values.get("threads"),
    )
    return request, data


def resumed_request(path: Path, values: dict[str, Any]) -> tuple[Request, Dataset]:
    """The request that the checkpoint ``path`` was written for, with ``values`` in place of its own.

    Raises InputError for values that do not fit it, and fastopt.CheckpointError.
    """
    extra = read_extra(path)
    notes = extra["notes"]
    stored = Settings.from_json(extra["settings"])
    epochs = values.get("epochs", notes["epochs"])
    settings = _settings(values, max(stored.epochs, epochs), stored)
    optimizers = _distinct(values.get("optimizer", notes["optimizers"]))
    if len(optimizers) != len(notes["optimizers"]):
        raise InputError(
            "optimizer", f"got {_listed(optimizers)}; allowed: {_listed(notes['optimizers'])}, as in {path}"
        )
    source, target = values.get("data", notes["source"]), values.get("target", notes["target"])
    data = load_data(source, target)
    check_data(path, extra, data.fingerprint)
    request = Request(
        source=source,
        target=target,
        optimizers=optimizers,
        settings=settings,
        epochs=epochs,
        tolerance=values.get("until_converged", notes["tolerance"]),
        out=values.get("out", path.parent),
        backend=values.get("backend", notes["backend"]),
        threads=values.get("threads", notes["threads"]),
    )
    return request, data


def train(request: Request, data: Dataset, resume: Path | None = None) -> list[report.Result]:
    """Train every optimizer of ``request`` and write checkpoints, metrics and the picture.

    With ``resume``, runs that have a checkpoint in its folder go on from there. Nothing is written
    before all that can be rejected has been. Raises InputError, fastopt.CheckpointError, and
    Interrupted after Ctrl-C.
    """
    names = _checkpoint_names(request.optimizers)
    runs = [_run(request, data, optimizer) for optimizer in request.optimizers]
    if resume is not None:
        _go_on(runs, names, resume)
    for run in runs:
        run.notes = _notes(request)
        run.warm_up()
    _prepare(request.out)
    if resume is None:
        for name in names:
            (request.out / name).unlink(missing_ok=True)
    results = [_train_one(request, run, name) for run, name in zip(runs, names, strict=True)]
    report.write_metrics(request.out / "metrics.json", results, _config(request))
    report.draw(request.out / "curves.png", results)
    return results


def _settings(values: dict[str, Any], epochs: int, stored: Settings | None = None) -> Settings:
    """Settings from the arguments, those not given from ``stored``; the optimizer is set for each run."""
    names = ("schedule", "hidden", "batch_size", "dtype", "seed", "max_norm", "switch_to", "switch_at")
    given = {name: values[name] for name in names if name in values}
    settings = replace(stored or Settings(), **given, epochs=epochs)
    if (settings.switch_to is None) != (settings.switch_at is None):
        argument = "switch_to" if settings.switch_to is None else "switch_at"
        other = "--switch-at" if settings.switch_to is None else "--switch-to"
        raise InputError(argument, f"not given; needed with {other}")
    if settings.switch_at is not None and settings.switch_at >= epochs:
        raise InputError("switch_at", f"got {settings.switch_at}; allowed: 1 to {epochs - 1}, before the last epoch")
    return settings


def _distinct(optimizers: tuple[str, ...]) -> tuple[str, ...]:
    labels = tuple(_label(text) for text in optimizers)
    for place, label in enumerate(labels):
        if label in labels[:place]:
            raise InputError("optimizer", f"got {label!r} twice; allowed: each once")
    return labels


def _label(text: str) -> str:
    """The optimizer's text without blanks, its name in lower case unless it is a path."""
    name, colon, rest = "".join(text.split()).partition(":")
    return (name if "." in name else name.lower()) + colon + rest


def _run(request: Request, data: Dataset, optimizer: str) -> Run:
    settings = replace(request.settings, optimizer=optimizer)
    return Run(data, settings, backend=request.backend, threads=request.threads)


def _checkpoint_names(optimizers: tuple[str, ...]) -> list[str]:
    if len(optimizers) == 1:
        return ["checkpoint.safetensors"]
    slugs = [re.sub(r"[^a-z0-9.=+-]+", "-", label.lower()) for label in optimizers]
    return [f"checkpoint-{slug}.safetensors" for slug in slugs]


def _go_on(runs: list[Run], names: list[str], resume: Path) -> None:
    """Load what each run has in the folder of ``resume``; one without a checkpoint starts anew."""
    paths = [resume] if len(runs) == 1 else [resume.with_name(name) for name in names]
    if resume not in paths:
        raise InputError("resume", f"got {resume.name}, one of several; allowed: its name of old, {' or '.join(names)}")
    for run, path in zip(runs, paths, strict=True):
        if path.exists():
            run.load(path, read_extra(path))


def _notes(request: Request) -> dict[str, Any]:
    names = ("source", "target", "epochs", "tolerance", "backend", "threads")
    return {"optimizers": list(request.optimizers)} | {name: getattr(request, name) for name in names}


def _config(request: Request) -> dict[str, Any]:
    settings = request.settings
    shared = {name: value for name, value in vars(settings).items() if name not in ("optimizer", "epochs")}
    return _notes(request) | shared


def _prepare(out: Path) -> None:
    """Make the folder and be sure that files can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(
            "out", f"{out} cannot be written to: {error.strerror}; allowed: a folder, new or not"
        ) from None


def _train_one(request: Request, run: Run, name: str) -> report.Result:
    path = request.out / name
    label = run.label
    with Interrupt() as interrupt, progress.watch(label, request.epochs) as watcher:
        ended = run.train(request.epochs, tolerance=request.tolerance, checkpoint=path, stop=interrupt, watcher=watcher)
    if ended == "stopped":
        raise Interrupted(label, min(run.epoch, request.epochs), path)
    return report.Result(label, run, ended, name)


def _listed(optimizers: tuple[str, ...]) -> str:
    return ", ".join(optimizers)
