"""Which backends can run here, and the choice between them."""

import os
import sys
from importlib.machinery import PathFinder
from typing import Any, Literal, NamedTuple, get_args

from fastopt.backend.process import process
from fastopt.backend.program import Backend
from fastopt.errors import BackendError, did_you_mean

NAMES = ("numba", "c")
BackendChoice = Literal["auto", "numba", "c"]
CHOICES: tuple[str, ...] = get_args(BackendChoice)

#: Spans from which on numba, which makes a call for each, takes more than twice as long as C, unless they are large.
MANY_SPANS = 16


_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_FAILURE = os.path.join(_PACKAGE, "_c_failure.txt")  # written by csrc/build_backend.py
_INSTALL = "pip install --force-reinstall --no-cache-dir fastopt"


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
        raise BackendError(f"backend {name!r} is not available: {why_not(name, error)}") from error


def why_not(name: str, error: ImportError) -> str:
    """What is known of why a backend cannot be imported, and the way out."""
    if name == "numba":
        return f"{error}. Install it with: pip install numba"
    if not isinstance(error, ModuleNotFoundError):
        return f"{error}. The compiled library does not load; try: {_INSTALL}"
    if error.name != "fastopt._c":
        return f"{error}. Install it with: pip install cffi"
    if hidden := _hidden():
        return f"{error} in {_PACKAGE}, which hides {hidden}: start Python in another folder or with its option -P"
    if os.path.exists(_FAILURE):
        with open(_FAILURE, encoding="utf-8", errors="replace") as file:
            reason = file.readline().rstrip("\n")
        return f"{error}. Building it failed: {reason} ({_FAILURE} has more). With that mended: {_INSTALL}"
    return f"{error}. It has not been built for {_PACKAGE}; with a C compiler: {_INSTALL}"


def _hidden() -> str | None:
    """Where fastopt is installed with the C backend, if another folder of that name comes before it."""
    for entry in sys.path:
        folder = os.path.join(os.path.realpath(entry), "fastopt")
        installed = os.path.exists(os.path.join(folder, "__init__.py"))
        if folder != _PACKAGE and installed and PathFinder.find_spec("_c", [folder]):
            return folder
    return None


def backends() -> dict[str, Available]:
    """Which backends can be used here, with versions and reasons: ``{"numba": Available(...), "c": Available(...)}``.

    Looking takes as long as importing them.
    """
    found = {}
    for name in NAMES:
        try:
            found[name] = Available(True, *_load(name).describe())
        except (ImportError, BackendError, ValueError) as error:
            reason = why_not(name, error) if isinstance(error, ImportError) else str(error)
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
        raise ValueError(f"{source} must be one of {', '.join(CHOICES)}, not {asked!r}{did_you_mean(asked, CHOICES)}")
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
