#!/usr/bin/env python3
"""The memory probe: samples a server, its cgroup and its host many times a second.

It needs Python >= 3.9 and the standard library alone, because it is shipped to guests with the agent. `bundle.words`
returns how it is started:

    memory_probe --pid PID --interval 0.05 [--cgroup FOLDER | --whole-machine] [--disk NAME] [--folder FOLDER ...]

The server is the process and whatever it has started, because it may be a script that runs the real one: all processes
of the cgroup, or without one its descendants, which are looked for twice a second. Their values are added up. Pages
that a process shares with its parent since a fork count for both; `cgroup_anon_bytes` has them once.

With --whole-machine the machine's memory is the limit, as in a virtual machine: OOM kills are those of the whole
machine since it booted, and the probe keeps the OOM killer off itself if it may (only root).

With --folder it adds up the disk space of the files below the named folders. That takes the longer the more files
there are, so it does so with each sample only while it costs less than a fiftieth of the time.

It writes lines of JSON to standard output, each as it is made (when a disk is full: as soon as there is room again):

    {"columns": [...], "missing": {column: reason}, "unlocked": reason}     once, first
    [value, ...]                                        a sample; null where the kernel had no value
    {"end": {"samples": n, "cpu_s": x, "lifetime_s": y}}    once, last, when standard input was closed

Its own pages are locked in memory, so that it can sample a machine that has run out of memory; where that is not
permitted it samples all the same, and `unlocked` has the reason (else null).

Closing standard input ends it. That also happens when the process that started it is killed, so the probe
never outlives its purpose. The clock is CLOCK_MONOTONIC of the machine that it runs on.

Sources: proc(5) for status, stat, meminfo and diskstats; the kernel's accounting/psi.rst,
admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import json
import os
import select
import sys
import time

from picolab.agent.disk import space_of
from picolab.agent.kernel_log import set_oom_score
from picolab.agent.memory_lock import lock_memory
from picolab.agent.procfs import TICKS_PER_S, Stat, children_of, named_kib, pids, stat_of

COLUMNS = (
    "t_s",
    "rss_bytes",
    "anon_bytes",
    "vm_hwm_bytes",
    "swap_bytes",
    "cgroup_bytes",
    "cgroup_anon_bytes",
    "oom_kills",
    "mem_available_bytes",
    "cached_bytes",
    "dirty_bytes",
    "writeback_bytes",
    "psi_memory_some_us",
    "psi_memory_full_us",
    "server_cpu_s",
    "host_cpu_busy_s",
    "host_cpu_steal_s",
    "disk_read_bytes",
    "disk_written_bytes",
    "files_bytes",
    "cgroup_peak_bytes",
)
"""What a sample holds. Bytes are levels at that moment; `_us` and `_s` (but for `t_s`) and `disk_` are counters
since boot or since the process started; `host_cpu_` adds up all processors. `vm_hwm_bytes` and `cgroup_peak_bytes` are
the kernel's own peaks, since the process was started and since the cgroup was made: they miss nothing."""

MEMORY_OF_PROCESS = {"VmRSS": "rss_bytes", "RssAnon": "anon_bytes", "VmHWM": "vm_hwm_bytes", "VmSwap": "swap_bytes"}
"""Lines of /proc/<pid>/status and their columns."""
OF_PROCESS = ("rss_bytes", "anon_bytes", "vm_hwm_bytes", "swap_bytes", "server_cpu_s")
ENDED = "the server had ended before the first sample"

SECTOR_BYTES = 512
FOLDERS_SHARE = 0.02
"""Most of the time that adding up the files' disk space may take."""
DESCENDANTS_S = 0.5
"""So often descendants are looked for where no cgroup lists them: that takes longer the more processes there are."""


