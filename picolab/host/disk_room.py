"""Free space on the disks of this host, and which of them is full, for the message of something that failed."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from picolab.config.sizes import MIB

_FULL_BYTES = 4 * MIB
"""With less than this free, a disk is called full."""


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes of the file system on which a folder lies, or will lie; None when this user may not ask."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            break
    return None


def full_in_words(free: Mapping[str, int | None]) -> str:
    """Return which disk is full, in words; an empty text for none.

    Args:
        free: the free bytes of each disk, by its name; None where they are not known.
    """
    return next(
        (
            f"{name} is full ({found / MIB:,.1f} MiB free)"
            for name, found in free.items()
            if found is not None and found < _FULL_BYTES
        ),
        "",
    )
