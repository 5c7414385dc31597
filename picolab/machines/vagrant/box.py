"""picolab's own box: the small image that virtual machines are made of, built from Debian packages.

No KVM, no catalogue of boxes, no loop device and no mount is needed: mmdebstrap installs the packages, mke2fs fills the
root file system, syslinux and mtools the boot partition. What goes into the image lies in `box_guest/`.
"""

import contextlib
import gzip
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from picolab.errors import HostUnfit, MachineBusy, MachineError, ParameterError
from picolab.host.finding import as_root
from picolab.host.locks import try_lock
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.boxes import (
    PICOLAB_BOX,
    RECIPE_KEY,
    InstalledBox,
    base_volume,
    base_volume_prefix,
    box_image,
    installed_box,
    installed_boxes,
    vagrant_home,
)

__all__ = [
    "BuiltBox",
    "ListedBox",
    "box_image",
    "build_box",
    "check_tools",
    "is_current",
    "list_boxes",
    "recipe_version",
    "remove_box",
]

GUEST = Path(__file__).resolve().parent / "box_guest"
PACKAGES = (
    *("usr-is-merged", "systemd-sysv", "kmod", "busybox-static"),
    *("openssh-server", "sudo", "screen", "python3", "iproute2", "procps"),
)
DISK_GIB = 16
_MIB = 1 << 20
_SECTOR = 512
_BOOT_BEGIN_MIB, _BOOT_MIB = 1, 31
_ROOT_BEGIN_MIB = _BOOT_BEGIN_MIB + _BOOT_MIB
_FAT16, _LINUX, _BOOTABLE = 0x0E, 0x83, 0x80

