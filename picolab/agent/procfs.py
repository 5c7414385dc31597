"""Processes, sockets and memory in /proc: the only module that parses it, in a guest and on the host.

It needs Python >= 3.9 and the standard library alone, because it is shipped to guests.

Sources: proc(5) for stat, status, net and mountinfo; the kernel's networking/proc_net_tcp.rst.
"""

# It is light on purpose, because a guest may have 128 MB in all: no pathlib, and rare imports are late.
# ruff: noqa: PTH115, PTH123, PTH208

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STAT_BYTES = 4096
"""More than /proc/<pid>/stat ever has: 52 numbers and a name of 64 bytes at most."""
TCP_LISTEN = "0A"


def read_text(path: str) -> str | None:
    """Return what is in a file, or None when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def boot_id() -> str:
    """Return the kernel's id of this boot: pids and times mean nothing beyond it."""
    return (read_text("/proc/sys/kernel/random/boot_id") or "").strip()


class Stat:
    """One line of /proc/<pid>/stat. Its numbers cover all threads of the process.

    Attributes:
        name: of the executable, at most 15 bytes.
        state: one letter, such as `R`, `S` or `Z`.
        flags: the kernel's `PF_` bits.
        start_ticks: when it was started, in ticks since boot.
        cpu_ticks: its own CPU time.
        reaped_ticks: CPU time of its children that have ended and were waited for.
    """

    __slots__ = ("cpu_ticks", "flags", "name", "parent", "pid", "reaped_ticks", "start_ticks", "state")

    def __init__(self, line: str) -> None:
        """Take a line. Raises ValueError if it is none."""
        # The name is in parentheses and may hold blanks and parentheses.
        head, _, rest = line.rpartition(")")
        fields = rest.split()
        if len(fields) < 20:
            raise ValueError(line)
        pid, _, self.name = head.partition(" (")
        self.pid = int(pid)
        self.state = fields[0]
        self.parent, self.flags, self.start_ticks = int(fields[1]), int(fields[6]), int(fields[19])
        self.cpu_ticks = int(fields[11]) + int(fields[12])
        self.reaped_ticks = int(fields[13]) + int(fields[14])

    @property
    def has_ended(self) -> bool:
        """True for a zombie: only its exit code is left."""
        return self.state in "ZX"


def stat_of(pid: int, proc: str = "/proc") -> Stat | None:
    """Return what the kernel says about the process that has this pid now, or None when there is none."""
    try:
        # A text file object would take longer than the kernel does.
        file = os.open(f"{proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return Stat(os.read(file, STAT_BYTES).decode("utf-8", "replace"))
        finally:
            os.close(file)
    except (OSError, ValueError):
        return None


def pids(proc: str = "/proc") -> list[int]:
    """Return the pids of all processes that exist now."""
    return [int(name) for name in os.listdir(proc) if name.isdigit()]


def all_stats(proc: str = "/proc") -> Iterator[Stat]:
    """Yield what the kernel says about each process."""
    for pid in pids(proc):
        found = stat_of(pid, proc)
        if found is not None:
            yield found


def children_of(parents: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Return {pid: pids of its children} from pairs of a pid and its parent's."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents:
        children.setdefault(parent, []).append(pid)
    return children


def descendants(pid: int) -> list[int]:
    """Return the pids of all processes that descend from one, nearest first."""
    children = children_of((stat.pid, stat.parent) for stat in all_stats())
    found: list[int] = []
    queue = [pid]
    while queue:
        next_ones = children.get(queue.pop(0), [])
        found += next_ones
        queue += next_ones
    return found


def named_kib(text: str, wanted: Mapping[str, str]) -> dict[str, int]:
    """Pick `Name:   123 kB` lines, as in /proc/meminfo; return bytes by the names that `wanted` gives them."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in wanted:
            found[wanted[name]] = int(rest.split()[0]) * 1024
    return found


def anonymous_bytes(processes: Iterable[int]) -> int | None:
    """Return the anonymous memory of some processes together; None when the kernel shows it of none."""
    texts = (read_text(f"/proc/{pid}/status") or "" for pid in processes)
    amounts = [amount for text in texts for amount in named_kib(text, {"RssAnon": "anon"}).values()]
    return sum(amounts) if amounts else None


def listening_sockets(port: int, pid: int | str = "self") -> dict[str, str]:
    """Return {inode: address} of the sockets that listen on a TCP port in the network of a process.

    The address is as the kernel prints it, in hexadecimal.

    Raises:
        OSError: the process has ended.
    """
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as file:
        tables = file.read(), read_text(f"/proc/{pid}/net/tcp6") or ""
    found = {}
    for table in tables:
        for line in table.splitlines()[1:]:
            fields = line.split()
            address, _, number = fields[1].partition(":")
            if fields[3] == TCP_LISTEN and int(number, 16) == port:
                found[fields[9]] = address
    return found


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets; none when it is gone or another user's."""
    inodes = set()
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return set()
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    return inodes


def mounted_at(folder: str) -> tuple[str | None, str | None]:
    """Return the file system that a folder lies on, and what was mounted there; None when the kernel does not say."""
    descriptor = os.open(folder, os.O_PATH)
    try:
        lines = (read_text(f"/proc/self/fdinfo/{descriptor}") or "").splitlines()
    finally:
        os.close(descriptor)
    mount = next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)
    for line in (read_text("/proc/self/mountinfo") or "").split("\n"):
        words = line.split(" ")
        if words[0] == mount and "-" in words[6:]:
            file_system, source = words[words.index("-", 6) + 1 :][:2]
            return file_system, source
    return None, None
