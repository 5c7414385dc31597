"""Conditions of a measured step: two readings of the kernel's counters of this host, and the difference.

A reading takes a few milliseconds, right before and right after the step, never during it. A counter that a host does
not have is null with a reason.
"""

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from picolab.agent.procfs import TICKS_PER_S, Stat, all_stats, children_of, stat_of
from picolab.errors import MachineError
from picolab.host.facts import read_file
from picolab.record.conditions import ConditionsRecord

LEAST_DURATION_S = 0.5
"""The kernel counts CPU time in ticks of about 10 ms, on each processor by itself: in less time than this a few ticks
at the edges would be several per cent."""
_NAMED_PROCESSORS = 0.05
"""A process that used less of one processor is not worth a name."""
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD in the flags of /proc/<pid>/stat (linux/sched.h)."""
CPU_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
"""Of the first line of /proc/stat; what follows (guest time) is contained in the first two."""
_TOO_SHORT = f"the step took less than {LEAST_DURATION_S:g} s, too short for the kernel's clock ticks"


@dataclass(frozen=True)
class Own:
    """The processes whose CPU time is the trial's own.

    Attributes:
        alone: these processes, with those of their children that ended meanwhile.
        callers: processes that wait for the trial: they themselves, and nothing that they started.
        trees: these processes and all that descend from them: the machine's keeper with the server, or QEMU.
        unknown: why own and other CPU time cannot be separated; None when they can.
    """

    alone: frozenset[int]
    callers: frozenset[int] = frozenset()
    trees: frozenset[int] = frozenset()
    unknown: str | None = None


@dataclass(frozen=True)
class Reading:
    """The kernel's counters at one moment.

    Attributes:
        t_s: on the monotonic clock.
        cpu_s: seconds of all processors together, by column of /proc/stat.
        own_s: CPU seconds of the trial's own processes.
        others: the other processes that live now, by pid.
        pressure_us: microseconds in which some task waited, by resource.
        missing: field of the record -> why this host does not show it.
    """

    t_s: float
    cpu_s: dict[str, float]
    own_s: float
    kernel_threads_s: float
    own_unknown: str | None
    others: dict[int, Stat]
    load_1min: float
    pressure_us: dict[str, int]
    throttle_count: int | None
    frequency_share: float | None
    temperature_c: float | None
    governor: str | None
    swapped_bytes: int
    cached_bytes: int | None
    dirty_bytes: int | None
    disk_free_share: float | None
    missing: dict[str, str] = field(default_factory=dict)


class _Machine(Protocol):
    def own_processes(self) -> frozenset[int]: ...


def own_of(machine: _Machine, caller: int | None = None) -> Own:
    """Return whose CPU time belongs to a trial that runs in this process and uses a machine.

    Args:
        caller: pid of the process that this one runs for, such as a campaign; None when there is none.
    """
    alone = frozenset({os.getpid()})
    callers = _between(caller)
    try:
        return Own(alone, callers, machine.own_processes())
    except MachineError as error:
        return Own(alone, callers, unknown=str(error))


def _between(caller: int | None) -> frozenset[int]:
    """Return the ancestors of this process up to the caller; none when the caller is no ancestor."""
    if caller is None:
        return frozenset()
    ancestors: list[int] = []
    process = stat_of(os.getpid())
    while process is not None and process.parent > 1:
        ancestors.append(process.parent)
        if process.parent == caller:
            return frozenset(ancestors)
        process = stat_of(process.parent)
    return frozenset()


def read(own: Own, disk: Path | None = None, root: Path = Path("/")) -> Reading:
    """Read the counters of this moment.

    Args:
        disk: folder whose disk is looked at; None: the data lie on no disk of this host's.
        root: where `proc` and `sys` are.
    """
    proc, sys = root / "proc", root / "sys"
    missing: dict[str, str] = {}
    processes = {process.pid: process for process in all_stats(str(proc))}
    own_pids = _with_descendants(own.trees, processes)
    own_ticks = sum(processes[pid].cpu_ticks for pid in own.callers if pid in processes)
    own_ticks += sum(
        processes[pid].cpu_ticks + processes[pid].reaped_ticks for pid in own_pids | own.alone if pid in processes
    )
    known = own_pids | own.alone | own.callers
    threads = {pid for pid, process in processes.items() if process.flags & _KERNEL_THREAD}
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB$", read_file(proc / "meminfo") or "", re.MULTILINE))
    return Reading(
        t_s=time.monotonic(),
        cpu_s=_cpu_s(proc),
        own_s=own_ticks / TICKS_PER_S,
        kernel_threads_s=sum(processes[pid].cpu_ticks for pid in threads) / TICKS_PER_S,
        own_unknown=own.unknown,
        others={pid: process for pid, process in processes.items() if pid not in known | threads},
        load_1min=float((read_file(proc / "loadavg") or "0").split()[0]),
        pressure_us=_pressure_us(proc, missing),
        throttle_count=_throttle_count(sys, missing),
        frequency_share=_frequency_share(sys, missing),
        temperature_c=_temperature_c(sys, missing),
        governor=_governor(sys, missing),
        swapped_bytes=_swapped_bytes(proc),
        cached_bytes=int(memory["Cached"]) * 1024 if "Cached" in memory else None,
        dirty_bytes=int(memory["Dirty"]) * 1024 if "Dirty" in memory else None,
        disk_free_share=_disk_free_share(disk, missing),
        missing=missing,
    )


def _with_descendants(roots: frozenset[int], processes: dict[int, Stat]) -> set[int]:
    children = children_of((process.pid, process.parent) for process in processes.values())
    found, queue = set(roots), list(roots)
    while queue:
        new = [pid for pid in children.get(queue.pop(), []) if pid not in found]
        found.update(new)
        queue += new
    return found


def between(before: Reading, after: Reading) -> tuple[ConditionsRecord, dict[str, str]]:
    """Return the conditions between two readings, and the reason for each null in them, by its field."""
    duration_s = after.t_s - before.t_s
    missing = dict(before.missing) | after.missing
    cpu = {name: max(0.0, after.cpu_s[name] - before.cpu_s[name]) for name in CPU_COLUMNS}
    all_s = sum(cpu.values())
    measurable = duration_s >= LEAST_DURATION_S and all_s > 0
    own_s = max(0.0, after.own_s - before.own_s)
    threads_s = max(0.0, after.kernel_threads_s - before.kernel_threads_s)
    programs_s = cpu["user"] + cpu["nice"] + cpu["system"]
    known = measurable and after.own_unknown is None and before.own_unknown is None

    def share(seconds: float) -> float:
        return round(min(1.0, max(0.0, seconds / all_s)), 4)

    def pressure(resource: str) -> float | None:
        grown_us = after.pressure_us.get(resource, 0) - before.pressure_us.get(resource, 0)
        there = resource in before.pressure_us and resource in after.pressure_us and duration_s > 0
        return round(min(1.0, grown_us / 1e6 / duration_s), 4) if there else None

    record = ConditionsRecord(
        duration_s=duration_s,
        other_busy_share=share(programs_s - own_s - threads_s) if known else None,
        busiest_other=busiest_process(before, after),
        own_busy_share=share(own_s) if known else None,
        kernel_busy_share=share(cpu["irq"] + cpu["softirq"] + threads_s) if measurable else None,
        steal_share=share(cpu["steal"]) if measurable else None,
        iowait_share=share(cpu["iowait"]) if measurable else None,
        load_1min_before=before.load_1min,
        load_1min_after=after.load_1min,
        cpu_pressure_share=pressure("cpu"),
        io_pressure_share=pressure("io"),
        memory_pressure_share=pressure("memory"),
        throttle_events=after.throttle_count - before.throttle_count
        if after.throttle_count is not None and before.throttle_count is not None
        else None,
        frequency_share=after.frequency_share,
        temperature_c=after.temperature_c,
        governor=after.governor,
        disk_free_share=after.disk_free_share,
        swapped_bytes=max(0, after.swapped_bytes - before.swapped_bytes),
        cached_bytes_before=before.cached_bytes,
        dirty_bytes_before=before.dirty_bytes,
    )
    if not measurable:
        missing |= dict.fromkeys(("kernel_busy_share", "steal_share", "iowait_share"), _TOO_SHORT)
    if not known:
        why = after.own_unknown or before.own_unknown if measurable else _TOO_SHORT
        missing |= dict.fromkeys(("other_busy_share", "own_busy_share"), why or _TOO_SHORT)
    unread = "/proc/meminfo does not say"
    missing = dict.fromkeys(("cached_bytes_before", "dirty_bytes_before"), unread) | missing
    return record, {name: why for name, why in missing.items() if getattr(record, name) is None}


def busiest_process(before: Reading, after: Reading) -> str | None:
    """Name the process that used most CPU time between two readings and still lives, if it used some."""
    used: dict[int, float] = {}
    for pid, process in after.others.items():
        old = before.others.get(pid)
        same = old is not None and old.start_ticks == process.start_ticks
        used[pid] = (process.cpu_ticks - (old.cpu_ticks if old is not None and same else 0)) / TICKS_PER_S
    duration_s = after.t_s - before.t_s
    if not used or duration_s <= 0:
        return None
    pid = max(used, key=lambda pid: used[pid])
    if used[pid] < _NAMED_PROCESSORS * duration_s:
        return None
    return f"{after.others[pid].name} (pid {pid}), {used[pid] / duration_s:.2f} of a processor"


# The files


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cpu_s(proc: Path) -> dict[str, float]:
    first = (read_file(proc / "stat") or "cpu").splitlines()[0].split()[1:]
    values = [int(value) / TICKS_PER_S for value in first]
    return {name: values[index] if index < len(values) else 0.0 for index, name in enumerate(CPU_COLUMNS)}


def _pressure_us(proc: Path, missing: dict[str, str]) -> dict[str, int]:
    """Return the totals of /proc/pressure (Documentation/accounting/psi.rst of Linux)."""
    found = {}
    for resource in ("cpu", "io", "memory"):
        line = re.search(r"^some .*\btotal=(\d+)", read_file(proc / "pressure" / resource) or "", re.MULTILINE)
        if line:
            found[resource] = int(line[1])
        else:
            missing[f"{resource}_pressure_share"] = f"this kernel offers no /proc/pressure/{resource}"
    return found


def _cpu_files(sys: Path, name: str) -> list[Path]:
    return sorted((sys / "devices/system/cpu").glob(f"cpu[0-9]*/{name}"))


def _throttle_count(sys: Path, missing: dict[str, str]) -> int | None:
    counts = [_number(path) for path in _cpu_files(sys, "thermal_throttle/*_throttle_count")]
    known = [count for count in counts if count is not None]
    if not known:
        missing["throttle_events"] = "this host shows no counters of thermal throttling"
        return None
    return sum(known)


def _frequency_share(sys: Path, missing: dict[str, str]) -> float | None:
    """Return the fastest processor's frequency against the highest that the hardware can do.

    The fastest: the one that has just worked on the step. An idle one may be slow, which says nothing.
    """
    shares = []
    for folder in _cpu_files(sys, "cpufreq"):
        current, highest = _number(folder / "scaling_cur_freq"), _number(folder / "cpuinfo_max_freq")
        if current and highest:
            shares.append(current / highest)
    if not shares:
        missing["frequency_share"] = "this host does not show the processors' frequency"
        return None
    return round(max(shares), 3)


def _temperature_c(sys: Path, missing: dict[str, str]) -> float | None:
    readings = [_number(path) for path in sorted((sys / "class/thermal").glob("thermal_zone*/temp"))]
    known = [reading / 1000 for reading in readings if reading]
    if not known:
        missing["temperature_c"] = "this host shows no temperature"
        return None
    return max(known)


def _governor(sys: Path, missing: dict[str, str]) -> str | None:
    found = [read_file(path) for path in _cpu_files(sys, "cpufreq/scaling_governor")]
    names = sorted({name for name in found if name})
    if not names:
        missing["governor"] = "this host shows no CPU frequency governor, as most virtual machines"
        return None
    return ", ".join(names)


def _swapped_bytes(proc: Path) -> int:
    pages = re.findall(r"^pswp(?:in|out) (\d+)$", read_file(proc / "vmstat") or "", re.MULTILINE)
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def _disk_free_share(folder: Path | None, missing: dict[str, str]) -> float | None:
    if folder is None:
        missing["disk_free_share"] = "the data lie on the virtual machine's own disk"
        return None
    try:
        found = os.statvfs(folder)
    except OSError as error:
        missing["disk_free_share"] = f"the disk of the data folder cannot be looked at ({error.strerror})"
        return None
    # As df counts: what is kept for root is neither used nor free.
    usable = found.f_blocks - found.f_bfree + found.f_bavail
    return round(found.f_bavail / usable, 4) if usable else 0.0
