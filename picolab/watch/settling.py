"""The content of build files, by SHA-256, once they are no longer being written."""

import errno
import stat
import time
from collections.abc import Callable
from pathlib import Path

from picolab.servers.build import sha256_of


class Settling:
    """Looks at files again and again, and hashes one when nothing about it has changed for a while.

    Args:
        settle_s: seconds for which size, times and inode stay the same until a file counts as written.
        clock: returns seconds on a monotonic clock.
    """

    def __init__(self, settle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.settle_s = settle_s
        self._clock = clock
        self._seen: dict[str, tuple[tuple[int, ...], float]] = {}
        self._hashed: dict[str, tuple[tuple[int, ...], str]] = {}

    def sha256(self, file: str) -> str | None:
        """Return the SHA-256 of a file; None while it may still be written.

        Raises:
            OSError: it cannot be read.
        """
        signature = _signature(file)
        if file not in self._seen or self._seen[file][0] != signature:
            self._seen[file] = signature, self._clock()
        if self._clock() - self._seen[file][1] < self.settle_s:
            return None
        if file not in self._hashed or self._hashed[file][0] != signature:
            found = sha256_of(Path(file))
            # It may have been written while it was read.
            if _signature(file) != signature:
                return None
            self._hashed[file] = signature, found
        return self._hashed[file][1]


def _signature(file: str) -> tuple[int, ...]:
    status = Path(file).stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", file)
    # The time of the last change of the inode cannot be set: it also changes when a copy keeps the old file's time.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
