"""``fastopt rules``: what there is, and what each rule is, as its declaration says. It needs click alone."""

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import click

import fastopt
from fastopt import specs
from fastopt.errors import InputError

WIDTH = 100


@click.command("rules")
@click.argument("name", required=False, metavar="[NAME]")
@click.pass_context
def command(context: click.Context, name: str | None) -> None:
    """List the rules, or show one: formula, paper, defaults, states, bytes, measured error, other implementations.

    \b
    Examples:
      fastopt rules
      fastopt rules adan
      fastopt rules package.module.Signum
    """
    try:
        shown = table() if name is None else sheet(type(specs.rule(name, "name")))
    except InputError as error:
        raise click.UsageError(error.named("NAME"), context) from None
    for line in shown:
        click.echo(line)


class Page(NamedTuple):
    """What the docstring of a rule says: what it is, where it is from, its formula, and the paragraphs that follow."""

    what: str
    paper: str
    formula: tuple[str, ...]
    notes: tuple[str, ...]
    elsewhere: str


def page(rule: type[fastopt.Rule]) -> Page:
    """The docstring of a rule: ``Name: what. Paper::``, an indented formula, paragraphs, ``Elsewhere: ...``.

    What is missing is empty, and all of it where Python has left docstrings out.
    """
    head, _, rest = inspect.cleandoc(rule.__doc__ or "").partition("::\n\n")
    title, _, paper = _plain(head).partition(". ")
    lines = rest.splitlines()
    end = next((number for number, line in enumerate(lines) if line[:1].strip()), len(lines))
    formula = textwrap.dedent("\n".join(lines[:end])).strip("\n").splitlines()
    paragraphs = [_plain(paragraph) for paragraph in "\n".join(lines[end:]).split("\n\n")]
    notes = tuple(each for each in paragraphs if each and not each.startswith("Elsewhere: "))
    others = [each.removeprefix("Elsewhere: ") for each in paragraphs if each.startswith("Elsewhere: ")]
    elsewhere = " ".join(each[:1].upper() + each[1:] for each in others)
    return Page(title.partition(": ")[2].rstrip("."), paper.rstrip("."), tuple(formula), notes, elsewhere)


def _plain(paragraph: str) -> str:
    """A paragraph in one line, without marks of reStructuredText."""
    return " ".join(re.sub(r":\w+:`~?\.?([^`]*)`|``(.*?)``", r"\1\2", paragraph).split())


def _bytes(form: fastopt.Rule) -> str:
    """What a step moves for each float32 parameter: parameter and states are read and written, the gradient is read.

    Where there is a stage it depends on the parameter's shape.
    """
    return str(4 * (3 + 2 * len(form.states))) if form.stage is None else "-"


def _kernel(form: fastopt.Rule) -> str:
    names = [each if isinstance(each, str) else each.__name__ for each in (form.stage, form.kernel) if each is not None]
    return " then ".join(names)


def _states(form: fastopt.Rule) -> str:
    return ", ".join(form.states) or "none"


def _changes(form: fastopt.Rule) -> str:
    """The fields by which a form differs from the rule's defaults."""
    return ", ".join(f"{name}={value}" for name, value in form if value != form.fields[name].default)


def table() -> Iterator[str]:
    """Every rule with the bytes that a step moves for each float32 parameter; its other forms are indented."""
    rows = [("rule", "bytes", "states", "what it is")]
    for name, rule in fastopt.RULES.items():
        for form in rule.forms():
            changes = _changes(form)
            first, last = (f"  {changes}", "") if changes else (name, page(rule).what)
            rows.append((first, _bytes(form), _states(form), last))
    return _aligned(rows)


def sheet(rule: type[fastopt.Rule]) -> Iterator[str]:
    """All that the declaration of a rule says."""
    what, paper, formula, notes, elsewhere = page(rule)
    yield f"{rule.__name__}: {what}" if what else rule.__name__
    if paper:
        yield from _section("paper", textwrap.wrap(paper, WIDTH))
    if formula:
        yield from _section("formula", formula)
    for note in notes:
        yield from ("", *_indented(textwrap.wrap(note, WIDTH)))
    defaults = [(name, str(field.default), str(field.domain)) for name, field in rule.fields.items()]
    yield from _section("defaults", _aligned(defaults))
    rows = [("bytes", "states", "kernel", "")]
    for form in rule.forms():
        rows.append((_bytes(form), _states(form), _kernel(form), _changes(form)))
    yield from _section("what a step moves for each float32 parameter", _aligned(rows))
    if hasattr(rule, "ulp"):
        unit = "units in the last place of the largest value that the parameter has had"
        numbers = " with the same running numbers" if rule.totals else ""
        error = f"after 100 steps in float32 at most {rule.ulp} {unit}, from the formula in float64{numbers}"
        yield from _section("measured error", textwrap.wrap(error, WIDTH))
    elif hasattr(rule, "tolerance"):
        unit = "of the largest magnitude in the parameter"
        error = f"after 30 steps in float32 at most {rule.tolerance} {unit}, from the formula in float64"
        yield from _section("measured error", textwrap.wrap(error, WIDTH))
    if elsewhere:
        yield from _section("elsewhere", textwrap.wrap(elsewhere, WIDTH))


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    return iter(("", title, *_indented(lines)))


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}".rstrip() for line in lines)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines, with columns as wide as their widest cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
