"""The network, the loop and its settings: right gradients, right scores, the same bits every time."""

import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_score, recall_score

import fastopt
from fastopt import specs
from fastopt.train import InputError, Network, Run, Settings, load_data, scores
from fastopt.train.extra import read_extra
from fastopt.train.loop import converged
from fastopt.train.settings import phases


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def bits(run: Run) -> tuple[bytes, list]:
    return run.network.params.flat.tobytes(), run.history


def after(data, epochs=3, **settings) -> Run:
    engine = {name: settings.pop(name) for name in ("backend", "threads") if name in settings}
    run = Run(data, Settings(**{"epochs": epochs, "hidden": (16,)} | settings), **engine)
    run.train(epochs)
    return run


@pytest.mark.parametrize("sizes", [(5, 3), (5, 7, 3), (4, 6, 5, 2)])
@pytest.mark.parametrize("rows", [1, 9])
def test_gradients_are_finite_differences(sizes, rows):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(rows, sizes[0])), rng.integers(0, sizes[-1], rows)
    network = Network(sizes, "float64", seed=3)
    network.params.flat[...] += 0.1 * rng.normal(size=network.params.flat.size)
    network.gradients(x, y)
    found = network.grads.flat.copy()
    flat, expected = network.params.flat, np.empty_like(found)
    for place in range(flat.size):
        before, losses = flat[place], []
        for h in (1e-6, -1e-6):
            flat[place] = before + h
            losses.append(network.gradients(x, y))
        flat[place] = before
        expected[place] = (losses[0] - losses[1]) / 2e-6
    assert np.abs(expected).max() > 1e-3
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_gradients_are_of_the_batch_that_is_given():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 5)), rng.integers(0, 3, 30)
    network, small = Network((5, 8, 3), "float64"), Network((5, 8, 3), "float64")
    network.gradients(x, y)
    network.gradients(x[:4], y[:4])
    small.gradients(x[:4], y[:4])
    assert np.allclose(network.grads.flat, small.grads.flat, rtol=1e-12)


def test_evaluate_agrees_with_the_loss_of_training():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(3000, 5)), rng.integers(0, 3, 3000)
    network = Network((5, 8, 3), "float64")
    loss, predicted = network.evaluate(x, y)
    assert math.isclose(loss, network.gradients(x, y), rel_tol=1e-12)
    assert network.evaluate(x[:7], predicted[:7])[0] < network.evaluate(x[:7], (predicted[:7] + 1) % 3)[0]


def test_first_parameters_depend_on_the_seed_alone():
    assert np.array_equal(Network((5, 8, 3), seed=1).params.flat, Network((5, 8, 3), seed=1).params.flat)
    assert not np.array_equal(Network((5, 8, 3), seed=1).params.flat, Network((5, 8, 3), seed=2).params.flat)


@pytest.mark.parametrize("sizes", [(5,), (5, 0, 3)])
def test_sizes_that_cannot_be(sizes):
    with pytest.raises(ValueError, match="sizes must be .*, not "):
        Network(sizes)


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    for classes in (2, 3, 10):
        truth, predicted = rng.integers(0, classes, 40), rng.integers(0, classes, 40)
        found = scores(truth, predicted, classes)
        macro = {"average": "macro", "zero_division": 0}
        assert math.isclose(found.accuracy, accuracy_score(truth, predicted))
        assert math.isclose(found.precision, precision_score(truth, predicted, **macro))
        assert math.isclose(found.recall, recall_score(truth, predicted, **macro))


def test_scores_of_a_class_that_is_never_predicted():
    found = scores(np.array([0, 0, 1]), np.array([0, 0, 0]), 2)
    assert found == (2 / 3, 1 / 3, 1 / 2)


@pytest.mark.parametrize("seed", range(3))
def test_digits_pass_97_percent(digits, seed):
    run = Run(digits, Settings(seed=seed))
    assert run.train(Settings.epochs) == "epochs"
    assert run.history[-1]["val_accuracy"] > 0.97


