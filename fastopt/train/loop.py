"""The training loop: epochs of batches, scores after each, checkpoints that lose nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import fastopt
from fastopt import specs
from fastopt.backend.choice import BackendChoice
from fastopt.errors import InputError
from fastopt.machine import shortage
from fastopt.precision import check_master
from fastopt.storages import find
from fastopt.train.data.dataset import Dataset
from fastopt.train.network import EVALUATION_ROWS, Network
from fastopt.train.scores import scores
from fastopt.train.settings import Settings, as_text, phases, same_setting

PATIENCE = 5
SECONDS_BETWEEN_CHECKPOINTS = 2.0
SMALL_STEP = 2e9  # multiplications and additions of one step's matrix products


class Watcher(Protocol):
    """What is told of a run as it goes on."""

    def batch(self, run: Run) -> None: ...

    def epoch(self, run: Run) -> None: ...


def converged(losses: list[float], tolerance: float) -> bool:
    """Whether the best of the last five losses is less than ``tolerance`` below the best before them."""
    if len(losses) <= PATIENCE:
        return False
    return min(losses[:-PATIENCE]) - min(losses[-PATIENCE:]) < tolerance


class Run:
    """One network trained by one optimizer; it can stop after any batch and go on later.

    ``data`` is used in the dtype that the network computes in. ``history`` has one JSON-able dict for each epoch
    that is complete. ``seconds`` are those spent on "network", "optimizer" and "validation".
    ``notes`` is a JSON-able dict of the caller's that travels in the checkpoint.

    Raises InputError for settings that do not fit each other or the data, and for a backend that is
    missing.
    """

    def __init__(
        self, data: Dataset, settings: Settings, *, backend: BackendChoice = "auto", threads: int | None = None
    ) -> None:
        self.data = data.astype(settings.computes.name)
        self._fingerprint = data.fingerprint
        self.settings = settings
        check_master(settings.master, settings.dtype)
        self.rows = len(self.data.y_train)
        self.batch_size = self._check_batch_size()
        self.steps_per_epoch = math.ceil(self.rows / self.batch_size)
        self.phases = phases(settings, self.steps_per_epoch)
        sizes = (data.features, *settings.hidden, len(data.classes))
        self.memory = self._check_memory(sizes)
        self.network = Network(sizes, settings.dtype, settings.seed)
        self._backend, self._threads = backend, threads
        self._warm = False
        self._batch = np.empty((self.batch_size, data.features), settings.computes)
        self.notes: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.seconds = {"network": 0.0, "optimizer": 0.0, "validation": 0.0}
        self.epoch, self.batch, self.loss_sum = 1, 0, 0.0
        self._start_phase(0)

    @property
    def label(self) -> str:
        """The optimizer, or both, as text."""
        settings = self.settings
        return settings.optimizer if settings.switch_to is None else f"{settings.optimizer}, {settings.switch_to}"

    @property
    def steps(self) -> int:
        """Steps taken since the first epoch, by all optimizers together."""
        return (self.epoch - 1) * self.steps_per_epoch + self.batch

    def warm_up(self) -> None:
        """Take a step on a copy: compile, so that later steps are timed alone, and find what cannot work.

        Raises InputError for numbers that the rule allows and the dtype does not hold.
        """
        for phase in () if self._warm else self.phases[self._phase :]:
            params, grads = self.network.params.copy(), self.network.grads.zeros_like()
            self._step(self._optimizer(params, phase.rule), grads)
        self._warm = True

    def train(
        self,
        epochs: int,
        *,
        tolerance: float | None = None,
        checkpoint: Path | None = None,
        stop: Callable[[], bool] = lambda: False,
        watcher: Watcher | None = None,
    ) -> str:
        """Train up to and including epoch number ``epochs``.

        Ends earlier once the training loss has ``converged`` to ``tolerance``, when ``stop``, asked
        after each batch, answers True, or when the loss is no longer finite. Writes ``checkpoint``
        after an epoch, at most every two seconds, and at the end. Returns why it ended: "epochs",
        "converged", "stopped" or "diverged"; a diverged run leaves its last checkpoint as it was.
        """
        self.warm_up()
        with self._blas():
            return self._train(epochs, tolerance, checkpoint, stop, watcher)

    def _train(
        self,
        epochs: int,
        tolerance: float | None,
        checkpoint: Path | None,
        stop: Callable[[], bool],
        watcher: Watcher | None,
    ) -> str:
        saved = perf_counter()
        while not (reason := self._finished(epochs, tolerance)):
            reason = self._one_epoch(stop, watcher)
            if reason == "diverged":
                return reason
            if reason:
                break
            if watcher is not None:
                watcher.epoch(self)
            if checkpoint is not None and perf_counter() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self.save(checkpoint)
                saved = perf_counter()
        if checkpoint is not None:
            self.save(checkpoint)
        return reason

    def save(self, path: Path) -> None:
        """Write parameters, optimizer, position and history to ``path``, all or nothing."""
        extra = {
            "settings": asdict(self.settings) | {"hidden": list(self.settings.hidden)},
            "data": self._fingerprint,
            "position": {
                "epoch": self.epoch,
                "batch": self.batch,
                "loss_sum": self.loss_sum,
                "phase": self._phase,
            },
            "history": self.history,
            "seconds": self.seconds,
            "notes": self.notes,
        }
        self.optimizer.save(path, extra=extra)

    def load(self, path: Path, extra: dict[str, Any]) -> None:
        """Go on from the checkpoint ``path``, whose extra content is ``extra``, as ``read_extra`` gives it.

        Raises InputError naming the setting that differs from the checkpoint's, and
        fastopt.CheckpointError if the file is not whole; then the run stays as it was.
        """
        self._check_fit(path, extra)
        position = extra["position"]
        optimizer = self._optimizer(self.network.params, self.phases[position["phase"]].rule)
        optimizer.load(path)
        self.optimizer, self._phase = optimizer, position["phase"]
        self.epoch, self.batch, self.loss_sum = position["epoch"], position["batch"], position["loss_sum"]
        self.history, self.seconds, self.notes = extra["history"], extra["seconds"], extra["notes"]

    def _check_batch_size(self) -> int:
        size = self.rows if self.settings.batch_size is None else self.settings.batch_size
        if not 1 <= size <= self.rows:
            raise InputError("batch_size", f"must be from 1 to {self.rows}, the training rows, or full, not {size}")
        return size

    def _check_memory(self, sizes: tuple[int, ...]) -> int:
        """The bytes that a run takes. Raises InputError, before it takes them, if there are not so many."""
        parameters = sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))
        states = max(len(phase.rule.states) for phase in self.phases)
        rows = 2 * self.batch_size + EVALUATION_ROWS
        settings, computes = self.settings, self.settings.computes.name
        kept = ["split"] if settings.master == "split" else [settings.dtype, *filter(None, [settings.master])]
        kept += [settings.state_dtype or computes] * states
        kept += [computes] if settings.dtype == computes else [computes, computes]  # gradients; what is decoded
        stored = sum(find(name).nbytes(parameters) for name in kept)
        # All that is stored, once more while warming up; outputs and their gradients of a batch.
        needed = 2 * stored + rows * sum(sizes) * settings.computes.itemsize
        if short := shortage(needed):
            raise InputError("hidden", f"must be smaller layers, not {as_text(self.settings.hidden)}, which {short}")
        return needed

    def _check_fit(self, path: Path, extra: dict[str, Any]) -> None:
        theirs = Settings.from_json(extra["settings"])
        for field in fields(Settings):
            ours, other = getattr(self.settings, field.name), getattr(theirs, field.name)
            if field.name != "epochs" and not same_setting(field.name, ours, other, path):
                raise InputError(field.name, f"must be {as_text(other)}, as in {path}, not {as_text(ours)}")
        if phases(replace(self.settings, epochs=theirs.epochs), self.steps_per_epoch) != self.phases:
            allowed = f"from 1 to {theirs.epochs}, as its schedule spans"
            raise InputError("epochs", f"must be {allowed}, not {self.settings.epochs}")
        check_data(path, extra, self._fingerprint)
        self._check_position(path, extra["position"])

    def _check_position(self, path: Path, position: dict[str, Any]) -> None:
        """The phase of a saved run is that of its last batch, and its batch one of an epoch."""
        epoch, batch, phase = position["epoch"], position["batch"], position["phase"]
        last = epoch if batch else max(1, epoch - 1)
        expected = sum(each.first_epoch <= last for each in self.phases) - 1
        if batch >= self.steps_per_epoch or phase != expected:
            raise fastopt.CheckpointError(
                f"{path}: extra.position must be a batch below {self.steps_per_epoch} of phase {expected} "
                f"in epoch {epoch}, not batch {batch} of phase {phase}"
            )

    def _start_phase(self, number: int) -> None:
        master = self.optimizer.master if number else None
        self._phase = number
        self.optimizer = self._optimizer(self.network.params, self.phases[number].rule)
        if master is not None and self.optimizer.master is not None:
            for name, exact in master.items():
                self.optimizer.master[name] = exact

    def _optimizer(self, params: fastopt.FlatBuffer, rule: fastopt.Rule) -> fastopt.Optimizer:
        try:
            return fastopt.Optimizer(
                params,
                rule,
                backend=self._backend,
                threads=self._threads,
                master=self.settings.master,
                state_dtype=self.settings.state_dtype,
                rounding=self.settings.rounding,
                seed=self.settings.seed % 2**64,
            )
        except (fastopt.BackendError, ValueError) as error:
            raise specs.refused(error) from None

    def _step(self, optimizer: fastopt.Optimizer, grads: fastopt.FlatBuffer) -> None:
        try:
            optimizer.step(grads, max_norm=self.settings.max_norm)
        except ValueError as error:  # too large for the dtype, or a schedule that leaves its domain
            raise InputError("optimizer" if self.settings.schedule is None else "schedule", str(error)) from None

    def _blas(self) -> AbstractContextManager[Any]:
        """Products as small as these take longer on several threads, which also wait for the optimizer's."""
        weights = sum(layer.weight.size for layer in self.network.layers)
        small = 6 * self.batch_size * weights < SMALL_STEP
        return threadpool_limits(1, "blas") if small else nullcontext()

    def _finished(self, epochs: int, tolerance: float | None) -> str:
        if tolerance is not None and converged([entry["train_loss"] for entry in self.history], tolerance):
            return "converged"
        return "epochs" if self.epoch > epochs else ""

    def _one_epoch(self, stop: Callable[[], bool], watcher: Watcher | None) -> str:
        """Train the rest of this epoch; "" when it is complete, else why not."""
        if self._phase + 1 < len(self.phases) and self.epoch >= self.phases[self._phase + 1].first_epoch:
            self._start_phase(self._phase + 1)
        order = self.order()
        while self.batch < self.steps_per_epoch:
            if not self._one_batch(order):
                return "diverged"
            if watcher is not None:
                watcher.batch(self)
            if stop() and self.batch < self.steps_per_epoch:
                return "stopped"
        entry = self._validate()
        if not math.isfinite(entry["val_loss"]):
            return "diverged"
        self.history.append(entry)
        self._observe(entry)
        self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, 0.0
        return "stopped" if stop() else ""

    def order(self) -> np.ndarray | None:
        """The rows of this epoch in order, a function of seed and epoch alone; None for all at once."""
        if self.batch_size == self.rows:
            return None
        return np.random.default_rng([self.settings.seed, self.epoch]).permutation(self.rows)

    def _one_batch(self, order: np.ndarray | None) -> bool:
        """One step; False, and no step, if the loss is no longer finite."""
        start = perf_counter()
        x, y = self._take(order)
        loss = self.network.gradients(x, y)
        between = perf_counter()
        if not math.isfinite(loss):
            return False
        self._step(self.optimizer, self.network.grads)
        self.seconds["network"] += between - start
        self.seconds["optimizer"] += perf_counter() - between
        self.loss_sum += loss * len(y)
        self.batch += 1
        return True

    def _take(self, order: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if order is None:
            return self.data.x_train, self.data.y_train
        rows = order[self.batch * self.batch_size : (self.batch + 1) * self.batch_size]
        x = self._batch[: len(rows)]
        np.take(self.data.x_train, rows, axis=0, out=x, mode="clip")  # the default mode copies twice
        return x, self.data.y_train[rows]

    def _validate(self) -> dict[str, Any]:
        start = perf_counter()
        averaging = self.optimizer.rule.averages  # as schedule-free rules do
        with self.optimizer.averaged() if averaging else nullcontext():
            loss, predicted = self.network.evaluate(self.data.x_val, self.data.y_val)
        measured = scores(self.data.y_val, predicted, len(self.data.classes))
        self.seconds["validation"] += perf_counter() - start
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "lr": self.optimizer.rule.rate(self.optimizer.step_count),
            "train_loss": self.loss_sum / self.rows,
            "val_loss": loss,
            "val_accuracy": measured.accuracy,
            "val_precision": measured.precision,
            "val_recall": measured.recall,
        }

    def _observe(self, entry: dict[str, Any]) -> None:
        """Tell a schedule that waits for progress how the epoch ended."""
        schedule = self.optimizer.rule.lr
        if isinstance(schedule, fastopt.schedules.Plateau):
            schedule.observe(entry["val_loss"] if schedule.mode == "min" else entry["val_accuracy"])


def check_data(path: Path, extra: dict[str, Any], fingerprint: str) -> None:
    """Raises InputError for "data" unless the checkpoint ``path`` is from data with that fingerprint."""
    if extra["data"] != fingerprint:
        raise InputError("data", f"must be the samples that {path} was trained on")
