"""What `fastopt train` does: several runs from one start, their files, stopping and going on."""

import os
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import fastopt
from fastopt import specs
from fastopt.backend.choice import BackendChoice
from fastopt.errors import InputError, quoted
from fastopt.machine import shortage
from fastopt.train import chart, progress, report
from fastopt.train.data.built_in import BUILT_IN
from fastopt.train.data.dataset import Dataset
from fastopt.train.data.load import load_data
from fastopt.train.extra import read_extra, read_notes
from fastopt.train.interrupt import Interrupt
from fastopt.train.loop import Run, check_data
from fastopt.train.settings import Settings

MANY_EPOCHS = 1000
MAX_OPTIMIZERS = 64
LONGEST_SLUG = 200  # of the 255 bytes of a file's name


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to train: ``optimizers`` from the same start, each with ``settings`` of otherwise one kind.

    ``epochs`` is the last epoch; ``tolerance`` ends a run earlier once it has converged.
    """

    source: str
    target: str | None
    decimal: str | None
    drop: tuple[str, ...]
    optimizers: tuple[str, ...]
    settings: Settings
    epochs: int
    tolerance: float | None
    out: Path
    backend: BackendChoice = "auto"
    threads: int | None = None


class Interrupted(Exception):
    """Ctrl-C ended a run; ``checkpoint`` has all of it, ``label`` is the optimizer it was at.

    ``command`` is what to type in a shell to go on.
    """

    def __init__(self, label: str, epoch: int, checkpoint: Path, command: str) -> None:
        super().__init__(f"{label} interrupted in epoch {epoch}")
        self.label, self.epoch, self.checkpoint, self.command = label, epoch, checkpoint, command


def new_request(values: dict[str, Any]) -> tuple[Request, Dataset]:
    """The request that ``values``, by name of argument, ask for, and its data; defaults for what is missing.

    Raises InputError.
    """
    source, target = values.get("data", "digits"), values.get("target")
    decimal, drop = values.get("decimal"), tuple(values.get("drop", ()))
    data = load_data(source, target, decimal=decimal, drop=drop)
    tolerance = values.get("until_converged")
    epochs = values.get("epochs", Settings.epochs if tolerance is None else MANY_EPOCHS)
    optimizers = _labels(values.get("optimizer", (Settings.optimizer,)))
    settings = _settings(values, epochs)
    if "batch_size" not in values:
        settings = replace(settings, batch_size=min(Settings.batch_size or 1, len(data.y_train)))
    request = Request(
        source=source if source in BUILT_IN else os.path.abspath(source),
        target=target,
        decimal=decimal,
        drop=drop,
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
    notes = read_notes(path, extra)
    stored = Settings.from_json(extra["settings"])
    for argument, texts in (("optimizer", notes["optimizers"]), ("switch_to", [stored.switch_to or "sgd"])):
        if argument not in values:
            _check_built_in(path, argument, texts)
    epochs = values.get("epochs", notes["epochs"])
    settings = _settings(values, max(stored.epochs, epochs), stored)
    optimizers = _labels(values.get("optimizer", notes["optimizers"]))
    if len(optimizers) != len(notes["optimizers"]):
        theirs = f"{_listed(notes['optimizers'])}, as in {path}"
        raise InputError("optimizer", f"must be {theirs}, not {_listed(optimizers)}")
    source, target = values.get("data", notes["source"]), values.get("target", notes["target"])
    decimal, drop = values.get("decimal", notes["decimal"]), tuple(values.get("drop", notes["drop"]))
    data = load_data(source, target, decimal=decimal, drop=drop)
    check_data(path, extra, data.fingerprint)
    request = Request(
        source=source,
        target=target,
        decimal=decimal,
        drop=drop,
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
    runs = _runs(request, data)
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
    chart.draw(request.out / "curves.png", results)
    return results


def _settings(values: dict[str, Any], epochs: int, stored: Settings | None = None) -> Settings:
    """Settings from the arguments, those not given from ``stored``; the optimizer is set for each run."""
    shared = {field.name for field in fields(Settings)} - {"optimizer", "epochs"}
    given = {name: value for name, value in values.items() if name in shared}
    settings = replace(stored or Settings(), **given, epochs=epochs)
    if (settings.switch_to is None) != (settings.switch_at is None):
        argument = "switch_to" if settings.switch_to is None else "switch_at"
        other = "--switch-at" if settings.switch_to is None else "--switch-to"
        raise InputError(argument, f"must be given with {other}")
    if settings.switch_at is not None and settings.switch_at >= epochs:
        raise InputError("switch_at", f"must be before the last epoch, {epochs}, not {settings.switch_at}")
    return settings


def _check_built_in(path: Path, argument: str, texts: Sequence[str]) -> None:
    """Raises fastopt.CheckpointError unless the checkpoint ``path`` names rules of fastopt's: it chooses no import."""
    for text in texts:
        if not specs.names_built_in(text):
            option = argument.replace("_", "-")
            raise fastopt.CheckpointError(
                f"{path} was trained with {quoted(text)}, which is not a rule of fastopt's: "
                f"files import nothing, so name it with --{option}"
            )
        try:
            specs.rule(text, argument)
        except InputError as error:
            raise fastopt.CheckpointError(f"{path}: {error}") from None


