"""What this machine has, and what is installed on it."""

import ctypes
import mmap
import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: What takes part in results, and so is named beside them.
PACKAGES = ("numpy", "numba", "cffi", "scikit-learn", "matplotlib")
WORTH_HUGE_PAGES = 2**22  # bytes, as NumPy sees it, which asks for them itself
MEMORY_SHARE = 0.7  # of the memory that buffers may take: the rest is for what else runs


def memory() -> int | None:
    """Bytes of memory that the process may use: those of the machine, or of its control group if that has fewer; None
    where the system does not say."""
    found = []
    with suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # ValueError: "max", which is no limit
            found.append(int(Path("/sys/fs/cgroup", limit).read_text()))
    return min(found, default=None)


def ask_for_huge_pages(start: int, size: int) -> None:
    """Has Linux map so many bytes from an address in huge pages, where nothing has been written there yet.

    Memory is first touched in less time so, and rows that lie anywhere in it are reached in less.
    """
    advice, page = getattr(mmap, "MADV_HUGEPAGE", None), mmap.PAGESIZE
    if advice is None or size < WORTH_HUGE_PAGES:
        return
    first, stop = -(-start // page) * page, (start + size) // page * page
    with suppress(OSError, AttributeError):  # a system without it goes on with small pages
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(stop - first), advice)


def shortage(needed: int) -> str | None:
    """What to say where buffers of ``needed`` bytes are more than fits here, or None if they fit."""
    here = memory()
    if here is None or needed <= MEMORY_SHARE * here:
        return None
    return f"needs {_human(needed)} and this machine has {_human(here)}"


def _human(size: int) -> str:
    return f"{size / 2**30:,.0f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def caches() -> dict[str, int]:
    """Bytes of the first processor's data caches, such as ``{"L1": 49152}``; empty where the system does not say."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) * 1024
    return found


def package_version(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part, and the platform."""
    found = {name: found for name in PACKAGES if (found := package_version(name))}
    return {"python": platform.python_version(), **found, "platform": f"{sys.platform} {platform.machine()}"}
