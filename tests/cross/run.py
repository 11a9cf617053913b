"""The C library on other processors, by other compilers and with other options: the same bits as by ``cc`` here.

    python tests/cross/run.py aarch64 s390x       # or other names of TARGETS, or "all"

Each target compiles ``csrc/`` and ``bits.c``, runs that, under qemu where the processor is another one, and must print
what the reference prints: a checksum for every kernel, dtype and set of numbers. Exit status 1 if one does not.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
SOURCES = [
    *(CSRC / name for name in ("fastopt.c", "span.c", "stamped.c", "optimizer.c", "parallel.c", "xla.c")),
    HERE / "bits.c",
]
FLAGS = ["-std=gnu11", "-fno-math-errno", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}"]
LIBRARIES = ["-lpthread", "-ldl", "-lm"]


class Target(NamedTuple):
    """A compiler with options, what runs the program, where its threads come from, and the Debian packages for it."""

    compiler: str
    run: str = ""
    pool: str = "libgomp"
    packages: str = ""


def gcc(triple: str, qemu: str, debian: str, options: str = "", cpu: str = "") -> Target:
    """GCC for another processor, which qemu emulates."""
    run = f"qemu-{qemu}-static {cpu} -L /usr/{triple}"
    packages = f"gcc-{triple.replace('_', '-')} libc6-dev-{debian}-cross qemu-user-static"
    return Target(f"{triple}-gcc -O3 {options}", run, packages=packages)


AARCH64 = "aarch64-linux-gnu", "aarch64", "arm64"
ARM = "-march=armv7-a -mfpu=neon"
TARGETS = {
    "aarch64": gcc(*AARCH64),
    "aarch64-sve": gcc(*AARCH64, "-mcpu=neoverse-v1", "-cpu max"),  # FLT_EVAL_METHOD is 16
    "s390x": gcc("s390x-linux-gnu", "s390x", "s390x"),  # big-endian
    "riscv64": gcc("riscv64-linux-gnu", "riscv64", "riscv64"),
    "ppc64le": gcc("powerpc64le-linux-gnu", "ppc64le", "ppc64el"),
    "armhf": gcc("arm-linux-gnueabihf", "arm", "armhf", ARM),
    "armhf-clang": Target(
        f"clang -O3 --target=arm-linux-gnueabihf {ARM}",
        "qemu-arm-static -L /usr/arm-linux-gnueabihf",
        packages="clang libc6-dev-armhf-cross libgcc-12-dev-armhf-cross libgomp1-armhf-cross qemu-user-static",
    ),
    "i686": gcc("i686-linux-gnu", "i386", "i386", "-msse2 -mfpmath=sse"),
    "gcc-O0": Target("gcc -O0"),
    "gcc-native": Target("gcc -O3 -march=native"),
    "clang": Target("clang -O3", packages="clang"),
    "clang-O0": Target("clang -O0", packages="clang"),
    "clang-native": Target("clang -O3 -march=native", packages="clang"),
    "musl": Target("musl-gcc -O3 -static", pool="none", packages="musl-tools"),
}
REFERENCE = Target(f"{os.environ.get('CC', 'cc')} -O3")


class Failure(Exception):
    """Why a target has not given the bits of the reference."""


def checksums(target: Target, folder: Path) -> list[str]:
    """What the program prints for a target, a line each."""
    program = folder / "bits"
    _run([*target.compiler.split(), *FLAGS, *SOURCES, "-o", program, *LIBRARIES], target)
    pool, *lines = _run([*target.run.split(), program], target).splitlines()
    if pool != f"pool {target.pool}":
        raise Failure(f"threads should come from {target.pool}, but: {pool}")
    return lines


def _run(command: list, target: Target) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "4"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    except FileNotFoundError as error:
        raise Failure(
            f"{error.filename} is missing: apt-get install --no-install-recommends {target.packages}"
        ) from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{command[0]} did not end within 300 s") from None
    if done.returncode:
        shown = " ".join(map(str, command))
        raise Failure(f"{shown}\nexit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def compare(found: list[str], expected: list[str]) -> None:
    """Failure if a line differs."""
    wrong = [f"{line}, not {right}" for line, right in zip(found, expected, strict=False) if line != right]
    if wrong or len(found) != len(expected):
        raise Failure(
            f"{len(wrong)} of {len(expected)} checksums differ ({len(found)} printed):\n" + "\n".join(wrong[:10])
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", choices=[*TARGETS, "all"], metavar="TARGET", help=", ".join(TARGETS))
    names = parser.parse_args().targets
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        expected = checksums(REFERENCE, Path(folder))
        for name in TARGETS if "all" in names else names:
            started = time.monotonic()
            try:
                compare(checksums(TARGETS[name], Path(folder)), expected)
            except Failure as failure:
                failed += 1
                print(f"{name}: {failure}", flush=True)
            else:
                print(f"{name}: {len(expected)} checksums alike ({time.monotonic() - started:.0f} s)", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
