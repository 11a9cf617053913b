"""The command line as a user meets it: files, tables, exit codes, one line for every error."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastopt
from fastopt.cli import cli
from fastopt.train import network


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fastopt_(*arguments: str):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def ok(*arguments: str):
    result = fastopt_(*arguments)
    assert result.exit_code == 0, result.output
    return result


def metrics(folder: str = "runs/digits") -> dict:
    return json.loads(Path(folder, "metrics.json").read_text(encoding="utf-8"))


SHORT = ("--epochs", "2", "--hidden", "16")


def test_train_with_no_argument():
    result = ok("train")
    for name in ("curves.png", "metrics.json", "checkpoint.safetensors"):
        assert Path("runs/digits", name).stat().st_size > 1000
        assert name in result.stdout
    run = metrics()["runs"][0]
    assert run["final"]["val_accuracy"] > 0.97
    assert len(run["history"]) == 30
    assert run["ended"] == "epochs"
    assert run["steps"] == 30 * 45
    assert run["steps_per_second"] > 0
    assert 0 < run["optimizer_share"] < 1
    assert f"{run['final']['val_accuracy']:.2%}" in result.stdout
    for word in ("accuracy", "precision", "recall", "steps per second", "optimizer's share"):
        assert word in result.stdout
    lines = result.stderr.splitlines()
    assert 5 <= len(lines) <= 15
    assert "epoch 30/30" in lines[-1]


def test_metrics_say_what_was_run():
    ok("train", *SHORT, "--seed", "7", "--backend", "c", "--schedule", "cosine", "--max-norm", "2")
    content = metrics()
    assert content["config"]["seed"] == 7
    assert content["config"]["schedule"] == "cosine"
    assert content["config"]["max_norm"] == 2.0
    assert content["config"]["source"] == "digits"
    assert content["versions"]["fastopt"] == fastopt.__version__
    assert content["data"]["training_rows"] + content["data"]["validation_rows"] == 1797
    assert content["runs"][0]["backend"] == "c"
    assert set(content["runs"][0]["seconds"]) == {"network", "optimizer", "validation"}


def test_a_resumed_run_keeps_its_storages():
    stored = ("--dtype", "bfloat16", "--master", "split", "--state-dtype", "8bit")
    words = "in bfloat16 (master split, states in 8bit), 17,226 parameters"
    assert words in ok("train", *stored, "--epochs", "1").stdout
    checkpoint = "runs/digits/checkpoint.safetensors"
    assert words in ok("train", "--resume", checkpoint, "--epochs", "2").stdout
    config, run = metrics()["config"], metrics()["runs"][0]
    assert (config["dtype"], config["master"], config["state_dtype"]) == ("bfloat16", "split", "8bit")
    assert run["storages"] == {
        "params": "split",
        "exp_avg": "float8_signed and float32",
        "exp_avg_sq": "float8_unsigned, stochastic and float32",
    }
    for other in (("--master", "none"), ("--state-dtype", "none"), ("--rounding", "nearest")):
        message = fastopt_("train", "--resume", checkpoint, *other).stderr
        assert f"{other[0]} must be " in message and f", as in {checkpoint}, not {other[1]}" in message


def test_the_same_seed_gives_the_same_history_on_either_backend():
    for backend in ("numba", "c"):
        ok("train", *SHORT, "--backend", backend, "--out", backend)
    assert metrics("numba")["runs"][0]["history"] == metrics("c")["runs"][0]["history"]


@pytest.mark.parametrize("name", ["a$$", "a $x_$ b", "\\frac{", os.fsdecode(b"b\xff"), "\u6f22\u5b57", "a\x1b\nb", "-"])
def test_any_name_of_a_file(name):
    Path(f"{name}.csv").write_text("a,y\n" + "".join(f"{i},{i > 4}\n" for i in range(10)))
    ok("train", "--data", f"./{name}.csv", "--target", "y", *SHORT)
    assert Path("runs", name, "curves.png").read_bytes().startswith(b"\x89PNG")
    assert metrics(f"runs/{name}")["data"]["name"] == name
    ok("train", "--resume", f"runs/{name}/checkpoint.safetensors", "--epochs", "3")
    assert len(metrics(f"runs/{name}")["runs"][0]["history"]) == 3


#: Commands in a process of their own, with a slash between two of them. After each, its exit code on either stream.
COMMANDS = """
    import sys
    from fastopt.cli import main
    lines = [[]]
    for word in sys.argv[1:]:
        if word == "/":
            lines.append([])
        else:
            lines[-1].append(word)
    for line in lines:
        sys.argv[1:] = line
        code = None
        try:
            main()
        except SystemExit as end:
            code = end.code
        for stream in (sys.stdout, sys.stderr):
            print(f"<exit {code}>", file=stream)
