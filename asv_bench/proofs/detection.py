"""Proves on a throwaway clone that the quick set finds what it should find, and nothing else.

    python asv_bench/proofs/detection.py [--rounds 5]

In every round ``asv continuous`` compares the last commit of this repository with three others:

- twice: one kernel does its work twice. It must fail, and name the benchmarks of that kernel and backend alone.
- comment: the same kernel's file has one more comment. It must pass.
- same: a commit that changes nothing. It must pass.

The exit status is 0 if all of that came true. A round takes some ten minutes; other work on the machine may go on.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FACTOR = "1.15"

#: The kernel and backend that a round changes, and the rules that use the kernel.
ROUNDS = (
    ("adagrad", "numba", {"Adagrad"}),
    ("rmsprop", "c", {"RMSprop"}),
    ("lion", "numba", {"Signum", "Lion"}),
    ("adam", "c", {"Adam", "AdamW", "LAMB", "RAdam", "SparseAdam", "StableAdamW"}),
    ("sgd", "numba", {"LARS", "SGD"}),
)


def kernel_file(kernel: str, backend: str) -> str:
    return f"csrc/kernels/{kernel}.h" if backend == "c" else f"fastopt/kernels/{kernel}.py"


def twice(source: str, backend: str) -> str:
    """The source of a kernel whose loop runs twice."""
    if backend == "c":
        head, body = re.fullmatch(r"(.*?\n)(\{\n.*\n\}\n)END_KERNEL\n", source, re.DOTALL).groups()
        return f"{head}{body}for (int64_t i = start; i < stop; i++)\n{body}END_KERNEL\n"
    head, loop = re.fullmatch(r"(.*?)(    for i in prange.*)", source, re.DOTALL).groups()
    return head + "    for _ in range(2):\n" + re.sub(r"^(?=.)", "    ", loop, flags=re.MULTILINE)


def commented(source: str, backend: str) -> str:
    """The source of a kernel with one more comment."""
    return source + ("/* Nothing else follows. */\n" if backend == "c" else "# Nothing else follows.\n")


class Clone:
    """A clone of the repository that may be thrown away."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder, "fastopt")
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(self.folder)], check=True)
        self.base = self.git("rev-parse", "HEAD")
        self.asv("machine", "--yes")

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=proof", "-c", "user.email=proof@localhost", *arguments]
        done = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def asv(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "asv", *arguments],
            cwd=self.folder / "asv_bench",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def commit(self, name: str, file: str, change) -> str:
        """A commit beside the others, upon the base."""
        self.git("checkout", "--quiet", "--force", "-B", name, self.base)
        path = self.folder / file
        path.write_text(change(path.read_text()))
        self.git("commit", "--quiet", "--all", "--allow-empty", "--no-verify", "--message", name)
        commit = self.git("rev-parse", "HEAD")
        self.git("checkout", "--quiet", "--force", self.base)
        return commit

    def compare(self, commit: str) -> tuple[int, list[str], str]:
        """The exit status of ``asv continuous``, the benchmarks that it calls worse, and all that it wrote."""
        code, text = self.asv("continuous", "--factor", FACTOR, "--bench", r"^quick\.", self.base, commit)
        return code, re.findall(r"^\| \+ .*\| (quick\S.*?) +\|$", text, re.MULTILINE), text


def belongs(benchmark: str, backend: str, rules: set[str]) -> bool:
    """Whether a benchmark, as asv names it, measures one of the rules on the backend."""
    parameters = re.fullmatch(r"quick\.Kernels\.\w+\((.*), (.*)\)", benchmark)
    return parameters is not None and (parameters[1].strip("'"), parameters[2].strip("'")) in {
        (rule, backend) for rule in rules
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=len(ROUNDS), help="how many of the five rounds (default: all)")
    rounds = ROUNDS[: parser.parse_args().rounds]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(folder)
        for number, (kernel, backend, rules) in enumerate(rounds, 1):
            file = kernel_file(kernel, backend)
            changes = {
                "twice": lambda text, backend=backend: twice(text, backend),
                "comment": lambda text, backend=backend: commented(text, backend),
                "same": lambda text: text,
            }
            for name, change in changes.items():
                code, worse, text = clone.compare(clone.commit(f"{name}-{number}", file, change))
                if name == "twice":
                    right = code == 1 and bool(worse) and all(belongs(each, backend, rules) for each in worse)
                else:
                    right = code == 0 and not worse
                wrong += not right
                found = f"worse: {', '.join(worse)}" if worse else "no benchmark is worse"
                print(f"round {number}, {name} ({file}): {'right' if right else 'WRONG'}, exit status {code}; {found}")
                if not right:
                    print(text)
                sys.stdout.flush()
    print(f"{3 * len(rounds) - wrong} of {3 * len(rounds)} comparisons are right")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