_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "mformat": "mtools",
    "mcopy": "mtools",
    "syslinux": "syslinux",
    "qemu-img": "qemu-utils",
    "vagrant": "vagrant vagrant-libvirt",
}
_MBR_PLACES = ("/usr/lib/syslinux/mbr/mbr.bin", "/usr/share/syslinux/mbr.bin", "/usr/lib/syslinux/bios/mbr.bin")
_USR_MERGE_HOOKS = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")
"""Without them the box would get Debian's program that merges /usr, and all of Perl for it."""
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INSTALL_LIMIT_S = 900.0
_STEP_LIMIT_S = 120.0
_ADD_LIMIT_S = 300.0
_END_PATIENCE_S = 20.0
_SAID_LINES = 8
_ACQUIRE_SETTINGS = ("http", "https", "Check-Valid-Until", "Check-Date", "Max-FutureTime", "ForceIPv4", "Retries")
"""apt's settings of how to reach a mirror. Which mirrors there are stands elsewhere."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class BuiltBox:
    """A box that was just built and added to Vagrant.

    Attributes:
        version: of the recipe that made it.
        folder: where Vagrant keeps it.
        size_bytes: of its disk image, which is sparse: the disk in it has `DISK_GIB`.
        duration_s: the whole build.
        steps_s: seconds by step.
    """

    name: str
    version: str
    folder: Path
    size_bytes: int
    duration_s: float
    steps_s: Mapping[str, float]


@dataclass(frozen=True)
class ListedBox:
    """A box by name: what Vagrant has of it, and what libvirt has.

    Attributes:
        boxes: its versions and providers in Vagrant's folder; empty when only copies of libvirt's are left.
        current: whether this version of picolab has made it.
        base_volumes: libvirt's copies; None when libvirt does not answer.
    """

    name: str
    boxes: tuple[InstalledBox, ...]
    current: bool
    base_volumes: tuple[libvirt.BaseVolume, ...] | None


def recipe_version() -> str:
    """Return what the recipe is, as 12 hex digits: another one whenever anything that goes into the box changes."""
    digest = hashlib.sha256(json.dumps([PACKAGES, DISK_GIB, _BOOT_MIB]).encode())
    for path in sorted(path for path in GUEST.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(GUEST)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def is_current(name: str = PICOLAB_BOX) -> bool:
    """Tell whether the box of that name is there and was made by this recipe."""
    box = installed_box(name)
    return box is not None and box.recipe == recipe_version()


def list_boxes() -> list[ListedBox]:
    """Return the boxes of this user's Vagrant and libvirt's copies of them, by name."""
    volumes: list[libvirt.BaseVolume] | None
    try:
        volumes = libvirt.base_volumes()
    except MachineError:
        volumes = None
    boxes = installed_boxes()
    names = {box.name for box in boxes} | {volume.box for volume in volumes or ()}
    return [
        ListedBox(
            name=name,
            boxes=tuple(box for box in boxes if box.name == name),
            current=any(box.name == name and box.recipe == recipe_version() for box in boxes),
            base_volumes=None if volumes is None else tuple(volume for volume in volumes if volume.box == name),
        )
        for name in sorted(names)
    ]


def build_box(
    name: str = PICOLAB_BOX, mirror: str | None = None, suite: str | None = None, report: Report = print
) -> BuiltBox:
    """Build the box from Debian packages and add it to Vagrant, in place of an older one of that name.

    Machines that exist keep the older one's base volume; it is removed when no machine uses it.

    Args:
        mirror: a Debian mirror; without one, those of a Debian host, else mmdebstrap's own.
        suite: a Debian release such as `bookworm`; without one, that of a Debian host, else bookworm.
        report: is called with a sentence at each step.

    Raises:
        HostUnfit: a tool is missing, or this is no host for the box.
        MachineBusy: another build is running.
        MachineError: a step failed; the message holds what its program said.
    """
    check_tools()
    steps: dict[str, float] = {}
    began = time.monotonic()

    @contextlib.contextmanager
    def step(what: str) -> Iterator[None]:
        report(f"{what} ...")
        step_began = time.monotonic()
        yield
        steps[what] = round(time.monotonic() - step_began, 2)

    with _one_build_at_a_time(), _clean_up_at_sigterm(), _work_folder() as work:
        disk = work / "disk.raw"
        _make_sparse(disk)
        with step("installing Debian packages"):
            _install(work, mirror, suite)
        with step("making the disk"):
            (work / "boot" / "initrd").write_bytes(initrd(work / "boot"))
            _fill_boot_partition(disk, work / "boot")
            image = work / "box.img"
            _run(["qemu-img", "convert", "-O", "qcow2", str(disk), str(image)], "qemu-img", _STEP_LIMIT_S)
        with step("adding the box to Vagrant"):
            size_bytes = image.stat().st_size
            archive = _pack(work, image)
            _run(["vagrant", "box", "add", "--force", "--name", name, str(archive)], "vagrant box add", _ADD_LIMIT_S)
    box = installed_box(name)
    if box is None:
        raise MachineError(f"vagrant box add said nothing, but the box {name!r} is not in {vagrant_home()}")
    _remove_unused_base_volumes(name, keep=base_volume(name), report=report)
    return BuiltBox(name, recipe_version(), box.folder, size_bytes, round(time.monotonic() - began, 2), steps)


def check_tools() -> None:
    """Do nothing if this host can build the box.

    Raises:
        HostUnfit: a tool is missing, or the host has another architecture.
    """
    if platform.machine() != "x86_64":
        raise HostUnfit(
            f"picolab's own box is made for x86_64, not for this host's {platform.machine()}; "
            f"use a public one instead: set `box` to its name"
        )
    packages = [package for tool, package in _TOOLS.items() if _which(tool) is None]
    if _boot_code() is None:
        packages.append("syslinux-common")
    if os.geteuid() != 0 and _which("newuidmap") is None:
        packages.append("uidmap")
    if packages:
        missing = " ".join(dict.fromkeys(packages))
        raise HostUnfit(
            f"programs that build the box are missing; install them with: "
            f"{as_root(f'apt-get install --no-install-recommends {missing}')}"
        )


def _boot_code() -> bytes | None:
    """Return syslinux' code for the first sector of a disk."""
    return next((Path(place).read_bytes() for place in _MBR_PLACES if Path(place).is_file()), None)


