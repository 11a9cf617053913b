"""Bad input: an error that names the argument, and nothing changed. Checkpoints have tests of their own."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from conftest import BACKENDS
from harness import SHAPES, random_buffer, snapshot

from fastopt import (
    RULES,
    SGD,
    Adam,
    AdamW,
    BackendError,
    FlatBuffer,
    Momentum,
    NAdam,
    Optimizer,
    Prodigy,
    Rprop,
    SophiaG,
    StableAdamW,
)

SIZE = random_buffer(0, "float32").size


@pytest.fixture
def optimizer(backend):
    made = Optimizer(
        random_buffer(0, "float32"),
        {"first.*": AdamW(), "*": Momentum(lr=0.1)},
        backend=backend,
        ema_decay=0.9,
        accumulate=2,
    )
    for seed in range(3):
        made.step(random_buffer(seed, "float32"))
    return made


def refuses(optimizer: Optimizer, error: type[Exception], message: str, grads, **options) -> None:
    """Twice: the first refusal may not let the second pass. Then a good step works as if nothing had been tried."""
    before = snapshot(optimizer)
    for _ in range(2):
        with pytest.raises(error, match=message):
            optimizer.step(grads, **options)
        assert snapshot(optimizer) == before


# Parameters


def unaligned(size: int) -> np.ndarray:
    return np.zeros(4 * size + 1, np.uint8)[1:].view(np.float32)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def read_only_buffer() -> FlatBuffer:
    buffer = random_buffer(0, "float32")
    buffer.flat.flags.writeable = False
    return buffer


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (
            np.ones(5, np.int64),
            TypeError,
            "params: its dtype must be float32, float64, bfloat16 or float16 in native .*, not <i8",
        ),
        (np.ones(5, bool), TypeError, "params: its dtype must be"),
        (np.ones(5, np.complex64), TypeError, "params: its dtype must be"),
        (np.ones(5, np.longdouble), TypeError, "params: its dtype must be"),
        (
            np.ones(5, ">f4"),
            TypeError,
            "params: its dtype must be float32, float64, bfloat16 or float16 in native .*, not >f4",
        ),
        (np.array(["a"]), TypeError, "params: its dtype must be"),
        (np.ones((2, 3)), ValueError, r"params must be one-dimensional, not of shape \(2, 3\)"),
        (np.ones(()), ValueError, r"params must be one-dimensional, not of shape \(\)"),
        (np.ones(10)[::2], ValueError, "params must be contiguous, not strided by 16 bytes"),
        (np.ones(10)[::-1], ValueError, "params must be contiguous, not strided by -8 bytes"),
        (np.broadcast_to(np.ones(1), 5), ValueError, "params must be contiguous, not strided by 0 bytes"),
        (unaligned(5), ValueError, "params must be aligned"),
        (read_only(np.ones(5)), ValueError, "params must be writable, not read-only"),
        (read_only_buffer(), ValueError, "params must be writable, not read-only"),
        (np.frombuffer(b"12345678"), ValueError, "params must be writable, not read-only"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), TypeError, "params must be a plain array, not a masked one"),
        (np.ones(5, "m8[s]"), TypeError, "params: its dtype must be"),
        ([1.0, 2.0], TypeError, "params must be a NumPy array, not list"),
        ({"w": np.ones(5)}, TypeError, "params must be a NumPy array, not dict"),
        (None, TypeError, "params must be a NumPy array, not NoneType"),
    ],
)
def test_parameters(params, error, message, backend):
    before = np.array(params, copy=True).tobytes() if isinstance(params, np.ndarray) else None
    with pytest.raises(error, match=message):
        Optimizer(params, SGD(), backend=backend)
    assert before is None or np.array(params).tobytes() == before


def test_a_file_that_may_not_be_written(tmp_path, backend):
    np.ones(5).tofile(tmp_path / "params")
    with pytest.raises(ValueError, match="params must be writable, not read-only"):
        Optimizer(np.memmap(tmp_path / "params", np.float64, "r"), SGD(), backend=backend)


# Rules and options


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (
            Adam,
            TypeError,
            r"rule must be a rule or a mapping of name patterns to rules, not the class Adam: write Adam\(\)",
        ),
        ("adam", TypeError, r"rule must be a rule or a mapping of name patterns to rules, not 'adam' \(str\)"),
        (None, TypeError, r"rule must be a rule or a mapping of name patterns to rules, not None \(NoneType\)"),
        ([Adam()], TypeError, "rule must be a rule or a mapping"),
        ({"*": Adam}, TypeError, r"rule\['\*'\] must be a rule, not the class Adam: write Adam\(\)"),
        ({"*": 0.1}, TypeError, r"rule\['\*'\] must be a rule, not 0.1 \(float\)"),
        ({1: Adam()}, TypeError, "rule: patterns must be strings, not 1"),
        ({}, ValueError, "rule: no pattern matches the parameter 'first.weight'; there are none"),
        ({"first.*": Adam()}, ValueError, r"rule: no pattern matches the parameter 'scale'; .*there is 'first.\*'"),
        (
            {"*": Adam(), "frist.weight": SGD()},
            ValueError,
            r"rule: the pattern 'frist.weight' matches no parameter; did you mean 'first.weight'\? there are "
            r"'first.weight', 'first.bias'",
        ),
        (
            {"*": Adam(), "Scale": SGD()},
            ValueError,
            r"rule: the pattern 'Scale' matches no parameter; did you mean 'scale'\?",
        ),
        (Rprop(lr=1e39), ValueError, r"rule: Rprop\(.*: too large for float32: 'step_size' starts as 1e\+39"),
        (Prodigy(d0=1e200), ValueError, r"Prodigy\(.*: too large for float32: the coefficients of step 1"),
        (StableAdamW(eps=1e200), ValueError, r"StableAdamW\(.*: too large for float32: the coefficients of step 1"),
    ],
)
def test_rules(rule, error, message, backend):
    with pytest.raises(error, match=message):
        Optimizer(random_buffer(0, "float32"), rule, backend=backend)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threads": 0}, ValueError, "threads must be a whole number >= 1 or None, not 0"),
        ({"threads": -3}, ValueError, "threads must be a whole number >= 1 or None, not -3"),
        ({"threads": 1.0}, TypeError, "threads must be a whole number >= 1 or None, not 1.0"),
        ({"threads": "2"}, TypeError, "threads must be a whole number >= 1 or None, not '2'"),
        ({"threads": True}, TypeError, "threads must be a whole number >= 1 or None, not True"),
        ({"threads": np.timedelta64(2, "s")}, TypeError, "threads must be a whole number >= 1 or None, not"),
        pytest.param({"threads": -(10**5000)}, ValueError, "threads must be .* not a whole number of", id="digits"),
        ({"accumulate": np.timedelta64(2, "s")}, TypeError, "accumulate must be a whole number >= 1, not"),
        ({"accumulate": np.array([2])}, TypeError, "accumulate must be a whole number >= 1, not"),
        ({"ema_decay": np.timedelta64(0, "s")}, TypeError, r"ema_decay must be a number in \[0, 1\), not"),
        ({"ema_decay": np.array(True)}, TypeError, r"ema_decay must be a number in \[0, 1\), not"),
        ({"accumulate": 0}, ValueError, "accumulate must be a whole number >= 1, not 0"),
        ({"accumulate": 2.0}, TypeError, r"accumulate must be a whole number >= 1, not 2.0 \(float\)"),
        ({"accumulate": None}, TypeError, "accumulate must be a whole number >= 1, not None"),
        ({"accumulate": True}, TypeError, "accumulate must be a whole number >= 1, not True"),
        ({"ema_decay": 1.0}, ValueError, r"ema_decay must be a number in \[0, 1\), not 1.0"),
        ({"ema_decay": -0.1}, ValueError, r"ema_decay must be a number in \[0, 1\), not -0.1"),
        ({"ema_decay": np.nan}, ValueError, r"ema_decay must be a number in \[0, 1\), not nan"),
        ({"ema_decay": "0.9"}, TypeError, r"ema_decay must be a number in \[0, 1\), not '0.9' \(str\)"),
        (
            {"backend": "numab"},
            ValueError,
            r"backend must be one of auto, numba, c, not 'numab'; did you mean 'numba'\?",
        ),
        ({"ema": 0.9}, TypeError, "unexpected keyword argument 'ema'"),
    ],
)
def test_options(options, error, message, backend):
    params = random_buffer(0, "float32")
    before = params.flat.tobytes()
    with pytest.raises(error, match=message):
        Optimizer(params, SGD(), **({"backend": backend} | options))
    assert params.flat.tobytes() == before


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.__name__)
def test_an_unknown_hyperparameter_gives_the_nearest(rule):
    for name in rule.fields:
        wrong = name[:-1] + name[-1] * 2
        with pytest.raises(TypeError, match=rf"{rule.__name__} has no argument '{wrong}'; did you mean '{name}'\?"):
            rule(**{wrong: 0.5})


# Gradients


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        (np.ones(SIZE - 1, np.float32), ValueError, f"grads must have the parameters' size {SIZE}, not {SIZE - 1}"),
        (np.ones(0, np.float32), ValueError, f"grads must have the parameters' size {SIZE}, not 0"),
        (
            np.ones(SIZE, np.int32),
            TypeError,
            "grads: its dtype must be float32, float64, bfloat16 or float16 in native byte order, not <i4",
        ),
        (np.ones(SIZE, ">f4"), TypeError, "grads: its dtype must be"),
        (np.ones(SIZE, np.complex64), TypeError, "grads: its dtype must be"),
        (np.ones((1, SIZE), np.float32), ValueError, r"grads must be one-dimensional, not of shape \(1, "),
        (np.ones(2 * SIZE, np.float32)[::2], ValueError, "grads must be contiguous, not strided by 8 bytes"),
        (unaligned(SIZE), ValueError, "grads must be aligned"),
        (np.ma.ones(SIZE, np.float32), TypeError, "grads must be a plain array, not a masked one"),
        ([1.0] * SIZE, TypeError, "grads must be a NumPy array, not list"),
        (None, TypeError, "grads must be a NumPy array, not NoneType"),
        (1.0, TypeError, "grads must be a NumPy array, not float"),
        (
            random_buffer(1, "float32", {"w": (SIZE,)}),
            ValueError,
            "grads is laid out otherwise than the parameters: it has 'w', which is unknown here; "
            "there are 'first.weight'",
        ),
        (
            random_buffer(1, "float32", {**SHAPES, "first.weight": (3, 7)}),
            ValueError,
            r"grads is laid out otherwise than the parameters: 'first.weight' has the shape \(3, 7\) there and "
            r"\(7, 3\) here",
        ),
        (
            random_buffer(1, "float32", dict(reversed(SHAPES.items()))),
            ValueError,
            "grads is laid out otherwise than the parameters: its order is",
        ),
        (
            random_buffer(1, "float32", {name: shape for name, shape in SHAPES.items() if name != "empty"}),
            ValueError,
            "grads is laid out otherwise than the parameters: it has no 'empty'",
        ),
    ],
)
def test_gradients(grads, error, message, optimizer):
    refuses(optimizer, error, message, grads)
    refuses(optimizer, error, message, grads, max_norm=1.0, nonfinite="skip")


def with_entry(name: str, value: object) -> Callable[[], dict]:
    return lambda: dict(random_buffer(1, "float32")) | {name: value}


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        (
            with_entry("first.wieght", np.ones((7, 3), np.float32)),
            ValueError,
            r"grads: no parameter 'first.wieght'; did you mean 'first.weight'\?",
        ),
        (
            with_entry("first.weight", np.ones((3, 7), np.float32)),
            ValueError,
            r"grads\['first.weight'\] must have the shape \(7, 3\), not \(3, 7\)",
        ),
        (
            with_entry("first.weight", np.ones(3, np.float32)),
            ValueError,
            r"grads\['first.weight'\] must have the shape \(7, 3\), not \(3,\)",
        ),
        (
            with_entry("scale", np.ones(1, np.float32)),
            ValueError,
            r"grads\['scale'\] must have the shape \(\), not \(1,\)",
        ),
        (
            with_entry("scale", np.ones((), np.complex64)),
            TypeError,
            r"grads\['scale'\] must be an array of float32 or float64 or bfloat16 or float16, not complex64",
        ),
        (
            with_entry("scale", np.ones((), np.int64)),
            TypeError,
            r"grads\['scale'\] must be an array of float32 or float64 or bfloat16 or float16, not int64",
        ),
        (
            with_entry("scale", 1.0),
            TypeError,
            r"grads\['scale'\] must be an array of float32 or float64 or bfloat16 or float16, not float",
        ),
        (
            with_entry("scale", None),
            TypeError,
            r"grads\['scale'\] must be an array of float32 or float64 or bfloat16 or float16, not NoneType",
        ),
        (
            with_entry("first.bias", np.ma.ones(3, np.float32)),
            TypeError,
            r"grads\['first.bias'\] must be a plain array, not a masked one",
        ),
        (
            lambda: {"scale": np.ones((), np.float32)},
            ValueError,
            "grads has no gradient for 'first.weight': give one, or freeze its group",
        ),
        (dict, ValueError, "grads has no gradient for 'first.weight'"),
    ],
)
def test_mappings_of_gradients(grads, error, message, optimizer):
    refuses(optimizer, error, message, grads())
    good = random_buffer(2, "float32")
    expected = snapshot(optimizer)
    assert optimizer.step(dict(good)).step == 2
    assert snapshot(optimizer) != expected


def test_gradients_may_not_overlap_what_is_written(optimizer):
    own = {
        "params": optimizer.params,
        "ema": optimizer.ema,
        "accumulated": optimizer.accumulated,
    }
    for name, buffer in own.items():
        refuses(optimizer, ValueError, f"grads overlaps {name}: a gradient needs memory of its own", buffer)
        refuses(optimizer, ValueError, f"grads overlaps {name}: a gradient needs memory of its own", buffer.flat)
    memory = np.zeros(2 * SIZE + 3, np.float32)
    shifted = Optimizer(memory[:SIZE], SGD(), backend=optimizer.backend)
    refuses(shifted, ValueError, "grads overlaps params", memory[SIZE - 1 : 2 * SIZE - 1])
    shifted.step(memory[SIZE : 2 * SIZE])


def test_gradients_may_not_overlap_a_state(backend):
    optimizer = Optimizer(np.ones(9, np.float32), Adam(), backend=backend)
    for state, buffer in optimizer.state.items():
        refuses(
            optimizer,
            ValueError,
            f"grads overlaps the state '{state}': a gradient needs memory of its own",
            buffer.flat,
        )
        refuses(optimizer, ValueError, f"grads overlaps the state '{state}'", buffer)


def test_a_mapping_is_copied_hence_may_overlap(backend):
    optimizer = Optimizer(FlatBuffer({"w": np.ones(3)}), SGD(lr=0.5), backend=backend)
    optimizer.step({"w": optimizer.params["w"]})
    assert optimizer.flat.tolist() == [0.5, 0.5, 0.5]


def test_a_large_mapping_may_overlap_too(backend):
    """It is copied then, and else read where it lies."""
    optimizer = Optimizer(FlatBuffer({"w": np.ones(200_000), "b": np.ones(200_000)}), Adam(lr=0.5), backend=backend)
    expected = Optimizer(optimizer.params.copy(), Adam(lr=0.5), backend=backend)
    optimizer.step({"w": optimizer.params["w"], "b": optimizer.state["exp_avg"]["b"]})
    gradient = optimizer.params.zeros_like()
    gradient["w"] = 1.0
    expected.step(gradient)
    assert snapshot(optimizer) == snapshot(expected)


def test_a_refused_gradient_leaves_the_one_before_in_use(backend):
    """Binding another gradient starts before it is checked: the old one must not be read under the new one's name."""
    optimizer, expected = (Optimizer(np.ones(5), Adam(), backend=backend) for _ in range(2))
    good = np.linspace(-1, 1, 5)
    optimizer.step(good)
    with pytest.raises(ValueError, match="contiguous"):
        optimizer.step(np.ones(10)[::2])
    optimizer.step(good)
    for _ in range(2):
        expected.step(good)
    assert snapshot(optimizer) == snapshot(expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_norm": 0}, ValueError, "max_norm must be a number > 0 or None, not 0"),
        ({"max_norm": -1.0}, ValueError, "max_norm must be a number > 0 or None, not -1.0"),
        ({"max_norm": np.nan}, ValueError, "max_norm must be a number > 0 or None, not nan"),
        ({"max_norm": "1"}, TypeError, r"max_norm must be a number > 0 or None, not '1' \(str\)"),
        ({"max_norm": True}, TypeError, r"max_norm must be a number > 0 or None, not True \(bool\)"),
        ({"max_norm": np.ones(2)}, TypeError, r"max_norm must be a number > 0 or None, not array"),
        ({"max_norm": np.array([1.0])}, TypeError, r"max_norm must be a number > 0 or None, not array"),
        ({"max_norm": np.array(True)}, TypeError, r"max_norm must be a number > 0 or None, not array\(True\)"),
        ({"max_norm": np.array("1")}, TypeError, r"max_norm must be a number > 0 or None, not array\('1'"),
        ({"max_norm": np.timedelta64(1, "s")}, TypeError, "max_norm must be a number > 0 or None, not np.timedelta64"),
        ({"max_norm": np.array(1, "m8[s]")}, TypeError, "max_norm must be a number > 0 or None, not array"),
        ({"max_norm": np.ma.array(1.0)}, TypeError, "max_norm must be a number > 0 or None, not masked_array"),
        ({"max_norm": 10**400}, ValueError, "max_norm must be a number > 0 or None, not a whole number of 1329 bits"),
        ({"max_norm": -(10**400)}, ValueError, "max_norm must be a number > 0 or None, not a whole number of 1329"),
        ({"max_norm": Fraction(10**400, 3)}, ValueError, "max_norm must be a number > 0 or None, not Fraction"),
        ({"grad_scale": 10**400}, ValueError, "grad_scale must be a finite number, not a whole number of 1329 bits"),
        ({"grad_scale": 10**5000}, ValueError, "grad_scale must be a finite number, not a whole number of 16610"),
        ({"grad_scale": np.timedelta64(1, "s")}, TypeError, "grad_scale must be a finite number, not np.timedelta64"),
        ({"grad_scale": np.array("1")}, TypeError, "grad_scale must be a finite number, not array"),
        ({"grad_scale": np.inf}, ValueError, "grad_scale must be a finite number, not inf"),
        ({"grad_scale": np.nan}, ValueError, "grad_scale must be a finite number, not nan"),
        ({"grad_scale": np.float32(np.nan)}, ValueError, "grad_scale must be a finite number, not"),
        ({"grad_scale": 1e39}, ValueError, r"grad_scale must be a number of float32, not 1e\+39"),
        ({"grad_scale": None}, TypeError, r"grad_scale must be a finite number, not None \(NoneType\)"),
        ({"grad_scale": "1"}, TypeError, r"grad_scale must be a finite number, not '1' \(str\)"),
        ({"grad_scale": True}, TypeError, r"grad_scale must be a finite number, not True \(bool\)"),
        ({"grad_scale": 1j}, TypeError, "grad_scale must be a finite number, not 1j"),
        ({"grad_scale": np.ones(2)}, TypeError, "grad_scale must be a finite number, not array"),
        ({"nonfinite": "skipp"}, ValueError, r"nonfinite must be .*, not 'skipp'; did you mean 'skip'\?"),
        ({"nonfinite": None}, ValueError, "nonfinite must be one of 'propagate', 'skip', 'raise', not None"),
        ({"max_nrom": 1.0}, TypeError, "unexpected keyword argument 'max_nrom'"),
    ],
)
def test_options_of_a_step(options, error, message, optimizer):
    refuses(optimizer, error, message, random_buffer(1, "float32"), **options)


