"""Leftovers of dead virtual machines outside their folders: domains, disks, unfinished boxes."""

import os
import shutil
import stat
import tempfile
from functools import partial
from pathlib import Path

from picolab.host.leftovers import LeftoverKind, Removables, is_ours, is_unlocked, remove_locked
from picolab.host.locks import try_lock
from picolab.machines.vagrant import libvirt, network_and_pool, removal, saved_state
from picolab.machines.vagrant.kind import VagrantKind


def _domains() -> Removables:
    for domain in removal.lost_domains():
        yield f"virtual machine {domain}", partial(removal.remove_lost, domain)


def _volumes() -> Removables:
    for volume in removal.lost_volumes():
        yield f"volume {volume}", partial(removal.remove_lost_volume, volume)


def _saved_states() -> Removables:
    for (folder, name), why in saved_state.all_useless().items():
        yield f"saved state {name} of {folder.name}: {why}", partial(saved_state.remove_useless, folder, name)


def _network_and_pool() -> Removables:
    if shutil.which("virsh") is not None:
        for what in network_and_pool.unused():
            yield f"{what} {network_and_pool.name_of(what)}", partial(network_and_pool.remove, what)


def _box_folders() -> Removables:
    for place in dict.fromkeys([Path(tempfile.gettempdir()), Path("/var/tmp")]):
        for folder in sorted(place.glob(f"picolab-box-{os.geteuid()}-*")):
            if is_ours(folder, stat.S_ISDIR) and is_unlocked(folder):
                yield str(folder), partial(remove_locked, folder, folder)


def _first_up_locks() -> Removables:
    pattern = libvirt.first_up_lock_file("*")
    for lock in sorted(pattern.parent.glob(pattern.name)):
        if is_ours(lock, stat.S_ISREG) and is_unlocked(lock):
            yield str(lock), partial(_remove_lock, lock)


def _remove_lock(path: Path) -> None:
    with path.open("a") as lock:
        if try_lock(lock):
            # Whoever waits for it notices that the file is gone, and takes a new one.
            path.unlink(missing_ok=True)


LEFTOVERS = (
    LeftoverKind("virtual machine of no machine", _domains, VagrantKind.name),
    LeftoverKind("disk of no machine", _volumes, VagrantKind.name),
    LeftoverKind("saved state that must not be restored", _saved_states, VagrantKind.name),
    LeftoverKind("libvirt object that no machine uses", _network_and_pool, VagrantKind.name),
    LeftoverKind("lock of a killed first boot", _first_up_locks),
    LeftoverKind("box that was not finished", _box_folders),
)