class KernelFile:
    """A file of /proc or /sys that is opened once and read again and again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.reason: str | None = None
        self.descriptor: int | None = None
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.pread(self.descriptor, 1, 0)
        except OSError as error:
            self.close()
            self.reason = f"{path}: {error.strerror}"

    def read(self) -> str:
        """Return the text as it is now; empty when the file or what it describes is gone."""
        if self.descriptor is None:
            return ""
        try:
            return os.pread(self.descriptor, 1 << 16, 0).decode("ascii", "replace")
        except OSError:
            return ""

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class Process:
    """A process in /proc; another one that gets its pid later is never taken for it."""

    def __init__(self, pid: int) -> None:
        self.status = KernelFile(f"/proc/{pid}/status")
        self.stat = KernelFile(f"/proc/{pid}/stat")

    def memory(self) -> dict[str, int]:
        """Return {column: bytes}; empty when the process has ended."""
        return named_kib(self.status.read(), MEMORY_OF_PROCESS)

    def cpu_s(self) -> float | None:
        """Return its CPU time, with that of the children which have ended."""
        line = self.stat.read()
        if not line:
            return None
        stat = Stat(line)
        return (stat.cpu_ticks + stat.reaped_ticks) / TICKS_PER_S

    @property
    def is_gone(self) -> bool:
        return not self.status.read()

    def close(self) -> None:
        self.status.close()
        self.stat.close()


class Descendants:
    """Finds what a process has started, again and again; each process of the host is read once."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.parents: dict[int, int] = {}
        self.found: set[int] = set()

    def find(self) -> set[int]:
        """Return the pids of all that live; who was one of them stays so when its parent has ended."""
        now = set(pids())
        self.parents = {pid: parent for pid, parent in self.parents.items() if pid in now}
        for pid in now - self.parents.keys():
            stat = stat_of(pid)
            if stat is not None:
                self.parents[pid] = stat.parent
        children = children_of(self.parents.items())
        self.found &= now
        queue = [self.pid, *self.found]
        while queue:
            for child in children.get(queue.pop(), []):
                if child not in self.found:
                    self.found.add(child)
                    queue.append(child)
        return set(self.found)