def test_binary_passes_90_percent():
    run = Run(load_data("binary"), Settings(optimizer="adam:lr=0.001", batch_size=32))
    run.train(Settings.epochs)
    assert len(run.network.layers) == 3
    assert run.history[-1]["val_accuracy"] > 0.90


@pytest.mark.parametrize(("batch_size", "steps"), [(32, 45), (None, 1), (1, 1438), (1437, 2)])
def test_steps_of_an_epoch(digits, batch_size, steps):
    run = after(digits, 1, batch_size=batch_size)
    assert run.history[0]["steps"] == run.optimizer.step_count == steps


def test_every_row_once_in_an_order_of_seed_and_epoch(digits):
    orders = {}
    for seed, epoch in ((0, 1), (0, 2), (1, 1)):
        run = Run(digits, Settings(seed=seed))
        run.epoch = epoch
        orders[seed, epoch] = tuple(run.order())
        assert sorted(orders[seed, epoch]) == list(range(run.rows))
        assert tuple(run.order()) == orders[seed, epoch]
    assert len(set(orders.values())) == 3


@pytest.mark.parametrize("optimizer", ["adam", "sgd:lr=0.1,momentum=0.9", "lion", "rprop", "radam"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_backends_give_the_same_bits(digits, optimizer, dtype):
    runs = [
        after(digits, optimizer=optimizer, dtype=dtype, max_norm=1.0, schedule="cosine", backend=backend)
        for backend in ("numba", "c")
    ]
    assert [run.optimizer.backend for run in runs] == ["numba", "c"]
    assert bits(runs[0]) == bits(runs[1])


STORED = {
    "parameters in 16 bits": {"dtype": "bfloat16"},
    "rounded to nearest": {"dtype": "float16", "state_dtype": "float16", "rounding": "nearest"},
    "master": {"dtype": "float16", "master": "float32", "state_dtype": "bfloat16"},
    "split": {"dtype": "bfloat16", "master": "split"},
    "8 bits": {"state_dtype": "8bit", "hidden": (64,)},
}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED.keys())
def test_both_backends_give_the_same_bits_in_any_storage(digits, stored):
    plain, *runs = (after(digits, **{"hidden": (16,)} | each) for each in ({}, stored, stored | {"backend": "c"}))
    assert bits(runs[0]) == bits(runs[1])
    assert bits(runs[0]) != bits(plain)
    assert bits(after(digits, seed=2**64 + 1, **stored))[0] != bits(runs[0])[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_network_of_16_bits_computes_in_float32(digits, dtype):
    x, y = digits.x_train[:50].astype(np.float32), digits.y_train[:50]
    stored = Network((64, 8, 10), dtype)
    plain = Network((64, 8, 10), "float32")
    for scale in (1, 3):  # parameters are read anew each time
        stored.params.flat[...] *= scale
        plain.params.flat[...] = stored.params.flat
        assert stored.gradients(x, y) == plain.gradients(x, y)
        assert stored.grads.flat.tobytes() == plain.grads.flat.tobytes()
        assert stored.evaluate(x, y)[0] == plain.evaluate(x, y)[0]
    assert stored.params.dtype == dtype


@pytest.mark.parametrize("master", ["float32", "split"])
def test_the_second_optimizer_takes_over_what_the_first_had_exactly(digits, master):
    stored = {"dtype": "bfloat16", "master": master}
    before = after(digits, 2, **stored)
    run = after(digits, 3, switch_to="sgd:lr=0", switch_at=2, **stored)
    for name, exact in before.optimizer.master.items():
        assert (exact != before.network.params[name].astype(np.float32)).any()
        assert run.optimizer.master[name].tobytes() == exact.tobytes()


def test_the_norm_is_clipped(digits):
    settings = {"optimizer": "sgd:lr=1", "hidden": (16,), "batch_size": None, "dtype": "float64"}
    lengths = []
    for max_norm in (None, 0.01):
        run = Run(digits, Settings(**settings, max_norm=max_norm))
        before = run.network.params.flat.copy()
        run.train(1)
        lengths.append(float(np.linalg.norm(run.network.params.flat - before)))
    assert lengths[0] > 0.1
    assert math.isclose(lengths[1], 0.01, rel_tol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_schedule_free_rules_are_validated_with_their_averages(digits, dtype):
    run = after(digits, epochs=1, optimizer="schedulefreeadamw", dtype=dtype)
    before = run.network.params.flat.tobytes()
    last, (plain, _) = run.history[-1], run.network.evaluate(digits.x_val, digits.y_val)
    with run.optimizer.averaged():
        average, _ = run.network.evaluate(digits.x_val, digits.y_val)
    assert last["val_loss"] == pytest.approx(average, rel=1e-6)
    assert abs(average - plain) > 1e-3
    assert run.network.params.flat.tobytes() == before


def test_another_seed_gives_other_bits(digits):
    assert bits(after(digits, 1))[0] == bits(after(digits, 1))[0]
    assert bits(after(digits, 1))[0] != bits(after(digits, 1, seed=1))[0]


STOPPED = {
    "plain": {},
    "schedule": {"schedule": "cosine:warmup=10", "max_norm": 0.5},
    "plateau": {"schedule": "plateau:patience=0,threshold=0.5", "optimizer": "sgd:lr=0.1"},
    "switch": {"switch_to": "sgd:lr=0.1", "switch_at": 2},
    "switch and schedule": {"switch_to": "nadam", "switch_at": 1, "schedule": "linear"},
    "whole batches": {"batch_size": None},
    "split, 8 bits": {"dtype": "bfloat16", "master": "split", "state_dtype": "8bit", "hidden": (64,)},
    "switch in 16 bits": {"dtype": "bfloat16", "master": "split", "switch_to": "momentum", "switch_at": 1},
    "to nearest": {"dtype": "float16", "state_dtype": "bfloat16", "rounding": "nearest"},
}


@pytest.mark.parametrize("settings", STOPPED.values(), ids=STOPPED.keys())
@pytest.mark.parametrize("batches", [1, 45, 100])
def test_a_run_that_stops_and_goes_on_has_the_bits_of_one_that_does_not(digits, tmp_path, settings, batches):
    epochs = 5
    whole = after(digits, epochs, **settings)
    chosen = Settings(**{"epochs": epochs, "hidden": (16,)} | settings)
    stopped = Run(digits, chosen)
    path = tmp_path / "c.safetensors"
    left = iter(range(batches))
    ended = stopped.train(epochs, checkpoint=path, stop=lambda: next(left, None) is None)
    assert ended == ("stopped" if batches < whole.steps else "epochs")
    resumed = Run(digits, chosen, backend="c")
    resumed.load(path, read_extra(path))
    assert resumed.steps == stopped.steps
    assert resumed.train(epochs, checkpoint=path) == "epochs"
    assert bits(resumed) == bits(whole)
    again = Run(digits, chosen)
    again.load(path, read_extra(path))
    assert bits(again) == bits(whole)


def test_more_epochs_later_are_as_if_asked_for_at_once(digits, tmp_path):
    first = Run(digits, Settings(epochs=2))
    first.train(2, checkpoint=tmp_path / "c")
    longer = Run(digits, Settings(epochs=4))
    longer.load(tmp_path / "c", read_extra(tmp_path / "c"))
    longer.train(4)
    assert bits(longer) == bits(after(digits, 4, hidden=Settings.hidden))


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"optimizer": "adam:lr=0.01"}, "optimizer"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"schedule": "linear"}, "schedule"),
        ({"schedule": None}, "schedule"),
        ({"hidden": (16, 16)}, "hidden"),
        ({"batch_size": 31}, "batch_size"),
        ({"dtype": "float64"}, "dtype"),
        ({"dtype": "bfloat16", "master": "float32"}, "dtype"),
        ({"state_dtype": "bfloat16"}, "state_dtype"),
        ({"rounding": "nearest"}, "rounding"),
        ({"seed": 1}, "seed"),
        ({"max_norm": 1.0}, "max_norm"),
        ({"switch_to": "sgd", "switch_at": 1}, "switch_to"),
        ({"epochs": 9}, "epochs"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_argument(digits, tmp_path, changed, argument):
    path = tmp_path / "c"
    settings = {"hidden": (16,), "schedule": "cosine", "epochs": 2}
    Run(digits, Settings(**settings)).train(1, checkpoint=path)
    other = Run(digits, Settings(**settings | changed))
    before = other.network.params.flat.tobytes()
    with pytest.raises(InputError) as caught:
        other.load(path, read_extra(path))
    assert caught.value.argument == argument
    assert str(caught.value).startswith(f"{argument} must be ")
    assert other.network.params.flat.tobytes() == before


def test_the_same_settings_in_other_words_fit(digits, tmp_path):
    path = tmp_path / "c"
    Run(digits, Settings(optimizer="adam", schedule="cosine:final=0,warmup=3")).train(1, checkpoint=path)
    other = Run(digits, Settings(optimizer="Adam:lr=0.001", schedule="Cosine:warmup=3,final=0"))
    other.load(path, read_extra(path))
    assert other.epoch == 2


def test_a_checkpoint_of_other_data(digits, tmp_path):
    path = tmp_path / "c"
    Run(digits, Settings(hidden=(8,))).train(1, checkpoint=path)
    shuffled = type(digits)(
        "digits", digits.x_train, np.roll(digits.y_train, 1), digits.x_val, digits.y_val, digits.classes
    )
    with pytest.raises(InputError) as caught:
        Run(shuffled, Settings(hidden=(8,))).load(path, read_extra(path))
    assert str(caught.value) == f"data must be the samples that {path} was trained on"


def test_a_checkpoint_of_something_else(tmp_path):
    fastopt.Optimizer(np.zeros(3), fastopt.Adam()).save(tmp_path / "c")
    with pytest.raises(fastopt.CheckpointError, match="not a checkpoint of `fastopt train`"):
        read_extra(tmp_path / "c")
    with pytest.raises(fastopt.CheckpointError, match="cannot be read"):
        read_extra(tmp_path / "nothing")


def test_the_second_optimizer_starts_anew_after_the_switch(digits):
    run = after(digits, 4, switch_to="sgd:lr=0.5", switch_at=3)
    assert run.optimizer.rule == fastopt.SGD(lr=0.5)
    assert run.optimizer.step_count == run.steps_per_epoch
    assert [entry["lr"] for entry in run.history] == [0.001, 0.001, 0.001, 0.5]


def test_each_part_has_a_schedule_of_its_own():
    settings = Settings(epochs=10, switch_to="sgd:lr=0.5", switch_at=4, schedule="linear")
    first, second = phases(settings, steps_per_epoch=7)
    assert first.rule.lr == fastopt.schedules.Linear(0.001, 28)
    assert second == (5, fastopt.SGD(lr=fastopt.schedules.Linear(0.5, 42)))


def test_converged():
    falling = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert not converged(falling, 0.05)
    assert not converged([1.0] * 5, 0.05)
    assert converged([1.0] * 6, 0.05)
    assert converged([1.0, 0.99, 0.98, 0.97, 0.96, 0.955], 0.05)
    assert not converged([1.0, 0.99, 0.98, 0.97, 0.96, 0.945], 0.05)
    assert converged([1.0, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0], 0.05)


def test_a_run_ends_when_it_has_converged(digits):
    run = Run(digits, Settings(hidden=(16,)))
    assert run.train(200, tolerance=0.02) == "converged"
    losses = [entry["train_loss"] for entry in run.history]
    assert converged(losses, 0.02)
    assert not converged(losses[:-1], 0.02)


def test_divergence_ends_a_run_and_leaves_its_checkpoint(digits, tmp_path):
    path = tmp_path / "c"
    run = Run(digits, Settings(optimizer="sgd:lr=1e20", hidden=(16,)))
    assert run.train(3, checkpoint=path) == "diverged"
    assert run.history == []
    assert not path.exists()


def test_training_loss_is_the_mean_over_the_samples(digits):
    run = Run(digits, Settings(optimizer="sgd:lr=0", hidden=(16,), batch_size=100))
    expected, _ = run.network.evaluate(run.data.x_train, run.data.y_train)
    run.train(1)
    assert math.isclose(run.history[0]["train_loss"], expected, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("adam", fastopt.Adam()),
        ("ADAMW:lr=0.01", fastopt.AdamW(lr=0.01)),
        ("Adam:betas=0.8/0.99,amsgrad=true", fastopt.Adam(betas=(0.8, 0.99), amsgrad=True)),
        (" sgd : lr = 1 , momentum = 0.5 ", fastopt.SGD(lr=1.0, momentum=0.5)),
    ],
)
def test_optimizers_as_text(text, rule):
    assert specs.rule(text) == rule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adm", "not 'adm'; did you mean 'adam'?"),
        ("", ", not ''"),
        ("adam:lrr=1", "did you mean 'lr'"),
        ("adam:lr=-1", "lr must be a finite number >= 0"),
        ("adam:lr=nan", "lr must be"),
        ("adam:amsgrad=1", "True or False"),
        ("adam:betas=0.9", "betas must be"),
        ("adam:lr=0.1,lr=0.2", "twice"),
        ("adam:", "key=value"),
        ("adam:lr=", "key=value"),
        ("adam:lr=0.1,,eps=1", "key=value"),
    ],
)
def test_optimizers_that_cannot_be(text, words):
    with pytest.raises(InputError) as caught:
        specs.rule(text)
    assert caught.value.argument == "optimizer"
    assert words in caught.value.message


