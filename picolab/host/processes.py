"""Which process is meant: process identity that survives the re-use of pids, from /proc."""

import contextlib
import os
import select
import signal
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CLOCK_TICKS_FIELD = 19
_STATE_FIELD = 0
_PARENT_FIELD = 1


def boot_id() -> str:
    """Return the kernel's id of this boot: the same pid means something else after a reboot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command's name is in parentheses and may hold blanks; the fields of proc(5) go on behind the last one.
    return text.rpartition(")")[2].split()


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, not just a pid: pids are re-used, start times are not."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """Return the identity of a running process, or None when there is none (a zombie counts as none)."""
        fields = _stat_fields(pid)
        if fields is None or fields[_STATE_FIELD] in "ZX":
            return None
        return cls(pid, int(fields[_CLOCK_TICKS_FIELD]), boot_id())

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
        """What the process is, for a message."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return "gone"
        return " ".join(word.decode(errors="replace") for word in words[:4]).strip() or "?"

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
    """Tell whether `pid` is this process or one that it descends from."""
    current = os.getpid()
    while current > 1:
        if current == pid:
            return True
        fields = _stat_fields(current)
        if fields is None:
            return False
        current = int(fields[_PARENT_FIELD])
    return False


def descendants(pid: int) -> list[int]:
    """Return the pids of all processes that descend from `pid`, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat_fields(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[_PARENT_FIELD]), []).append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(0), []):
            found.append(child)
            queue.append(child)
    return found
