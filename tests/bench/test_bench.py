"""``fastopt bench``: what is measured, that peers make the same step, what the command says. No test asserts a time."""

import json
import sys

import click.testing
import numpy as np
import pytest
from cases import ELEMENTWISE
from conftest import BACKENDS

import fastopt
from fastopt import cli, kernels
from fastopt.bench import cases, limit, measure, session, verify, worker
from fastopt.bench.mix import Mix
from fastopt.bench.peers import PEERS, Bound, Peer
from fastopt.buffers import aligned_empty

INSTALLED = [name for name, peer in PEERS.items() if not peer.missing()]
SLOW = {"torch-compile", "deepspeed", "torchao"}  # they compile for a minute

#: What steps are measured with: all that others have in some form, and what they have not.
MIXES = {
    "float64": Mix("float64", "float64"),
    "offload": Mix(grad_dtype="bfloat16", copy="bfloat16", max_norm=1.0, grad_scale=0.125),
    "master": Mix("bfloat16", "bfloat16", master="float32", max_norm=1e9),
    "split": Mix("bfloat16", "bfloat16", master="split", state_dtype="8bit"),
    "float16": Mix(grad_dtype="float16", copy="float16", grad_scale=0.5),
    "states in bfloat16": Mix(state_dtype="bfloat16", max_norm=0.1),
    "states in 8 bits": Mix(state_dtype="8bit"),
    "all in bfloat16": Mix("bfloat16", "bfloat16", state_dtype="bfloat16", rounding="nearest"),
    "all in float16": Mix("float16", "float16", state_dtype="float16"),
}


def run(*arguments, **options):
    """``fastopt bench`` with these arguments."""
    return click.testing.CliRunner().invoke(cli.cli, ["bench", *arguments], prog_name="fastopt", **options)


@pytest.fixture(autouse=True)
def jax_as_it_was():
    """optax as a peer turns on float64 for its process, which is one of its own but here."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One small run: two backends and NumPy, two sizes."""
    folder = tmp_path_factory.mktemp("bench")
    picture = folder / "picture.png"
    result = run(
        "--rule",
        "sgd",
        "--size",
        "100",
        "--size",
        "1k",
        "--threads",
        "1",
        "--against",
        "numpy",
        "--json",
        "--out",
        str(picture),
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), picture


def test_cases_choose_every_kernel_and_every_rule():
    rules = cases.cases().values()
    assert {rule.kernel for rule in rules} == set(kernels.KERNELS) - {"blend"}  # which is no rule's
    assert {type(rule) for rule in rules} == set(ELEMENTWISE.values())
    assert set(cases.DEFAULT) <= set(cases.cases())


def test_labels_name_what_is_not_the_default():
    assert cases.label(fastopt.RMSprop(centered=True)) == "RMSprop(centered=True)"
    assert cases.label(fastopt.AdamW()) == "AdamW"


@pytest.mark.parametrize(("rule", "bytes_moved"), [("SGD", 12), ("Momentum", 20), ("AdamW", 28), ("AMSGrad", 36)])
def test_traffic_is_reads_and_writes(rule, bytes_moved):
    assert Mix().traffic(fastopt.RULES[rule](), 10) == 10 * bytes_moved
    assert Mix("float64", "float64").traffic(fastopt.RULES[rule](), 10) == 20 * bytes_moved


@pytest.mark.parametrize(
    ("mix", "held", "moved"),
    [
        (Mix(grad_dtype="bfloat16", copy="bfloat16"), 16, 28),
        (Mix("bfloat16", "bfloat16", master="float32"), 16, 28),
        (Mix("bfloat16", "bfloat16", master="float32", max_norm=1.0), 16, 30),
        (Mix("bfloat16", "bfloat16", master="split"), 14, 26),
        (Mix("bfloat16", "bfloat16", master="split", state_dtype="bfloat16"), 10, 18),
        (Mix(state_dtype="bfloat16"), 12, 20),
        (Mix(state_dtype="8bit"), 10 + 8 / 256, 16 + 16 / 256),
        (Mix("bfloat16", "bfloat16", state_dtype="float16"), 8, 14),
    ],
)
def test_traffic_in_other_storages(mix, held, moved):
    assert mix.held(fastopt.Adam(), 2**20) == held * 2**20
    assert mix.traffic(fastopt.Adam(), 2**20) == moved * 2**20


