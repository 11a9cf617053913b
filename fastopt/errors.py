"""The errors that fastopt raises beyond Python's own, and the words that they share."""

from collections.abc import Iterable
from typing import Any

#: The most characters of a value that a message quotes.
QUOTED = 80
#: The most names that a message lists.
LISTED = 40


class BackendError(RuntimeError):
    """No backend can run kernels here, or the one that was asked for is missing."""


class CheckpointError(ValueError):
    """A checkpoint or state dict is damaged, or belongs to another optimizer. Nothing has been loaded."""


class NonFiniteGradientError(FloatingPointError, ValueError):
    """A gradient has an infinity or NaN, and ``nonfinite="raise"`` was asked for. Nothing has changed."""


class InputError(ValueError):
    """An argument of a command, or of what is behind it, that cannot be used.

    ``argument`` is its name with underscores ("batch_size"). ``message`` is one line: of the argument itself, as "must
    be from 1 to 8, not 9", or a sentence with a subject of its own, as "a.csv, line 3 must have 2 fields, not 3".
    """

    def __init__(self, argument: str, message: str) -> None:
        self.argument = argument
        self.message = " ".join(message.split())
        super().__init__(self.named(argument))

    def named(self, name: str) -> str:
        """The line with another name of the argument: "--lr must be A, not B", or "--data: a.csv must be A, not B"."""
        return f"{name} {self.message}" if self.message.startswith("must ") else f"{name}: {self.message}"


def quoted(value: Any) -> str:
    """A value as messages show it: its ``repr``, of which no more than :data:`QUOTED` characters; never an error."""
    try:
        if type(value) is int and value.bit_length() > 4 * QUOTED:  # Python refuses to write out very long ones
            return f"a whole number of {value.bit_length()} bits"
        shown = repr(value[: QUOTED + 1] if isinstance(value, (str, bytes, list, tuple)) else value)
    except Exception:  # the repr of somebody else's class, a number of too many digits, nesting that is too deep
        return f"<{type(value).__name__}>"
    return shown if len(shown) <= QUOTED else f"{shown[: QUOTED - 3]}..."


def listed(names: Iterable[str]) -> str:
    """Names as messages show them: no more than :data:`LISTED`, or "none"."""
    every = list(names)
    return ", ".join(map(repr, every[:LISTED])) + (", ..." if len(every) > LISTED else "") or "none"


def did_you_mean(given: Any, names: Iterable[str]) -> str:
    """What follows "must be A, not B" about a name: "; did you mean C?", or nothing if none of ``names`` is near."""
    near = _near(given, names)
    return f"; did you mean {near!r}?" if near else ""


def one_of(given: Any, names: Iterable[str]) -> str:
    """What follows "must be" about a name that is none of ``names``: all of them, the name, and the nearest one."""
    every = list(names)
    return f"one of {listed(every)}, not {quoted(given)}{did_you_mean(given, every)}"


def nearest(given: Any, names: Iterable[str]) -> str:
    """What follows "no parameter B; " about a name that is none of ``names``: the nearest one, and all of them."""
    every = list(names)
    near = _near(given, every)
    hint = f"did you mean {near!r}? " if near else ""
    return f"{hint}there {'is' if len(every) == 1 else 'are'} {listed(every)}"


def _near(given: Any, names: Iterable[str]) -> str | None:
    import difflib  # only when something is wrong: importing it takes a while

    by_fold = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(given)[:QUOTED].lower(), by_fold, n=1, cutoff=0.5)
    return by_fold[close[0]] if close else None
