"""The identity of a process that survives the reuse of pids."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from picolab.agent.procfs import TICKS_PER_S, boot_id, stat_of


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, not just a pid: pids are reused, start times are not."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """Return the identity of a running process, or None when there is none (a zombie counts as none)."""
        stat = stat_of(pid)
        return None if stat is None or stat.has_ended else cls(pid, stat.start_ticks, boot_id())

    @classmethod
    def from_json(cls, data: Any) -> "ProcessIdentity":
        return cls(int(data["pid"]), int(data["start_ticks"]), str(data["boot_id"]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def alive(self) -> bool:
        return ProcessIdentity.of(self.pid) == self

    @property
    def command(self) -> str:
        """Its command line, shortened for a message."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return "gone"
        return " ".join(word.decode(errors="replace") for word in words[:4]).strip() or "?"

    @property
    def started_at(self) -> datetime:
        """When it was started, in UTC; for a process of this boot."""
        ago_s = time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_ticks / TICKS_PER_S
        return datetime.now(UTC) - timedelta(seconds=ago_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, only if the process is still this one: never to another that has got its pid meanwhile."""
        with contextlib.suppress(ProcessLookupError), self.watched() as watch:
            if self.alive:
                signal.pidfd_send_signal(watch, number)

    @contextlib.contextmanager
    def watched(self) -> Iterator[int]:
        """Yield a pidfd of whoever has this pid; if it is `alive` after that, the pidfd is its own.

        Raises:
            ProcessLookupError: nobody has it.
        """
        watch = os.pidfd_open(self.pid)
        try:
            yield watch
        finally:
            os.close(watch)


def kill_and_wait(processes: Iterable[ProcessIdentity], patience_s: float = 10.0) -> None:
    """SIGKILL processes and return when they are gone (or, after `patience_s` each, when the kernel is stuck)."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError), process.watched() as watch:
            if process.alive:
                signal.pidfd_send_signal(watch, signal.SIGKILL)
                select.select([watch], [], [], patience_s)


def this_process() -> ProcessIdentity:
    """Return the identity of the calling process."""
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    return identity


def is_self_or_ancestor(pid: int) -> bool:
    """Return True if `pid` is this process or one of its ancestors."""
    current = os.getpid()
    while current > 1:
        if current == pid:
            return True
        stat = stat_of(current)
        if stat is None:
            return False
        current = stat.parent
    return False
