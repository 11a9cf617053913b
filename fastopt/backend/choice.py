"""Which backends can run here, and the choice between them."""

import os
import sys
from typing import Any, NamedTuple

from fastopt.backend.process import process
from fastopt.backend.program import Backend
from fastopt.errors import BackendError, nearest

NAMES = ("numba", "c")
CHOICES = ("auto", *NAMES)

#: Spans from which on numba, which makes a call for each, takes more than twice as long as C, unless they are large.
MANY_SPANS = 16


class Available(NamedTuple):
    """Whether a backend can be used here, and why or why not."""

    available: bool
    version: str | None
    reason: str
    details: dict[str, str]

    def __bool__(self) -> bool:
        return self.available


def _load(name: str) -> Any:
    if name == "numba":
        import numba

        if numba.config.DISABLE_JIT:
            raise BackendError("backend 'numba' is not available: NUMBA_DISABLE_JIT is set")
        from fastopt.backend import numba as module
    else:
        from fastopt.backend import c as module  # type: ignore[no-redef]
    return module


def _get(name: str) -> Backend:
    try:
        return _load(name).backend()
    except ImportError as error:
        raise BackendError(f"backend {name!r} is not available: {_why_not(name, error)}") from error


def _why_not(name: str, error: Exception) -> str:
    if name == "numba":
        return f"{error}. Install it with: pip install numba"
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. There was no C compiler at installation; with one: pip install --force-reinstall fastopt"
    return f"{error}. The compiled library does not load; try: pip install --force-reinstall fastopt"


def backends() -> dict[str, Available]:
    """Which backends can be used here, with versions and reasons: ``{"numba": Available(...), "c": Available(...)}``.

    Looking takes as long as importing them.
    """
    found = {}
    for name in NAMES:
        try:
            found[name] = Available(True, *_load(name).describe())
        except (ImportError, BackendError, ValueError) as error:
            reason = _why_not(name, error) if isinstance(error, ImportError) else str(error)
            found[name] = Available(False, None, reason, {})
    return found


def select(backend: str | None = None, *, own_kernel: bool = False, spans: int = 1) -> tuple[Backend, str]:
    """The backend of that name and why it was taken.

    ``auto``, the default, is replaced by what ``FASTOPT_BACKEND`` says. A backend asked for by name is used or
    :class:`BackendError` is raised; only ``auto`` chooses. Where a rule has a kernel of its own it chooses numba.
    ``spans`` says into how many runs of memory groups cut the parameters.
    """
    source, asked = "backend", backend or "auto"
    if asked == "auto" and os.environ.get("FASTOPT_BACKEND"):
        source, asked = "FASTOPT_BACKEND", os.environ["FASTOPT_BACKEND"]
    if asked not in CHOICES:
        raise ValueError(f"{source} must be one of {', '.join(CHOICES)}, not {asked!r}; {nearest(asked, CHOICES)}")
    if asked != "auto":
        return _get(asked), f"{source} asks for it"
    if own_kernel:
        return _get("numba"), "a rule has a kernel of its own"
    problems: list[str] = []
    for name, why in _preferences(spans):
        try:
            return _get(name), problems[0] if problems else why
        except BackendError as error:
            problems.append(str(error))
    raise BackendError("fastopt has no backend to run on. " + " ".join(f"{problem}." for problem in problems))


def _preferences(spans: int) -> list[tuple[str, str]]:
    if process.forks:
        return [("c", "numba's threads do not survive a fork"), ("numba", "")]
    if "torch" in sys.modules:
        return [("c", "torch is imported, and C borrows its thread pool"), ("numba", "")]
    if spans > MANY_SPANS:
        return [("c", f"groups cut the parameters into {spans} spans, which C steps in one call"), ("numba", "")]
    return [("numba", "numba is the first choice"), ("c", "")]
