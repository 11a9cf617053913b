"""The errors that fastopt raises beyond Python's own, and the words that they share."""

from collections.abc import Iterable
from typing import Any

#: The most characters of a value that a message quotes.
QUOTED = 80


class BackendError(RuntimeError):
    """No backend can run kernels here, or the one that was asked for is missing."""


class CheckpointError(ValueError):
    """A checkpoint or state dict is damaged, or belongs to another optimizer. Nothing has been loaded."""


class NonFiniteGradientError(FloatingPointError, ValueError):
    """A gradient has an infinity or NaN, and ``nonfinite="raise"`` was asked for. Nothing has changed."""


class InputError(ValueError):
    """An argument of a command, or of what is behind it, that cannot be used.

    ``argument`` is its name with underscores ("batch_size"); ``message`` is one line that says
    what was given and what is allowed.
    """

    def __init__(self, argument: str, message: str) -> None:
        self.argument = argument
        self.message = " ".join(message.split())
        super().__init__(f"{argument}: {self.message}")


def quoted(value: Any) -> str:
    """A value as messages show it: its ``repr``, of which no more than :data:`QUOTED` characters; never an error."""
    try:
        if type(value) is int and value.bit_length() > 4 * QUOTED:  # Python refuses to write out very long ones
            return f"a whole number of {value.bit_length()} bits"
        shown = repr(value[: QUOTED + 1] if isinstance(value, (str, bytes, list, tuple)) else value)
    except Exception:  # the repr of somebody else's class, a number of too many digits, nesting that is too deep
        return f"<{type(value).__name__}>"
    return shown if len(shown) <= QUOTED else f"{shown[: QUOTED - 3]}..."


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest right one, and all that are allowed."""
    import difflib  # only when something is wrong: importing it takes a while

    names = list(allowed)
    by_fold = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(given)[:QUOTED].lower(), by_fold, n=1, cutoff=0.5)
    hint = f"did you mean {by_fold[close[0]]!r}? " if close else ""
    shown = ", ".join(repr(name) for name in names[:40]) + (", ..." if len(names) > 40 else "")
    return f"{hint}allowed: {shown or 'none'}"
