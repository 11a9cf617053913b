"""What this machine has."""

import os
from contextlib import suppress
from pathlib import Path

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


def shortage(needed: int) -> str | None:
    """What to say where buffers of ``needed`` bytes are more than fits here, or None if they fit."""
    here = memory()
    if here is None or needed <= MEMORY_SHARE * here:
        return None
    return f"needs {_human(needed)} and this machine has {_human(here)}"


def _human(size: int) -> str:
    return f"{size / 2**30:,.0f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"
