"""The look of every picture: colours that colour-blind readers can tell apart, quiet axes, text as it is written."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from fastopt.errors import InputError
from fastopt.files import replacing

# Okabe & Ito's palette without its yellow, which is too pale for thin lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
INK, FAINT = "#2b2b33", "#d9d9e0"


@contextmanager
def picture(path: str | os.PathLike) -> Iterator[Figure]:
    """A figure to draw on, which becomes the PNG ``path`` when the block ends, whole or not at all.

    No window shows it and no global list keeps it. It looks the same whatever matplotlib is set to, and no text on it
    is taken for mathematics: a file may be called ``$x_$``. Raises OSError that names ``path``.
    """
    with matplotlib.style.context({"text.parse_math": False}, after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the name of a file in any script
        figure = Figure(dpi=160, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        with replacing(path) as file:
            figure.savefig(file, format="png")


def check_file(path: Path) -> None:
    """InputError for "out" unless ``path`` can be the name of a picture."""
    if path.suffix.lower() != ".png":
        allowed = str(path.with_suffix(".png"))
        raise InputError("out", f"must be a name that ends in .png, such as {allowed!r}, not {str(path)!r}")
    if not path.parent.is_dir():
        raise InputError("out", f"must be a file in a folder that is there, not {str(path)!r}")


def plain(text: str) -> str:
    """A text as a font can show it: bytes of a file's name that are UTF-8 as such, anything unprintable as a mark."""
    with suppress(UnicodeEncodeError):
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def folded(text: str, width: int = 40) -> str:
    """A plain text in lines of up to ``width`` characters, which end at commas; what is longer is cut."""
    lines = [""]
    for part in re.findall("[^,]+,*|,+", plain(text)):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line if len(line) <= width else line[: width - 1] + "\N{HORIZONTAL ELLIPSIS}" for line in lines)


def legend_columns(labels: Sequence[str], width: float, fontsize: float) -> int:
    """In how many columns a legend of that many inches holds all labels."""
    longest = max(len(line) for label in labels for line in label.split("\n"))
    room = width / (0.6 * fontsize / 72)  # in characters
    return max(1, min(len(labels), int(room / (longest + 8))))


def line_style(number: int) -> dict:
    """Colour and dashes of line ``number``: every colour once before the dashes change."""
    dashes = DASHES[number // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": dashes}


class PlainNumbers(LogFormatter):
    """Labels such as 0.01 for the ticks of a logarithmic axis that matplotlib finds worth one."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def logarithmic(axes: Axes) -> None:
    """A logarithmic y axis."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(PlainNumbers())
    # Up to a factor of five every tick has a label: of fewer there may be none but 1 within the axis.
    axes.yaxis.set_minor_formatter(PlainNumbers(labelOnlyBase=False, minor_thresholds=(1, 0.7)))


def quiet(axes: Axes, title: str) -> None:
    """Title at the left, no box, a faint grid behind the lines."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, color=FAINT, which="both")
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