"""


def commands(*arguments: str, code: str = COMMANDS, **environment: str) -> tuple[str, str]:
    """What the commands print, on the standard output and as errors."""
    line = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(
        line, env=os.environ | environment, capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_names_where_the_system_writes_ascii_alone_and_matplotlib_has_a_wrong_backend():
    Path("\u00fc.csv").write_text("a,y\n" + "".join(f"{i},{i > 4}\n" for i in range(10)))
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    train = ("train", "--target", "y", "--backend", "c", *SHORT)
    stdout, stderr = commands(
        *train, "--data", "\u00fc.csv", "/", *train, "--data", "\u6f22.csv", MPLBACKEND="nonsense", **ascii_alone
    )
    assert "<exit 0>" in stderr, stderr
    assert "curves.png" in stdout
    lines = stderr[stderr.index("<exit 0>") :].splitlines()
    assert len(lines) == 3 and lines[-1] == "<exit 2>", stderr


def test_a_full_disk_is_named_and_leaves_the_old_files():
    """In a notebook's environment, whose backend of matplotlib need not be there: the picture is made all the same."""
    ok("train", *SHORT, "--hidden", "none")
    before = {path: path.read_bytes() for path in Path("runs/digits").iterdir()}
    full = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    """
    train = ("train", "--epochs", "1", "--hidden", "none", "--backend", "c")
    _, stderr = commands(*train, code=full + COMMANDS, MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert stderr.splitlines()[-2:] == [
        "fastopt: [Errno 27] File too large: 'runs/digits/curves.png'",
        "<exit 1>",
    ]
    assert set(before) == set(Path("runs/digits").iterdir())
    assert Path("runs/digits/curves.png").read_bytes() == before[Path("runs/digits/curves.png")]


def test_several_optimizers_are_compared():
    result = ok("train", *SHORT, "-o", "adam", "-o", "sgd:lr=0.1", "-o", "Lion:betas=0.9/0.98", "--out", "o")
    assert [run["optimizer"] for run in metrics("o")["runs"]] == ["adam", "sgd:lr=0.1", "lion:betas=0.9/0.98"]
    assert {path.name for path in Path("o").iterdir()} == {
        "curves.png",
        "metrics.json",
        "checkpoint-adam.safetensors",
        "checkpoint-sgd-lr=0.1.safetensors",
        "checkpoint-lion-betas=0.9-0.98.safetensors",
    }
    assert result.stdout.count("sgd:lr=0.1") >= 1


def test_no_hidden_layer():
    assert "network 64-10 in" in ok("train", "--epochs", "1", "--hidden", "none").stdout
    assert metrics()["config"]["hidden"] == []
    ok("train", "--resume", "runs/digits/checkpoint.safetensors", "--epochs", "2", "--hidden", "none")
    assert fastopt_("train", "--resume", "runs/digits/checkpoint.safetensors", "--hidden", "16").exit_code == 2


def test_switching_and_other_data():
    result = ok(
        "train",
        "--data",
        "breast-cancer",
        "--epochs",
        "3",
        "--switch-to",
        "sgd:lr=0.1",
        "--switch-at",
        "2",
        "--batch-size",
        "full",
        "--dtype",
        "float64",
    )
    assert "adam, sgd:lr=0.1" in result.stderr
    assert [entry["lr"] for entry in metrics("runs/breast-cancer")["runs"][0]["history"]] == [
        0.001,
        0.001,
        0.1,
    ]


def test_until_converged():
    result = ok("train", "--hidden", "16", "--until-converged", "0.05")
    run = metrics()["runs"][0]
    assert run["ended"] == "converged"
    assert len(run["history"]) < 1000
    assert f"converged in epoch {len(run['history'])}" in result.stdout


def test_a_small_csv_trains_with_the_default_batch():
    Path("t.csv").write_text("a,y\n" + "".join(f"{i},{i > 4}\n" for i in range(10)))
    ok("train", "--data", "t.csv", "--target", "y", *SHORT)
    assert metrics("runs/t")["config"]["batch_size"] == 8


@pytest.fixture
def interrupt(monkeypatch):
    """A function after which the 60th batch from then on comes with a Ctrl-C."""

    def from_now_on():
        gradients = network.Network.gradients
        calls = iter(range(1000))

        def interrupted(self, x, y):
            if next(calls) == 60:
                signal.raise_signal(signal.SIGINT)
            return gradients(self, x, y)

        monkeypatch.setattr(network.Network, "gradients", interrupted)

    return from_now_on


def test_ctrl_c_leaves_a_checkpoint_that_goes_on_with_the_same_bits(interrupt):
    ok("train", *SHORT, "-o", "adam", "-o", "lion", "--out", "whole")
    interrupt()
    result = fastopt_("train", *SHORT, "-o", "adam", "-o", "lion", "--out", "cut")
    assert result.exit_code == 130
    checkpoint = Path("cut", "checkpoint-adam.safetensors")
    assert str(checkpoint) in result.stderr.splitlines()[-1]
    assert f"fastopt train --resume {checkpoint}" in result.stderr
    assert "Traceback" not in result.output
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ok("train", "--resume", checkpoint)
    for whole, cut in zip(metrics("whole")["runs"], metrics("cut")["runs"], strict=True):
        assert cut["history"] == whole["history"]
        assert cut["optimizer"] == whole["optimizer"]
        name = whole["checkpoint"]
        parameters = [
            fastopt.checkpoint.read(Path(place, name))[1]["params/fc1.weight"].tobytes() for place in ("whole", "cut")
        ]
        assert parameters[0] == parameters[1]


def test_resume_goes_further_and_takes_the_arguments_of_the_checkpoint():
    ok("train", "--epochs", "4", "--hidden", "16", "--seed", "5", "--out", "whole")
    ok("train", "--epochs", "2", "--hidden", "16", "--seed", "5", "--out", "part")
    ok("train", "--resume", "part/checkpoint.safetensors", "--epochs", "4", "--backend", "c")
    assert metrics("part")["runs"][0]["history"] == metrics("whole")["runs"][0]["history"]


def test_a_new_run_does_not_take_over_the_checkpoints_of_an_old_one(interrupt):
    both = ("-o", "adam", "-o", "lion")
    ok("train", *SHORT, *both, "--seed", "9", "--out", "whole")
    ok("train", *SHORT, *both)
    interrupt()
    assert fastopt_("train", *SHORT, *both, "--seed", "9").exit_code == 130
    ok("train", "--resume", "runs/digits/checkpoint-adam.safetensors")
    for found, expected in zip(metrics()["runs"], metrics("whole")["runs"], strict=True):
        assert found["history"] == expected["history"]


def test_the_signal_handler_of_before_is_back_after_a_run():
    def handler(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGINT, handler)
    try:
        ok("train", *SHORT)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_divergence():
    result = fastopt_("train", *SHORT, "-o", "sgd:lr=1e20")
    assert result.exit_code == 1
    assert "no longer finite" in result.stderr
    assert "checkpoint" not in result.stdout
    assert metrics()["runs"][0]["final"] is None
    assert ok("train", *SHORT, "-o", "sgd:lr=1e20", "-o", "adam").exit_code == 0


WRONG = [
    (("trian",), "trian"),
    (("train", "--wat"), "--wat"),
    (("train", "--data", "digitz"), "did you mean 'digits'"),
    (("train", "--data", "nothing.csv", "--target", "y"), "--data"),
    (("train", "--target", "y"), "--target"),
    (("train", "-o", "adm"), "did you mean 'adam'"),
    (("train", "-o", "adam:lrr=1"), "did you mean 'lr'"),
    (("train", "-o", "adam:lr=-1"), "--optimizer"),
    (("train", "-o", "adam", "-o", "ADAM"), "twice"),
    (("train", "-o", "adam:lr=1e-2", "-o", "adam:lr=1E-2"), "the same"),
    (("train", "-o", "adam:lr=0.01", "-o", "sgd", "-o", "adam:lr=1e-2,eps=1e-8"), "the same"),
    (("train", "-o", "adam", "-o", "adam:lr=0.001"), "the same"),
    (
        ("train", *(word for n in range(1, 66) for word in ("-o", f"adam:lr={n}"))),
        "--optimizer must be given up to 64 times, not 65",
    ),
    (("train", "-o", "adam:lr=1_0"), "--optimizer"),
    (("train", "-o", "rmsprop:alpha=" + "9" * 5000), "--optimizer"),
    (("train", "--schedule", "cosin"), "--schedule"),
    (("train", "--schedule", "cosine:warmup=99999"), "--schedule"),
    (("train", "--switch-to", "sgd"), "--switch-at must be given with --switch-to"),
    (("train", "--switch-at", "3"), "--switch-to must be given with --switch-at"),
    (("train", "--switch-to", "sgdd", "--switch-at", "3"), "--switch-to"),
    (("train", "--switch-to", "sgd", "--switch-at", "30"), "--switch-at must be before the last epoch, 30, not 30"),
    (("train", "--batch-size", "0"), "--batch-size"),
    (("train", "--batch-size", "all"), "--batch-size must be a whole number >= 1, or full, not 'all'"),
    (("train", "--batch-size", "2000"), "--batch-size must be from 1 to 1438, the training rows, or full, not 2000"),
    (("train", "--epochs", "0"), "--epochs must be a whole number from 1 to 1000000000, not '0'"),
    (("train", "--until-converged", "0"), "--until-converged must be a finite number > 0, not '0'"),
    (("train", "--max-norm", "nan"), "--max-norm must be a finite number > 0, not 'nan'"),
    (("train", "--max-norm", "1_0"), "--max-norm"),
    (("train", "--hidden", "64,x"), "--hidden must be whole numbers >= 1 with commas between, or none, not '64,x'"),
    (("train", "--hidden", "1000000000"), "this machine has"),
    (("train", "--hidden", "200000,200000"), "this machine has"),
    (("train", "--hidden", "9" * 5000), "--hidden"),
    (("train", "--hidden", "\u0661"), "--hidden"),
    (("train", "--batch-size", "9" * 5000), "--batch-size"),
    (("train", "--epochs", "9" * 400), "--epochs"),
    (("train", "--decimal", ";"), "--decimal must be one of '.', ',', not ';'"),
    (("train", "--decimal", ","), "--decimal must be given with a CSV file only, not with 'digits'"),
    (("train", "--drop", "x"), "--drop"),
    (("train", "--dtype", "float8"), "--dtype must be one of 'float32', "),
    (("train", "--master", "split"), "--master must be None for parameters of float32, not 'split'"),
    (
        ("train", "--dtype", "float16", "--master", "split"),
        "--master must be None or 'float32' for parameters of float16, not 'split'",
    ),
    (
        ("train", "--dtype", "bfloat16", "--master", "float64"),
        "--master must be one of 'none', 'float32', 'split', not 'float64'",
    ),
    (("train", "--state-dtype", "float64"), "--state-dtype must be one of 'none', "),
    (("train", "--rounding", "up"), "--rounding must be one of 'stochastic', 'nearest', not 'up'"),
    (("train", "--seed", "-1"), "--seed must be a whole number >= 0, not '-1'"),
    (("train", "--threads", "0"), "--threads must be a whole number from 1 to 1000000000, not '0'"),
    (("train", "--backend", "cuda"), "--backend must be one of 'auto', 'numba', 'c', not 'cuda'"),
    (("train", "-o", "rprop:lr=1e300"), "--optimizer: rule: Rprop(lr=1e+300, "),
    (("train", "-o", "schedulefreesgd:lr=1e300"), "--optimizer: "),
    (("train", "--resume", "nothing"), "--resume"),
    (("landscape", "-o", "adm"), "--optimizer"),
    (("landscape", "-o", "prodigy:d0=1e200"), "--optimizer: Prodigy("),
    (("landscape", "--out", "l.jpg"), "--out"),
    (("landscape", "--backend", "cuda"), "--backend must be one of 'auto', 'numba', 'c', not 'cuda'"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(arguments)[:60] for arguments, _ in WRONG])
def test_wrong_input_is_one_line_and_writes_nothing(folder, arguments, words):
    result = fastopt_(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert words in result.stderr
    assert list(folder.iterdir()) == []


def test_columns_and_decimals_of_a_csv_file_go_with_its_checkpoint():
    rows = "".join(f"{i},5;n{i};{i > 4}\n" for i in range(10))
    Path("t.csv").write_text("a;name;y\n" + rows)
    arguments = ("train", "--data", "t.csv", "--target", "y", *SHORT)
    assert "column 'a'" in fastopt_(*arguments, "--drop", "name").stderr
    assert "column 'name'" in fastopt_(*arguments, "--decimal", ",").stderr
    ok(*arguments, "--decimal", ",", "--drop", "name")
    assert metrics("runs/t")["config"]["decimal"] == ","
    assert metrics("runs/t")["config"]["drop"] == ["name"]
    ok("train", "--resume", "runs/t/checkpoint.safetensors", "--epochs", "3")
    assert metrics("runs/t")["config"]["drop"] == ["name"]


def test_categories_are_mentioned():
    Path("t.csv").write_text("a,y\n" + "".join(f"{'ab'[i % 2]},{i > 4}\n" for i in range(10)))
    result = ok("train", "--data", "t.csv", "--target", "y", *SHORT)
    assert "t.csv: 0 columns of numbers, 1 of categories: a (2)" in result.stderr.splitlines()


def test_csv_errors_name_line_and_column(folder):
    Path("t.csv").write_text("a,y\n1,x\n2,z\nbad,x\n4,z\n")
    result = fastopt_("train", "--data", "t.csv", "--target", "y")
    assert result.exit_code == 2
    assert "--data: t.csv, line 4, column 'a' must be a finite number, not 'bad'" in result.stderr
    result = fastopt_("train", "--data", "t.csv", "--target", "Y")
    assert "--target must be a column of t.csv, one of 'a', 'y', not 'Y'; did you mean 'y'?" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["t.csv"]


#: The command once for each module as if it were not installed, in one process, which imports the others only once.
WITHOUT = """
    import sys
    for module in sys.argv[1:]:
        for name in list(sys.modules):
            if name.partition(".")[0] == "fastopt":
                del sys.modules[name]
        loaded = {name: found for name, found in sys.modules.items() if name.partition(".")[0] == module}
        sys.modules |= dict.fromkeys([*loaded, module])
        backend = {"fastopt._c": "c", "numba": "numba"}.get(module)
        sys.argv[1:] = ["train", *(("--backend", backend) if backend else ("--dtype", "bfloat16"))]
        code = None
        try:
            from fastopt.cli import main
            main()
        except SystemExit as end:
            code = end.code
        if not isinstance(code, int):    # as the interpreter does at the end of a process
            print(code, file=sys.stderr)
            code = 1
        print(f"<exit {code}>", file=sys.stderr)
        del sys.modules[module]
        sys.modules |= loaded