class Sampler:
    """Reads one sample after the other.

    Args:
        pid: the server's process.
        cgroup: folder of its memory cgroup, v1 or v2, or None.
        disk: name in /proc/diskstats, or None.
        whole_machine: count the OOM kills of the whole machine, where there is no cgroup.
        folders: whose files' disk space is added up.
    """

    def __init__(
        self,
        pid: int,
        cgroup: str | None,
        disk: str | None,
        whole_machine: bool = False,
        folders: tuple[str, ...] = (),
    ) -> None:
        self.folders = folders
        self.no_space = "" if folders else "no folder was named"
        self.look_at_folders_s = 0.0
        self.disk = disk
        self.vmstat = KernelFile("/proc/vmstat") if whole_machine else None
        self.pid = pid
        self.main = Process(pid)
        self.others: dict[int, Process] = {}
        self.members = f"{cgroup}/cgroup.procs" if cgroup else None
        self.descendants = Descendants(pid)
        self.look_for_descendants_s = 0.0
        self.meminfo = KernelFile("/proc/meminfo")
        self.pressure = KernelFile("/proc/pressure/memory")
        self.host_stat = KernelFile("/proc/stat")
        self.diskstats = KernelFile("/proc/diskstats")
        v1 = cgroup is not None and os.access(f"{cgroup}/memory.usage_in_bytes", os.R_OK)
        v1_names = ("usage_in_bytes", "stat", "oom_control", "max_usage_in_bytes")
        names = v1_names if v1 else ("current", "stat", "events", "peak")
        files = [KernelFile(f"{cgroup}/memory.{name}") if cgroup else None for name in names]
        self.usage, self.group_stat, self.group_events, self.group_peak = files
        self.anon_name = "rss" if v1 else "anon"

    def missing(self) -> dict[str, str]:
        """Return {column: why it can have no value on this host}."""
        reasons: dict[str, str] = {}

        def lacks(columns: tuple[str, ...], file: KernelFile | None, otherwise: str | None) -> None:
            reason = otherwise if file is None else file.reason
            if reason is not None:
                reasons.update(dict.fromkeys(columns, reason))

        whole = self.vmstat is not None
        no_cgroup = "the machine itself is the limit" if whole else "the server runs in no memory cgroup"
        lacks(tuple(MEMORY_OF_PROCESS.values()), self.main.status, None)
        lacks(("server_cpu_s",), self.main.stat, None)
        lacks(("cgroup_bytes",), self.usage, no_cgroup)
        lacks(("cgroup_anon_bytes",), self.group_stat, no_cgroup)
        lacks(("cgroup_peak_bytes",), self.group_peak, no_cgroup)
        lacks(("oom_kills",), self.vmstat or self.group_events, no_cgroup)
        lacks(("mem_available_bytes", "cached_bytes", "dirty_bytes", "writeback_bytes"), self.meminfo, None)
        lacks(("psi_memory_some_us", "psi_memory_full_us"), self.pressure, None)
        lacks(("host_cpu_busy_s", "host_cpu_steal_s"), self.host_stat, None)
        lacks(("disk_read_bytes", "disk_written_bytes"), self.diskstats if self.disk else None, "no block device")
        first = self.sample()
        if self.no_space:
            reasons["files_bytes"] = self.no_space
        if first["psi_memory_some_us"] is not None and first["psi_memory_full_us"] is None:
            reasons["psi_memory_full_us"] = "/proc/pressure/memory has no line `full`"
        if self.disk and first["disk_read_bytes"] is None:
            reasons.update(
                dict.fromkeys(("disk_read_bytes", "disk_written_bytes"), f"/proc/diskstats does not list {self.disk}")
            )
        if self.group_events is not None and first["oom_kills"] is None:
            reasons.setdefault("oom_kills", "this kernel does not count OOM kills of a cgroup")
        if self.vmstat is not None and first["oom_kills"] is None:
            reasons.setdefault("oom_kills", "/proc/vmstat does not show oom_kill (Linux 4.13 or later does)")
        gone = self.main.is_gone
        for column, value in first.items():
            if value is None:
                ended = gone and column in OF_PROCESS
                reasons.setdefault(column, ENDED if ended else "this kernel does not show it")
        return reasons

    def sample(self, last: bool = False) -> dict[str, float | int | None]:
        """Return {column: value or None} for this moment.

        Args:
            last: no other follows, so that every value counts whatever it costs.
        """
        values: dict[str, float | int | None] = dict.fromkeys(COLUMNS)
        now_s = values["t_s"] = time.monotonic()
        self._look_for_others(now_s)
        for process in (self.main, *self.others.values()):
            for column, amount in process.memory().items():
                values[column] = (values[column] or 0) + amount
            cpu_s = process.cpu_s()
            if cpu_s is not None:
                values["server_cpu_s"] = (values["server_cpu_s"] or 0.0) + cpu_s
        for column, file in (("cgroup_bytes", self.usage), ("cgroup_peak_bytes", self.group_peak)):
            text = file.read() if file is not None else ""
            values[column] = int(text) if text else None
        if self.group_stat is not None:
            values["cgroup_anon_bytes"] = self._named(self.group_stat.read(), self.anon_name)
        if self.group_events is not None:
            values["oom_kills"] = self._named(self.group_events.read(), "oom_kill")
        if self.vmstat is not None:
            # Sought and not split: it has about 200 lines.
            _, found, rest = self.vmstat.read().partition("\noom_kill ")
            values["oom_kills"] = int(rest.partition("\n")[0]) if found else None
        values.update(
            named_kib(
                self.meminfo.read(),
                {
                    "MemAvailable": "mem_available_bytes",
                    "Cached": "cached_bytes",
                    "Dirty": "dirty_bytes",
                    "Writeback": "writeback_bytes",
                },
            )
        )
        for line in self.pressure.read().splitlines():
            kind, _, rest = line.partition(" ")
            if kind in ("some", "full"):
                values[f"psi_memory_{kind}_us"] = int(rest.rpartition("total=")[2])
        ticks = self.host_stat.read().partition("\n")[0].split()[1:9]
        if len(ticks) == 8:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(tick) for tick in ticks)
            values["host_cpu_busy_s"] = (user + nice + system + irq + softirq) / TICKS_PER_S
            values["host_cpu_steal_s"] = steal / TICKS_PER_S
        if self.disk:
            for line in self.diskstats.read().splitlines():
                fields = line.split()
                if fields[2] == self.disk:
                    values["disk_read_bytes"] = int(fields[5]) * SECTOR_BYTES
                    values["disk_written_bytes"] = int(fields[9]) * SECTOR_BYTES
        if self.folders and (last or now_s >= self.look_at_folders_s):
            values["files_bytes"] = self._space()
        return values

    def _space(self) -> int | None:
        """Return the disk space of the files, and put the next look off by what this one has cost."""
        # The thread's own time: a probe that has to wait for a processor does not look less often.
        begun_s = time.thread_time()
        try:
            return space_of(self.folders)
        except OSError as error:
            self.no_space = f"{error.filename}: {error.strerror}"
            return None
        finally:
            cost_s = time.thread_time() - begun_s
            self.look_at_folders_s = time.monotonic() + cost_s / FOLDERS_SHARE

    def _look_for_others(self, now_s: float) -> None:
        """Bring `others` up to date: the processes of the server other than the named one."""
        if self.members is not None:
            try:
                # Opened anew: with an open file a kernel with cgroup v1 keeps showing its first members.
                with open(self.members, encoding="ascii") as file:  # noqa: PTH123
                    found = {int(line) for line in file.read().split()}
            except OSError:
                found = set()
        elif now_s < self.look_for_descendants_s:
            return
        else:
            self.look_for_descendants_s = now_s + DESCENDANTS_S
            found = self.descendants.find()
        found.discard(self.pid)
        for pid in [pid for pid in self.others if pid not in found]:
            self.others.pop(pid).close()
        for pid in found - self.others.keys():
            self.others[pid] = Process(pid)

    @staticmethod
    def _named(text: str, wanted: str) -> int | None:
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == wanted:
                return int(value)
        return None


