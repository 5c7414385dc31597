"""Locks between processes: the kernel frees the lock of a dead process, so that none is ever stale."""

import fcntl
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from picolab.host.processes import ProcessIdentity
from picolab.text.foreign import one_line

_REPORT_INTERVAL_S = 1.0
_MOST_CHARACTERS = 120
"""Of a command line in a message."""


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


def names_still(path: Path, file: HasDescriptor) -> bool:
    """Return True if a path still names an open file: an unneeded lock may have been removed meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def holders_of(files: Iterable[Path]) -> list[ProcessIdentity]:
    """Return the processes that have locked these files, as far as the kernel shows them."""
    inodes, pids = set(), set()
    for file in files:
        with suppress(OSError):
            inodes.add(str(file.stat().st_ino))
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            # One that waits has an arrow in front of these words.
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] in inodes:
                pids.add(int(words[4]))
    return [identity for pid in sorted(pids) if (identity := ProcessIdentity.of(pid))]


def in_words(processes: Iterable[ProcessIdentity]) -> str:
    """Return processes as `pid 42 (its command)`; `another process` for none."""
    named = [f"pid {process.pid} ({one_line(process.command[:_MOST_CHARACTERS])})" for process in processes]
    return ", ".join(named) or "another process"


class Wait:
    """A wait for another process, with a limit and a message.

    Args:
        limit_s: seconds that it may last.
        report: gets a line about once a second: who is waited for, and for how long at most.
    """

    def __init__(self, limit_s: float, report: Callable[[str], None] | None) -> None:
        self.limit_s = limit_s
        self._report = report
        self._begun = time.monotonic()
        self._reported_s: float | None = None

    @property
    def is_over(self) -> bool:
        return self.passed_s > self.limit_s

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self._begun

    def show(self, who: Callable[[], str], what: str) -> None:
        """Report that it lasts.

        Args:
            who: returns the process that is waited for, such as `in_words` does.
            what: what that one does, as the end of a sentence.
        """
        now = time.monotonic()
        if self._report is None or (self._reported_s is not None and now - self._reported_s < _REPORT_INTERVAL_S):
            return
        self._reported_s = now
        left_s = max(0.0, self.limit_s - self.passed_s)
        self._report(f"waiting for {who()}: {what}; at most {left_s:.0f} s more")
