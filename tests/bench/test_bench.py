"""``fastopt bench``: what is measured, that peers make the same step, what the command says. No test asserts a time."""

import json
import subprocess
import sys

import click.testing
import numpy as np
import pytest

import fastopt
from fastopt import cli, kernels
from fastopt.bench import cases, limit, measure, verify, worker
from fastopt.bench.peers import PEERS, Bound, Peer
from fastopt.buffers import aligned_empty

INSTALLED = [name for name, peer in PEERS.items() if not peer.missing()]
SLOW = {"torch-compile", "deepspeed"}  # they compile for a minute


def run(*arguments, **options):
    """``fastopt bench`` with these arguments."""
    return click.testing.CliRunner().invoke(cli.cli, ["bench", *arguments], prog_name="fastopt", **options)


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
    assert {type(rule) for rule in rules} == set(fastopt.RULES.values())
    assert set(cases.DEFAULT) <= set(cases.cases())


def test_labels_name_what_is_not_the_default():
    assert cases.label(fastopt.RMSprop(centered=True)) == "RMSprop(centered=True)"
    assert cases.label(fastopt.AdamW()) == "AdamW"


@pytest.mark.parametrize(("rule", "bytes_moved"), [("SGD", 12), ("Momentum", 20), ("AdamW", 28), ("AMSGrad", 36)])
def test_traffic_is_what_the_design_counts(rule, bytes_moved):
    assert cases.traffic(fastopt.RULES[rule](), "float32") == bytes_moved
    assert cases.traffic(fastopt.RULES[rule](), "float64") == 2 * bytes_moved


@pytest.mark.parametrize("states", range(4))
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


@pytest.mark.parametrize("name", [name for name in INSTALLED if name not in SLOW])
@pytest.mark.parametrize("label", cases.cases())
def test_installed_peers_make_the_same_step(name, label):
    rule = cases.cases()[label]
    found = verify.difference(lambda p, g: PEERS[name].make(rule, p, g, 1), rule, "float32")
    assert found is None or found <= verify.ULP


def test_numpy_has_every_rule_in_both_dtypes():
    for rule in cases.cases().values():
        for dtype in ("float32", "float64"):
            found = verify.difference(lambda p, g, rule=rule: PEERS["numpy"].make(rule, p, g, 1), rule, dtype)
            assert found is not None and found <= 16


@pytest.mark.parametrize(
    "other", [fastopt.AdamW(eps=2e-8), fastopt.AdamW(weight_decay=0.0), fastopt.Adam(weight_decay=0.01)]
)
def test_another_update_is_found(other):
    found = verify.difference(lambda p, g: PEERS["numpy"].make(other, p, g, 1), fastopt.AdamW(), "float32")
    assert found > verify.ULP


def test_an_update_that_is_not_finite_is_found():
    found = verify.difference(lambda p, g: Bound(lambda: None, lambda: p * np.nan), fastopt.SGD(), "float32")
    assert found == float("inf")


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
    assert found["settings"] == {
        "sizes": [100, 1000],
        "dtype": "float32",
        "threads": 1,
        "engines": ["numba", "c", "numpy"],
        "turns": 5,
    }


def test_the_picture_is_a_png(measured):
    _, picture = measured
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_names_what_is_missing_and_what_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(PEERS, "optax", Peer(("no_such_module",), "pip install jax optax", PEERS["optax"].make))
    monkeypatch.chdir(tmp_path)
    result = run("--rule", "lion", "--size", "64", "--backend", "c", "--threads", "1", "--against", "optax")
    assert result.exit_code == 0, result.output
    assert "Not installed: optax. Install it with: pip install jax optax" in result.stdout
    assert "in a process of its own" in result.stdout
    assert "Lion" in result.stdout and "slowdown" in result.stdout
    assert result.stderr == ""  # no progress bar where there is no terminal
    assert (tmp_path / "bench.png").exists()


def test_another_fastopt_in_the_folder_is_not_measured(tmp_path, monkeypatch):
    (tmp_path / "fastopt").mkdir()
    (tmp_path / "fastopt" / "__init__.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH")
    result = run("--rule", "sgd", "--size", "64", "--threads", "1", "--against", "numpy")
    assert result.exit_code == 0, result.output
    assert "numpy" in result.stdout and "Not measured" not in result.stdout


@pytest.mark.parametrize(("name", "buffers"), [("c", 2), ("numpy", 0)])
def test_a_backend_steps_new_memory_in_every_turn(name, buffers, monkeypatch):
    engine, made = worker.Engine(name, 1), []
    engine.prepare("fastopt:SGD", {}, 100, "float32")
    monkeypatch.setattr(worker, "aligned_empty", lambda *shape: made.append(shape) or aligned_empty(*shape))
    engine.turn(0.001)
    assert len(made) == buffers


def test_a_rule_that_a_peer_lacks_is_refused():
    code = (
        "import json, sys; from fastopt.bench import session; import fastopt\n"
        "print(json.dumps(session.run([fastopt.Adagrad()], [64], 'float64', 1, ['c', 'deepspeed'], lambda what: None)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    results, refused = json.loads(done.stdout)
    assert [each[2] for each in results] == ["c"]
    assert refused == [["deepspeed", "Adagrad", "deepspeed has no such rule for float64"]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rule", "adamv"], ["--rule", "'adamv'", "did you mean 'adam'"]),
        (["--rule", "adam:lr=-1"], ["--rule", "lr"]),
        (["--rule", "adam:beta=1"], ["--rule", "betas"]),
        (["--size", "0"], ["--size", "'0'", "nearest that is allowed: 1"]),
        (["--size", "1.5"], ["--size", "'1.5'", "nearest that is allowed: 2"]),
        (["--size", "many"], ["--size", "'many'", "30k"]),
        (["--size", "nan"], ["--size", "'nan'"]),
        (["--size", "inf"], ["--size", "'inf'", f"{2**31}"]),
        (["--size", "2000M"], ["--size", "nearest that is allowed"]),
        (["--dtype", "float16"], ["--dtype", "float32"]),
        (["--turns", "0"], ["--turns", "1"]),
        (["--threads", "0"], ["--threads", "nearest that is allowed: 1"]),
        (["--threads", "1000000"], ["--threads", "nearest that is allowed"]),
        (["--threads", "two"], ["--threads", "two"]),
        (["--backend", "cuda"], ["--backend", "'cuda'", "numba"]),
        (["--against", "torch,tensorflow"], ["--against", "'tensorflow'", "torch-fused"]),
        (["--against", "torch-fuse"], ["--against", "did you mean 'torch-fused'"]),
        (["--out", "picture.jpg"], ["--out", "picture.png"]),
        (["--out", "no/such/folder/picture.png"], ["--out", "no/such/folder"]),
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
    assert result.exit_code == 2 and "FASTOPT_NUM_THREADS" in result.stderr
