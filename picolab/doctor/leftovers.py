"""What picolab has left on this host, and only that: found, shown, removed.

Everything here is of a process that is gone, and says in its name or in a file of ours that it is picolab's and of this
state folder. What cannot be proven to be that stays. Results of campaigns are never looked at, machines that
somebody holds or keeps are named and left alone.

A new kind of leftover is one more entry in `KINDS`.
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from picolab.config.project import outputs_dir, state_dir
from picolab.errors import PicolabError
from picolab.host.locks import try_lock
from picolab.host.processes import ProcessIdentity
from picolab.jupyter import kernel_folders
from picolab.machines import registry
from picolab.machines.folders import (
    exclusive,
    folder_of,
    keeper_of,
    lock_file,
    machine_folders,
    machines_dir,
    spec_of,
    state_mark,
)
from picolab.machines.local import machine as local
from picolab.machines.local import network
from picolab.machines.local.cgroup import MemoryCgroup, v1_parent, v2_parent
from picolab.machines.vagrant import machine as vagrant

_TEMPORARY = re.compile(
    r"\.(.+\.(?P<pid>[1-9]\d{0,9})\.new|(analysis|compare)\.(?P<report>[1-9]\d{0,9})\.ipynb)", re.ASCII
)
"""How a file is called until it is whole: `write_atomically`, and the notebook of a report."""


Found = Iterator[tuple[str, Callable[[], object]]]
"""What there is of one kind, by path or name, and how to remove it."""


@dataclass(frozen=True)
class Leftover:
    """One thing that can be removed."""

    kind: str
    what: str
    """Its path or name."""
    remove: Callable[[], object]


@dataclass(frozen=True)
class Kind:
    """One kind of leftover."""

    name: str
    find: Callable[[], Found]


# Kernels and temporary files


def _kernels() -> Found:
    for folder in kernel_folders.dead_folders():
        yield str(folder), partial(kernel_folders.remove, folder)


def _connection_files() -> Found:
    for note, file in kernel_folders.dead_notes().items():
        if file is not None:
            yield str(file), partial(file.unlink, missing_ok=True)
        yield str(note), partial(note.unlink, missing_ok=True)


def _temporary_files() -> Found:
    for place in (state_dir(), outputs_dir()):
        for path in sorted(_files_below(place)):
            named = _TEMPORARY.fullmatch(path.name)
            if named is None or not _is_ours(path, stat.S_ISREG):
                continue
            if _is_no_process(int(named["pid"] or named["report"])):
                yield str(path), partial(path.unlink, missing_ok=True)


def _files_below(place: Path) -> Iterator[Path]:
    """Yield the hidden files of a folder of ours and two levels below; no link is followed."""
    for folder, names, files in os.walk(place):
        if len(Path(folder).relative_to(place).parts) >= 2:
            names.clear()
        yield from (Path(folder, name) for name in files if name.startswith("."))


def _is_no_process(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def _is_ours(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Tell whether it is what it should be (no link) and this user's."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return is_kind(found.st_mode) and found.st_uid == os.geteuid()


def _downloads() -> Found:
    cache = state_dir() / "builds"
    new = [folder for folder in sorted(cache.glob(".new-*")) if _is_ours(folder, stat.S_ISDIR)]
    with contextlib.suppress(OSError), (cache / ".lock").open("w") as lock:
        # While somebody unpacks a build, it may be that one's.
        if new and try_lock(lock):
            for folder in new:
                yield str(folder), partial(_remove_locked, cache / ".lock", folder)


def _box_folders() -> Found:
    for place in dict.fromkeys([Path(tempfile.gettempdir()), Path("/var/tmp")]):
        for folder in sorted(place.glob(f"picolab-box-{os.geteuid()}-*")):
            if _is_ours(folder, stat.S_ISDIR) and _is_unlocked(folder):
                yield str(folder), partial(_remove_locked, folder, folder)


def _is_unlocked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def _remove_locked(lock: Path, folder: Path) -> None:
    """Remove a folder while its lock is held; nothing happens when somebody else has it by now."""
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if try_lock(descriptor):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


# Machines


def _machines() -> Found:
    for folder in machine_folders():
        spec = spec_of(folder)
        if keeper_of(folder) is not None:
            continue
        if spec is not None and spec.get("kind") == "vagrant":
            with contextlib.suppress(KeyError, TypeError, ValueError):
                if not ProcessIdentity.from_json(spec["holder"]).alive:
                    yield str(folder), partial(vagrant.sweep_folder, folder)
        else:
            yield str(folder), partial(_sweep_local, folder)


def _sweep_local(folder: Path) -> None:
    with exclusive():
        if folder.is_dir() and keeper_of(folder) is None:
            local.sweep_folder(folder)


def _place_of_no_machine(name: str) -> bool:
    """Tell whether this is the place of a local machine of this state folder that does not exist."""
    mark = f"-{state_mark(machines_dir())}"
    if not (name.startswith("picolab-") and name.endswith(mark)):
        return False
    machine = name.removeprefix("picolab-").removesuffix(mark)
    return bool(machine) and machine not in (".", "..") and not folder_of(machine).exists()


def _cgroups() -> Found:
    for method, parent in (("cgroup_v1", v1_parent), ("cgroup_v2", v2_parent)):
        place = parent()
        if place is None:
            continue
        for cgroup in sorted(place.glob("picolab-*")):
            if cgroup.is_dir() and _place_of_no_machine(cgroup.name):
                group = MemoryCgroup("cgroup_v1" if method == "cgroup_v1" else "cgroup_v2", cgroup)
                yield str(cgroup), partial(_unless_made_anew, cgroup.name, group.remove)


def _networks() -> Found:
    for interface, place in network.devices():
        if _place_of_no_machine(place):
            yield f"{interface} ({place})", partial(_unless_made_anew, place, partial(network.remove, interface))


def _work_folders() -> Found:
    for folder in sorted((state_dir() / "work").glob("picolab-*")):
        if _is_ours(folder, stat.S_ISDIR) and _place_of_no_machine(folder.name):
            remove = partial(shutil.rmtree, folder, ignore_errors=True)
            yield str(folder), partial(_unless_made_anew, folder.name, remove)


def _unless_made_anew(name: str, remove: Callable[[], object]) -> None:
    with exclusive():
        if _place_of_no_machine(name):
            remove()


def _domains() -> Found:
    for domain in vagrant.lost_domains():
        yield f"virtual machine {domain}", partial(vagrant.remove_lost, domain)


def _volumes() -> Found:
    for volume in vagrant.lost_volumes():
        yield f"volume {volume}", partial(vagrant.remove_lost_volume, volume)


def _locks() -> Found:
    for path in sorted(machines_dir().glob(".?*.lock")):
        name = path.name.removeprefix(".").removesuffix(".lock")
        if path.is_file() and not folder_of(name).exists() and _is_unlocked(path):
            yield str(path), partial(_remove_lock, name)


def _remove_lock(name: str) -> None:
    with lock_file(name).open("r") as lock:
        # `exclusive` notices that the file it has locked is gone, and takes the new one.
        if try_lock(lock) and not folder_of(name).exists():
            lock_file(name).unlink(missing_ok=True)


KINDS = (
    Kind("folder of a dead kernel", _kernels),
    Kind("connection file of a dead kernel", _connection_files),
    Kind("machine without a keeper", _machines),
    Kind("cgroup of no machine", _cgroups),
    Kind("network device of no machine", _networks),
    Kind("work folder of no machine", _work_folders),
    Kind("virtual machine of no machine", _domains),
    Kind("disk of no machine", _volumes),
    Kind("download that was not finished", _downloads),
    Kind("box that was not finished", _box_folders),
    Kind("file that was not finished", _temporary_files),
    Kind("lock of no machine", _locks),
)
"""In the order in which they are removed: what a machine's folder knows is needed until the machine is gone."""