@pytest.mark.parametrize("states", range(5))
@pytest.mark.parametrize("parallel", [False, True])
def test_the_limit_reads_and_writes_what_a_step_does(states, parallel):
    p, g, *others = (np.full(40_001, float(number)) for number in range(1, 3 + states))
    limit.compiled(states, parallel)(p, g, *others)
    last = 2 + states if states else 1
    for buffer, value in zip([p, g, *others], [last + 2, 2, 1, *range(3, 2 + states)][: 2 + states], strict=True):
        assert (buffer == value).all()


def test_the_limit_uses_threads_from_the_size_on_from_which_steps_do():
    from fastopt.backend import numba as backend

    assert 2 * limit.GRAIN == backend.PARALLEL_SIZE


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_limit_leaves_the_number_of_threads_as_it_was(threads):
    import numba

    before = numba.get_num_threads()
    if threads <= before:
        limit.bind(200_000, "float32", 1, threads)()
    assert numba.get_num_threads() == before


def test_a_round_takes_turns_and_the_fastest_tenth_counts():
    order = []
    found = measure.in_turn(lambda: order.append("step"), lambda: order.append("limit"), 0.01)
    assert found.seconds > 0 and found.limit > 0
    assert {"step", "limit"} == set(order)
    assert measure.calm([4.0, 1.0, 3.0, 9.0, 2.0, 8.0, 7.0, 6.0, 5.0, 10.0, 11.0]) == 1.5


def test_a_summary_is_the_median_of_the_rounds_ratios():
    rounds = [measure.Round(2.0, 1.0), measure.Round(3.0, 1.0), measure.Round(80.0, 2.0)]
    summary = measure.summarize(rounds)
    assert (summary.ratio, summary.seconds, summary.limit) == (3.0, 3.0, 1.0)
    assert measure.summarize(rounds[:1]).ratio == 2.0
    with pytest.raises(ValueError, match="rounds"):
        measure.summarize([])


def difference(engine: str, rule, mix: Mix, other: Mix | None = None) -> verify.Difference | None:
    """How far a backend or a peer is from a rule's formula in a mix, if it is asked for that or for another one."""
    make = worker.Engine(engine, 1).make
    return verify.difference(lambda p, g: make(rule, other or mix, p, g), rule, mix)


@pytest.mark.parametrize("name", [name for name in INSTALLED if name not in SLOW])
@pytest.mark.parametrize("label", cases.cases())
def test_installed_peers_make_the_same_step(name, label):
    rule = cases.cases()[label]
    found = difference(name, rule, Mix())
    assert found is None or (found.excess <= 1 and (rule.totals or found.ulp <= verify.ULP))


#: torch's fused SGD of parameters in 16 bits makes another update than its loop, by hundreds of ulp.
OTHERS = {("torch-fused", "SGD", "all in bfloat16"), ("torch-fused", "SGD", "all in float16")}


@pytest.mark.parametrize("name", [*BACKENDS, *(name for name in INSTALLED if name not in SLOW)])
@pytest.mark.parametrize("mix", MIXES)
def test_the_same_step_in_other_storages(name, mix):
    for rule in (fastopt.AdamW(), fastopt.SGD(momentum=0.9), fastopt.Lion()):
        found = difference(name, rule, MIXES[mix])
        assert found is not None or name not in BACKENDS
        assert found is None or (found.excess <= 1) != ((name, type(rule).__name__, mix) in OTHERS), (rule, found)


def test_peers_have_the_storages_that_they_are_measured_with():
    """And refuse others, rather than make a step in the storages that they have."""
    has = {
        "numpy": {"float64", "offload", "master", "float16"},
        "torch": {"float64", "offload", "master", "float16", "all in bfloat16", "all in float16"},
        "torch-fused": {"float64", "offload", "master", "float16", "all in bfloat16", "all in float16"},
        "optax": {"float64", "offload", "master", "float16"},
        "bitsandbytes": {"split", "states in 8 bits"},
    }
    for name in has.keys() & set(INSTALLED):
        assert {mix for mix in MIXES if difference(name, fastopt.AdamW(), MIXES[mix])} == has[name], name


def test_numpy_has_every_rule_in_both_dtypes():
    for rule in cases.cases().values():
        for mix in (Mix(), Mix("float64", "float64")):
            found = difference("numpy", rule, mix)
            assert found is not None and (found.excess <= 1 if rule.totals else found.ulp <= 16), rule


