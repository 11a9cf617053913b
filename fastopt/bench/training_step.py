"""Whole training steps in PyTorch, and the optimizer's part of them: fastopt against torch's own optimizers.

``python -m fastopt.bench.training_step`` trains a two-layer net, a small transformer and an embedding-heavy model.
What forward and backward cost depends on where a model lies in memory, and differs more from copy to copy than
optimizers do. So all optimizers train the same parameters, with states of their own: every round makes some steps with
fastopt's optimizer, with torch's fused one and with torch's default one, in an order that rotates, and gives one ratio
for each of torch's, on each of some copies of the model. Medians of these ratios are printed: what disturbs the machine
for a while disturbs all of them. Last, the optimizers alone step again and again by the last gradients: then parameters
and states are in the caches as far as they fit.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastopt.torch

SUBJECT = "Whole training steps in PyTorch, and the optimizer's part of them: fastopt against torch's own optimizers."

Batch = Callable[[], tuple[Tensor, Tensor]]


class Model(NamedTuple):
    """A model with the batches that it is trained on."""

    network: nn.Module
    batch: Batch
    loss: Callable[[Tensor, Tensor], Tensor]


def two_layer_net() -> Model:
    """784 inputs, 128 hidden units, 10 classes; batches of 128."""
    network = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    return Model(network, lambda: (torch.randn(128, 784), torch.randint(10, (128,))), nn.functional.cross_entropy)


class Transformer(nn.Module):
    """An encoder of 12 layers of width 88 over 500 words: 150 tensors, one million parameters."""

    def __init__(self, words: int = 500, width: int = 88, length: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 256, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.words(words) + self.places))).transpose(1, 2)


def transformer() -> Model:
    """The transformer on batches of 8 sentences of 32 words."""
    return Model(
        Transformer(), lambda: (torch.randint(500, (8, 32)), torch.randint(500, (8, 32))), nn.functional.cross_entropy
    )


def embedding_model() -> Model:
    """An embedding of 200000 rows of width 32 under a small net: 6.4 million parameters; batches of 256 bags of 10."""
    network = nn.Sequential(nn.EmbeddingBag(200_000, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))
    return Model(network, lambda: (torch.randint(200_000, (256, 10)), torch.randn(256, 1)), nn.functional.mse_loss)


MODELS = {"two-layer net": two_layer_net, "transformer": transformer, "embedding": embedding_model}


class Trainee:
    """A model with an optimizer."""

    def __init__(self, model: Model, make: Callable[[Any], torch.optim.Optimizer]) -> None:
        self.network, self.loss = model.network, model.loss
        self.optimizer = make(self.network.parameters())

    def step(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """One training step: the seconds of all of it, and of the optimizer's step alone."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        self.loss(self.network(x), y).backward()
        middle = time.perf_counter()
        self.optimizer.step()
        end = time.perf_counter()
        return end - start, end - middle

    def step_again(self) -> float:
        """A step of the optimizer by the gradients as they are: its seconds."""
        start = time.perf_counter()
        self.optimizer.step()
        return time.perf_counter() - start


class Timing(NamedTuple):
    """Microseconds of a training step, of the optimizer's part and of the optimizer alone: medians. Then the medians of
    their ratios over fastopt's."""

    whole: float
    optimizer: float
    alone: float
    whole_ratio: float
    optimizer_ratio: float
    alone_ratio: float


def compare(build: Callable[[], Model], rule: str, rounds: int, steps: int, copies: int = 1) -> dict[str, Timing]:
    """The timings of fastopt's optimizer and of torch's two for one model. A ratio above 1: fastopt is faster.

    AssertionError if fastopt does not train the weights that torch does.
    """
    torch.manual_seed(0)
    model = build()
    torch_class = getattr(torch.optim, rule)
    makers: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        "fastopt": getattr(fastopt.torch, rule),
        "torch fused": lambda params: torch_class(params, fused=True),
        "torch default": torch_class,
    }
    check_agreement(model, makers["fastopt"], makers["torch fused"], steps=2 * steps)
    names = list(makers)
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for _ in range(copies):
        copied = _copy(model)
        trainees = {name: Trainee(copied, make) for name, make in makers.items()}
        whole: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
        for turn in range(rounds + 1):  # the first round is a warm-up
            batches = [model.batch() for _ in range(steps)]
            for name in names[turn % 3 :] + names[: turn % 3]:
                each = [trainees[name].step(*batch) for batch in batches]
                whole[name].append(tuple(map(statistics.median, zip(*each, strict=True))))
        for turn in range(1, rounds + 1):
            for name in names[turn % 3 :] + names[: turn % 3]:
                alone = statistics.median(trainees[name].step_again() for _ in range(4 * steps))
                times[name].append((*whole[name][turn], alone))
    return {name: _summary(samples, times["fastopt"]) for name, samples in times.items()}


def _copy(model: Model) -> Model:
    return model._replace(network=copy.deepcopy(model.network))


def check_agreement(model: Model, *makers: Callable[[Any], torch.optim.Optimizer], steps: int) -> None:
    """AssertionError if optimizers train copies of a model to different weights."""
    trainees = [Trainee(_copy(model), make) for make in makers]
    for batch in [model.batch() for _ in range(steps)]:
        for trainee in trainees:
            trainee.step(*batch)
    for p, q in zip(*(trainee.network.parameters() for trainee in trainees), strict=True):
        torch.testing.assert_close(p, q, rtol=0.05, atol=0.05)


def _summary(samples: Sequence[tuple[float, ...]], ours: Sequence[tuple[float, ...]]) -> Timing:
    ratios = [[time / our for time, our in zip(*pair, strict=True)] for pair in zip(samples, ours, strict=True)]
    medians = [statistics.median(column) for table in (samples, ratios) for column in zip(*table, strict=True)]
    return Timing(*(1e6 * time for time in medians[:3]), *medians[3:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table, or JSON, of the comparison."""
    parser = argparse.ArgumentParser(prog="python -m fastopt.bench.training_step", description=SUBJECT)
    parser.add_argument(
        "--rule", default="AdamW", choices=["SGD", "Adam", "AdamW", "Adagrad"], help="torch fuses these"
    )
    parser.add_argument("--model", action="append", choices=list(MODELS), help="which model; all of them by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15, help="how many ratios the medians are of, for each copy")
    parser.add_argument("--steps", type=int, default=5, help="training steps of each optimizer in a round")
    parser.add_argument("--copies", type=int, default=3, help="of the model, each at other places in memory")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found = {
        name: compare(MODELS[name], options.rule, options.rounds, options.steps, options.copies)
        for name in options.model or MODELS
    }
    if options.json:
        print(
            json.dumps(
                {model: {name: timing._asdict() for name, timing in rows.items()} for model, rows in found.items()}
            )
        )
        return 0
    print(
        f"{options.rule}, torch {torch.__version__}, {options.threads} threads, "
        f"medians of {options.rounds} rounds on each of {options.copies} copies"
    )
    for name, rows in found.items():
        network = MODELS[name]().network
        tensors = [p.numel() for p in network.parameters()]
        print(f"\n{name}: {len(tensors)} tensors, {sum(tensors)} parameters")
        print(f"{'':16}{'step, us':>12}{'ratio':>8}{'optimizer, us':>16}{'ratio':>8}{'alone, us':>12}{'ratio':>8}")
        for each, timing in rows.items():
            print(
                f"{each:16}{timing.whole:12.0f}{timing.whole_ratio:8.2f}"
                f"{timing.optimizer:16.1f}{timing.optimizer_ratio:8.2f}{timing.alone:12.1f}{timing.alone_ratio:8.2f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
