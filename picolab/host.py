"""What this host is: CPU, kernel, memory, disks, load. Facts for the record and for `picolab doctor`."""

import functools
import os
import platform
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from picolab import __version__
from picolab.record import Provenance

PACKAGES = [
    "altair",
    "asyncssh",
    "cryptography",
    "httpx",
    "ipykernel",
    "jsonschema",
    "jupyterlab",
    "nbclient",
    "nbconvert",
    "nbformat",
    "numpy",
    "pandas",
    "papermill",
    "pyarrow",
    "pydantic",
    "python-vagrant",
    "scipy",
    "scrapbook",
    "vl-convert-python",
]
"""The packages whose versions a record keeps."""

FILE_SYSTEMS_IN_MEMORY = ("tmpfs", "ramfs")


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def memory_info() -> dict[str, int]:
    """Return /proc/meminfo as bytes."""
    text = _read("/proc/meminfo") or ""
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\S+):\s+(\d+) kB$", text, re.MULTILINE)}


@dataclass(frozen=True)
class Disk:
    """The disk under a folder.

    Attributes:
        file_system: such as `ext4` or `tmpfs`.
        device: kernel name such as `vda1`, as in /proc/diskstats; None when the file system has no block device.
        rotational: True for a spinning disk as far as the kernel knows; None when it does not know.
        free_bytes: available to this user.
    """

    file_system: str
    device: str | None
    rotational: bool | None
    free_bytes: int

    @property
    def in_memory(self) -> bool:
        return self.file_system in FILE_SYSTEMS_IN_MEMORY

    @property
    def label(self) -> str | None:
        """Such as `vda (ssd)`; None without a block device."""
        if self.device is None:
            return None
        kind = {True: "rotational", False: "ssd", None: "kind unknown"}[self.rotational]
        return f"{self.device} ({kind})"


def disk_of(folder: Path) -> Disk:
    """Return the disk under a folder, or under its nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    device_number = folder.stat().st_dev
    number = f"{os.major(device_number)}:{os.minor(device_number)}"
    file_system = "unknown"
    for line in (_read("/proc/self/mountinfo") or "").splitlines():
        fields = line.split()
        if fields[2] == number:
            file_system = fields[fields.index("-") + 1]
    block = Path(f"/sys/dev/block/{number}")
    device = rotational = None
    if block.exists():
        resolved = block.resolve()
        device = resolved.name
        for place in (resolved, resolved.parent):
            text = _read(place / "queue" / "rotational")
            if text is not None:
                rotational = text == "1"
                break
    return Disk(file_system, device, rotational, shutil.disk_usage(folder).free)


def governor() -> str | None:
    """Return the CPU frequency governor, or None when the host shows none (most virtual machines)."""
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def _virtualisation() -> str | None:
    if shutil.which("systemd-detect-virt"):
        done = subprocess.run(["systemd-detect-virt"], capture_output=True, text=True, timeout=10, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
    if re.search(r"^flags\s*:.*\bhypervisor\b", _read("/proc/cpuinfo") or "", re.MULTILINE):
        return "a hypervisor (kind unknown)"
    return None


@functools.cache
def _constant_facts() -> dict[str, Any]:
    model = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return {
        "hostname": socket.gethostname(),
        "cpu_model": model[1] if model else platform.machine(),
        "cpu_count": os.cpu_count(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "operating_system": platform.freedesktop_os_release().get("PRETTY_NAME"),
        "ram_bytes": memory_info().get("MemTotal"),
        "swap_bytes": memory_info().get("SwapTotal"),
        "governor": governor(),
        "virtualisation": _virtualisation(),
    }


@functools.cache
def _commit() -> tuple[str | None, bool | None]:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None, None

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=False)

    head = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no")
    if head.returncode or status.returncode:
        return None, None
    return head.stdout.strip(), bool(status.stdout.strip())


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def host_identity() -> dict[str, Any]:
    """Return the facts that make numbers of two hosts not comparable, those that this host knows of itself."""
    names = ("hostname", "cpu_model", "cpu_count", "architecture", "ram_bytes", "kernel")
    return {name: _constant_facts()[name] for name in names} | {"machine_id": _read("/etc/machine-id") or None}


def provenance() -> Provenance:
    """Return host and software as they are now."""
    commit, dirty = _commit()
    return Provenance(
        host={
            **_constant_facts(),
            "load_1min_at_start": os.getloadavg()[0],
            "mem_available_at_start_bytes": memory_info().get("MemAvailable"),
        },
        versions=_versions(),
        picolab_version=__version__,
        picolab_commit=commit,
        picolab_dirty=dirty,
    )