@pytest.mark.parametrize(
    ("mix", "other"),
    [
        ("offload", Mix(grad_dtype="bfloat16", copy="bfloat16", grad_scale=0.125)),
        ("float16", Mix(grad_dtype="float16", copy="float16")),
        ("float16", Mix(grad_dtype="float16", copy="bfloat16", grad_scale=0.5)),
        ("master", Mix("bfloat16", "bfloat16")),
    ],
    ids=["clipping", "scale", "copy", "master"],
)
def test_a_step_that_leaves_something_out_is_found(mix, other, backend):
    assert difference(backend, fastopt.SGD(lr=0.1), MIXES[mix]).excess <= 1
    assert difference(backend, fastopt.SGD(lr=0.1), MIXES[mix], other).excess > 1


@pytest.mark.parametrize(
    "other", [fastopt.AdamW(eps=2e-8), fastopt.AdamW(weight_decay=0.0), fastopt.Adam(weight_decay=0.01)]
)
def test_another_update_is_found(other):
    found = verify.difference(lambda p, g: PEERS["numpy"].make(other, Mix(), p, g, 1), fastopt.AdamW(), Mix())
    assert found.ulp > verify.ULP and found.excess > 1


def test_an_update_that_is_not_finite_is_found():
    def make(p, g):
        return Bound(lambda: None, lambda: p * np.nan, lambda: p)

    assert verify.difference(make, fastopt.SGD(), Mix()) == (float("inf"), float("inf"))


def test_json_holds_every_engine_and_size(measured):
    found, _ = measured
    assert set(found) == {"format", "machine", "settings", "isolation", "results", "refused", "missing"}
    assert {(each["engine"], each["size"]) for each in found["results"]} == {
        (engine, size) for engine in ("numba", "c", "numpy") for size in (100, 1000)
    }
    for each in found["results"]:
        assert (each["rule"], each["kernel"], each["dtype"], each["threads"]) == ("SGD", "sgd", "float32", 1)
        assert each["seconds"] > 0 and each["limit_seconds"] > 0 and each["slowdown"] > 0 and each["ratio"] > 0
        assert each["gigabytes_per_second"] == pytest.approx(12 * each["size"] / each["seconds"] / 1e9)
        assert each["difference_ulp"] <= verify.ULP
    assert found["refused"] == [] and found["missing"] == []
    assert found["settings"] == Mix()._asdict() | {
        "sizes": [100, 1000],
        "threads": 1,
        "engines": ["numba", "c", "numpy"],
        "turns": 5,
    }


def test_other_storages_are_measured_and_named(tmp_path):
    """With one backend: another has its program of each mix tested above, and is measured as this one is."""
    options = {"--grad-dtype": "bfloat16", "--copy": "bfloat16", "--max-norm": "1", "--grad-scale": "0.125"}
    arguments = ["--rule", "adamw", "--size", "1k", "--threads", "1", "--turns", "1", "--backend", BACKENDS[-1]]
    arguments += [word for pair in options.items() for word in pair] + ["--out", str(tmp_path / "picture.png")]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert ", float32, gradient in bfloat16, copy bfloat16, unscaled, clipped." in result.stdout
    found = json.loads(run(*arguments, "--against", "numpy,bitsandbytes", "--json").stdout)
    for each in found["results"]:
        assert each["mix"] == "float32, gradient in bfloat16, copy bfloat16, unscaled, clipped"
        assert each["gigabytes_per_second"] == pytest.approx(30 * 1000 / each["seconds"] / 1e9)
        assert each["nanoseconds_per_element"] == pytest.approx(each["seconds"] * 1e6)
    assert {each["engine"] for each in found["results"]} == {BACKENDS[-1], "numpy"}
    refused = {each["engine"] for each in found["refused"]} | {each["peer"] for each in found["missing"]}
    assert refused == {"bitsandbytes"}


def test_the_picture_is_a_png(measured):
    _, picture = measured
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_names_what_is_missing_and_another_fastopt_in_the_folder_is_not_measured(tmp_path, monkeypatch):
    (tmp_path / "fastopt").mkdir()
    (tmp_path / "fastopt" / "__init__.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.setitem(PEERS, "optax", Peer(("no_such_module",), "pip install jax optax", PEERS["optax"].make))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH")
    arguments = ("--rule", "lion", "--size", "64", "--backend", "c", "--threads", "1", "--against", "numpy,optax")
    result = run(*arguments, "--turns", "1")
    assert result.exit_code == 0, result.output
    assert "numpy" in result.stdout and "Not measured" not in result.stdout
    assert "Not installed: optax. Install it with: pip install jax optax" in result.stdout
    assert "in a process of its own" in result.stdout
    assert "Lion" in result.stdout and "slowdown" in result.stdout
    assert result.stderr == ""  # no progress bar where there is no terminal
    assert (tmp_path / "bench.png").exists()