def _which(tool: str) -> str | None:
    # A user's PATH often lacks the folders of mke2fs.
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")


@contextlib.contextmanager
def _one_build_at_a_time() -> Iterator[None]:
    """Hold the lock of this Vagrant's boxes.

    Raises:
        MachineBusy: another process holds it.
    """
    home = vagrant_home()
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home) as ours:
        if not ours:
            raise MachineBusy(f"another build of a box for {home} is running; wait until it has ended")
        yield


@contextlib.contextmanager
def _clean_up_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the build as Ctrl-C does; only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _work_folder() -> Iterator[Path]:
    """Lend a folder for the build, and remove it afterwards, together with those that killed builds have left.

    Without root, mmdebstrap's processes are other users' for the kernel, and must be able to write here. Others are
    kept out all the same: the inner folder's name cannot be guessed, and the outer one cannot be listed.
    """
    place = Path(os.environ.get("TMPDIR") or "/var/tmp")
    prefix = f"picolab-box-{os.geteuid()}-"
    for old in place.glob(f"{prefix}*"):
        if old.is_symlink() or not old.is_dir() or old.stat().st_uid != os.geteuid():
            continue
        with _locked(old) as ours:
            if ours:
                shutil.rmtree(old, ignore_errors=True)
    outer = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        with _locked(outer):
            inner = Path(tempfile.mkdtemp(dir=outer))
            inner.chmod(0o777)
            outer.chmod(0o711)
            yield inner
    finally:
        shutil.rmtree(outer, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder, and tell whether that was possible; the kernel frees the lock of a dead process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def _make_sparse(disk: Path) -> None:
    """Make an empty disk of `DISK_GIB` that takes no space, and that mmdebstrap's processes may write."""
    with disk.open("wb") as file:
        file.truncate(DISK_GIB * 1024 * _MIB)
    disk.chmod(0o666)


def _install(work: Path, mirror: str | None, suite: str | None) -> None:
    """Install the packages and fill the disk's root file system; `work/boot` gets kernel, busybox and modules."""
    shutil.copytree(GUEST, work / "guest")
    (work / "boot").mkdir()
    (work / "boot").chmod(0o777)
    _run(["chmod", "-R", "a+rX", str(work / "guest")], "chmod", _STEP_LIMIT_S)
    suite, sources = apt_sources(mirror, suite)
    settings = work / "apt.conf"
    settings.write_text(_apt_settings())
    hook = f'sh {shlex.quote(str(work / "guest" / "customize.sh"))} "$1" {shlex.quote(str(work))} {_ROOT_BEGIN_MIB}'
    command = [
        *("mmdebstrap", "--variant=essential", "--format=null", "--skip=cleanup"),
        *(f"--include={','.join(PACKAGES)}", f"--aptopt={settings}", "--dpkgopt=force-unsafe-io"),
        *([f"--hook-directory={_USR_MERGE_HOOKS}"] if _USR_MERGE_HOOKS.is_dir() else []),
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale", "info")),
        *(f"--customize-hook={hook}", suite, "-", *sources),
    ]
    _run(command, "mmdebstrap", _INSTALL_LIMIT_S, TMPDIR=str(work))


def apt_sources(mirror: str | None, suite: str | None) -> tuple[str, list[str]]:
    """Return the suite and the lines or mirrors for mmdebstrap; an empty list means mmdebstrap's own mirrors.

    On a Debian host these are the host's own, so that a box can be built behind a mirror; what is no part of Debian
    is left out.
    """
    codename = _debian_codename()
    wanted = suite or codename or "bookworm"
    if mirror:
        return wanted, [mirror]
    if codename is None:
        return wanted, []
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    text = _run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], "apt-get", _STEP_LIMIT_S)
    return wanted, select_sources(text, codename, wanted)


