"""Paths over surfaces: right gradients, real optimizers, a picture."""

import numpy as np
import pytest

import fastopt
from fastopt.errors import InputError
from fastopt.landscape import chart, paths
from fastopt.landscape.surfaces import SURFACES
from fastopt.pictures import check_file


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_gradient_is_that_of_the_value(surface):
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(-1.5, 1.5, (20, 2)):
        h = 1e-6
        along_x = (surface.value(x + h, y) - surface.value(x - h, y)) / (2 * h)
        along_y = (surface.value(x, y + h) - surface.value(x, y - h)) / (2 * h)
        assert np.allclose(surface.gradient(x, y), (along_x, along_y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_marks_are_where_they_should_be(surface):
    (left, right), (bottom, top) = surface.limits
    grid = surface.value(*np.meshgrid(np.linspace(left, right, 201), np.linspace(bottom, top, 201)))
    assert surface.lowest <= grid.min() + 1e-12
    for point in (*surface.minima, *([surface.saddle] if surface.saddle else [])):
        assert np.allclose(surface.gradient(*point), 0, atol=1e-12)
        assert left < point[0] < right
        assert bottom < point[1] < top
    for minimum in surface.minima:
        assert surface.value(*map(np.array, minimum)) == surface.lowest
    assert np.hypot(*surface.gradient(*surface.start)) > 0.01


def test_walk_takes_the_optimizer_s_steps():
    surface = SURFACES[0]
    points = paths.walk(surface, fastopt.SGD(lr=0.1), 5)
    assert points.shape == (6, 2)
    assert points.dtype == np.float64
    expected = np.array(surface.start)
    for point in points:
        assert np.allclose(point, expected, rtol=1e-14)
        expected = expected - 0.1 * np.array(surface.gradient(*expected))


def test_walk_ends_where_it_diverges():
    points = paths.walk(SURFACES[1], fastopt.SGD(lr=1.0), 100)
    assert len(points) < 100
    assert np.isfinite(points).all()


def test_search_finds_a_better_rate_than_the_slowest():
    surface = SURFACES[3]
    lr, points = paths.search(surface, fastopt.Adam())
    slowest = paths.walk(surface, fastopt.Adam(lr=paths.RATES[0]), surface.steps)
    assert lr in paths.RATES
    assert surface.value(*points[-1]) < 1e-3 * surface.value(*slowest[-1])


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(paths, "RATES", (1e-3, 1e-2))


def test_a_rate_that_is_given_is_used(short):
    for found in paths.paths(["adam:lr=0.05", "sgd"]).values():
        assert found[0].lr == 0.05
        assert found[1].lr in paths.RATES


@pytest.mark.parametrize("count", [1, 8])
def test_picture(short, tmp_path, count):
    optimizers = [f"adam:lr=0.0{number}" for number in range(1, count + 1)]
    chart.draw(tmp_path / "l.png", paths.paths(optimizers))
    content = (tmp_path / "l.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 50_000


def test_too_many(short):
    with pytest.raises(InputError, match="optimizer must be given up to 8 times, not 9"):
        paths.paths([f"adam:lr=0.0{number}" for number in range(1, 10)])


@pytest.mark.parametrize("second", ["adam:lr=0.1", "Adam: lr=1e-1", "adam:lr=.1,eps=1e-8"])
def test_the_same_path_twice(short, second):
    with pytest.raises(InputError, match="optimizer must be a different one each time, not .* (twice|the same)"):
        paths.paths(["adam:lr=0.1", second])


def test_a_rate_that_is_given_and_one_that_is_searched_are_two_paths(short):
    assert [trace.optimizer for trace in paths.paths(["adam", "adam:lr=0.001"])["Beale"]] == [
        "adam",
        "adam:lr=0.001",
    ]


def test_a_rule_for_matrices_alone():
    with pytest.raises(InputError, match="optimizer must be a rule for parameters of any shape, not 'muon:lr=0.1'"):
        paths.paths(["sgd", "muon:lr=0.1"])


@pytest.mark.parametrize("name", ["picture.jpg", "nowhere/picture.png"])
def test_file_that_cannot_be(tmp_path, name):
    with pytest.raises(InputError) as caught:
        check_file(tmp_path / name)
    assert str(caught.value).startswith("out must be a ") and str(caught.value).endswith(f", not '{tmp_path / name}'")
