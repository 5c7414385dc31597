"""Facts about this host for the record and for `picolab doctor`: CPU, kernel, memory, disks, load."""

import functools
import hmac
import json
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
from picolab.agent.procfs import boot_id
from picolab.record.conditions import Provenance
from picolab.record.machine import FILE_SYSTEMS_IN_MEMORY

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


def read_file(path: str | Path) -> str | None:
    """Return the text of a small file such as those in /proc and /sys, stripped; None when it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def memory_info() -> dict[str, int]:
    """Return /proc/meminfo as bytes."""
    text = read_file("/proc/meminfo") or ""
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
    number = _device_number(folder.stat().st_dev)
    mount = mount_of(folder)
    block = _block_device(number, mount)
    device = rotational = None
    if block is not None:
        device = block.name
        for place in (block, block.parent):
            text = read_file(place / "queue" / "rotational")
            if text is not None:
                rotational = text == "1"
                break
    return Disk(mount.file_system if mount else "unknown", device, rotational, shutil.disk_usage(folder).free)


def _device_number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _block_device(number: str, mount: "Mount | None") -> Path | None:
    """Return the folder in /sys of the block device under a file; None when there is none that this host shows."""
    block = Path(f"/sys/dev/block/{number}")
    if not block.exists() and mount is not None and mount.source.startswith("/"):
        # A subvolume of btrfs has a number of its own that is no device's: what was mounted says which it is.
        source = Path(mount.source)
        try:
            block = Path(f"/sys/dev/block/{_device_number(source.stat().st_rdev)}")
        except OSError:  # a container need not have it in its /dev
            block = Path("/sys/class/block", source.name)
    return block.resolve() if block.exists() else None


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo (proc_pid_mountinfo(5)).

    Attributes:
        number: major and minor of the file system; of some, such as btrfs, the files have other ones.
        point: where it is mounted.
        source: what is mounted there, such as `/dev/vda1`.
    """

    mount_id: int
    number: str
    point: Path
    file_system: str
    source: str


def parse_mounts(text: str) -> list[Mount]:
    """Return the mounts of a mountinfo file in its order: later ones may cover earlier ones. Torn lines are skipped."""
    mounts = []
    for line in text.split("\n"):
        # Not split at any white space: an empty source is an empty word.
        words = line.split(" ")
        try:
            # Between the options and the dash there may be any number of words.
            file_system, source = words[words.index("-", 6) + 1 :][:2]
            mounts.append(Mount(int(words[0]), words[2], Path(_unescape(words[4])), file_system, _unescape(source)))
        except (ValueError, IndexError):
            continue
    return mounts


def _unescape(word: str) -> str:
    """Return a path as it is: the kernel writes blanks, tabs, newlines and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def find_mount(mounts: list[Mount], mount_id: int | None, place: Path, number: str) -> Mount | None:
    """Return the mount that a file lies on.

    Args:
        mount_id: the kernel's id of it; None when the kernel does not say.
        place: of the file, without symbolic links.
        number: major and minor of the file's device.
    """
    for mount in mounts:
        if mount.mount_id == mount_id:
            return mount
    above = [mount for mount in mounts if mount.point == place or mount.point in place.parents]
    # Of those that hold the file's device, if there are any: a mount may be hidden below a later one.
    above = [mount for mount in above if mount.number == number] or above
    deepest = max((len(mount.point.parts) for mount in above), default=0)
    return next((mount for mount in reversed(above) if len(mount.point.parts) == deepest), None)


def mount_of(folder: Path) -> Mount | None:
    """Return the mount that an existing folder lies on; None when the kernel does not show it."""
    try:
        text = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    except OSError:
        return None
    descriptor = os.open(folder, os.O_PATH)
    try:
        found = re.search(r"^mnt_id:\s*(\d+)$", read_file(f"/proc/self/fdinfo/{descriptor}") or "", re.MULTILINE)
    finally:
        os.close(descriptor)
    number = _device_number(folder.stat().st_dev)
    return find_mount(parse_mounts(text), int(found[1]) if found else None, folder.resolve(), number)


def governor() -> str | None:
    """Return the CPU frequency governor, or None when the host shows none (most virtual machines)."""
    return read_file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def _virtualisation() -> str | None:
    if shutil.which("systemd-detect-virt"):
        done = subprocess.run(["systemd-detect-virt"], capture_output=True, text=True, timeout=10, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
    if re.search(r"^flags\s*:.*\bhypervisor\b", read_file("/proc/cpuinfo") or "", re.MULTILINE):
        return "a hypervisor (kind unknown)"
    return None


@functools.cache
def _constant_facts() -> dict[str, Any]:
    model = re.search(r"^model name\s*:\s*(.+)$", read_file("/proc/cpuinfo") or "", re.MULTILINE)
    host_id, why_not = _host_id()
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
        "host_id": host_id,
        "host_id_missing": why_not,
        "boot_id": boot_id() or None,
    }


@functools.cache
def _commit() -> tuple[str | None, bool | None]:
    root = Path(__file__).resolve().parents[2]
    built_from = read_file(root / "picolab" / "built_from.json")
    if built_from is not None:  # a wheel
        found = json.loads(built_from)
        return found["commit"], found["dirty"]
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


def read_software() -> None:
    """Find out what software this is; processes that are forked from this one run it too, and need not look again."""
    _commit()
    _versions()


_IDENTITY_KEY = bytes.fromhex("3f0a7a5e6bd14c1c9a0f4f0c7d2e8b61")
"""Of picolab: another program's identity of the same host is another."""
_HOST_UTS_NAMESPACE = 0xEFFFFFFE
"""Inode of the namespace with the host's own name (PROC_UTS_INIT_INO of include/linux/proc_ns.h)."""


def hashed_machine_id() -> str | None:
    """Return what /etc/machine-id is for picolab; None when it holds no identity.

    It is sd_id128_get_machine_app_specific(3): an HMAC-SHA256, from which the machine-id cannot be found.
    """
    text = read_file("/etc/machine-id") or ""
    if not re.fullmatch("[0-9a-f]{32}", text) or not int(text, 16):
        return None
    found = bytearray(hmac.digest(bytes.fromhex(text), _IDENTITY_KEY, "sha256")[:16])
    found[6], found[8] = found[6] & 0x0F | 0x40, found[8] & 0x3F | 0x80
    return found.hex()


def _host_id() -> tuple[str | None, str | None]:
    """Return the identity of this host for records, or why it has none."""
    try:
        is_container = Path("/proc/self/ns/uts").stat().st_ino != _HOST_UTS_NAMESPACE
    except OSError:
        is_container = True
    if is_container:
        return None, "it has a host name of its own, as a container, and containers of one image share a machine-id"
    found = hashed_machine_id()
    return found, None if found is not None else "/etc/machine-id holds no identity"


def host_identity() -> dict[str, Any]:
    """Return the facts that make numbers of two hosts not comparable, those that this host knows of itself."""
    names = ("hostname", "cpu_model", "cpu_count", "architecture", "ram_bytes", "kernel", "host_id", "boot_id")
    return {name: _constant_facts()[name] for name in names} | {"hashed_machine_id": hashed_machine_id()}


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