def select_sources(text: str, codename: str, wanted: str) -> list[str]:
    """Return apt's sources of Debian's main component as lines of a sources.list.

    Args:
        text: a line for each source of the host: URI, suite, component, origin (blank before the first update).
        codename: the host's release.
        wanted: the release that the box is made of.
    """
    lines = []
    for uri, release, component, *origin in (line.split() for line in text.splitlines()):
        of_debian = origin == ["Debian"] or not origin or origin[0].startswith("$(")
        if of_debian and component == "main" and re.fullmatch(rf"{codename}(-updates|-security|/updates)?", release):
            lines.append(f"deb {uri} {release.replace(codename, wanted)} main")
    return list(dict.fromkeys(lines))


def _debian_codename() -> str | None:
    """Return the release of a Debian host; None on another distribution."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return None
    if release.get("ID") != "debian" or _which("apt-get") is None:
        return None
    return release.get("VERSION_CODENAME")


def _apt_settings() -> str:
    """Return the host's settings of how to reach a mirror: proxy, certificates, checks of dates."""
    if _which("apt-config") is None:
        return ""
    wanted = re.compile(rf"Acquire::({'|'.join(_ACQUIRE_SETTINGS)})\b", re.IGNORECASE)
    lines = _run(["apt-config", "dump"], "apt-config", _STEP_LIMIT_S).splitlines()
    return "".join(f"{line}\n" for line in lines if wanted.match(line))


def initrd(boot: Path) -> bytes:
    """Return the first file system of the kernel: busybox, the modules that the disk needs, and our own /init."""
    busybox, modules = boot / "busybox", sorted((boot / "modules").glob("*.ko"))
    entries: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "modules", "proc", "system")
    ]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()))
    entries.append(("init", stat.S_IFREG | 0o755, (GUEST / "initrd_init.sh").read_bytes()))
    entries += [(f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes()) for module in modules]
    return gzip.compress(cpio(entries), mtime=0)


