"""The command line: ``fastopt train``, ``fastopt landscape``, ``fastopt bench``, ``fastopt info``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastopt

try:
    import click
except ModuleNotFoundError:
    raise SystemExit("fastopt: the command line needs click: pip install 'fastopt[train]'") from None

from fastopt.bench.command import bench

EXTRA = {
    "rich": "rich",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "threadpoolctl": "threadpoolctl",
}
MOST = 10**9  # epochs and the like: more would take longer than anybody waits
BACKENDS = click.Choice(("auto", "numba", "c"))


class OneLineErrors(click.Group):
    """Says what is wrong in one line: exit code 2 for wrong input, 130 after Ctrl-C, 1 for the rest."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        os.environ.pop("MPLBACKEND", None)  # a notebook's, which may not be there: only files are written
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # names of files may be of any bytes
        try:
            code = super().main(*args, **kwargs)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            _fail(context.command_path if context else self.name, error.format_message(), error.exit_code)
        except click.Abort:
            _fail(self.name, "interrupted", 130)
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in EXTRA:
                raise
            _fail(self.name, f"this needs {EXTRA[module]}: pip install 'fastopt[train]'", 1)
        except OSError as error:
            _fail(self.name, str(error), 1)
        except MemoryError as error:
            _fail(self.name, f"not enough memory: {error}" if str(error) else "not enough memory", 1)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(command: str | None, message: str, code: int) -> None:
    click.echo(f"{command}: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _is_whole(text: str) -> bool:
    """Whether a text is a whole number from 1 on, of digits alone."""
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) >= 1


class Positive(click.ParamType):
    """A finite number above zero."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value) if "_" not in str(value) else -1.0
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf"):
            self.fail(f"got {value!r}; allowed: a finite number > 0", param, ctx)
        return number


class BatchSize(click.ParamType):
    """A whole number from 1, or "full", which is None inside a tuple of one, since None is "not given"."""

    name = "n|full"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None]:
        if isinstance(value, tuple):
            return value
        if value == "full":
            return (None,)
        if not _is_whole(value):
            self.fail(f"got {value!r}; allowed: a whole number >= 1, or full", param, ctx)
        return (int(value),)


class Widths(click.ParamType):
    """Sizes of hidden layers, separated by commas, or "none"."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [] if value == "none" else [part.strip() for part in value.split(",")]
        if not all(map(_is_whole, parts)):
            self.fail(f"got {value!r}; allowed: whole numbers >= 1 with commas between, or none", param, ctx)
        return tuple(map(int, parts))


@contextmanager
def _named_errors(context: click.Context) -> Iterator[None]:
    """Errors of the library as those of the option that caused them."""
    from fastopt.errors import InputError

    try:
        yield
    except InputError as error:
        option = error.argument.replace("_", "-")
        raise click.UsageError(f"--{option}: {error.message}", context) from None
    except fastopt.CheckpointError as error:
        raise click.UsageError(f"--resume: {error}", context) from None


@click.group(
    "fastopt",
    cls=OneLineErrors,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(fastopt.__version__, prog_name="fastopt")
@click.pass_context
def cli(context: click.Context) -> None:
    """Neural-network optimizers for the CPU: train with them, see them, find out what runs here."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command()
@click.option(
    "--data",
    help="digits (default), breast-cancer, binary, or a path: FILE.csv with --target, FILE.npz "
    "(x and y, or x_train, y_train, x_test, y_test), or a folder of MNIST's IDX files.",
)
@click.option("--target", metavar="COLUMN", help="The column of a CSV file to predict.")
@click.option(
    "--decimal",
    type=click.Choice((".", ",")),
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
@click.option("--epochs", type=click.IntRange(1, MOST), help="Passes over the data (default 30).")
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
@click.option("--switch-at", type=click.IntRange(1, MOST), metavar="EPOCH", help="The last epoch of --optimizer.")
@click.option("--max-norm", type=Positive(), help="Clip the gradient's norm to this.")
@click.option("--hidden", type=Widths(), help="Sizes of the hidden layers, such as 128,64 (default), or none.")
@click.option("--dtype", type=click.Choice(("float32", "float64")), help="Default float32.")
@click.option("--seed", type=click.IntRange(min=0), help="Decides first weights and order of samples (default 0).")
@click.option("--backend", type=BACKENDS, help="What runs the optimizer (default auto). The results are the same.")
@click.option("--threads", type=click.IntRange(1, MOST), help="Threads of the optimizer.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Default runs/<data>.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Go on from a checkpoint. Its arguments count; give --epochs to go further.",
)
@click.pass_context
def train(context: click.Context, resume: Path | None, batch_size: tuple[int | None] | None, **options: Any) -> int:
    """Train a small ReLU network on the CPU and leave curves, metrics and a checkpoint.

    \b
    Examples:
      fastopt train
      fastopt train -o adam -o sgd:lr=0.1 -o lion:lr=0.0003 --epochs 50
      fastopt train --data table.csv --target label --schedule cosine:warmup=100
      fastopt train --data mnist/ --switch-to sgd:lr=0.05 --switch-at 10
      fastopt train --data binary --batch-size full --until-converged 0.001
      fastopt train --resume runs/digits/checkpoint.safetensors --epochs 60

    The same seed gives the same bits, whichever backend runs them, in one go or resumed.
    """
    from fastopt.train import report, session

    multiple = ("optimizer", "drop")  # these are empty if they are not given, but --hidden none is empty, too
    values = {name: value for name, value in options.items() if (value if name in multiple else value is not None)}
    if batch_size is not None:
        values["batch_size"] = batch_size[0]
    with _named_errors(context):
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


@cli.command()
@click.option(
    "--optimizer",
    "-o",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Up to eight. Without lr=... the best rate is searched for on each surface.",
)
@click.option("--backend", type=BACKENDS, help="What runs the optimizers (default auto).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("landscape.png"),
    show_default=True,
    metavar="FILE.png",
    help="The picture.",
)
@click.pass_context
def landscape(context: click.Context, optimizer: tuple[str, ...], backend: Any, out: Path) -> None:
    """Draw the paths of optimizers over a saddle, Beale's and Rosenbrock's functions and a ravine.

    \b
    Examples:
      fastopt landscape
      fastopt landscape -o sgd -o adam -o lion --out paths.png
      fastopt landscape -o adam:lr=0.1 -o adam:lr=0.1,betas=0.5/0.9
    """
    from fastopt.train import landscape as drawing

    with _named_errors(context):
        drawing.check_file(out)
        traces = drawing.paths(optimizer or drawing.DEFAULT, backend or "auto")
        drawing.draw(out, traces)
    drawing.show(traces)
    click.echo(str(out))


@cli.command()
def info() -> None:
    """Show versions, backends, the one that would run here and why, instruction set, threads and rules."""
    from fastopt.train import describe

    for line in describe.lines():
        click.echo(line)


cli.add_command(bench)


def main() -> None:
    """The console script."""
    cli(prog_name="fastopt")
