"""The private folder of a kernel, and the remains of kernels whose owner is gone.

A kernel's sockets and its connection file, which holds the key that lets others run code in it, lie in one folder that
only this user can enter. Its name says which process answers for it, and that process keeps it locked: so whoever
starts next can tell a dead one from one that is in use, also by a process in another container.

A notebook that somebody runs by hand has its connection file where Jupyter or papermill puts it. They remove it, unless
they are killed: so such a kernel leaves a note about its file.
"""

import atexit
import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from picolab.agent.procfs import boot_id
from picolab.config.project import state_dir
from picolab.errors import HostUnfit
from picolab.files.writing import write_atomically
from picolab.host.locks import try_lock
from picolab.host.processes import ProcessIdentity, this_process
from picolab.jupyter.step_pipe import STEPS

CONNECTION_FILE = "connection.json"
SOCKETS = "s"
_NAME = re.compile(r"picolab-kernel-(?P<pid>\d+)-(?P<ticks>\d+)-(?P<boot>[0-9a-f]{8})-[0-9a-f]{8}")
_CONTENT = re.compile(rf"{re.escape(CONNECTION_FILE)}|{SOCKETS}-\d+|{STEPS}")
_SOCKET_PATH_BYTES = 107
"""The longest path that a unix socket may have."""
_SPARE_BYTES = len(f"/{SOCKETS}-99")


class KernelFolder:
    """A folder for one kernel of this process's. Call `remove` at the end; the next start does so for a dead process.

    Raises:
        HostUnfit: the paths of its sockets would be too long wherever it may lie.
    """

    def __init__(self) -> None:
        owner = this_process()
        name = f"picolab-kernel-{owner.pid}-{owner.start_ticks}-{owner.boot_id[:8]}-{secrets.token_hex(4)}"
        place = next((place for place in _places() if _is_short_enough(place / name)), None)
        if place is None:
            raise HostUnfit(
                f"{tempfile.gettempdir()}: this path is too long for the sockets of a kernel, which may have "
                f"{_SOCKET_PATH_BYTES} bytes; set TMPDIR to a folder with a shorter one"
            )
        self.path = place / name
        # First, so that it is found also by a start that has another TMPDIR.
        self._note = _notes_dir() / name
        with contextlib.suppress(OSError):
            self._note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._note.write_text(str(place))
        self.path.mkdir(mode=0o700)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try_lock(self._lock)

    def remove(self) -> None:
        """Remove it with what a kernel has left there. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if remove(self.path):
            with contextlib.suppress(OSError):
                self._note.unlink(missing_ok=True)


def ipc_settings(folder: Path) -> Any:
    """Return settings of a kernel manager that put connection file and sockets into a kernel's folder."""
    from traitlets.config import Config

    places = {"connection_file": str(folder / CONNECTION_FILE), "ip": str(folder / SOCKETS)}
    return Config({"KernelManager": {"transport": "ipc", **places}})


@contextlib.contextmanager
def ipc_kernel() -> Iterator[Any]:
    """Yield kernel settings with sockets in a folder that only this user can enter, instead of open TCP ports."""
    sweep()
    folder = KernelFolder()
    try:
        yield ipc_settings(folder.path)
    finally:
        folder.remove()


def _places() -> list[Path]:
    """Return the folders in which a kernel's folder may lie, the best first."""
    places = [Path(tempfile.gettempdir()).absolute(), Path("/tmp")]
    return [place for place in dict.fromkeys(places) if os.access(place, os.W_OK | os.X_OK)]


def _is_short_enough(folder: Path) -> bool:
    return len(os.fsencode(folder)) + _SPARE_BYTES <= _SOCKET_PATH_BYTES


def remove(folder: Path) -> bool:
    """Remove a kernel's folder; return whether it is gone. Files that no kernel makes stay, and so does it."""
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if _CONTENT.fullmatch(entry.name):
                entry.unlink(missing_ok=True)
        folder.rmdir()
    return not folder.exists()


