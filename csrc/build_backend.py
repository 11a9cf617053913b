"""The build backend of the Python package: scikit-build-core's, and where the library in C cannot be built, a package
without it that holds the reason. With FASTOPT_REQUIRE_C the build fails instead.
"""

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from scikit_build_core import build

build_sdist = build.build_sdist
get_requires_for_build_sdist = build.get_requires_for_build_sdist
get_requires_for_build_wheel = build.get_requires_for_build_wheel
get_requires_for_build_editable = build.get_requires_for_build_editable
# None that prepares metadata: the tag of the wheel depends on whether the build fails.

#: Where fastopt looks for the reason: its first line is a summary, the rest what the build has printed last.
REASON = Path("fastopt") / "_c_failure.txt"
PURE = {"wheel.cmake": "false", "wheel.py-api": "py3"}


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    try:
        return _build(build.build_wheel, wheel_directory, config_settings)
    finally:
        REASON.unlink(missing_ok=True)  # it is in the wheel


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    return _build(build.build_editable, wheel_directory, config_settings)


def _build(function: Callable[..., str], wheel_directory: str, config_settings: Any) -> str:
    REASON.unlink(missing_ok=True)
    os.environ.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str((os.cpu_count() or 1) + 2))  # ninja's number, also for make
    if os.environ.get("FASTOPT_REQUIRE_C", "").lower() not in ("", "0", "false", "off", "no"):
        return function(wheel_directory, config_settings)
    printed: deque[bytes] = deque(maxlen=200)
    try:
        with _copied(printed):
            return function(wheel_directory, config_settings)
    except SystemExit:  # CMake has failed
        pass
    log = b"".join(printed).decode(errors="replace")
    REASON.write_text(f"{summary(log)}\n\n{log}", encoding="utf-8")
    print(f"*** Without the C backend: {summary(log)}", flush=True)
    return function(wheel_directory, {**(config_settings or {}), **PURE})


@contextmanager
def _copied(lines: deque[bytes]) -> Iterator[None]:
    """Keeps a copy of the lines that this process and the programs that it runs print."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    kept = os.dup(1), os.dup(2)

    def copy() -> None:
        with os.fdopen(reader, "rb") as source:
            for line in source:
                lines.append(line)
                os.write(kept[0], line)

    thread = Thread(target=copy)
    thread.start()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        thread.join()  # the pipe has no writer any more
        for descriptor in kept:
            os.close(descriptor)


def summary(log: str) -> str:
    """The first error of a compiler in what a build has printed, or else that of CMake, in one line."""
    found = re.search(r"^ *(?!ninja|g?make)\S.*?\b(?:fatal )?error: .*$", log, flags=re.MULTILINE)
    if not found:
        found = re.search(r"^CMake Error.*(?:\n(?: .*)?)*", log, flags=re.MULTILINE)
    line = " ".join(found[0].split()) if found else "the build has failed"
    return line if len(line) <= 300 else f"{line[:297]}..."
