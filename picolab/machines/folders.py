"""The folders of machines on the host: where the state of each is, who holds it, and its keeper.

Both kinds of machines keep `machine.json` (what it is and who holds it) and `keeper.json` (its keeper) in
`.picolab/machines/<name>/`.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from picolab.agent.procfs import boot_id
from picolab.config.project import state_dir
from picolab.errors import MachineBusy, MachineError
from picolab.files.writing import write_atomically
from picolab.host.locks import Wait, holders_of, in_words, names_still, try_lock
from picolab.host.processes import ProcessIdentity, is_self_or_ancestor, kill_and_wait

KEEPER = "keeper.json"
SPEC = "machine.json"
_UNHELD = "unheld.json"
"""Written by a keeper that sees that the holder is gone: which holder, and when that was."""
TRIAL_FILE = "trial.json"
"""Written by a trial into its machine's folder: where the trial's own folder is."""
_KEEPER_END_LIMIT_S = 60.0
_LOCK_LIMIT_S = 1800.0
"""More than the longest making of a machine may take: a first boot, and the copy of its box before."""
_LOCK_POLL_S = 0.02


def machines_dir() -> Path:
    """Return the folder that holds a folder for each machine."""
    return state_dir() / "machines"


def state_mark(machines: Path) -> str:
    """Return a mark that separates the machines of one state folder from equally named ones of another.

    Cgroups, work folders and virtual machines lie in places that all checkouts on a host share: without it, two
    of them would take down each other's machines.
    """
    return hashlib.sha256(os.fsencode(machines)).hexdigest()[:8]


def folder_of(name: str) -> Path:
    """Return the folder of a machine. A name is never a path: what lies in the folder may be removed as a whole.

    Raises:
        MachineError: it is a path, or empty.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise MachineError(f"machine {name!r}: there is no such machine; a name has no slashes and is not a path")
    return machines_dir() / name


def machine_folders() -> list[Path]:
    """Return the folders of all machines, whether they are well or not."""
    return sorted(folder for folder in machines_dir().glob("*") if folder.is_dir())


def lock_file(name: str = "") -> Path:
    """Return the file whose lock `exclusive` takes."""
    return machines_dir() / (f".{name}.lock" if name else ".lock")


@contextlib.contextmanager
def exclusive(name: str = "", report: Callable[[str], None] | None = None) -> Iterator[None]:
    """Let only one process at a time make, take or sweep a machine; the kernel frees the lock of a dead one.

    Args:
        name: of a machine whose making may take minutes, so that it shall not hold up all others; empty: all of them.
        report: gets a line while another process has it: who that is, and for how long it is waited for at most.

    Raises:
        MachineBusy: another process has had it for `_LOCK_LIMIT_S`.
    """
    machines_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    what = f"the machine {name!r}" if name else "the machines of this folder"
    wait = Wait(_LOCK_LIMIT_S, report)
    while True:
        with lock_file(name).open("w") as lock:
            if try_lock(lock) and names_still(lock_file(name), lock):
                yield
                return
        if wait.is_over:
            raise MachineBusy(
                f"{in_words(holders_of([lock_file(name)]))} has been making or taking down {what} for "
                f"{wait.limit_s:.0f} s; end it, then try again"
            )
        wait.show(lambda: in_words(holders_of([lock_file(name)])), f"it makes or takes down {what}")
        time.sleep(_LOCK_POLL_S)


@contextlib.contextmanager
def exclusive_now(name: str) -> Iterator[bool]:
    """Do as `exclusive` without a wait: yield False when another process has the machine at this moment."""
    machines_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_file(name).open("w") as lock:
        yield try_lock(lock) and names_still(lock_file(name), lock)


def remove_lock(name: str) -> None:
    """Remove the lock file of a machine that is gone; only whoever has the lock may do so.

    `exclusive` notices that the file it has locked is gone, and takes the new one.
    """
    lock_file(name).unlink(missing_ok=True)


@dataclass(frozen=True)
class WorkedBefore:
    """Whether something worked for this user since the host was started; a file next to the machines records it."""

    file: Path

    @property
    def worked(self) -> bool:
        try:
            return self.file.read_text() == _this_boot()
        except OSError:
            return False

    def note(self) -> None:
        if not self.worked:
            write_atomically(self.file, _this_boot())


def _this_boot() -> str:
    return f"user {os.geteuid()}, boot {boot_id()}\n"


def worked_before(what: str) -> WorkedBefore:
    """Return the memory of whether something worked."""
    return WorkedBefore(machines_dir() / f".{what}.worked")


