"""The kinds of values that options of several commands take."""

from collections.abc import Iterable
from typing import Any, NoReturn

import click

from fastopt.backend.choice import CHOICES
from fastopt.errors import InputError, one_of, quoted

MOST = 10**9  # epochs and the like: more would take longer than anybody waits


def is_whole(text: str) -> bool:
    """Whether a text is a whole number from 1 on, of digits alone."""
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) >= 1


class Kind(click.ParamType):
    """A kind of values whose errors name the option as the library names an argument: "--lr must be A, not B"."""

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> NoReturn:
        name = param.opts[0] if param is not None else self.name
        raise click.UsageError(InputError(name, message).named(name), ctx)


class Positive(Kind):
    """A finite number above zero."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value) if "_" not in str(value) else -1.0
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf"):
            self.fail(f"must be a finite number > 0, not {quoted(value)}", param, ctx)
        return number


class Whole(Kind, click.IntRange):
    """A whole number from ``min`` on, and up to ``max`` if there is one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return click.IntRange(self.min, self.max).convert(value, None, None)
        except click.BadParameter:
            domain = f">= {self.min}" if self.max is None else f"from {self.min} to {self.max}"
            self.fail(f"must be a whole number {domain}, not {quoted(value)}", param, ctx)


class Word(Kind, click.Choice):
    """One of a few words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices:
            self.fail(f"must be {one_of(value, self.choices)}", param, ctx)
        return value


class OrNone(Word):
    """One of a few words, or "none", which is None inside a tuple of one, since None is "not given"."""

    def __init__(self, words: Iterable[str]) -> None:
        super().__init__(("none", *words))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        word = super().convert(value, param, ctx)
        return (None if word == "none" else word,)


class BatchSize(Kind):
    """A whole number from 1, or "full": None inside a tuple of one, as for :class:`OrNone`."""

    name = "n|full"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None]:
        if isinstance(value, tuple):
            return value
        if value == "full":
            return (None,)
        if not is_whole(value):
            self.fail(f"must be a whole number >= 1, or full, not {quoted(value)}", param, ctx)
        return (int(value),)


class Widths(Kind):
    """Sizes of hidden layers, separated by commas, or "none"."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [] if value == "none" else [part.strip() for part in value.split(",")]
        if not all(map(is_whole, parts)):
            self.fail(f"must be whole numbers >= 1 with commas between, or none, not {quoted(value)}", param, ctx)
        return tuple(map(int, parts))


BACKENDS = Word(CHOICES)
