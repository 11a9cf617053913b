"""``fastopt bench``: how fast steps are here, next to the limit of the memory and to other libraries."""

import json
import math
import os
from pathlib import Path
from typing import Any

import click

import fastopt
from fastopt import specs
from fastopt.backend.choice import NAMES
from fastopt.backend.process import processors, resolve_threads
from fastopt.bench import cases
from fastopt.bench.mix import Mix
from fastopt.bench.peers import PEERS
from fastopt.bench.session import TURNS
from fastopt.buffers import DTYPES
from fastopt.cli.errors import named_errors
from fastopt.cli.types import Kind, OrNone, Positive, Whole, Word
from fastopt.errors import InputError, one_of
from fastopt.machine import MEMORY_SHARE, memory, shortage
from fastopt.precision import COMPRESSED, COPIES, MASTER, ROUNDING, check_copy, check_master
from fastopt.rule import Rule

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}
LARGEST = 2**31


class Words(Kind):
    """Words, separated by commas, each of them one of a few; ``all`` stands for all of them."""

    name = "names"

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        given = [word.strip().lower() for word in value.split(",")]
        for word in given:
            if word not in self.words and word != "all":
                self.fail(f"must be {one_of(word, (*self.words, 'all'))}", param, ctx)
        return self.words if "all" in given else tuple(dict.fromkeys(given))


class RuleSpec(Kind):
    """A rule, by name and hyperparameters, or ``all``, which is one for every kernel."""

    name = "rule"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Rule, ...]:
        if isinstance(value, tuple):
            return value
        if value.lower() == "all":
            return tuple(cases.cases().values())
        try:
            return (cases.steady(specs.rule(value, "rule")),)
        except InputError as error:
            self.fail(error.message, param, ctx)