def dead_folders() -> list[Path]:
    """Return the kernels' folders whose process is gone."""
    found: set[Path] = set()
    for place in _places():
        with contextlib.suppress(OSError):
            found |= {folder for folder in place.glob("picolab-kernel-*") if _is_dead(folder)}
    found |= {folder for folder in map(_noted_folder, _notes_of_folders()) if folder is not None and _is_dead(folder)}
    return sorted(found)


def _notes_of_folders() -> list[Path]:
    return [note for note in sorted(_notes_dir().glob("picolab-kernel-*")) if _NAME.fullmatch(note.name)]


def _noted_folder(note: Path) -> Path | None:
    """Return the folder that a note is about; the note says where, and its own name what it is called."""
    try:
        place = Path(note.read_text())
        return place / note.name if place.is_absolute() else None
    except (OSError, ValueError):
        return None


def _is_dead(folder: Path) -> bool:
    named = _NAME.fullmatch(folder.name)
    try:
        found = folder.lstat()
        if named is None or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        if _owner_lives(folder.name):
            return False
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (OSError, ValueError, OverflowError):
        return False
    try:
        return try_lock(lock)
    finally:
        os.close(lock)


def _owner_lives(name: str) -> bool:
    """Return whether the process that a folder's name contains is alive."""
    named = _NAME.fullmatch(name)
    owner = ProcessIdentity.of(int(named["pid"])) if named else None
    if named is None or owner is None:
        return False
    return str(owner.start_ticks) == named["ticks"] and boot_id().startswith(named["boot"])


# Kernels that were started by somebody else


def note_connection_file() -> None:
    """Leave a note about the connection file of this kernel, and remove what earlier ones have left.

    Nothing happens in a process that is no kernel, and in a kernel whose file lies in a folder of ours.
    """
    file = _own_connection_file()
    if file is None or _NAME.fullmatch(file.parent.name):
        return
    sweep()
    kernel, parent = this_process(), ProcessIdentity.of(os.getppid())
    # As long as its parent lives, a kernel may be started again with the same file.
    processes = [kernel.to_json(), *([parent.to_json()] if parent is not None else [])]
    note = _notes_dir() / f"kernel-{kernel.pid}-{kernel.start_ticks}.json"
    with contextlib.suppress(OSError):
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = {"connection_file": str(file), "sha256": _digest(file), "processes": processes}
        write_atomically(note, json.dumps(text))
        atexit.register(note.unlink, missing_ok=True)


def _own_connection_file() -> Path | None:
    if "ipykernel" not in sys.modules:
        return None
    from ipykernel.connect import get_connection_file

    try:
        file = Path(get_connection_file())
        return file if file.is_file() else None
    except (RuntimeError, OSError):
        return None


def _notes_dir() -> Path:
    return state_dir() / "kernels"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def dead_notes() -> dict[Path, Path | None]:
    """Return the notes of kernels that are gone, and of each the connection file, where that is still the noted one."""
    found: dict[Path, Path | None] = {}
    for note in _notes_of_folders():
        folder = _noted_folder(note)
        if not _owner_lives(note.name) and not (folder is not None and folder.exists()):
            found[note] = None
    for note in sorted(_notes_dir().glob("kernel-*.json")):
        try:
            noted = json.loads(note.read_text())
            file, digest = Path(str(noted["connection_file"])), str(noted["sha256"])
            if any(ProcessIdentity.from_json(process).alive for process in noted["processes"]):
                continue
        except (OSError, ValueError, TypeError, KeyError):
            # The note is of no use.
            found[note] = None
            continue
        found[note] = None
        with contextlib.suppress(OSError, ValueError):
            if file.is_file() and not file.is_symlink() and file.suffix == ".json" and _digest(file) == digest:
                found[note] = file
    return found


def sweep() -> list[str]:
    """Remove what kernels whose process is gone have left, and return the paths."""
    swept = [str(folder) for folder in dead_folders() if remove(folder)]
    for note, file in dead_notes().items():
        with contextlib.suppress(OSError):
            if file is not None:
                file.unlink(missing_ok=True)
                swept.append(str(file))
            note.unlink(missing_ok=True)
    return swept
