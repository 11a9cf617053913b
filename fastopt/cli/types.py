"""The kinds of values that options of several commands take."""

from collections.abc import Iterable
from typing import Any

import click

MOST = 10**9  # epochs and the like: more would take longer than anybody waits
BACKENDS = click.Choice(("auto", "numba", "c"))


def is_whole(text: str) -> bool:
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


class OrNone(click.Choice):
    """One of a few words, or "none", which is None inside a tuple of one, since None is "not given"."""

    def __init__(self, words: Iterable[str]) -> None:
        super().__init__(("none", *words))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        word = super().convert(value, param, ctx)
        return (None if word == "none" else word,)


class BatchSize(click.ParamType):
    """A whole number from 1, or "full": None inside a tuple of one, as for :class:`OrNone`."""

    name = "n|full"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None]:
        if isinstance(value, tuple):
            return value
        if value == "full":
            return (None,)
        if not is_whole(value):
            self.fail(f"got {value!r}; allowed: a whole number >= 1, or full", param, ctx)
        return (int(value),)


class Widths(click.ParamType):
    """Sizes of hidden layers, separated by commas, or "none"."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [] if value == "none" else [part.strip() for part in value.split(",")]
        if not all(map(is_whole, parts)):
            self.fail(f"got {value!r}; allowed: whole numbers >= 1 with commas between, or none", param, ctx)
        return tuple(map(int, parts))
