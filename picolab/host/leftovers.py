"""Leftovers of processes that are gone: how they are described, found and removed safely."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from picolab.host.locks import try_lock

Removables = Iterator[tuple[str, Callable[[], object]]]
"""Things that can be removed: their path or name, and how to remove them."""


@dataclass(frozen=True)
class LeftoverKind:
    """One kind of leftover, and how to find what exists of it.

    Attributes:
        name: in singular.
        find: may raise PicolabError or OSError.
        machines: the kind of machine whose daemon is asked for it; empty: none is.
    """

    name: str
    find: Callable[[], Removables]
    machines: str = ""


def is_ours(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Return True when a path is of the expected type (no link) and belongs to this user."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return is_kind(found.st_mode) and found.st_uid == os.geteuid()


def is_unlocked(path: Path) -> bool:
    """Return True when nobody holds the lock of a file or folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def remove_locked(lock: Path, folder: Path) -> None:
    """Remove a folder while its lock is held; nothing happens when somebody else has it by now."""
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if try_lock(descriptor):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
