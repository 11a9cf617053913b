"""The errors that fastopt raises beyond Python's own, and the words that they share."""

from collections.abc import Iterable


class BackendError(RuntimeError):
    """No backend can run kernels here, or the one that was asked for is missing."""


class CheckpointError(ValueError):
    """A checkpoint or state dict is damaged, or belongs to another optimizer. Nothing has been loaded."""


class NonFiniteGradientError(FloatingPointError, ValueError):
    """A gradient has an infinity or NaN, and ``nonfinite="raise"`` was asked for. Nothing has changed."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest right one, and all that are allowed."""
    import difflib  # only when something is wrong: importing it takes a while

    names = list(allowed)
    by_fold = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(given).lower(), by_fold, n=1, cutoff=0.5)
    hint = f"did you mean {by_fold[close[0]]!r}? " if close else ""
    shown = ", ".join(repr(name) for name in names[:40]) + (", ..." if len(names) > 40 else "")
    return f"{hint}allowed: {shown or 'none'}"
