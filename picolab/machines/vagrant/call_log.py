"""The log of all calls of Vagrant for a machine: what it printed, as it came."""

import contextlib
from pathlib import Path


class CallLog:
    """A file that lines are added to. On a full disk they are left out: a machine can still be removed there."""

    def __init__(self, path: Path) -> None:
        self._file = None
        with contextlib.suppress(OSError):
            # Without a buffer: what it held would be written again when the file is closed.
            self._file = path.open("ab", buffering=0)

    def add(self, line: str) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(f"{line}\n".encode(errors="replace"))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
