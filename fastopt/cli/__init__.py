"""The command line: a group, and one module a command. What a command needs is imported when it runs."""

try:
    import click
except ModuleNotFoundError:
    raise SystemExit("fastopt: the command line needs click: pip install 'fastopt[train]'") from None

import fastopt
from fastopt.cli import bench, info, landscape, rules, train
from fastopt.cli.errors import OneLineErrors


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


for module in (train, landscape, bench, rules, info):
    cli.add_command(module.command)


def main() -> None:
    """The console script."""
    cli(prog_name="fastopt")