def cpio(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Return an archive in the form that the kernel unpacks (its initramfs-buffer-format.rst, "newc").

    Args:
        entries: name, mode and content of each member; folders before what is in them.
    """
    parts = []
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        parts += [header, b"\0" * (-len(header) % 4), content, b"\0" * (-len(content) % 4)]
    return b"".join(parts)


def _fill_boot_partition(disk: Path, boot: Path) -> None:
    """Write the partition table, and a file system with boot loader, kernel and initrd in front of the root's."""
    with disk.open("r+b") as file:
        file.write(boot_sector(_boot_code() or b""))
    offset = _BOOT_BEGIN_MIB * _MIB
    target = f"{disk}@@{offset}"
    sectors = _BOOT_MIB * _MIB // _SECTOR
    geometry = ("-h", "255", "-s", "63", "-H", str(offset // _SECTOR), "-T", str(sectors))
    _run(["mformat", "-i", target, *geometry, "-v", "PICOLAB", "::"], "mformat", _STEP_LIMIT_S)
    files = [boot / "vmlinuz", boot / "initrd", GUEST / "syslinux.cfg"]
    _run(["mcopy", "-i", target, *map(str, files), "::/"], "mcopy", _STEP_LIMIT_S)
    _run(["syslinux", "--install", "--offset", str(offset), str(disk)], "syslinux", _STEP_LIMIT_S)


def boot_sector(code: bytes) -> bytes:
    """Return the first sector of the disk: syslinux' code and the table with the boot and the root partition."""
    boot = struct.pack(
        "<B3sB3sII", _BOOTABLE, b"\xfe\xff\xff", _FAT16, b"\xfe\xff\xff", *_sectors(_BOOT_BEGIN_MIB, _BOOT_MIB)
    )
    root_mib = DISK_GIB * 1024 - _ROOT_BEGIN_MIB
    root = struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", _LINUX, b"\xfe\xff\xff", *_sectors(_ROOT_BEGIN_MIB, root_mib))
    return code[:440].ljust(446, b"\0") + boot + root + b"\0" * 32 + b"\x55\xaa"


def _sectors(begin_mib: int, size_mib: int) -> tuple[int, int]:
    return begin_mib * _MIB // _SECTOR, size_mib * _MIB // _SECTOR


def _pack(work: Path, image: Path) -> Path:
    """Return the box: a tar archive, uncompressed, because packing would take longer than all else."""
    metadata = {
        "provider": "libvirt",
        "format": "qcow2",
        "virtual_size": DISK_GIB,
        RECIPE_KEY: recipe_version(),
    }
    (work / "metadata.json").write_text(json.dumps(metadata))
    archive = work / "picolab.machines.vagrant.box"
    members = {
        "metadata.json": work / "metadata.json",
        "Vagrantfile": GUEST / "box.Vagrantfile",
        "vmlinuz": work / "boot" / "vmlinuz",
        "initrd": work / "boot" / "initrd",
        "box.img": image,
    }
    with tarfile.open(archive, "w") as tar:
        for name, path in members.items():
            tar.add(path, arcname=name, filter=_nobody_in_particular)
    return archive


def _nobody_in_particular(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o644
    return member


def remove_box(name: str) -> list[str]:
    """Remove a box from Vagrant, and its base volumes from libvirt's pool; return what was removed.

    Raises:
        ParameterError: there is neither.
        MachineBusy: a machine still uses a base volume.
        MachineError: vagrant or libvirt failed.
    """
    volumes = [volume for volume in libvirt.base_volumes() if volume.name.startswith(base_volume_prefix(name))]
    box = installed_box(name)
    if box is None and not volumes:
        raise ParameterError(f"there is no box {name!r}; those that exist are shown by: picolab box list")
    for volume in volumes:
        if volume.used_by:
            raise MachineBusy(
                f"the box {name!r} is still the base of {', '.join(volume.used_by)} in libvirt's pool "
                f"{libvirt.POOL!r}; take these machines away first (picolab machines list)"
            )
    removed = []
    if box is not None:
        _run(
            ["vagrant", "box", "remove", "--force", "--all", "--provider", "libvirt", name],
            "vagrant box remove",
            _STEP_LIMIT_S,
        )
        removed.append(f"box {name} ({box.folder})")
    for volume in volumes:
        libvirt.remove_volume(volume.name)
        removed.append(f"base volume {volume.name}")
    return removed


def _remove_unused_base_volumes(name: str, keep: str | None, report: Report) -> None:
    """Remove libvirt's copies of older boxes of that name: nothing would ever use or remove them."""
    try:
        for volume in libvirt.base_volumes():
            if volume.name.startswith(base_volume_prefix(name)) and volume.name != keep and not volume.used_by:
                libvirt.remove_volume(volume.name)
                report(f"removed the base volume of an older box: {volume.name}")
    except MachineError as error:
        report(f"base volumes of older boxes were not looked for: {error}")


def _run(command: Sequence[str], what: str, limit_s: float, **environment: str) -> str:
    """Run a program to its end and return what it printed to stdout.

    Raises:
        MachineError: it failed, or took longer than `limit_s`; the message holds the last lines that it printed.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}", **environment},
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        said = _end(process)
        raise MachineError(f"{what} did not end within {limit_s:.0f} s and was ended{_last_lines(said)}") from None
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        raise MachineError(f"{what} ended with exit code {process.returncode}{_last_lines(stderr or stdout)}")
    return stdout


def _end(process: "subprocess.Popen[str]") -> str:
    """End a program and all that it has started, first so that it can clean up; return what it said."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_END_PATIENCE_S)[1]
    return ""


def _last_lines(said: str) -> str:
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    return f"; it said: {' | '.join(lines[-_SAID_LINES:])}" if lines else " and said nothing"