def test_unknown_groups(optimizer):
    before = snapshot(optimizer)
    for change in (optimizer.freeze, optimizer.thaw):
        with pytest.raises(
            KeyError, match=r"pattern: no group 'frist.\*'; did you mean 'first.\*'\? there are 'first.\*', '\*'"
        ):
            change("frist.*")
        with pytest.raises(KeyError, match="pattern: no group 'scale'"):  # a parameter, not a group
            change("scale")
    assert snapshot(optimizer) == before


def test_what_belongs_to_the_optimizer_cannot_be_replaced(optimizer):
    for name in ("backend", "backend_reason", "threads", "step_count"):
        with pytest.raises(AttributeError):
            setattr(optimizer, name, 1)
    with pytest.raises(TypeError):
        optimizer.state["exp_avg"] = None
    with pytest.raises(TypeError):
        optimizer.groups["*"] = None
    with pytest.raises(AttributeError, match="Adam is frozen: use .replace"):
        Adam().lr = 1.0


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_gradients_that_are_not_finite_are_named(nonfinite, optimizer):
    grads = random_buffer(1, "float32")
    grads["scale"][...] = np.nan
    before = snapshot(optimizer)
    if nonfinite == "raise":
        with pytest.raises(ValueError, match="grads: the gradient is not finite"):
            optimizer.step(grads, nonfinite=nonfinite)
    else:
        assert optimizer.step(grads, nonfinite=nonfinite).skipped
    assert snapshot(optimizer) == before


@pytest.mark.skipif("c" not in BACKENDS, reason="the C backend is not installed")
@pytest.mark.parametrize(
    ("rule", "options", "change"),
    [
        (NAdam(), {"ema_decay": 0.9}, Optimizer.step),
        (AdamW(), {"accumulate": 3}, Optimizer.step),
        (AdamW(), {"lookahead": (1, 0.5), "copy": "float16"}, Optimizer.step),
        (SophiaG(), {}, Optimizer.update_hessian),
        (SGD(), {}, Optimizer.ascend),
    ],
)
def test_what_the_library_refuses_changes_nothing(rule, options, change, monkeypatch):
    optimizer = Optimizer(random_buffer(0, "float32"), rule, backend="c", **options)
    grads = dict(random_buffer(1, "float32"))
    optimizer.step(grads)
    before = snapshot(optimizer)
    optimizer.thaw("*")  # the next step binds anew
    with monkeypatch.context() as patch:
        patch.setattr("fastopt.backend.c.isa", lambda: 1000)
        with pytest.raises(BackendError, match="could not .*: the call names an instruction set that this .* lacks"):
            change(optimizer, grads)
    assert snapshot(optimizer) == before
    optimizer.state_dict()  # which it refuses while parameters are elsewhere