"""


def test_a_module_that_is_missing(folder):
    backends = {"fastopt._c": "c", "numba": "numba"}
    modules = ["click", "threadpoolctl", "sklearn", "matplotlib", "ml_dtypes", "rich", *backends]
    stdout, stderr = commands(*modules, code=WITHOUT)
    lines = stderr.splitlines()
    assert stdout == "" and len(lines) == 2 * len(modules), stderr  # one line for each error
    for module, line, end in zip(modules, lines[::2], lines[1::2], strict=True):
        if module in backends:
            assert end == "<exit 2>" and f"--backend: backend '{backends[module]}' is not available" in line, line
        else:
            assert end == "<exit 1>" and line.endswith("pip install 'fastopt[train]'"), (module, line)
            assert {"sklearn": "scikit-learn"}.get(module, module) in line, (module, line)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "landscape"])
def test_an_environment_that_asks_for_a_wrong_backend(command, monkeypatch, folder):
    monkeypatch.setenv("FASTOPT_BACKEND", "cuda")
    result = fastopt_(command)
    assert result.exit_code == 2
    assert "--backend: FASTOPT_BACKEND" in result.stderr
    assert list(folder.iterdir()) == []


def test_an_out_that_cannot_be_a_folder():
    Path("file").write_text("x")
    for out in ("file", "file/below"):
        result = fastopt_("train", *SHORT, "--out", out)
        assert result.exit_code == 2
        assert f"--out must be a folder, new or not, that can be written to, not {out}: " in result.stderr
    assert Path("file").read_text() == "x"


def test_checkpoints_that_are_not_whole():
    ok("train", *SHORT)
    path = Path("runs/digits/checkpoint.safetensors")
    whole = path.read_bytes()
    for content in (whole[:100], whole[:-50], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(content)
        result = fastopt_("train", "--resume", path)
        assert result.exit_code == 2
        assert f"--resume: {path}" in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("trained")
    ok("train", *SHORT, "--schedule", "cosine", "--out", folder)
    return folder / "checkpoint.safetensors"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--data", "binary"), "--data"),
        (("-o", "sgd"), "--optimizer"),
        (("-o", "adam", "-o", "sgd"), "--optimizer"),
        (("--hidden", "16,16"), "--hidden"),
        (("--seed", "1"), "--seed"),
        (("--batch-size", "full"), "--batch-size"),
        (("--dtype", "float64"), "--dtype"),
        (("--state-dtype", "8bit"), "--state-dtype"),
        (("--rounding", "nearest"), "--rounding"),
        (("--schedule", "linear"), "--schedule"),
        (("--epochs", "9"), "--epochs"),
    ],
)
def test_resuming_with_arguments_that_do_not_fit(arguments, named, trained):
    result = fastopt_("train", "--resume", trained, *arguments)
    assert result.exit_code == 2
    assert f"train: {named} must be " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_resuming_with_fewer_rows_than_a_batch_names_the_data():
    ok("train", *SHORT, "--batch-size", "1000")
    result = fastopt_("train", "--resume", "runs/digits/checkpoint.safetensors", "--data", "binary")
    assert result.exit_code == 2
    assert "train: --data must be the samples that " in result.stderr


def test_landscape(monkeypatch):
    from fastopt.landscape import paths

    monkeypatch.setattr(paths, "RATES", (0.01,))
    result = ok("landscape", "-o", "sgd", "-o", "adam:lr=0.1", "--out", "l.png")
    assert Path("l.png").read_bytes().startswith(b"\x89PNG")
    assert "Rosenbrock" in result.stdout
    assert "adam:lr=0.1" in result.stdout


def test_info():
    result = ok("info")
    for word in ("numba", "instruction set", "threads", "AdamW", "choice", fastopt.__version__):
        assert word in result.stdout
    assert all(f"\n  {name}  " in result.stdout for name in fastopt.RULES)  # no name runs into what comes after it


@pytest.mark.parametrize(
    ("rooms", "missing"),
    [
        (
            "fastopt.cli.info fastopt.cli.rules",
            "rich sklearn matplotlib threadpoolctl fastopt.train fastopt.bench fastopt.landscape",
        ),
        ("fastopt.cli.bench fastopt.bench.chart fastopt.bench.report", "sklearn threadpoolctl fastopt.train"),
        ("fastopt.landscape.chart fastopt.landscape.paths", "sklearn threadpoolctl fastopt.train fastopt.bench"),
    ],
)
def test_a_command_does_without_what_is_another_s(rooms, missing):
    code = """
        import importlib, sys
        import fastopt
        rooms, missing = sys.argv[1:]
        package = type(sys)("fastopt.cli")  # without its commands
        package.__path__ = [fastopt.__path__[0] + "/cli"]
        sys.modules |= dict.fromkeys(missing.split()) | {"fastopt.cli": package}
        for room in rooms.split():
            importlib.import_module(room)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), rooms, missing], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",), ("train", "--help"), ("landscape", "-h"), ("rules", "-h")])
def test_help(arguments):
    assert "Usage: fastopt" in ok(*arguments).stdout


def test_version():
    assert fastopt.__version__ in ok("--version").stdout
    module = subprocess.run([sys.executable, "-m", "fastopt", "--version"], capture_output=True, text=True)
    assert fastopt.__version__ in module.stdout
