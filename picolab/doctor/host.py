"""What the doctor looks at on the host: memory limits, memory, disks, processors, kernel counters."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from picolab.agent import memory_probe
from picolab.config.parameters import DISK_FACTOR
from picolab.config.project import outputs_dir, state_dir
from picolab.config.sizes import MIB
from picolab.doctor.finding import Finding, as_root
from picolab.errors import MachineError, MemoryLimitUnavailable, PicolabError
from picolab.host import facts
from picolab.machines.local import network
from picolab.machines.local.cgroup import (
    MemoryCgroup,
    find_method,
    in_systemd_scope,
    plan_cgroup,
    v2_memory_is_on,
    v2_parent,
)

COMMAND_LIMIT_S = 1.5
_TINY_LIMIT_BYTES = 16 * MIB
_LARGEST_USUAL_FILE_BYTES = 5 << 30
_LEAST_FREE_BYTES = 64 * MIB
_GRUB = Path("/etc/default/grub")


@contextlib.contextmanager
def _tiny_cgroup() -> Iterator[MemoryCgroup | None]:
    """Yield a cgroup of the kind that a machine would get, or None where making one changes more than that.

    Only systemd can make one for a user, and where v2 has the memory controller switched off it would stay on.

    Raises:
        MemoryLimitUnavailable, MachineError: this host cannot limit memory.
    """
    method = find_method()
    if method == "cgroup_v2_systemd_user":
        command = in_systemd_scope(["true"])
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False)
        if done.returncode:
            raise MachineError(f"systemd-run --user --scope failed: {done.stderr.strip()[:200]}")
        yield None
        return
    if method == "cgroup_v2" and _memory_is_off():
        yield None
        return
    cgroup = plan_cgroup(method, f"doctor-{os.getpid()}-{threading.get_ident()}")
    assert cgroup is not None
    cgroup.create(_TINY_LIMIT_BYTES)
    try:
        yield cgroup
    finally:
        cgroup.remove()


def _memory_is_off() -> bool:
    parent = v2_parent()
    return parent is not None and not v2_memory_is_on(parent)


def memory_limit() -> list[Finding]:
    """Prove that memory can be limited, with a tiny cgroup."""
    what = "memory limit"
    unlimited = "only unlimited runs (memory_limit: none), labelled as such, can be made"
    try:
        with _tiny_cgroup() as cgroup:
            if cgroup is None and find_method() == "cgroup_v2":
                text = "cgroup_v2 should work: the memory controller is there, and the first trial switches it on"
                return [Finding(what, "good", text)]
            if cgroup is None:
                return [Finding(what, "good", "cgroup_v2_systemd_user works, proved with a scope of its own")]
            limit = cgroup.limit_bytes
            text = (
                f"{cgroup.method} works, proved with a cgroup of {_TINY_LIMIT_BYTES // MIB} MiB in {cgroup.path.parent}"
            )
            if limit == _TINY_LIMIT_BYTES:
                return [Finding(what, "good", text)]
            return [Finding(what, "bad", f"the kernel set {limit} instead of {_TINY_LIMIT_BYTES} bytes: {unlimited}")]
    except (MemoryLimitUnavailable, MachineError) as error:
        # As root, or with a systemd that refused, no single command mends it: the sentence names what may.
        remedy = "" if os.geteuid() == 0 else f"sudo {Path(sys.executable).with_name('picolab')} doctor"
        return [Finding(what, "bad", f"{error}; {unlimited}", remedy)]


def private_network() -> list[Finding]:
    """Prove that a server can have a network that only this host reaches, with a pair of devices in a namespace."""
    what, reason = "private network", network.try_out()
    if reason is None:
        return [Finding(what, "good", "works: while a server is under test, only this host reaches it")]
    text = (
        f"{reason}: other hosts can reach a local machine's server while it is under test, as far as firewalls let them"
    )
    remedy = "" if os.geteuid() == 0 else f"sudo {Path(sys.executable).with_name('picolab')} doctor"
    return [Finding(what, "gap", text, remedy)]


def swap() -> list[Finding]:
    """Tell whether the server could get into swap."""
    swap_mib = facts.memory_info().get("SwapTotal", 0) / MIB
    if not swap_mib:
        return [Finding("swap", "good", "the host has none")]
    with contextlib.suppress(PicolabError), _tiny_cgroup() as cgroup:
        if cgroup is not None and cgroup.swap_is_off:
            return [Finding("swap", "good", f"the host has {swap_mib:,.0f} MiB, and the server is kept out of it")]
    return [
        Finding(
            "swap",
            "gap",
            f"the host has {swap_mib:,.0f} MiB, and nothing proves that the server is kept out of it",
            as_root("swapoff -a"),
        )
    ]


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
    """Tell whether campaigns can be written."""
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
    """Tell whether the clock rate changes."""
    what, found = "CPU governor", facts.governor()
    if found is None:
        return [Finding(what, "good", "the host shows none, as most virtual machines")]
    if found == "performance":
        return [Finding(what, "good", "performance")]
    files = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    remedy = f"echo performance | {as_root(f'tee {files}')}"
    return [Finding(what, "gap", f"{found}: the clock rate changes while a trial runs", remedy)]


def counters() -> list[Finding]:
    """Run the memory probe on this process, as a trial does, and report what it cannot have."""
    what = "memory probe"
    disk = facts.disk_of(state_dir())
    with contextlib.ExitStack() as stack:
        cgroup = None
        with contextlib.suppress(PicolabError):
            cgroup = stack.enter_context(_tiny_cgroup())
        command = [
            *(sys.executable, "-I", "-S", str(memory_probe.__file__), "--pid", str(os.getpid()), "--interval", "0.05"),
            *(("--cgroup", str(cgroup.path)) if cgroup else ()),
            *(("--disk", disk.device) if disk.device else ()),
        ]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        return [Finding(what, "bad", f"it ended with exit code {done.returncode} and said: {said}", blocks=True)]
    head = json.loads(done.stdout.splitlines()[0])
    missing = {name: why for name, why in head["missing"].items() if not name.startswith("psi_")}
    columns = len(head["columns"]) - 1
    findings = []
    if missing:
        names, why = ", ".join(missing), "; ".join(dict.fromkeys(missing.values()))
        findings.append(Finding(what, "gap", f"{len(missing)} of {columns} values will be null: {names} ({why})"))
    else:
        findings.append(Finding(what, "good", f"works, and the kernel has all of its {columns} values"))
    pressure = head["missing"].get("psi_memory_some_us")
    if pressure is None:
        findings.append(Finding("memory pressure (PSI)", "good", "/proc/pressure/memory can be read"))
    else:
        add = "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&psi=1 /' /etc/default/grub && update-grub && reboot"
        remedy = as_root(f'sh -c "{add}"' if os.geteuid() else add) if _GRUB.exists() else ""
        text = f"the kernel does not offer it ({pressure}); psi_ values will be null unless it is booted with psi=1"
        findings.append(Finding("memory pressure (PSI)", "gap", text, remedy))
    return findings
