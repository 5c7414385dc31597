"""Locks between processes: the kernel frees the lock of a dead process, so that none is ever stale."""

import fcntl
from typing import Protocol


class HasDescriptor(Protocol):
    """An open file."""

    def fileno(self) -> int: ...


def try_lock(file: HasDescriptor | int) -> bool:
    """Lock an open file for as long as it stays open; return False when another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
