"""``fastopt landscape``: paths of optimizers over classic surfaces."""

from pathlib import Path
from typing import Any

import click

from fastopt.cli.errors import named_errors
from fastopt.cli.types import BACKENDS


@click.command("landscape")
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
def command(context: click.Context, optimizer: tuple[str, ...], backend: Any, out: Path) -> None:
    """Draw the paths of optimizers over a saddle, Beale's and Rosenbrock's functions and a ravine.

    \b
    Examples:
      fastopt landscape
      fastopt landscape -o sgd -o adam -o lion --out paths.png
      fastopt landscape -o adam:lr=0.1 -o adam:lr=0.1,betas=0.5/0.9
    """
    from fastopt.landscape import chart, paths
    from fastopt.pictures import check_file

    with named_errors(context):
        check_file(out)
        traces = paths.paths(optimizer or paths.DEFAULT, backend or "auto")
        chart.draw(out, traces)
    chart.show(traces)
    click.echo(str(out))
