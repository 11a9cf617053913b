"""``fastopt train``: a small network, its curves, metrics and checkpoint."""

from pathlib import Path
from typing import Any

import click

from fastopt.buffers import DTYPES
from fastopt.cli.errors import named_errors
from fastopt.cli.types import BACKENDS, MOST, BatchSize, OrNone, Positive, Whole, Widths, Word
from fastopt.precision import COMPRESSED, MASTER, ROUNDING


@click.command("train")
@click.option(
    "--data",
    help="digits (default), breast-cancer, binary, or a path: FILE.csv with --target, FILE.npz "
    "(x and y, or x_train, y_train, x_test, y_test), or a folder of MNIST's IDX files.",
)
@click.option("--target", metavar="COLUMN", help="The column of a CSV file to predict.")
@click.option(
    "--decimal",
    type=Word((".", ",")),
    help="The decimal separator in a CSV file (default: a point).",
)
@click.option(
    "--drop", multiple=True, metavar="COLUMN", help="A column of a CSV file to leave out; give it again for more."
)
@click.option(
    "--optimizer",
    "-o",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Default adam. Tuples have slashes: adam:lr=0.01,betas=0.9/0.99. Give it several times to compare.",
)
@click.option(
    "--batch-size",
    type=BatchSize(),
    help="Samples in a step: a number (default 32), full for batch "
    "gradient descent, 1 for stochastic gradient descent.",
)
@click.option("--epochs", type=Whole(1, MOST), help="Passes over the data (default 30).")
@click.option(
    "--until-converged",
    type=Positive(),
    metavar="TOL",
    help="Stop when the best training loss of the last 5 epochs is less than TOL below the best "
    "before them, at the latest after --epochs (then 1000 by default).",
)
@click.option(
    "--schedule",
    metavar="NAME[:KEY=VALUE,...]",
    help="How lr changes: cosine, linear, onecycle, step, "
    "exponential, plateau; spans all steps unless told otherwise. --switch-at gives each part its own.",
)
@click.option("--switch-to", metavar="NAME[:KEY=VALUE,...]", help="The optimizer that goes on after --switch-at.")
@click.option("--switch-at", type=Whole(1, MOST), metavar="EPOCH", help="The last epoch of --optimizer.")
@click.option("--max-norm", type=Positive(), help="Clip the gradient's norm to this.")
@click.option("--hidden", type=Widths(), help="Sizes of the hidden layers, such as 128,64 (default), or none.")
@click.option(
    "--dtype",
    type=Word(DTYPES),
    help="How parameters are stored (default float32). With those in 16 bits the network computes in float32.",
)
@click.option(
    "--master",
    type=OrNone(MASTER),
    help="What keeps parameters in 16 bits exactly, so that small steps are not lost: float32, a copy of them, or "
    "split, the lower halves of float32 numbers, for bfloat16 alone (default none).",
)
@click.option(
    "--state-dtype",
    type=OrNone(COMPRESSED),
    help="How the optimizer's states are stored (default none: as they are computed). 8bit is for weights of 4096 "
    "elements and more; states of smaller ones stay as they are. float16 is for momentum: in it the squares of small "
    "gradients vanish, and Adam diverges.",
)
@click.option(
    "--rounding",
    type=Word(ROUNDING.words),
    help="Of states in 16 bits, and of parameters in 16 bits without a master (default stochastic).",
)
@click.option(
    "--seed",
    type=Whole(0),
    help="Decides first weights, order of samples and stochastic rounding (default 0).",
)
@click.option("--backend", type=BACKENDS, help="What runs the optimizer (default auto). The results are the same.")
@click.option("--threads", type=Whole(1, MOST), help="Threads of the optimizer.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Default runs/<data>.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Go on from a checkpoint. Its arguments count; give --epochs to go further.",
)
@click.pass_context
def command(context: click.Context, resume: Path | None, **options: Any) -> int:
    """Train a small ReLU network on the CPU and leave curves, metrics and a checkpoint.

    \b
    Examples:
      fastopt train
      fastopt train -o adam -o sgd:lr=0.1 -o lion:lr=0.0003 --epochs 50
      fastopt train --data table.csv --target label --schedule cosine:warmup=100
      fastopt train --data mnist/ --switch-to sgd:lr=0.05 --switch-at 10
      fastopt train --data binary --batch-size full --until-converged 0.001
      fastopt train --dtype bfloat16 --master split --state-dtype 8bit
      fastopt train --resume runs/digits/checkpoint.safetensors --epochs 60

    The same seed gives the same bits, whichever backend runs them, in one go or resumed.
    """
    from fastopt.train import report, session

    multiple = ("optimizer", "drop")  # these are empty if they are not given, but --hidden none is empty, too
    values = {name: value for name, value in options.items() if (value if name in multiple else value is not None)}
    for name in ("batch_size", "master", "state_dtype"):  # None is one of their values
        if name in values:
            (values[name],) = values[name]
    with named_errors(context):
        if resume is None:
            request, data = session.new_request(values)
        else:
            request, data = session.resumed_request(resume, values)
        if data.remark:
            click.echo(data.remark, err=True)
        try:
            results = session.train(request, data, resume)
        except session.Interrupted as stop:
            click.echo(
                f"interrupted in epoch {stop.epoch} of {stop.label}; go on with: {stop.command}",
                err=True,
            )
            return 130
    click.echo(report.headline(results))
    report.show(results)
    names = ["curves.png", "metrics.json", *(result.checkpoint for result in results)]
    click.echo(f"{request.out}: {', '.join(name for name in names if (request.out / name).exists())}")
    return _diverged(results)


def _diverged(results: list[Any]) -> int:
    """1, and a word about it, if no run kept a finite loss."""
    if any(result.ended != "diverged" for result in results):
        return 0
    click.echo("fastopt train: the loss is no longer finite; a smaller lr or --max-norm may help", err=True)
    return 1
