"""The asv suite: complete, valid, and lower is better. Times are for asv."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cases import ELEMENTWISE, STAGED
from conftest import BACKENDS

import fastopt
from fastopt import kernels
from fastopt.storages import STORAGES

ASV = Path(__file__).parents[2] / "asv_bench"
MODULES = sorted(path.stem for path in (ASV / "benchmarks").glob("*.py") if path.stem != "__init__")

pytestmark = pytest.mark.skipif(not ASV.is_dir(), reason="an sdist or wheel has no asv_bench/")


@pytest.fixture(scope="module")
def suite():
    """The benchmark modules by name."""
    sys.path.insert(0, str(ASV))
    try:
        yield {name: importlib.import_module(f"benchmarks.{name}") for name in MODULES}
    finally:
        sys.path.remove(str(ASV))


@pytest.fixture(scope="module")
def benchmarks(suite):
    """Every benchmark by name: its class and its function."""
    found = {}
    for name, module in suite.items():
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == module.__name__:
                for key in dir(kind):
                    if re.match(r"(time|track|timeraw|peakmem|mem)_", key):
                        found[f"{name}.{kind.__name__}.{key}"] = kind, getattr(kind, key)
    return found


def test_the_lists_are_literal():
    tree = ast.parse((ASV / "benchmarks" / "cases.py").read_text())
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    assert isinstance(ast.literal_eval(assigned["CASES"]), dict)
    assert isinstance(ast.literal_eval(assigned["STAGED"]), dict)
    assert isinstance(ast.literal_eval(assigned["MIXES"]), dict)


def test_the_list_has_every_rule_and_every_kernel(suite):
    listed = [suite["cases"].rule(fastopt, label) for label in suite["cases"].CASES]
    assert {type(rule).__name__ for rule in listed} == set(ELEMENTWISE)
    assert {rule.kernel for rule in listed} == set(kernels.KERNELS) - {"blend"}  # which is no rule's


def test_every_rule_with_a_stage_is_measured(suite):
    assert suite["cases"].STAGED.keys() == STAGED.keys()
    for label in suite["cases"].STAGED:
        step, product = suite["matrices"].step_and_product(label, BACKENDS[-1], 8)
        assert step().step == 1 and product().shape == (8, 8)


def test_the_list_is_what_the_bench_derives(suite):
    from fastopt.bench import cases

    assert {suite["cases"].rule(fastopt, label) for label in suite["cases"].CASES} == set(cases.cases().values())


def test_mixes_have_every_storage_and_move_what_is_counted(suite):
    from fastopt.bench.mix import Mix

    steps, size, found = suite["storages"], suite["cases"].IN_CACHE, set()
    for mix, (dtype, grad_dtype, options) in suite["cases"].MIXES.items():
        optimizer, gradient = steps.optimizer_and_gradient("AdamW", mix, BACKENDS[-1], size, 1)
        assert optimizer.step(gradient).step == 1
        found |= {word.partition(",")[0] for word in optimizer.explain().kernels[0].storages.values()}
        others = {name: value for name, value in options.items() if name != "ema_decay"}
        average = 8 if "ema_decay" in options else 0
        counted = Mix(dtype, grad_dtype, **others).traffic(optimizer.rule, size) / size + average
        assert steps.traffic(mix, 2) == counted, mix
    assert found == STORAGES.keys() - {"float64"}


def test_a_mix_that_a_commit_lacks_is_skipped(suite, monkeypatch):
    monkeypatch.setitem(suite["cases"].MIXES, "new", ("float32", "float32", {"no_such_argument": 1}))
    with pytest.raises(NotImplementedError, match="this commit has no new"):
        suite["storages"].step("SGD", "new", BACKENDS[0], 10, 1)


def test_the_time_of_an_element_is_without_that_of_a_step(suite, monkeypatch):
    taken = suite["yardstick"].load("measure").Round(4.096e-6 + 3e-6, 3e-6)
    monkeypatch.setattr(suite["yardstick"], "in_turn", lambda step, other, budget: step() and other() and taken)
    assert suite["storages"].in_cache("SGD", "float32", BACKENDS[0]) == pytest.approx((1.0,))


def test_the_budget_is_that_of_fixed_costs_too(suite, monkeypatch):
    quick, given = suite["quick"], []
    taken = suite["yardstick"].load("measure").Round(2e-6, 1e-6)
    monkeypatch.setattr(quick, "BUDGET", 0.001)
    monkeypatch.setattr(suite["yardstick"], "in_turn", lambda step, other, budget: given.append(budget) or taken)
    benchmark = quick.FixedCost()
    benchmark.setup(BACKENDS[-1], "plain")
    assert benchmark.track_fixed_cost(BACKENDS[-1], "plain") == 2
    assert set(given) == {0.002}


def test_labels_name_their_rules(suite):
    from fastopt.bench.cases import label

    for each, given in suite["cases"].CASES.items():
        rule = suite["cases"].rule(fastopt, each)
        assert label(rule).partition("(")[0] == each.partition("(")[0]
        assert all(f"{name}={value!r}" in each for name, value in given.items())


def test_what_a_commit_lacks_is_skipped(suite):
    with pytest.raises(NotImplementedError, match="Lion"):
        suite["cases"].rule(importlib.import_module("math"), "Lion")
    with pytest.raises(NotImplementedError):
        suite["yardstick"].look_up({}, ("Lion", "c", "float32", "1"))


def test_what_went_wrong_is_raised(suite):
    swept = suite["yardstick"].sweep(["SGD"], ["no such backend"], ["float32"], 10, ["1"], 0.001)
    with pytest.raises(RuntimeError, match="no such backend"):
        suite["yardstick"].look_up(swept, ("SGD", "no such backend", "float32", "1"))


def test_a_sweep_measures_every_combination(suite):
    swept = suite["yardstick"].sweep(["SGD", "AdamW"], ["numba", "c"], ["float32", "float64"], 10, ["1", "all"], 0.001)
    assert len(swept) == 16
    assert all(seconds > 0 and slowdown > 0 for seconds, slowdown in swept.values())


def test_every_track_has_a_unit_and_lower_is_better(benchmarks):
    assert len(benchmarks) >= 15
    for name, (kind, function) in benchmarks.items():
        if ".track_" in name:
            unit = getattr(function, "unit", None) or getattr(kind, "unit", None)
            known = {"seconds", "nanoseconds", "bytes", "ratio", "Python loops", "products"}  # never a throughput
            assert unit in known, name


def test_setup_caches_are_apart(benchmarks):
    """asv tells them apart by file and line: an inherited one would give a class another class's results."""
    lines = {}
    for kind, _ in benchmarks.values():
        if hasattr(kind, "setup_cache"):
            code = kind.setup_cache.__code__
            assert lines.setdefault((code.co_filename, code.co_firstlineno), kind) is kind


