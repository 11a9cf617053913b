"""Flat buffers: layout, alignment, views, copies and what is refused."""

import copy
import pickle

import numpy as np
import pytest
from harness import SHAPES, random_buffer

from fastopt import FlatBuffer
from fastopt.buffers import ALIGNMENT


def assert_attached(buffer: FlatBuffer) -> None:
    """Views and flat array are the same memory, in order and without gaps."""
    place = 0
    for name, shape in buffer.layout.shapes.items():
        view = buffer[name]
        assert view.shape == shape and view.dtype == buffer.dtype and view.flags.c_contiguous
        if view.size:
            assert view.ctypes.data == buffer.flat.ctypes.data + place * buffer.flat.itemsize
            assert np.shares_memory(view, buffer.flat)
        place += view.size
    assert place == buffer.size == buffer.flat.size
    buffer.flat[:] = np.arange(buffer.size)
    if buffer.size:
        last = [name for name in buffer if buffer[name].size][-1]
        assert buffer[last].reshape(-1)[-1] == buffer.size - 1


def test_parameters_lie_in_order_without_gaps(dtype):
    arrays = {name: np.random.default_rng(0).standard_normal(shape) for name, shape in SHAPES.items()}
    buffer = FlatBuffer(arrays, dtype=dtype)
    assert buffer.flat.ndim == 1 and buffer.dtype == dtype
    np.testing.assert_array_equal(buffer.flat, np.concatenate([a.astype(dtype).ravel() for a in arrays.values()]))
    assert list(buffer) == list(SHAPES) and len(buffer) == len(SHAPES)
    assert_attached(buffer)


def test_the_first_element_starts_a_cache_line(dtype):
    keep = [random_buffer(size, dtype, {"w": (size,)}) for size in range(1, 200)]  # so that addresses differ
    assert {buffer.flat.ctypes.data % ALIGNMENT for buffer in keep} == {0} and ALIGNMENT == 64


def test_arrays_are_copied_once():
    array = np.ones(4, np.float32)
    buffer = FlatBuffer({"w": array})
    buffer["w"] += 1
    assert array.tolist() == [1, 1, 1, 1] and buffer.flat.tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("order", ["C", "F"])
def test_any_memory_order_is_stored_by_rows(order):
    array = np.asarray(np.arange(6.0).reshape(2, 3), order=order)
    assert FlatBuffer({"w": array, "t": array.T[::-1]}).flat.tolist() == [0, 1, 2, 3, 4, 5, 2, 5, 1, 4, 0, 3]


def test_assignment_writes_into_the_memory():
    buffer = random_buffer(1, "float32")
    weight = buffer["first.weight"]
    buffer["first.weight"] = 2.5
    assert (weight == 2.5).all() and buffer["first.weight"] is weight
    buffer["first.weight"] -= 1
    buffer["first.weight"][0, 0] = 7
    buffer["scale"] += 3
    assert buffer.flat[0] == 7 and buffer.flat[1] == 1.5
    assert_attached(buffer)


def test_assignment_of_another_shape_is_refused():
    buffer = random_buffer(1, "float32")
    before = buffer.flat.tobytes()
    with pytest.raises(ValueError, match="^first.bias: .*broadcast"):
        buffer["first.bias"] = np.ones(4)
    assert buffer.flat.tobytes() == before


def test_unknown_names_give_the_nearest():
    buffer = random_buffer(1, "float32")
    with pytest.raises(
        KeyError, match=r"no parameter 'first.wieght'; did you mean 'first.weight'\? there are 'first.weight'"
    ):
        buffer["first.wieght"]
    with pytest.raises(KeyError, match=r"did you mean 'scale'"):
        buffer["Scale"] = 1.0
    assert "scale" in buffer and "Scale" not in buffer


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        FlatBuffer.copy,
        *(lambda b, p=p: pickle.loads(pickle.dumps(b, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
    ],
    ids=["copy", "deepcopy", "method", *(f"pickle{p}" for p in range(pickle.HIGHEST_PROTOCOL + 1))],
)
def test_copies_have_values_and_memory_of_their_own(duplicate, dtype):
    buffer = random_buffer(2, dtype)
    made = duplicate(buffer)
    assert type(made) is FlatBuffer and made.layout == buffer.layout and made.dtype == buffer.dtype
    assert made.flat.tobytes() == buffer.flat.tobytes() and not np.shares_memory(made.flat, buffer.flat)
    assert made.flat.ctypes.data % ALIGNMENT == 0
    assert_attached(made)


def test_copies_of_a_holder_stay_attached():
    buffer = random_buffer(2, "float32")
    made = copy.deepcopy({"model": buffer})["model"]
    made["scale"] += 1
    assert made.flat[24] == buffer.flat[24] + 1


def test_views_that_are_copied_along_stay_attached():
    buffer = random_buffer(2, "float32")
    made = copy.deepcopy({"params": buffer, "scale": buffer["scale"], "all": buffer.flat})
    made["scale"][...] = 7
    assert made["params"]["scale"] == 7 and made["all"] is made["params"].flat and buffer["scale"] != 7
    assert made["scale"] is made["params"]["scale"]
    assert_attached(made["params"])


def test_zeros_like_shares_the_layout(dtype):
    buffer = random_buffer(3, dtype)
    zeros = buffer.zeros_like()
    assert zeros.layout is buffer.layout and zeros.dtype == dtype and not zeros.flat.any()
    assert_attached(zeros)


@pytest.mark.parametrize("arrays", [{}, {"w": np.zeros((0, 3))}], ids=["no parameters", "no elements"])
def test_empty_buffers(arrays, dtype):
    buffer = FlatBuffer(arrays, dtype=dtype)
    assert buffer.size == 0 and buffer.flat.shape == (0,)
    assert_attached(pickle.loads(pickle.dumps(buffer)))


def test_buffers_are_compared_by_identity():
    buffer = random_buffer(4, "float32")
    assert buffer == buffer and buffer != buffer.copy() and len({buffer, buffer.copy()}) == 2


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "longdouble", ">f4", ">f8"])
def test_every_float_converts_to_the_dtype_asked_for(kind, dtype):
    array = np.array([1.5, -0.25, 1024], kind)
    assert FlatBuffer({"w": array}, dtype=dtype).flat.tolist() == [1.5, -0.25, 1024]


