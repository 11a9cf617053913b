"""State of torch's optimizers, moved into an optimizer here and back: files and state dicts that torch has written."""

import io
import pickle
import subprocess
import sys
import textwrap
import zipfile
from contextlib import suppress

import numpy as np
import pytest

import fastopt
from fastopt import CheckpointError, checkpoint
from fastopt.rules import RULES

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fastopt.torch")

SHAPES = {"w": (70, 64), "b": (7,), "one": ()}


def ids(values):
    return [f"{name}-{form.kernel}" for name, form in values]


def tensors(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def theirs(cls, form, dtype=torch.float32, **options):
    """An optimizer of torch's with the hyperparameters of a rule, its parameters named."""
    params = [(name, torch.nn.Parameter(each)) for name, each in tensors(0, dtype).items()]
    return cls(params, **{name: value for name, value in form if value != type(form).fields[name].default}, **options)


def named(optimizer):
    return dict(zip(SHAPES, (p for group in optimizer.param_groups for p in group["params"]), strict=True))


def train(optimizer, first, last):
    for step in range(first, last):
        for name, gradient in tensors(100 + step).items():
            if isinstance(optimizer, torch.optim.Optimizer):
                named(optimizer)[name].grad = gradient.to(named(optimizer)[name].dtype)
        if not isinstance(optimizer, torch.optim.Optimizer):
            optimizer.step({name: gradient.numpy() for name, gradient in tensors(100 + step).items()})
        else:
            optimizer.step()


def ours(optimizer, rule, **options):
    """An optimizer of the parameters that a torch optimizer has now."""
    arrays = {name: p.detach().float().numpy() for name, p in named(optimizer).items()}
    dtype = str(next(iter(named(optimizer).values())).dtype).removeprefix("torch.")
    return fastopt.Optimizer(fastopt.FlatBuffer(arrays, dtype=dtype), rule, **options)


def values(optimizer):
    if isinstance(optimizer, torch.optim.Optimizer):
        return {name: p.detach().float().numpy() for name, p in named(optimizer).items()}
    return {name: np.asarray(each, np.float32) for name, each in optimizer.params.items()}


def put(optimizer, arrays):
    with torch.no_grad():
        for name, p in named(optimizer).items():
            p.copy_(torch.from_numpy(np.array(arrays[name], np.float64)))


def assert_equal(one, other):
    for name, array in values(one).items():
        np.testing.assert_array_equal(array, values(other)[name], err_msg=name)


def assert_near(one, other):
    for name, array in values(one).items():
        np.testing.assert_allclose(array, values(other)[name], rtol=2e-5, atol=2e-5, err_msg=name)


def steps(cls, form):
    """Whether a class makes steps of a rule's: torch has not every form, and some take matrices or sparse gradients."""
    try:
        train(theirs(cls, form), 0, 1)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


FORMS = [(name, form) for name, rule in RULES.items() if hasattr(ft, name) for form in rule.forms()]
FORMS = [(name, form) for name, form in FORMS if steps(getattr(ft, name), form)]
IN_TORCH = [(name, form) for name, form in FORMS if hasattr(torch.optim, name)]
IN_TORCH = [(name, form) for name, form in IN_TORCH if steps(getattr(torch.optim, name), form)]


def test_nearly_all_rules_are_compared():
    assert len(FORMS) > 40 and len(IN_TORCH) > 15


@pytest.mark.parametrize(("name", "form"), FORMS, ids=ids(FORMS))
def test_a_run_goes_from_our_classes_and_back_with_the_same_bits(name, form, tmp_path):
    stayed = theirs(getattr(ft, name), form)
    train(stayed, 0, 3)
    torch.save({"model": named(stayed), "optimizer": stayed.state_dict()}, tmp_path / "run.pt")
    moved = ours(stayed, form.replace(lr=0.5))
    moved.load_state_dict(checkpoint.read(tmp_path / "run.pt", like=moved))
    assert moved.rule == form
    train(moved, 3, 5)
    train(stayed, 3, 5)
    equal = assert_near if form.scalars else assert_equal  # running numbers are float32 there, as torch's
    equal(moved, stayed)
    back = theirs(getattr(ft, name), form)
    put(back, moved.params)
    back.load_state_dict(checkpoint.to_torch(moved))
    for each in back, stayed:
        train(each, 5, 7)
    equal(back, stayed)


@pytest.mark.parametrize(("name", "form"), IN_TORCH, ids=ids(IN_TORCH))
def test_a_run_goes_from_torchs_classes_and_back(name, form):
    stayed = theirs(getattr(torch.optim, name), form)
    train(stayed, 0, 3)
    moved = ours(stayed, form)
    moved.load_state_dict(checkpoint.read(stayed.state_dict(), like=moved))
    for each in moved, stayed:
        train(each, 3, 5)
    assert_near(moved, stayed)
    back = theirs(getattr(torch.optim, name), form)
    put(back, moved.params)
    back.load_state_dict(checkpoint.to_torch(moved))
    for each in back, stayed:
        train(each, 5, 7)
    assert_near(back, stayed)
    for position, entry in stayed.state_dict()["state"].items():
        assert entry.keys() == back.state_dict()["state"][position].keys()


STORED = [
    (torch.bfloat16, {}),
    (torch.float16, {}),
    (torch.bfloat16, {"master": "float32"}),
    (torch.bfloat16, {"master": "split"}),
    (torch.bfloat16, {"master": "split", "state_dtype": "8bit"}),
    (torch.float32, {"state_dtype": "8bit"}),
    (torch.float32, {"state_dtype": "bfloat16", "rounding": "nearest"}),
    (torch.float64, {}),
]


@pytest.mark.parametrize(("dtype", "options"), STORED, ids=str)
def test_every_storage_comes_and_goes_as_it_is(dtype, options, tmp_path):
    rule = fastopt.AdamW(lr=0.01)
    stayed = theirs(ft.AdamW, rule, dtype, **options)
    train(stayed, 0, 3)
    torch.save(stayed.state_dict(), tmp_path / "run.pt")
    here = dict(options)
    if dtype.itemsize == 2 and not options:  # as torch.optim does
        here = {"state_dtype": str(dtype).removeprefix("torch."), "rounding": "nearest"}
    moved = ours(stayed, rule, **here)
    moved.load_state_dict(checkpoint.read(tmp_path / "run.pt", like=moved))
    back = theirs(ft.AdamW, rule, dtype, **options)
    put(back, moved.params)
    back.load_state_dict(checkpoint.to_torch(moved))
    for position, entry in stayed.state_dict()["state"].items():
        there = back.state_dict()["state"][position]
        assert entry.keys() == there.keys()
        assert all(torch.equal(value, there[key]) and value.dtype == there[key].dtype for key, value in entry.items())


def test_groups_positions_and_schedules():
    params = {name: torch.nn.Parameter(each) for name, each in tensors(0).items()}
    groups = [{"params": [params["one"], params["w"]], "lr": 0.5}, {"params": [params["b"]], "weight_decay": 0.25}]
    stayed = torch.optim.AdamW(groups)
    for p in params.values():
        p.grad = torch.ones_like(p)
    stayed.step()
    buffer = fastopt.FlatBuffer({name: p.detach().numpy() for name, p in params.items()})
    moved = fastopt.Optimizer(buffer, {"b": fastopt.AdamW(), "*": fastopt.AdamW(lr=fastopt.schedules.Constant(0.1))})
    with pytest.raises(CheckpointError, match=r"has no names: give names=.*3 parameters in order"):
        checkpoint.read(stayed.state_dict(), like=moved)
    moved.load_state_dict(checkpoint.read(stayed.state_dict(), like=moved, names=["one", "w", "b"]))
    assert moved.groups["b"].rule == fastopt.AdamW(weight_decay=0.25)
    assert moved.groups["*"].rule.lr == fastopt.schedules.Constant(0.1)  # a schedule of ours stays
    assert moved.step_count == 1 and moved.groups["b"].step == 1
    written = checkpoint.to_torch(moved, names=["one", "w", "b"])
    assert [group["param_names"] for group in written["param_groups"]] == [["b"], ["one", "w"]]


def test_what_does_not_fit_names_both_sides():
    stayed = theirs(torch.optim.Adam, fastopt.Adam())
    train(stayed, 0, 1)
    found = stayed.state_dict()

    def fails(match, state_dict=found, rule=fastopt.Adam(), buffer=None, **options):  # noqa: B008
        optimizer = ours(stayed, rule) if buffer is None else fastopt.Optimizer(buffer, rule)
        before = pickle.dumps(optimizer.state_dict())
        with pytest.raises(CheckpointError, match=match):
            optimizer.load_state_dict(checkpoint.read(state_dict, like=optimizer, **options))
        assert pickle.dumps(optimizer.state_dict()) == before

    fails("has 'one', which is unknown here", buffer=fastopt.FlatBuffer({"w": np.ones(1), "b": np.ones(1)}))
    wider = {name: np.ones(shape) for name, shape in SHAPES.items()} | {"w2": np.ones(3)}
    fails("has no parameter 'w2'", buffer=fastopt.FlatBuffer(wider, dtype="float32"))
    other = {name: np.ones((3, *shape)) for name, shape in SHAPES.items()}
    fails(r"has the shape \(70, 64\), not \(3, 70, 64\)", buffer=fastopt.FlatBuffer(other, dtype="float32"))
    fails("has a state 'exp_avg_sq' of 'w', of which Lion keeps 'exp_avg'", rule=fastopt.Lion())
    fails("has no state 'max_exp_avg_sq' of 'w', only 'exp_avg', 'exp_avg_sq'", rule=fastopt.Adam(amsgrad=True))
    fails("decoupled_weight_decay is False, and True for AdamW", rule=fastopt.AdamW())
    fails("has 3 parameters, and names has 2", names=["w", "b"])
    late = stayed.state_dict()
    late["state"][1] = late["state"][1] | {"step": torch.tensor(7.0)}
    fails("'w' has made 1 steps and 'b' 7", state_dict=late)
    some = stayed.state_dict()
    some["state"] = {0: some["state"][0]}
    fails("'w' has been stepped and 'b' has not", state_dict=some)


def test_no_step_has_been_made():
    stayed = theirs(torch.optim.Adam, fastopt.Adam(lr=0.25))
    moved = ours(stayed, fastopt.Adam(), state_dtype="8bit")
    moved.load_state_dict(checkpoint.read(stayed.state_dict(), like=moved))
    assert moved.step_count == 0 and moved.lr == 0.25
    assert checkpoint.to_torch(moved)["state"] == {}


class Trap:
    def __reduce__(self):
        return print, ("the code of a checkpoint was run",)


@pytest.mark.parametrize("trap", [Trap(), torch.nn.Linear(1, 1), torch.optim.SGD([torch.ones(1)]), {1, 2}], ids=type)
def test_no_code_of_a_file_is_run(trap, tmp_path, capsys):
    stayed = theirs(torch.optim.Adam, fastopt.Adam())
    torch.save({"trap": trap, "optimizer": stayed.state_dict()}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=r"run.pt: it holds '.*', which is neither number, text nor tensor"):
        checkpoint.read(tmp_path / "run.pt", like=ours(stayed, fastopt.Adam()))
    assert not capsys.readouterr().out


def test_files_that_are_cut_or_changed_are_refused_or_read(tmp_path):
    stayed = theirs(torch.optim.Adam, fastopt.Adam())
    train(stayed, 0, 1)
    path = tmp_path / "run.pt"
    torch.save(stayed.state_dict(), path)
    whole, like = path.read_bytes(), ours(stayed, fastopt.Adam())
    for size in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            checkpoint.read(path, like=like)
    generator = np.random.default_rng(0)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(packed, "w") as made:
        for name in archive.namelist():
            made.writestr(name, archive.read(name), zipfile.ZIP_DEFLATED if name.endswith(".pkl") else None)
    start = whole.index(b"param_groups") - 1500
    for data, places in ((whole, range(start, start + 2500)), (packed.getvalue(), range(len(packed.getvalue())))):
        for place in generator.choice(places, 150):
            bad = bytearray(data)
            bad[place] ^= 1 << int(generator.integers(8))
            path.write_bytes(bad)
            with suppress(CheckpointError):
                like.load_state_dict(checkpoint.read(path, like=like))


def test_a_file_and_a_state_dict_of_ours(tmp_path):
    stayed = fastopt.Optimizer(
        fastopt.FlatBuffer({"w": np.ones((70, 64))}, dtype="float32"),
        fastopt.NAdam(),
        ema_decay=0.5,
        state_dtype="8bit",
    )
    gradient = stayed.params.copy()
    stayed.step(gradient)
    stayed.save(tmp_path / "run.safetensors")
    for source in (tmp_path / "run.safetensors", stayed.state_dict()):
        moved = fastopt.Optimizer(stayed.params.copy(), fastopt.NAdam(), ema_decay=0.5, state_dtype="8bit")
        moved.load_state_dict(checkpoint.read(source, like=moved))
        moved.step(gradient)
        again = fastopt.Optimizer(stayed.params.copy(), fastopt.NAdam(), ema_decay=0.5, state_dtype="8bit")
        again.load_state_dict(stayed.state_dict())
        again.step(gradient)
        assert np.array_equal(moved.params.flat, again.params.flat) and np.array_equal(moved.ema.flat, again.ema.flat)


def test_nothing_of_torch_is_needed_for_a_file_of_it(tmp_path):
    stayed = theirs(torch.optim.AdamW, fastopt.AdamW())
    train(stayed, 0, 3)
    torch.save(stayed.state_dict(), tmp_path / "run.pt")
    program = f"""
        import sys
        sys.modules |= dict.fromkeys(["torch", "optax", "jax", "bitsandbytes", "h5py"])
        import numpy as np
        import fastopt
        from fastopt import checkpoint
        shapes = {SHAPES}
        arrays = {{name: np.ones(shape, np.float32) for name, shape in shapes.items()}}
        like = fastopt.Optimizer(fastopt.FlatBuffer(arrays), fastopt.AdamW())
        like.load_state_dict(checkpoint.read({str(tmp_path / "run.pt")!r}, like=like))
        print(like.step_count, float(like.state["exp_avg_sq"].flat.sum()))
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    moved = ours(stayed, fastopt.AdamW())
    moved.load_state_dict(checkpoint.read(stayed.state_dict(), like=moved))
    assert found.stdout.split() == ["3", str(float(moved.state["exp_avg_sq"].flat.sum()))]