def test_schedules_as_text():
    schedules = fastopt.schedules
    assert specs.schedule("cosine", 0.1, 90) == schedules.Cosine(0.1, 90)
    assert specs.schedule("cosine:steps=10,warmup=2", 0.1, 90) == schedules.Cosine(0.1, 10, warmup=2)
    assert specs.schedule("step", 0.1, 90) == schedules.Step(0.1, 30)
    assert specs.schedule("plateau:mode=max", 0.1, 90) == schedules.Plateau(0.1, mode="max")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cosin", "must be one of 'constant', "),
        ("exponential", "factor"),
        ("cosine:lr=1", "--optimizer"),
        ("plateau:mode=up", "'min'"),
        ("cosine:warmup=0.5", "whole number"),
    ],
)
def test_schedules_that_cannot_be(text, words):
    with pytest.raises(InputError) as caught:
        specs.schedule(text, 0.1, 90)
    assert caught.value.argument == "schedule"
    assert words in caught.value.message


def test_a_plateau_is_told_how_epochs_end(digits):
    run = after(digits, 4, optimizer="sgd:lr=0.1", schedule="plateau:patience=0,threshold=1000")
    assert np.allclose([entry["lr"] for entry in run.history], [0.1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize(("dtype", "master"), [("float32", "split"), ("float64", "float32"), ("float16", "split")])
def test_masters_that_cannot_be(digits, dtype, master):
    with pytest.raises(InputError, match=f"master must be None.* for parameters of {dtype}, not {master!r}") as caught:
        Run(digits, Settings(dtype=dtype, master=master))
    assert caught.value.argument == "master"


@pytest.mark.parametrize("batch_size", [0, 1439])
def test_batches_that_cannot_be(digits, batch_size):
    with pytest.raises(InputError) as caught:
        Run(digits, Settings(batch_size=batch_size))
    assert str(caught.value) == f"batch_size must be from 1 to 1438, the training rows, or full, not {batch_size}"


def test_importing_fastopt_imports_nothing_of_training():
    code = (
        "import sys, fastopt; names = 'click rich sklearn matplotlib threadpoolctl fastopt.train'; "
        "print([name for name in names.split() if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