def test_the_dtype_is_that_of_the_arrays():
    assert FlatBuffer({"w": np.ones(2, np.float32), "b": np.ones(1, np.float32)}).dtype == np.float32
    assert FlatBuffer({"w": [1.0, 2.0]}).dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"w": np.ones(1, np.float32), "b": np.ones(1)}, "dtype must be given: the arrays have float32 and float64"),
        ({}, "dtype must be given: the arrays have no dtype"),
        (
            {"w": np.ones(1, ">f4")},
            r"dtype must be float32, float64, .* in native byte order, not >f4",
        ),
        ({"w": np.ones(2, np.int32)}, r"arrays\['w'\] must hold floating-point numbers, not int32"),
        ({"w": [1, 2]}, r"arrays\['w'\] must hold floating-point numbers, not int64"),
        ({"w": 1}, r"arrays\['w'\] must hold floating-point numbers, not int64"),
        ({"w": [True]}, r"arrays\['w'\] must hold floating-point numbers, not bool"),
        ({"w": [1j]}, r"arrays\['w'\] must hold floating-point numbers, not complex128"),
        ({"w": "weights"}, r"arrays\['w'\] must hold floating-point numbers, not <U7"),
        ({"w": [object()]}, r"arrays\['w'\] must hold floating-point numbers, not object"),
        ({1: np.ones(2)}, r"arrays: names must be strings, not 1 \(int\)"),
        ([np.ones(2)], "arrays must be a mapping of names to arrays, not list"),
        ({"w": np.ma.array([1.0, 2.0], mask=[0, 1])}, r"arrays\['w'\] must be a plain array, not a masked one: fill"),
        ({"w": np.ma.array([1.0, 2.0])}, r"arrays\['w'\] must be a plain array, not a masked one"),
        ({"w": np.array([1], "m8[s]")}, r"arrays\['w'\] must hold floating-point numbers, not timedelta64\[s\]"),
        ({10**5000: np.ones(2)}, r"arrays: names must be strings, not a whole number of 16610 bits \(int\)"),
    ],
)
def test_refused_arrays(arrays, message):
    with pytest.raises(TypeError, match=message):
        FlatBuffer(arrays)


@pytest.mark.parametrize("given", ["float8", "int32", "complex64", "longdouble", ">f4", "bfloat", "f4,f4", object(), 5])
def test_refused_dtypes(given):
    with pytest.raises(TypeError, match="^dtype must be float32, float64, bfloat16 or float16"):
        FlatBuffer({"w": np.ones(2)}, dtype=given)


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="a name must not be empty"):
        FlatBuffer({"": np.ones(2)})


@pytest.mark.parametrize("name", ["\ud800", "w\udfff.bias", "\udc80" * 200])
def test_a_name_that_utf8_cannot_hold_is_refused(name):
    """No file could hold it. Those that a system makes of other bytes in file names are among them."""
    with pytest.raises(ValueError, match="^arrays: names must be text that UTF-8 can hold, not '") as caught:
        FlatBuffer({name: np.ones(2)})
    assert len(str(caught.value)) < 200


def test_a_ragged_list_is_refused_by_name():
    for given in ([[1.0], [2.0, 3.0]], [1.0, [2.0]], [[1.0]] * 1000 + [1.0]):
        with pytest.raises(ValueError, match=r"^arrays\['w'\] must be an array, not \[.*inhomogeneous") as caught:
            FlatBuffer({"b": [1.0], "w": given})
        assert len(str(caught.value)) < 400
        buffer = random_buffer(1, "float32")
        before = buffer.flat.tobytes()
        with pytest.raises(ValueError, match=r"^first.bias must be an array, not \[.*inhomogeneous"):
            buffer["first.bias"] = given
        assert buffer.flat.tobytes() == before


def test_a_masked_array_is_not_assigned_either():
    buffer = random_buffer(1, "float32")
    with pytest.raises(TypeError, match="^first.bias must be a plain array, not a masked one"):
        buffer["first.bias"] = np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])