def _labels(optimizers: Sequence[str]) -> tuple[str, ...]:
    """The labels of the optimizers. Raises InputError where two are the same, in whatever words."""
    return tuple(specs.distinct([*map(_label, optimizers)], MAX_OPTIMIZERS, specs.rule))


def _label(text: str) -> str:
    """The optimizer's text without blanks, its name in lower case unless it is a path."""
    name, colon, rest = "".join(text.split()).partition(":")
    return (name if "." in name else name.lower()) + colon + rest


def _runs(request: Request, data: Dataset) -> list[Run]:
    runs: list[Run] = []
    for optimizer in request.optimizers:
        if runs and (short := shortage(len(request.optimizers) * runs[0].memory)):
            raise InputError("optimizer", f"must be fewer at once, not {len(request.optimizers)}: that {short}")
        settings = replace(request.settings, optimizer=optimizer)
        runs.append(Run(data, settings, backend=request.backend, threads=request.threads))
    return runs


def _checkpoint_names(optimizers: tuple[str, ...]) -> list[str]:
    """A file's name for each optimizer, of no more than its letters, digits and signs, and no two the same."""
    if len(optimizers) == 1:
        return ["checkpoint.safetensors"]
    names: list[str] = []
    for label in optimizers:
        slug = re.sub(r"[^a-z0-9.=+-]+", "-", label.lower())[:LONGEST_SLUG]
        spellings = (f"checkpoint-{slug}{more}.safetensors" for more in ("", *(f"-{n}" for n in range(2, 1000))))
        names.append(next(name for name in spellings if name not in names))
    return names


def _go_on(runs: list[Run], names: list[str], resume: Path) -> None:
    """Load what each run has in the folder of ``resume``; one without a checkpoint starts anew."""
    paths = [resume] if len(runs) == 1 else [resume.with_name(name) for name in names]
    if resume not in paths:
        raise InputError(
            "resume", f"must have its name of old, {' or '.join(names)}, not {resume.name}, one of several"
        )
    for run, path in zip(runs, paths, strict=True):
        if path.exists():
            run.load(path, read_extra(path))


def _notes(request: Request) -> dict[str, Any]:
    names = ("source", "target", "decimal", "epochs", "tolerance", "backend", "threads")
    lists = {name: list(getattr(request, name)) for name in ("drop", "optimizers")}
    return lists | {name: getattr(request, name) for name in names}


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
            "out", f"must be a folder, new or not, that can be written to, not {out}: {error.strerror}"
        ) from None


def _train_one(request: Request, run: Run, name: str) -> report.Result:
    path = request.out / name
    label = run.label
    with Interrupt() as interrupt, progress.watch(label, request.epochs) as watcher:
        ended = run.train(request.epochs, tolerance=request.tolerance, checkpoint=path, stop=interrupt, watcher=watcher)
    if ended == "stopped":
        raise Interrupted(label, min(run.epoch, request.epochs), path, _command(request, path))
    return report.Result(label, run, ended, name)


def _command(request: Request, checkpoint: Path) -> str:
    """What goes on from a checkpoint: it names no rule of the user's own to import, so the command does."""
    words = ["fastopt", "train", "--resume", str(checkpoint)]
    if not all(map(specs.names_built_in, request.optimizers)):
        words += [word for text in request.optimizers for word in ("--optimizer", text)]
    if request.settings.switch_to is not None and not specs.names_built_in(request.settings.switch_to):
        words += ["--switch-to", request.settings.switch_to]
    return shlex.join(words)


def _listed(optimizers: tuple[str, ...]) -> str:
    return ", ".join(optimizers)
