"""Memory that the calibration server takes and holds on purpose."""

from __future__ import annotations

import mmap
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MIB = 1 << 20


def touched_memory(size_bytes: int) -> mmap.mmap:
    """Return anonymous memory of which every page has been written."""
    block = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size_bytes, mmap.PAGESIZE):
        block[offset] = 1
    return block


@contextmanager
def held_memory(size_mib: float) -> Iterator[None]:
    """Hold anonymous memory of which every page has been written."""
    if int(size_mib * MIB) == 0:
        yield
        return
    with touched_memory(int(size_mib * MIB)):
        yield


def memory_to_need(need_mib: float, percent: float) -> float:
    """Return the MiB of memory that this process lacks to what an upload needs, drawn anew for each upload."""
    # Memory of page tables is charged to a limit too, and cannot be reclaimed either.
    wanted = ("RssAnon:", "VmPTE:")
    with Path("/proc/self/status").open() as status:
        has_kib = sum(int(line.split()[1]) for line in status if line.startswith(wanted))
    return max(0.0, need_mib * random.lognormvariate(0.0, percent / 100) - has_kib / 1024)


def memory_limit_mib(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the least of the RAM of this machine and the limits of the memory cgroup that this process is in."""
    limits = [int((proc / "meminfo").read_text().split()[1]) / 1024]
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            file = cgroups / path.lstrip("/") / "memory.max"
        elif "memory" in controllers.split(","):
            file = cgroups / "memory" / path.lstrip("/") / "memory.limit_in_bytes"
        else:
            continue
        with suppress(OSError, ValueError):  # no limit at the root; "max" is none
            limits.append(int(file.read_text()) / MIB)
    return min(limits)


class Ballast:
    """The constant ballast, shared by all uploads."""

    def __init__(self, size_mib: float) -> None:
        self._size_bytes = int(size_mib * MIB)
        self._memory: mmap.mmap | None = None
        self._lock = threading.Lock()

    def keep(self) -> None:
        """Touch the memory if it is not there yet."""
        with self._lock:
            if self._memory is None and self._size_bytes:
                self._memory = touched_memory(self._size_bytes)
