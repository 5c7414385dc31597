"""Full disks of this host: what a virtual machine that fails for lack of room says of them, which nobody else names.

QEMU pauses a guest whose disk finds no room on this host (`werror=enospc`, its default), and Vagrant and libvirt say
`No space left on device` without a place.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from picolab.config.project import state_dir
from picolab.config.sizes import MIB
from picolab.errors import MachineError
from picolab.host.disk_room import free_bytes, full_in_words
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.boxes import vagrant_home
from picolab.machines.vagrant.command import VagrantError
from picolab.machines.vagrant.messages import MAYBE_NO_ROOM

_ASK_LIMIT_S = 5.0


@contextlib.contextmanager
def named(provider: str) -> Iterator[None]:
    """Have a failed machine's error name the disk of this host that is full, with its free space.

    Args:
        provider: of the machine; only libvirt's has disks in libvirt's pool.

    Raises:
        MachineError: the same error, of the same class.
    """
    try:
        yield
    except MachineError as error:
        if full := which(error, provider):
            error.args = (f"{error}; {full}",)
        raise


def which(error: MachineError, provider: str) -> str:
    """Return which disk of this host may be the cause of an error, in words; an empty text for none.

    Whoever says that there is no room may have removed his half file since: then all places are named.
    """
    free = _free(provider)
    if isinstance(error, VagrantError | libvirt.LibvirtError) and re.search(MAYBE_NO_ROOM, error.said):
        places = sorted(free.items(), key=lambda place: place[1])
        return "the free space is " + ", ".join(f"{found / MIB:,.1f} MiB in {name}" for name, found in places)
    full = full_in_words(free)
    return f"the cause may be that {full}; free some space there" if full else ""


def why_paused(prefix: str) -> str:
    """Return the fault of its disk for which QEMU has paused a machine, in words; an empty text for none.

    Raises:
        LibvirtError: libvirt does not answer.
    """
    for name in libvirt.domains(prefix):
        fault, file = libvirt.disk_error(name), libvirt.disk_file(name)
        if not fault or file is None:
            continue
        if fault == "no space":
            free = free_bytes(file.parent)
            left = "" if free is None else f" ({free / MIB:,.1f} MiB free)"
            return f"the file system of its disk in {file.parent} is full{left}"
        return f"its disk {file} has failed ({fault})"
    return ""


def _free(provider: str) -> dict[str, int]:
    """Return the free bytes of each place that a virtual machine is made in, without those that cannot be asked."""
    places = {
        "the state folder": state_dir(),
        "Vagrant's folder": vagrant_home(),
        "TMPDIR": Path(tempfile.gettempdir()),
    }
    if provider == "libvirt":
        with contextlib.suppress(MachineError):
            places = {"libvirt's pool": libvirt.pool_folder(_ASK_LIMIT_S), **places}
    found = {f"{what} {folder}": free_bytes(folder) for what, folder in places.items()}
    return {what: free for what, free in found.items() if free is not None}
