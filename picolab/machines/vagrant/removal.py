"""Takes machines down: released ones, abandoned ones, and what is left of machines without a folder."""

import contextlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines.folders import (
    TRIAL_FILE,
    end_keeper,
    exclusive,
    exclusive_now,
    folder_of,
    keeper_of,
    machines_dir,
    reap_own_keepers,
    remove_lock,
    spec_of,
    state_mark,
    unheld_since,
    write_spec,
)
from picolab.machines.local.keeper import KEEP_LEASE_S
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.domain import destroy


def release(folder: Path, report: Callable[[str], None] | None = None) -> None:
    """Take a machine down, whoever holds it: virtual machine, volumes, state. May be called twice.

    Args:
        report: gets a line while another process makes it or takes it down.

    Raises:
        MachineError: something of it could not be removed.
    """
    with exclusive(folder.name, report):
        take_down(folder)
        remove_lock(folder.name)
    reap_own_keepers()


def take_down(folder: Path) -> None:
    """Take a machine down; the caller holds its lock."""
    spec = spec_of(folder)
    keeper = keeper_of(folder)
    if keeper is not None and keeper != this_process():
        end_keeper(folder)
    if spec is not None:
        # From here on nobody can attach to it. On a full disk, which this may make room on, it goes without the note.
        with contextlib.suppress(OSError):
            write_spec(folder, {**spec, "state": "going"})
        destroy(folder, spec)
    shutil.rmtree(folder, ignore_errors=True)


def release_if_nobody_holds(folder: Path) -> bool:
    """Take a machine down if this process is its keeper and nobody holds it; return whether the keeper may end.

    For the keeper: between its looking and its having the lock somebody may have taken the machine over.
    """
    with exclusive(folder.name):
        spec = spec_of(folder)
        if spec is None or keeper_of(folder) != this_process():
            return True
        if ProcessIdentity.from_json(spec["holder"]).alive:
            return False
        take_down(folder)
        remove_lock(folder.name)
        return True


def is_abandoned(folder: Path) -> bool:
    """Return True when neither a keeper nor a living holder looks after a machine.

    One that a trial has kept is not abandoned as long as its keeper would have kept it.
    """
    spec = spec_of(folder)
    if spec is None or keeper_of(folder) is not None:
        return False
    # An OSError: it has been removed since its description was read.
    with contextlib.suppress(KeyError, TypeError, ValueError, OSError):
        return not ProcessIdentity.from_json(spec["holder"]).alive and not _is_kept_by_a_trial(folder, spec)
    return False


def _is_kept_by_a_trial(folder: Path, spec: dict[str, Any]) -> bool:
    if not spec["keep"] or spec.get("state") != "up" or not (folder / TRIAL_FILE).exists():
        return False
    return time.time() - unheld_since(folder, spec).timestamp() < KEEP_LEASE_S


def sweep_folder(folder: Path) -> bool:
    """Remove an abandoned machine; return whether there was one to remove."""
    with exclusive_now(folder.name) as is_ours:
        # Else somebody is making it or taking it down at this moment.
        if not is_ours or not is_abandoned(folder):
            return False
        take_down(folder)
        remove_lock(folder.name)
        return True


def sweep_lost() -> list[str]:
    """Remove virtual machines of this state folder whose own folder was deleted, and return their domains."""
    return [domain for domain in lost_domains() if remove_lost(domain)]


_DISK = r"(?:_\d+)?\.img"
"""How the name of a disk ends behind that of its domain."""


def lost_domains() -> list[str]:
    """Return the domains of virtual machines of this state folder whose own folder was deleted."""
    if shutil.which("virsh") is None:
        return []
    return [domain for domain in libvirt.all_domains() if _is_lost(domain, "")]


def lost_volumes() -> list[str]:
    """Return the disks of virtual machines of this state folder that have neither a folder nor a domain."""
    if shutil.which("virsh") is None:
        return []
    domains = libvirt.all_domains()
    lost = [name for name in libvirt.volumes() if _is_lost(name, _DISK)]
    return [name for name in lost if re.sub(rf"{_DISK}$", "", name) not in domains]


def remove_lost(domain: str) -> bool:
    """Remove a lost domain with its disks, unless its machine has been made anew; return whether that was done."""
    return _while_lost(domain, "", libvirt.remove_domain)


def remove_lost_volume(name: str) -> bool:
    """Remove a lost disk, unless its machine has been made anew; return whether that was done."""
    return _while_lost(name, _DISK, libvirt.remove_volume)


def _machine_of(name: str, end: str) -> str | None:
    """Return the machine of this state folder that a domain or a volume is of, by its name; None for any other."""
    named = re.fullmatch(rf"picolab_{state_mark(machines_dir())}_(.+)_default{end}", name)
    return named[1] if named and Path(named[1]).name == named[1] and named[1] not in (".", "..") else None


def _is_lost(name: str, end: str) -> bool:
    machine = _machine_of(name, end)
    return machine is not None and not folder_of(machine).exists()


def _while_lost(name: str, end: str, remove: Callable[[str], None]) -> bool:
    machine = _machine_of(name, end)
    if machine is None:
        return False
    with exclusive_now(machine) as is_ours:
        if not is_ours or folder_of(machine).exists():
            return False
        remove(name)
        remove_lock(machine)
        return True
