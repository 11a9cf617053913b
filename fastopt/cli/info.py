"""``fastopt info``: versions, backends, the choice between them, rules. It needs click alone."""

from collections.abc import Iterator

import click

import fastopt
from fastopt.backend.choice import select
from fastopt.backend.process import resolve_threads
from fastopt.machine import versions


@click.command("info")
def command() -> None:
    """Show versions, backends, the one that would run here and why, instruction set, threads and rules."""
    for line in lines():
        click.echo(line)


def lines() -> Iterator[str]:
    """The lines of `fastopt info`. Raises nothing when no backend can be used: the lines say so."""
    yield "versions"
    for name, version in ({"fastopt": fastopt.__version__} | versions()).items():
        yield f"  {name:<14}{version}"
    yield "backends"
    for name, backend in fastopt.backends().items():
        yield f"  {name:<14}{backend.version or 'not available'}, {backend.reason}"
        for key, value in backend.details.items():
            yield f"  {'':<14}{key}: {value}"
    yield "choice"
    yield from _choice()
    yield "rules"
    width = 2 + max(map(len, fastopt.RULES))
    for name, rule in fastopt.RULES.items():
        yield f"  {name:<{width}}{', '.join(f'{key}={field.default}' for key, field in rule.fields.items())}"


def _choice() -> Iterator[str]:
    try:
        backend, reason = select()
        threads = resolve_threads(None)
    except (fastopt.BackendError, ValueError) as error:
        yield f"  {'none':<14}{error}"
        return
    yield f"  {backend.name:<14}{reason}"
    yield f"  {'threads':<14}{threads}"