class Size(Kind):
    """A number of parameters: ``1000``, ``30k``, ``1.5M``, ``1e6``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text, unit = value.strip().lower(), 1
        if text[-1:] in UNITS:
            text, unit = text[:-1], UNITS[text[-1]]
        try:
            number = float(text) * unit
        except ValueError:
            number = float("nan")
        if math.isnan(number):
            self.fail(f"must be a whole number >= 1, such as 1000, 30k or 20M, not {value!r}", param, ctx)
        allowed = round(min(max(number, 1), LARGEST))
        if number != allowed:
            domain = f"a whole number from 1 to {LARGEST}"
            self.fail(f"must be {domain}, not {value!r}; the nearest is {allowed}", param, ctx)
        return allowed


@click.command("bench")
@click.option(
    "--rule",
    "-r",
    "rules",
    type=RuleSpec(),
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help=f"Default {', '.join(cases.DEFAULT)}. all: one for every kernel. Give it several times for several.",
)
@click.option(
    "--size",
    "-n",
    "sizes",
    type=Size(),
    multiple=True,
    metavar="PARAMETERS",
    help="Such as 1000, 30k or 20M; give it several times for several. Default 1k, 10k, 100k, 1M, 10M.",
)
@click.option("--dtype", type=Word(DTYPES), default="float32", show_default=True, help="How parameters are stored.")
@click.option("--grad-dtype", type=Word(DTYPES), help="How the gradient is stored. Default: as parameters.")
@click.option(
    "--state-dtype",
    type=OrNone(COMPRESSED),
    default="none",
    show_default=True,
    help="How states are stored; none: as they are computed.",
)
@click.option(
    "--master",
    type=OrNone(MASTER),
    default="none",
    show_default=True,
    help="What keeps parameters in 16 bits exactly: a copy in float32, or the lower halves of it.",
)
@click.option(
    "--copy",
    type=OrNone(COPIES),
    default="none",
    show_default=True,
    help="A copy of the parameters in 16 bits that each step writes.",
)
@click.option(
    "--rounding",
    type=Word(ROUNDING.words),
    default="stochastic",
    show_default=True,
    help="Of states in 16 bits, and of parameters in 16 bits without a master.",
)
@click.option("--max-norm", type=Positive(), help="Clip the gradient's norm to this in each step.")
@click.option(
    "--grad-scale", type=Positive(), default=1.0, help="Multiply the gradient by this in each step: 1 / loss scale."
)
@click.option("--threads", type=Whole(1), help="Default: every processor.")
@click.option("--backend", "backends", type=Words(NAMES), metavar="numba|c|all", help="Default: all that run here.")
@click.option(
    "--against",
    "peers",
    type=Words(tuple(PEERS)),
    metavar="NAMES",
    help=f"Other libraries that make the same step, with commas between: {', '.join(PEERS)}, or all.",
)
@click.option(
    "--turns",
    type=Whole(1),
    default=TURNS,
    show_default=True,
    help="How often each is measured, in new memory; the medians are shown.",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON to the standard output in place of the table.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("bench.png"),
    show_default=True,
    metavar="FILE.png",
    help="The picture.",
)
@click.pass_context
def command(
    context: click.Context,
    rules: tuple[tuple[Rule, ...], ...],
    sizes: tuple[int, ...],
    threads: int | None,
    backends: tuple[str, ...] | None,
    peers: tuple[str, ...] | None,
    turns: int,
    as_json: bool,
    out: Path,
    **stored: Any,
) -> int:
    """Measure steps here: time, throughput, and slowdown against what the memory allows.

    \b
    Examples:
      fastopt bench
      fastopt bench --rule all --size 20M
      fastopt bench --rule adamw --size 1k --size 1M --against torch-fused,optax
      fastopt bench --rule rmsprop:centered=true --backend c --threads 1 --json
      fastopt bench -r adamw -n 5M --state-dtype 8bit --against bitsandbytes
      fastopt bench -r adamw -n 20M --grad-dtype bfloat16 --copy bfloat16 --max-norm 1 --against torch-fused

    Engines are measured in turn, each in a process of its own. What fastopt does in one pass, others do
    as a sequence: convert the gradient, unscale it, clip it, step, copy.
    """
    from rich.console import Console

    from fastopt.bench import chart, report, session
    from fastopt.pictures import check_file

    chosen = tuple(dict.fromkeys(rule for group in rules for rule in group))
    chosen = chosen or tuple(cases.cases()[name] for name in cases.DEFAULT)
    sizes = tuple(sorted(set(sizes))) or SIZES
    with named_errors(context):
        mix = _mix(stored)
        check_file(out)
    threads = _threads(threads)
    engines = _backends(backends)
    missing = [name for name in peers or () if PEERS[name].missing()]
    engines += [name for name in peers or () if name not in missing]
    _check_memory(session.memory_needed(chosen, max(sizes), mix, engines), max(sizes))
    progress = _progress(len(chosen) * len(sizes))
    try:
        with progress:
            task = progress.task_ids[0]
            results, refusals = session.run(
                chosen,
                sizes,
                mix,
                threads,
                engines,
                lambda what: progress.update(task, advance=1, description=what),
                turns,
            )
    except session.Failure as failure:
        raise click.ClickException(str(failure)) from None
    if results:
        chart.draw(out, results)
    if as_json:
        settings = {"sizes": list(sizes), "threads": threads, "engines": engines, "turns": turns} | mix._asdict()
        click.echo(json.dumps(report.as_json(results, refusals, missing, settings), indent=2))
    else:
        report.show(Console(width=None if os.isatty(1) else 120), results, refusals, missing)
        if results:
            click.echo(str(out))
    return 0 if results else 1


def _mix(stored: dict[str, Any]) -> Mix:
    for name in ("state_dtype", "master", "copy"):  # None is one of their values
        (stored[name],) = stored[name]
    mix = Mix(**stored | {"grad_dtype": stored["grad_dtype"] or stored["dtype"]})
    check_master(mix.master, mix.dtype)
    check_copy(mix.copy, mix.dtype)
    return mix


def _threads(threads: int | None) -> int:
    source = "FASTOPT_NUM_THREADS" if threads is None else "--threads"
    try:
        found = resolve_threads(threads)
    except ValueError as error:  # the variable is no number: the message names it
        raise click.UsageError(str(error)) from None
    if found > processors():
        raise click.UsageError(f"{source} must be up to {processors()}, one per processor, not {found}")
    return found


def _backends(names: tuple[str, ...] | None) -> list[str]:
    """The backends to measure: those that were asked for, or all that run here."""
    available = fastopt.backends()
    for name in names or ():
        if not available[name]:
            raise click.UsageError(f"--backend: {available[name].reason}")
    found = [name for name in names or NAMES if available[name]]
    if not found:
        raise click.UsageError(f"--backend: {' '.join(each.reason for each in available.values())}")
    return found


def _check_memory(needed: int, size: int) -> None:
    if short := shortage(needed):
        allowed = int(size * MEMORY_SHARE * (memory() or 0) / needed)
        raise click.UsageError(f"--size must be up to {allowed}, not {size}, which {short}")


def _progress(total: int) -> Any:
    """A bar on the standard error, which goes when it is done; none if that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    progress.add_task("starting", total=total, completed=-1)
    return progress