@pytest.mark.parametrize(("name", "buffers"), [("c", 2), ("numpy", 0)])
def test_a_backend_steps_new_memory_in_every_turn(name, buffers, monkeypatch):
    engine, made = worker.Engine(name, 1), []
    engine.prepare("fastopt:SGD", {}, 100, Mix()._asdict())
    monkeypatch.setattr(worker, "aligned_empty", lambda *shape: made.append(shape) or aligned_empty(*shape))
    engine.turn(0.001)
    assert len(made) == buffers


def test_a_rule_that_a_peer_lacks_is_refused():
    wide = Mix("float64", "float64")
    results, refused = session.run([fastopt.Adagrad()], [64], wide, 1, ["c", "deepspeed"], lambda what: None, 1)
    assert [each.engine for each in results] == ["c"]
    assert refused == [("deepspeed", "Adagrad", "deepspeed has no such rule for float64")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rule", "adamv"], ["--rule must be one of 'ada", "not 'adamv'; did you mean 'adam'?"]),
        (["--rule", "adam:lr=-1"], ["--rule", "lr"]),
        (["--rule", "adam:beta=1"], ["--rule", "betas"]),
        (["--size", "0"], [f"--size must be a whole number from 1 to {2**31}, not '0'; the nearest is 1\n"]),
        (["--size", "1.5"], ["--size must be ", "not '1.5'; the nearest is 2\n"]),
        (["--size", "many"], ["--size must be a whole number >= 1, such as 1000, 30k or 20M, not 'many'"]),
        (["--size", "nan"], ["--size must be ", "not 'nan'"]),
        (["--size", "inf"], ["--size must be ", f"not 'inf'; the nearest is {2**31}\n"]),
        (["--size", "2000M"], ["--size must be up to ", ", not 2000000000, which needs "]),
        (["--dtype", "float8"], ["--dtype must be one of 'float32', ", ", not 'float8'; did you mean 'float64'?"]),
        (["--grad-dtype", "8bit"], ["--grad-dtype must be one of ", "'bfloat16', ", ", not '8bit'"]),
        (["--state-dtype", "float32"], ["--state-dtype must be one of 'none', ", "'8bit'", ", not 'float32'"]),
        (["--master", "split"], ["--master must be None for parameters of float32, not 'split'"]),
        (
            ["--dtype", "float16", "--master", "split"],
            ["--master must be None or 'float32' for parameters of float16, not 'split'"],
        ),
        (["--copy", "float32"], ["--copy must be one of 'none', ", "'bfloat16'", ", not 'float32'"]),
        (
            ["--dtype", "bfloat16", "--copy", "bfloat16"],
            ["--copy must be None for parameters of bfloat16, not 'bfloat16'"],
        ),
        (["--max-norm", "0"], ["--max-norm must be a finite number > 0, not '0'"]),
        (["--grad-scale", "inf"], ["--grad-scale must be a finite number > 0, not 'inf'"]),
        (["--turns", "0"], ["--turns must be a whole number >= 1, not '0'"]),
        (["--threads", "0"], ["--threads must be a whole number >= 1, not '0'\n"]),
        (["--threads", "1000000"], ["--threads must be up to ", ", one per processor, not 1000000\n"]),
        (["--threads", "two"], ["--threads must be a whole number >= 1, not 'two'"]),
        (["--backend", "cuda"], ["--backend must be one of 'numba', 'c', 'all', not 'cuda'"]),
        (["--against", "torch,tensorflow"], ["--against must be one of ", "'torch-fused'", "not 'tensorflow'"]),
        (["--against", "torch-fuse"], ["--against", "not 'torch-fuse'; did you mean 'torch-fused'?"]),
        (
            ["--out", "picture.jpg"],
            ["--out must be a name that ends in .png, such as 'picture.png', not 'picture.jpg'"],
        ),
        (
            ["--out", "no/such/folder/picture.png"],
            ["--out must be a file in a folder that is there, not 'no/such/folder/picture.png'"],
        ),
    ],
)
def test_bad_values_are_one_line_that_names_the_argument(arguments, says):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == "" and result.stderr.count("\n") == 1
    for words in says:
        assert words in result.stderr


def test_threads_from_the_environment_are_named(monkeypatch):
    monkeypatch.setenv("FASTOPT_NUM_THREADS", "none")
    result = run("--size", "10")
    assert result.exit_code == 2
    assert "bench: FASTOPT_NUM_THREADS must be a whole number >= 1, not 'none'" in result.stderr
