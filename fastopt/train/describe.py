"""What `fastopt info` says: versions, backends, the choice between them, rules."""

from __future__ import annotations

from collections.abc import Iterator

import fastopt
from fastopt.backend.choice import select
from fastopt.backend.process import resolve_threads
from fastopt.train.report import versions


def lines() -> Iterator[str]:
    """The lines of `fastopt info`. Raises nothing when no backend can be used: the lines say so."""
    yield "versions"
    for name, version in versions().items():
        yield f"  {name:<14}{version}"
    yield "backends"
    for name, backend in fastopt.backends().items():
        yield f"  {name:<14}{backend.version or 'not available'}, {backend.reason}"
        for key, value in backend.details.items():
            yield f"  {'':<14}{key}: {value}"
    yield "choice"
    yield from _choice()
    yield "rules"
    for name, rule in fastopt.RULES.items():
        yield f"  {name:<14}{', '.join(f'{key}={field.default}' for key, field in rule.fields.items())}"


def _choice() -> Iterator[str]:
    try:
        (backend, reason), threads = select(), resolve_threads(None)
    except (fastopt.BackendError, ValueError) as error:
        yield f"  {'none':<14}{error}"
        return
    yield f"  {backend.name:<14}{reason}"
    yield f"  {'threads':<14}{threads}"
