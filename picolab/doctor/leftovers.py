"""Leftovers of picolab on this host, and of nothing else: found, shown, removed.

Everything here is of a process that is gone, and says in its name or in a file of ours that it is picolab's and of this
state folder. What cannot be proven to be that stays. Results of campaigns are never looked at, machines that
somebody holds or keeps are named and left alone.

A new kind of leftover is one more entry in `kinds`, or in the `LEFTOVERS` of a kind of machine.
"""

import contextlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from picolab.config.project import outputs_dir, state_dir
from picolab.errors import PicolabError
from picolab.host.leftovers import LeftoverKind, Removables, is_ours, is_unlocked, remove_locked
from picolab.host.locks import try_lock
from picolab.host.processes import ProcessIdentity
from picolab.jupyter import kernel_folders
from picolab.machines import registry
from picolab.machines.folders import exclusive_now, folder_of, machine_folders, machines_dir, remove_lock, spec_of
from picolab.machines.kinds import KINDS

_TEMPORARY = re.compile(
    r"\.(.+\.(?P<pid>[1-9]\d{0,9})\.new|(analysis|compare)\.(?P<report>[1-9]\d{0,9})\.ipynb)", re.ASCII
)
"""How a file is called until it is whole: `write_atomically`, and the notebook of a report."""


@dataclass(frozen=True)
class Leftover:
    """One thing that can be removed."""

    kind: str
    what: str
    """Its path or name."""
    remove: Callable[[], object]


# Kernels and temporary files


def _kernels() -> Removables:
    for folder in kernel_folders.dead_folders():
        yield str(folder), partial(kernel_folders.remove, folder)


def _connection_files() -> Removables:
    for note, file in kernel_folders.dead_notes().items():
        if file is not None:
            yield str(file), partial(file.unlink, missing_ok=True)
        yield str(note), partial(note.unlink, missing_ok=True)


def _temporary_files() -> Removables:
    for place in (state_dir(), outputs_dir()):
        for path in sorted(_files_below(place)):
            named = _TEMPORARY.fullmatch(path.name)
            if named is None or not is_ours(path, stat.S_ISREG):
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


def _downloads() -> Removables:
    cache = state_dir() / "builds"
    new = [folder for folder in sorted(cache.glob(".new-*")) if is_ours(folder, stat.S_ISDIR)]
    with contextlib.suppress(OSError), (cache / ".lock").open("w") as lock:
        # While somebody unpacks a build, it may be that one's.
        if new and try_lock(lock):
            for folder in new:
                yield str(folder), partial(remove_locked, cache / ".lock", folder)


# Machines


def _machines() -> Removables:
    for folder in machine_folders():
        kind = registry.kind_in(folder)
        if kind.is_abandoned(folder):
            yield str(folder), partial(kind.sweep, folder)


def _locks() -> Removables:
    for path in sorted(machines_dir().glob(".?*.lock")):
        name = path.name.removeprefix(".").removesuffix(".lock")
        if path.is_file() and not folder_of(name).exists() and is_unlocked(path):
            yield str(path), partial(_remove_lock, name)


def _remove_lock(name: str) -> None:
    with exclusive_now(name) as is_ours:
        if is_ours and not folder_of(name).exists():
            remove_lock(name)


def kinds() -> list[LeftoverKind]:
    """Return all kinds in the order of removal: what a machine's folder knows is needed until the machine is gone."""
    return [
        LeftoverKind("folder of a dead kernel", _kernels),
        LeftoverKind("connection file of a dead kernel", _connection_files),
        LeftoverKind("machine without a keeper", _machines),
        *(leftover for kind in KINDS.values() for leftover in kind.leftovers()),
        LeftoverKind("download that was not finished", _downloads),
        LeftoverKind("file that was not finished", _temporary_files),
        LeftoverKind("lock of no machine", _locks),
    ]


def find(silent: Collection[str] = (), besides: Sequence[LeftoverKind] = ()) -> tuple[list[Leftover], list[str]]:
    """Return what is left, and a sentence for each kind that could not be looked for.

    Args:
        silent: the kinds of machine whose daemon does not answer, which are left out.
        besides: kinds of leftovers of rooms above this one.
    """
    found, unknown = [], []
    for kind in [*kinds(), *besides]:
        if kind.machines in silent:
            continue
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


def why_not_asked() -> dict[str, str]:
    """Return the kinds of machine whose daemon does not answer, each with a sentence that says why."""
    return {
        name: f"leftovers of the kind {name} were not looked for: {why}"
        for name, why in registry.silent_kinds(registry.SILENT_AFTER_S).items()
    }


def has_machines(kind: str) -> bool:
    """Return whether this state folder has any machine of that kind, of any holder."""
    return any(registry.kind_in(folder).name == kind for folder in machine_folders())


def left_alone() -> list[str]:
    """Return a sentence for each machine that somebody holds or keeps, with the way to remove it."""
    said = []
    for folder in machine_folders():
        with contextlib.suppress(PicolabError, KeyError, TypeError, ValueError):
            spec = spec_of(folder)
            if spec is None or registry.kind_in(folder).is_abandoned(folder):
                continue
            holder = ProcessIdentity.from_json(spec["holder"])
            trial = registry.trial_folder_of(folder)
            of_whom = f" by the trial {trial.name}" if trial else ""
            who = f"held by process {holder.pid} ({holder.command})" if holder.alive else f"kept for debugging{of_whom}"
            said.append(f"machine {spec['name']!r}: {who}; to remove it: picolab machines remove {spec['name']}")
    return said