def find() -> tuple[list[Leftover], list[str]]:
    """Return what is left, and a sentence for each kind that could not be looked for."""
    found, unknown = [], []
    for kind in KINDS:
        try:
            found += [Leftover(kind.name, what, remove) for what, remove in kind.find()]
        except (PicolabError, OSError) as error:
            unknown.append(f"{kind.name}: could not be looked for ({error})")
    return found, unknown


def remove(leftovers: list[Leftover]) -> list[str]:
    """Remove leftovers, and return a sentence for each that could not be removed."""
    failed = []
    for leftover in leftovers:
        try:
            leftover.remove()
        except (PicolabError, OSError) as error:
            failed.append(f"{leftover.kind}: {leftover.what}: could not be removed ({error})")
    return failed


def left_alone() -> list[str]:
    """Return a sentence for each machine that somebody holds or keeps, with the way to remove it."""
    said = []
    for folder in machine_folders():
        with contextlib.suppress(PicolabError, KeyError, TypeError, ValueError):
            spec = spec_of(folder)
            if spec is None or keeper_of(folder) is None:
                continue
            holder = ProcessIdentity.from_json(spec["holder"])
            trial = registry.trial_folder_of(folder)
            of_whom = f" by the trial {trial.name}" if trial else ""
            who = f"held by process {holder.pid} ({holder.command})" if holder.alive else f"kept for debugging{of_whom}"
            said.append(f"machine {spec['name']!r}: {who}; to remove it: picolab machines remove {spec['name']}")
    return said