def test_the_cache_of_numba_is_apart_for_each_commit():
    code = "import os, sys; sys.path.insert(0, sys.argv[1]); import benchmarks; print(os.environ['NUMBA_CACHE_DIR'])"
    folders = []
    for commit in ("one", "two"):
        environment = {"ASV_COMMIT": commit, "ASV_ENV_DIR": "/somewhere", "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", code, str(ASV)], env=environment, capture_output=True, text=True, check=True
        )
        folders.append(done.stdout.strip())
    assert folders == ["/somewhere/numba/one", "/somewhere/numba/two"]


def test_the_configuration_requires_c_and_pins_what_it_installs():
    text = (ASV / "asv.conf.json").read_text()
    configuration = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert any("FASTOPT_REQUIRE_C=1" in command for command in configuration["build_command"])
    for package, versions in configuration["matrix"]["req"].items():
        assert len(versions) == 1 and re.fullmatch(r"\d+(\.\d+)+", versions[0]), package
    assert configuration["launch_method"] == "spawn"


def test_the_proof_changes_what_it_says(monkeypatch):
    monkeypatch.syspath_prepend(ASV / "proofs")
    import detection as proof

    for kernel, backend, rules in proof.ROUNDS:
        source = (proof.REPOSITORY / proof.kernel_file(kernel, backend)).read_text()
        loop = "KERNEL(" if backend == "c" else "prange(p.size)"
        assert loop in source and len(proof.twice(source, backend)) > len(source)
        assert {name for name, kind in ELEMENTWISE.items() if kind().kernel == kernel} == rules
    assert proof.belongs("quick.Kernels.track_time_in_l2('RMSprop', 'c')", "c", {"RMSprop"})
    assert not proof.belongs("quick.Kernels.track_time_in_l2('RMSprop(centered=True)', 'c')", "c", {"RMSprop"})


@pytest.mark.skipif(shutil.which("git") is None, reason="asv needs git")
def test_asv_check_finds_no_problem(tmp_path):
    pytest.importorskip("asv")
    environment = ["-E", f"existing:{sys.executable}"]
    done = subprocess.run(
        [sys.executable, "-m", "asv", "check", *environment], cwd=ASV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout
