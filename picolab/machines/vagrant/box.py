"""picolab's own box: the small image that virtual machines are made of, built from Debian packages.

No KVM, no catalogue of boxes, no loop device and no mount is needed: mmdebstrap installs the packages, mke2fs fills the
root file system, syslinux and mtools the boot partition. What goes into the image lies in `box_guest/`.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picolab.config.sizes import MIB
from picolab.errors import FileNotWritten, MachineBusy, MachineError, ParameterError
from picolab.files.writing import not_written
from picolab.host.disk_room import free_bytes
from picolab.host.locks import try_lock
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.base_volumes import BaseVolume, base_volumes
from picolab.machines.vagrant.box_disk import BOOT_MIB, DISK_GIB, GUEST, fill_boot_partition, initrd, make_sparse
from picolab.machines.vagrant.box_file import (
    IMAGE,
    INITRD,
    KERNEL,
    METADATA,
    VAGRANTFILE,
    check_image,
    metadata,
    pack,
    unpack,
)
from picolab.machines.vagrant.box_packages import PACKAGES, install
from picolab.machines.vagrant.box_tools import STEP_LIMIT_S, check_can_add, check_tools, run
from picolab.machines.vagrant.boxes import (
    GUEST_FILE,
    PICOLAB_BOX,
    InstalledBox,
    base_volume,
    base_volume_prefix,
    box_image,
    installed_box,
    installed_boxes,
    vagrant_home,
)
from picolab.machines.vagrant.messages import NO_ROOM

__all__ = [
    "AddedBox",
    "BuiltBox",
    "ListedBox",
    "add_box",
    "box_image",
    "build_box",
    "check_tools",
    "is_current",
    "list_boxes",
    "recipe_version",
    "remove_box",
]


_ADD_LIMIT_S = 300.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class BuiltBox:
    """A box that was just built and added to Vagrant.

    Attributes:
        version: of the recipe that made it.
        folder: where Vagrant keeps it.
        size_bytes: of its disk image, which is sparse: the disk in it has `DISK_GIB`.
        duration_s: the whole build.
    """

    name: str
    version: str
    folder: Path
    size_bytes: int
    duration_s: float


@dataclass(frozen=True)
class AddedBox:
    """A box that came from a file.

    Attributes:
        recipe: that made it.
        sha256: of the list of checksums in the file.
    """

    name: str
    recipe: str
    sha256: str


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
    base_volumes: tuple[BaseVolume, ...] | None


def recipe_version() -> str:
    """Return what the recipe is, as 12 hex digits: another one whenever anything that goes into the box changes."""
    digest = hashlib.sha256(json.dumps([PACKAGES, DISK_GIB, BOOT_MIB]).encode())
    for path in sorted(path for path in GUEST.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(GUEST)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def is_current(name: str = PICOLAB_BOX) -> bool:
    """Return True if the box of that name exists and was made by this recipe."""
    box = installed_box(name)
    return box is not None and box.recipe == recipe_version()


def list_boxes() -> list[ListedBox]:
    """Return the boxes of this user's Vagrant and libvirt's copies of them, by name."""
    volumes: list[BaseVolume] | None
    try:
        volumes = base_volumes()
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
        FileNotWritten: a disk is full.
        MachineError: a step failed; the message holds what its program said.
    """
    check_tools()
    began = time.monotonic()
    with _one_build_at_a_time(), _clean_up_at_sigterm(), _work_folder() as work, _told_if_full(work):
        disk = work / "disk.raw"
        make_sparse(disk)
        report("installing Debian packages ...")
        install(work, mirror, suite)
        report("making the disk ...")
        (work / "boot" / "initrd").write_bytes(initrd(work / "boot"))
        fill_boot_partition(disk, work / "boot")
        image = work / "box.img"
        run(["qemu-img", "convert", "-O", "qcow2", str(disk), str(image)], "qemu-img", STEP_LIMIT_S)
        report("adding the box to Vagrant ...")
        size_bytes = image.stat().st_size
        box = _add_to_vagrant(name, work, _members(work, image))
    _remove_unused_base_volumes(name, keep=base_volume(name), report=report)
    return BuiltBox(name, recipe_version(), box.folder, size_bytes, round(time.monotonic() - began, 2))


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
def _told_if_full(work: Path) -> Iterator[None]:
    """Name the disk that is full, while what fills it is still there.

    Raises:
        FileNotWritten: a file of picolab's could not be written.
        MachineError: a program failed; if its words are about a full disk, with what is free where it writes.
    """
    try:
        yield
    except FileNotWritten:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        place = Path(error.filename or work / IMAGE)
        raise not_written(place, error, "or set TMPDIR to a folder on a larger disk") from None
    except MachineError as error:
        found = {at: free_bytes(at) for at in (work, vagrant_home())}
        free = " and ".join(f"{left / MIB:,.0f} MiB in {at}" for at, left in found.items() if left is not None)
        if not free or not re.search(NO_ROOM, str(error)):
            raise
        raise MachineError(f"{error}; free are {free}: free some space, or set TMPDIR or VAGRANT_HOME") from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder, and return whether that was possible; the kernel frees the lock of a dead process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def _members(work: Path, image: Path) -> dict[str, Path]:
    """Return the files of a box by their names in it."""
    (work / METADATA).write_text(metadata(recipe_version()))
    (work / GUEST_FILE).write_text(json.dumps(_guest_facts(work / "boot" / "guest-files")))
    return {
        METADATA: work / METADATA,
        GUEST_FILE: work / GUEST_FILE,
        VAGRANTFILE: GUEST / "box.Vagrantfile",
        KERNEL: work / "boot" / KERNEL,
        INITRD: work / "boot" / INITRD,
        IMAGE: image,
    }


def _add_to_vagrant(name: str, work: Path, members: Mapping[str, Path]) -> InstalledBox:
    """Give a box to Vagrant, in place of an older one of that name.

    Raises:
        MachineError: Vagrant failed.
    """
    archive = work / "picolab.machines.vagrant.box"
    pack(archive, members)
    run(["vagrant", "box", "add", "--force", "--name", name, str(archive)], "vagrant box add", _ADD_LIMIT_S)
    box = installed_box(name)
    if box is None:
        raise MachineError(f"vagrant box add said nothing, but the box {name!r} is not in {vagrant_home()}")
    return box


def add_box(path: Path, name: str = PICOLAB_BOX, report: Report = print) -> AddedBox:
    """Add a box that `export_box` wrote to Vagrant, in place of an older one of that name.

    Only its image, kernel, initrd and list of programs are taken from the file; its Vagrantfile is picolab's own.

    Raises:
        HostUnfit: a tool is missing.
        ParameterError: the file is damaged, or no box of picolab's.
        MachineBusy: another build is running.
        FileNotWritten: a disk is full.
        MachineError: Vagrant failed.
    """
    check_can_add()
    with _one_build_at_a_time(), _clean_up_at_sigterm(), _work_folder() as work, _told_if_full(work):
        taken = work / "taken"
        taken.mkdir()
        report("checking the file ...")
        recipe, sha256 = unpack(path, taken)
        check_image(path, taken / IMAGE)
        (work / METADATA).write_text(metadata(recipe))
        members = {file.name: file for file in taken.iterdir()}
        members |= {METADATA: work / METADATA, VAGRANTFILE: GUEST / "box.Vagrantfile"}
        report("adding the box to Vagrant ...")
        _add_to_vagrant(name, work, members)
    _remove_unused_base_volumes(name, keep=base_volume(name), report=report)
    return AddedBox(name, recipe, sha256)


def _guest_facts(listing: Path) -> dict[str, Any]:
    """Return the system in the box, from the list that `customize.sh` makes: the version of glibc, then all files."""
    version, *files = listing.read_text(errors="replace").split("\n")
    numbers = re.match(r"(?:\d+:)?(\d+)\.(\d+)", version)
    return {
        "processor": platform.machine(),
        "glibc": [int(number) for number in numbers.groups()] if numbers else [],
        "files": sorted(f"/{name}" for name in files if name),
    }


def remove_box(name: str) -> list[str]:
    """Remove a box from Vagrant, and its base volumes from libvirt's pool; return what was removed.

    Raises:
        ParameterError: there is neither.
        MachineBusy: a machine still uses a base volume.
        MachineError: vagrant or libvirt failed.
    """
    volumes = [volume for volume in base_volumes() if volume.name.startswith(base_volume_prefix(name))]
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
        run(
            ["vagrant", "box", "remove", "--force", "--all", "--provider", "libvirt", name],
            "vagrant box remove",
            STEP_LIMIT_S,
        )
        removed.append(f"box {name} ({box.folder})")
    for volume in volumes:
        libvirt.remove_volume(volume.name)
        removed.append(f"base volume {volume.name}")
    return removed


def _remove_unused_base_volumes(name: str, keep: str | None, report: Report) -> None:
    """Remove libvirt's copies of older boxes of that name: nothing would ever use or remove them."""
    try:
        for volume in base_volumes():
            if volume.name.startswith(base_volume_prefix(name)) and volume.name != keep and not volume.used_by:
                libvirt.remove_volume(volume.name)
                report(f"removed the base volume of an older box: {volume.name}")
    except MachineError as error:
        report(f"base volumes of older boxes were not looked for: {error}")