class Output:
    """Standard output, which may be a file on a disk that is full for a while: what does not fit now is kept."""

    def __init__(self) -> None:
        self.pending = bytearray()

    def write(self, line: str) -> None:
        """Write a line and what is still pending, as far as there is room.

        Raises:
            OSError: another error than that of a full disk.
        """
        self.pending += line.encode() + b"\n"
        while self.pending:
            try:
                del self.pending[: os.write(1, self.pending)]
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                return


USAGE = (
    "usage: memory_probe --pid PID --interval SECONDS [--cgroup FOLDER | --whole-machine] [--disk NAME] "
    "[--folder FOLDER ...]"
)


def options(words: list[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the options of a command line by name, and the folders; argparse would take a third of the memory."""
    found: dict[str, str] = {}
    folders: list[str] = []
    rest = iter(words)
    for word in rest:
        name = word[2:] if word.startswith("--") else ""
        if name == "whole-machine":
            found[name] = ""
        elif name == "folder":
            folders.append(next(rest, ""))
        elif name in ("pid", "interval", "cgroup", "disk"):
            found[name] = next(rest, "")
        else:
            sys.exit(f"{USAGE}\nunknown: {word}")
    if not found.get("pid") or not found.get("interval") or {"cgroup", "whole-machine"} <= found.keys():
        sys.exit(USAGE)
    return found, tuple(folders)


def main() -> None:
    """Sample until standard input is closed."""
    wanted, folders = options(sys.argv[1:])
    whole_machine = "whole-machine" in wanted
    if whole_machine:
        set_oom_score(os.getpid(), -1000)
    unlocked = lock_memory()
    interval_s = float(wanted["interval"])
    sampler = Sampler(int(wanted["pid"]), wanted.get("cgroup"), wanted.get("disk"), whole_machine, folders)
    write = Output().write
    write(json.dumps({"columns": COLUMNS, "missing": sampler.missing(), "unlocked": unlocked}))
    begun = due = time.monotonic()
    cpu_begun = time.process_time()
    samples = 0
    while True:
        write(json.dumps(list(sampler.sample().values())))
        samples += 1
        due += interval_s
        late = time.monotonic() - due
        if late > 0:
            # Skip what was missed: a burst of samples would tell nothing about the time that is lost.
            due += (late // interval_s + 1) * interval_s
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            break
    # One more, so that the last state is on file whatever the interval was.
    write(json.dumps(list(sampler.sample(last=True).values())))
    end = {"samples": samples + 1, "cpu_s": time.process_time() - cpu_begun, "lifetime_s": time.monotonic() - begun}
    write(json.dumps({"end": end}))


if __name__ == "__main__":
    main()
