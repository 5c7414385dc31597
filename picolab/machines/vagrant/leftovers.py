"""Leftovers of dead virtual machines outside their folders: domains, disks, unfinished boxes."""

import os
import stat
import tempfile
from functools import partial
from pathlib import Path

from picolab.host.leftovers import LeftoverKind, Removables, is_ours, is_unlocked, remove_locked
from picolab.machines.vagrant import removal


def _domains() -> Removables:
    for domain in removal.lost_domains():
        yield f"virtual machine {domain}", partial(removal.remove_lost, domain)


def _volumes() -> Removables:
    for volume in removal.lost_volumes():
        yield f"volume {volume}", partial(removal.remove_lost_volume, volume)


def _box_folders() -> Removables:
    for place in dict.fromkeys([Path(tempfile.gettempdir()), Path("/var/tmp")]):
        for folder in sorted(place.glob(f"picolab-box-{os.geteuid()}-*")):
            if is_ours(folder, stat.S_ISDIR) and is_unlocked(folder):
                yield str(folder), partial(remove_locked, folder, folder)


LEFTOVERS = (
    LeftoverKind("virtual machine of no machine", _domains),
    LeftoverKind("disk of no machine", _volumes),
    LeftoverKind("box that was not finished", _box_folders),
)
