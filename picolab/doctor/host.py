"""The doctor's checks of any host: memory, disks, processors."""

import os

from picolab.config.project import outputs_dir, state_dir
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import DISK_FACTOR
from picolab.host import facts
from picolab.host.finding import Finding, as_root

_LARGEST_USUAL_FILE_BYTES = 5 << 30
_LEAST_FREE_BYTES = 64 * MIB


def ram() -> list[Finding]:
    """Look at the host's memory."""
    info = facts.memory_info()
    total, available = info["MemTotal"] // MIB, info["MemAvailable"] // MIB
    text = f"{available:,} of {total:,} MiB are available"
    if available < 512:
        return [Finding("RAM", "gap", f"{text}: close other programs, and keep ram_mb well below that")]
    return [Finding("RAM", "good", f"{text}; ram_mb can be up to that")]


def work_disk() -> list[Finding]:
    """Look at the disk for data folder and TMPDIR."""
    what, folder = "work disk", state_dir()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    disk = facts.disk_of(folder)
    largest = disk.free_bytes / DISK_FACTOR / MIB
    text = (
        f"{folder} is on {disk.file_system}{f', {disk.label}' if disk.label else ''}, "
        f"{disk.free_bytes / MIB:,.0f} MiB free: enough for uploads of up to {largest:,.0f} MiB"
    )
    move = "export PICOLAB_STATE_DIR=/var/tmp/picolab"
    if not os.access(nearest, os.W_OK):
        return [Finding(what, "bad", f"{nearest} may not be written", move, blocks=True)]
    if disk.in_memory:
        return [Finding(what, "bad", f"{text}; but it lies in memory, so nothing would go to a disk", move)]
    if disk.free_bytes < _LEAST_FREE_BYTES:
        return [Finding(what, "bad", text, move, blocks=True)]
    if disk.free_bytes < DISK_FACTOR * _LARGEST_USUAL_FILE_BYTES:
        return [Finding(what, "gap", f"{text}, too little for the 5G of parameters/full.yaml", move)]
    if disk.rotational:
        return [Finding(what, "gap", f"{text}; the kernel calls it rotational: expect a wide spread")]
    return [Finding(what, "good", text)]


def outputs() -> list[Finding]:
    """Check whether campaigns can be written."""
    folder = outputs_dir()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if os.access(nearest, os.W_OK):
        return [Finding("outputs", "good", f"campaigns go to {folder}")]
    move = "export PICOLAB_OUTPUTS_DIR=$HOME/picolab-outputs"
    return [Finding("outputs", "bad", f"{nearest} may not be written", move, blocks=True)]


def processors() -> list[Finding]:
    """Look at the processors and how busy they are."""
    count, load = os.cpu_count() or 1, os.getloadavg()[0]
    if count < 2:
        text = "one processor: server, client and probe take time from each other"
    elif load > count:
        text = f"load {load:.2f} on {count} processors: the host is busy, so wait, or end what keeps it busy"
    else:
        return [Finding("processors", "good", f"load {load:.2f} on {count} processors")]
    return [Finding("processors", "gap", text, "" if count < 2 else "top")]


def governor() -> list[Finding]:
    """Check whether the clock rate changes."""
    what, found = "CPU governor", facts.governor()
    if found is None:
        return [Finding(what, "good", "the host shows none, as most virtual machines")]
    if found == "performance":
        return [Finding(what, "good", "performance")]
    files = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    remedy = f"echo performance | {as_root(f'tee {files}')}"
    return [Finding(what, "gap", f"{found}: the clock rate changes while a trial runs", remedy)]
