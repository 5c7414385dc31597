"""Leftovers of dead local machines outside their folders: cgroups, network devices, work folders."""

import shutil
import stat
from collections.abc import Callable
from functools import partial

from picolab.config.project import state_dir
from picolab.host.leftovers import LeftoverKind, Removables, is_ours
from picolab.machines.folders import exclusive, folder_of, machines_dir, state_mark
from picolab.machines.local import network
from picolab.machines.local.cgroup import MemoryCgroup, v1_parent, v2_parent


def _place_of_no_machine(name: str) -> bool:
    """Return whether this is the place of a local machine of this state folder that does not exist."""
    mark = f"-{state_mark(machines_dir())}"
    if not (name.startswith("picolab-") and name.endswith(mark)):
        return False
    machine = name.removeprefix("picolab-").removesuffix(mark)
    return bool(machine) and machine not in (".", "..") and not folder_of(machine).exists()


def _cgroups() -> Removables:
    for method, parent in (("cgroup_v1", v1_parent), ("cgroup_v2", v2_parent)):
        place = parent()
        if place is None:
            continue
        for cgroup in sorted(place.glob("picolab-*")):
            if cgroup.is_dir() and _place_of_no_machine(cgroup.name):
                group = MemoryCgroup("cgroup_v1" if method == "cgroup_v1" else "cgroup_v2", cgroup)
                yield str(cgroup), partial(_unless_made_anew, cgroup.name, group.remove)


def _networks() -> Removables:
    for interface, place in network.devices():
        if _place_of_no_machine(place):
            yield f"{interface} ({place})", partial(_unless_made_anew, place, partial(network.remove, interface))


def _work_folders() -> Removables:
    for folder in sorted((state_dir() / "work").glob("picolab-*")):
        if is_ours(folder, stat.S_ISDIR) and _place_of_no_machine(folder.name):
            remove = partial(shutil.rmtree, folder, ignore_errors=True)
            yield str(folder), partial(_unless_made_anew, folder.name, remove)


def _unless_made_anew(name: str, remove: Callable[[], object]) -> None:
    with exclusive():
        if _place_of_no_machine(name):
            remove()


LEFTOVERS = (
    LeftoverKind("cgroup of no machine", _cgroups),
    LeftoverKind("network device of no machine", _networks),
    LeftoverKind("work folder of no machine", _work_folders),
)
