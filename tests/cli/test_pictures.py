"""Pictures: any text as it is written, whatever matplotlib is set to, and files that are whole."""

import os
from contextlib import contextmanager

import matplotlib
import pytest

from fastopt.bench import chart
from fastopt.bench.session import Result
from fastopt.pictures import folded, legend_columns, line_style, logarithmic, picture, plain

NAMES = [
    "a$$",
    "a $x_$ b",
    "\\frac{",
    "50 % & #_^~{}",
    "\u6f22\u5b57",
    os.fsdecode(b"\xff\xfe"),
    "\ud800",
    "a\x00\x1b\nb",
    "$" * 50,
]


@pytest.mark.parametrize("name", NAMES)
def test_any_text_is_shown_as_it_is(tmp_path, name):
    with picture(tmp_path / "p.png") as figure:
        axes = figure.subplots()
        axes.plot([1, 2], [0.1, 20], label=folded(name), **line_style(0))
        axes.set_yticks([1], [folded(name)])
        axes.annotate(folded(name), (1, 1))
        axes.legend()
        figure.suptitle(folded(name))
        texts = [*axes.texts, *axes.get_yticklabels(), *axes.get_legend().get_texts()]
    assert not any(text.get_parse_math() for text in texts)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_names_of_files_are_shown_in_the_script_that_they_are_written_in():
    assert plain("a b-\u00fc\u6f22") == "a b-\u00fc\u6f22"
    assert plain("\u00fc".encode().decode("ascii", "surrogateescape")) == "\u00fc"
    assert plain(os.fsdecode(b"b\xff")) == "b\ufffd"
    assert plain("\ud800\x1b\n") == "\ufffd" * 3


def test_long_texts_are_folded_at_commas_and_cut():
    assert folded("adam:lr=1,eps=2,betas=0.9/0.99", 16) == "adam:lr=1,eps=2,\nbetas=0.9/0.99"
    assert folded("adam") == "adam"
    assert folded("") == ""
    assert folded("x" * 50, 10) == "x" * 9 + "\u2026"
    assert folded(",,a,,b") == ",,a,,b"


def test_legends_have_as_many_columns_as_fit():
    assert legend_columns(["adam", "sgd"], 13, 11) == 2
    assert legend_columns(["a" * 40] * 10, 13, 11) == 2
    assert legend_columns(["a" * 400] * 10, 13, 11) == 1


def test_settings_of_matplotlib_do_not_matter_and_stay(tmp_path):
    def draw(name):
        with picture(tmp_path / name) as figure:
            axes = figure.subplots()
            axes.plot([1, 2], [0.001, 20])
            logarithmic(axes)
            axes.set_title("a $x_$")
        return (tmp_path / name).read_bytes()

    expected = draw("a.png")
    hostile = {"text.usetex": True, "font.size": 30, "savefig.format": "pdf", "figure.dpi": 5, "axes.facecolor": "red"}
    with matplotlib.rc_context(hostile):
        assert draw("b.png") == expected
        assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["font.size"] == 30


def test_logarithmic_axes_have_plain_numbers(tmp_path):
    with picture(tmp_path / "p.png") as figure:
        for axes, values in zip(figure.subplots(1, 3), ([1e-4, 100], [0.3, 0.8], [0.65, 1.7]), strict=True):
            axes.plot([1, 2], values)
            logarithmic(axes)
        figure.canvas.draw()
        shown = [{label.get_text() for label in axes.get_yticklabels(which="both")} - {""} for axes in figure.axes]
    assert {"0.01", "1", "100"} <= shown[0]
    assert {"0.4", "0.6"} <= shown[1]
    assert {"0.7", "0.9", "1"} <= shown[2]
    assert not any("$" in text for texts in shown for text in texts)


def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), picture(path) as figure:
        figure.subplots().plot([1], [1 / 0])
    assert path.read_bytes() == b"old"
    with pytest.raises(FileNotFoundError, match="nowhere/p.png"), picture(tmp_path / "nowhere/p.png"):
        pass
    assert os.listdir(tmp_path) == ["p.png"]


@pytest.mark.parametrize("sizes", [(1000,), (1000, 30_000)])
def test_the_legend_of_a_bench_is_within_the_picture(tmp_path, monkeypatch, sizes):
    boxes = []

    @contextmanager
    def measured(path):
        with picture(path) as figure:
            yield figure
            figure.draw_without_rendering()
            boxes.append((figure.legends[0].get_window_extent(), figure.bbox))

    monkeypatch.setattr(chart, "picture", measured)
    engines = ["numba", "c", "torch-fused", "torch", "torch-compile", "deepspeed", "bitsandbytes", "optax"]
    chart.draw(
        tmp_path / "p.png",
        [
            Result("adamw", "adam", engine, size, "float32", "", 2, 1e-6, 1.0, 10.0, 1e-6, 1.0, 1.0, 1.0, 0.0)
            for engine in engines
            for size in sizes
        ],
    )
    ((legend, page),) = boxes
    assert page.x0 <= legend.x0
    assert legend.x1 <= page.x1
