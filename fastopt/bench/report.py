"""What the bench found: as a table, and as JSON."""

import platform
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

import fastopt
from fastopt.backend.choice import NAMES
from fastopt.backend.process import processors
from fastopt.bench.peers import PEERS
from fastopt.bench.session import ISOLATION, Refusal, Result
from fastopt.machine import caches, package_version, processor

FORMAT = 1
UNSTEADY = 1.25  # spread from which on a time is marked


def machine() -> dict[str, Any]:
    """The processor, its caches and the versions that the figures belong to."""
    packages = {module for peer in PEERS.values() for module in peer.modules} | {"numba", "llvmlite"}
    return {
        "processor": processor(),
        "processors": processors(),
        "caches": caches(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "fastopt": fastopt.__version__,
        "backends": {name: dict(found.details) for name, found in fastopt.backends().items() if found},
        "versions": {name: found for name in sorted(packages) if (found := package_version(name))},
    }


def as_json(
    results: Sequence[Result], refusals: Sequence[Refusal], missing: Sequence[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything that the run found."""
    return {
        "format": FORMAT,
        "machine": machine(),
        "settings": settings,
        "isolation": ISOLATION,
        "results": [result._asdict() for result in results],
        "refused": [refusal._asdict() for refusal in refusals],
        "missing": [{"peer": name, "install": PEERS[name].install} for name in missing],
    }


def show(console: Console, results: Sequence[Result], refusals: Sequence[Refusal], missing: Sequence[str]) -> None:
    """Prints the table and what belongs below it."""
    peers = any(result.engine not in NAMES for result in results)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("rule", "size", "engine", "time", "ns", "GB/s", "slowdown", *(["over fastopt"] if peers else [])):
        table.add_column(name, justify="left" if name in ("rule", "engine") else "right", no_wrap=True)
    previous = None
    for result in results:
        case = result.rule, result.size
        if previous and case != previous and (peers or case[0] != previous[0]):
            table.add_row()
        style = "" if result.engine in NAMES else "dim"
        cells = [
            result.rule if not previous or case[0] != previous[0] else "",
            human_size(result.size) if case != previous else "",
            result.engine,
            ("~ " if result.spread > UNSTEADY else "") + human_time(result.seconds),
            f"{result.nanoseconds_per_element:.3g}",
            f"{result.gigabytes_per_second:.1f}",
            "" if result.slowdown is None else f"{result.slowdown:.2f}",
        ]
        if peers:
            cells.append("" if result.ratio is None else f"{result.ratio:.2f} x")
        table.add_row(*cells, style=style)
        previous = case
    console.print(table)
    console.print()
    for line in notes(results, refusals, missing):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def notes(results: Sequence[Result], refusals: Sequence[Refusal], missing: Sequence[str]) -> Iterable[str]:
    """What the table cannot say."""
    if results:
        first = results[0]
        threads = f"{first.threads} thread" + "s" * (first.threads > 1)
        yield f"{processor()}, {threads}, {first.mix}."
    yield (
        "ns: nanoseconds an element. Slowdown: time over that of a loop that moves as many bytes and computes nothing. "
        "In a cache it shows arithmetic and the fixed cost of a step; in memory 1.00 is the floor."
    )
    if any(result.spread > UNSTEADY for result in results):
        yield f"~: the middle half of the turns differ by more than a factor of {UNSTEADY}: the machine had other work."
    yield ISOLATION
    if any(result.engine not in NAMES for result in results):
        worst = max(result.difference_ulp or 0.0 for result in results)
        yield (
            f"Every engine's parameters were compared with the formula in float64 after five steps: they differ by at "
            f"most {worst:.1f} ulp, which is no more than their storages round."
        )
    for refusal in refusals:
        yield f"Not measured: {refusal.rule} by {refusal.engine}: {refusal.reason}."
    for name in missing:
        yield f"Not installed: {name}. Install it with: {PEERS[name].install}"


def human_size(size: int) -> str:
    """A number of parameters in few letters: ``30k``, ``1.5M``."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if size >= unit and size % (unit // 1000) == 0:
            return f"{size / unit:g}{letter}"
    return str(size)


def human_time(seconds: float) -> str:
    """A time with three digits and its unit."""
    unit, name = (1.0, "s ") if seconds >= 1 else (1e-3, "ms") if seconds >= 1e-3 else (1e-6, "us")
    return f"{seconds / unit:#.3g}".rstrip(".") + f" {name}"
