"""Free space on the disks of this host, and which of them is full, for the message of something that failed."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from picolab.config.sizes import MIB

_FULL_BYTES = 4 * MIB
"""With less than this free, a disk is called full."""


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system on which a folder lies, or will lie."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def full_in_words(free: Mapping[str, int]) -> str:
    """Return which disk is full, in words; an empty text for none.

    Args:
        free: the free bytes of each disk, by its name.
    """
    return next(
        (f"{name} is full ({found / MIB:,.1f} MiB free)" for name, found in free.items() if found < _FULL_BYTES), ""
    )
