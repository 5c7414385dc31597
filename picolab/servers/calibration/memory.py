"""Memory that the calibration server takes and holds on purpose."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