def spec_of(folder: Path) -> dict[str, Any] | None:
    """Return what `machine.json` says, or None when there is none that can be read."""
    try:
        return dict(json.loads((folder / SPEC).read_text()))
    except (OSError, ValueError):
        return None


def write_spec(folder: Path, spec: dict[str, Any]) -> None:
    write_atomically(folder / SPEC, json.dumps(spec))


def held(spec: Mapping[str, Any], holder: ProcessIdentity, keep: bool) -> dict[str, Any]:
    """Return what `machine.json` says of a holder: who it is, since when, and whether the machine outlives it.

    Args:
        spec: what it says so far. A holder that had the machine already has had it since then.
    """
    same = spec.get("holder") == holder.to_json()
    since = spec.get("held_since") if same else None
    return {"holder": holder.to_json(), "keep": keep, "held_since": since or datetime.now(UTC).isoformat()}


def held_since(spec: Mapping[str, Any]) -> datetime | None:
    """Return when a machine got its holder; None for one that an older picolab has made."""
    try:
        return datetime.fromisoformat(spec["held_since"])
    except (KeyError, TypeError, ValueError):
        return None


def note_unheld(folder: Path, holder: ProcessIdentity) -> datetime:
    """Note that the holder is gone, and return since when; what was noted of this holder before stays.

    A full disk is no error.
    """
    since = _unheld(folder, holder.to_json())
    if since is None:
        since = datetime.now(UTC)
        with contextlib.suppress(OSError):
            write_atomically(folder / _UNHELD, json.dumps({"holder": holder.to_json(), "since": since.isoformat()}))
    return since


def unheld_since(folder: Path, spec: Mapping[str, Any]) -> datetime:
    """Return when the holder of a machine was gone; where no keeper saw that, when the machine was last worked on.

    Raises:
        OSError: the machine is gone.
    """
    return _unheld(folder, spec.get("holder")) or datetime.fromtimestamp((folder / SPEC).stat().st_mtime, UTC)


def _unheld(folder: Path, holder: Any) -> datetime | None:
    try:
        note = json.loads((folder / _UNHELD).read_text())
        return datetime.fromisoformat(note["since"]) if note["holder"] == holder else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def refuse_if_held(spec: dict[str, Any], *, ancestors_may: bool = True) -> None:
    """Do nothing if the machine may be taken.

    Args:
        ancestors_may: the machine of a campaign may be taken by its trials, which descend from it.

    Raises:
        MachineBusy: a process that is alive holds it, and is neither this one nor an ancestor that may.
    """
    holder = ProcessIdentity.from_json(spec["holder"])
    may = is_self_or_ancestor(holder.pid) if ancestors_may else holder.pid == os.getpid()
    if holder.alive and not may:
        raise MachineBusy(
            f"the machine {spec['name']!r} is held by process {holder.pid} ({holder.command}): "
            f"end that (in JupyterLab: shut its kernel down), choose another machine_name, "
            f"or take it away with: picolab machines remove {spec['name']}"
        )


# Keepers


def keeper_of(folder: Path) -> ProcessIdentity | None:
    """Return the machine's keeper if it is alive."""
    try:
        keeper = ProcessIdentity.from_json(json.loads((folder / KEEPER).read_text())["process"])
    except (OSError, ValueError, KeyError):
        return None
    return keeper if keeper.alive else None


class _Keeper(subprocess.Popen[str]):
    """A keeper that this process started. Python warns of processes that outlive their parent; a keeper does so."""

    def __del__(self) -> None:
        self.poll()


_own_keepers: list[tuple[Path, _Keeper]] = []
"""Keepers that this process started. They outlive it on purpose; those that ended are reaped here."""


def start_keeper(folder: Path, command: Sequence[str]) -> str:
    """Start a keeper and return the first line that it prints: `ready`, or what is wrong (then it has ended)."""
    keeper = _Keeper(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    assert keeper.stdout is not None
    with keeper.stdout:
        said = keeper.stdout.readline().strip()
    if said == "ready":
        _own_keepers.append((folder, keeper))
    else:
        with contextlib.suppress(ProcessLookupError):
            keeper.kill()
        keeper.wait()
    return said


def end_keeper(folder: Path) -> None:
    """Kill the keeper of a machine, if it has one, and return when it is gone."""
    keeper = keeper_of(folder)
    if keeper is not None:
        kill_and_wait([keeper], _KEEPER_END_LIMIT_S)


def reap_own_keepers() -> None:
    """Reap the keepers that this process started and that have ended, or are just ending."""
    for folder, keeper in [*_own_keepers]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if keeper_of(folder) is None:
                keeper.wait(_KEEPER_END_LIMIT_S)
            if keeper.poll() is not None:
                _own_keepers.remove((folder, keeper))
