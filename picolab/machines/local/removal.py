"""Takes local machines down: released ones, and what a killed keeper has left."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from picolab.errors import MachineError
from picolab.host.processes import ProcessIdentity, kill_and_wait
from picolab.machines.folders import (
    KEEPER,
    end_keeper,
    exclusive,
    keeper_of,
    reap_own_keepers,
    spec_of,
)
from picolab.machines.local import network
from picolab.machines.local.cgroup import MemoryCgroup
from picolab.machines.local.kind import LocalKind
from picolab.machines.local.request import ask

TMP = "tmp"


def sweep_folder(folder: Path) -> None:
    """Remove what a machine whose keeper was killed has left: processes in its cgroup or network, both, folders."""
    spec = spec_of(folder)
    with contextlib.suppress(OSError, ValueError, KeyError):
        keeper = json.loads((folder / KEEPER).read_text())
        cgroup = keeper["cgroup"]
        if cgroup is not None and spec is not None and Path(cgroup).name == spec["place"]:
            MemoryCgroup(spec["method"], Path(cgroup)).remove()
        if spec is not None:
            network.sweep(spec["place"], keeper.get("network", {}).get("namespace"))
    if spec is not None and Path(spec["work"]).name == spec["place"]:
        if spec.get("method") == "none":
            # No cgroup says who they are, and the kernel ended the server alone, not what it had started.
            kill_and_wait(_with_temporary_files_in(Path(spec["work"])))
        shutil.rmtree(spec["work"], ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def sweep_if_abandoned(folder: Path) -> bool:
    """Remove a machine without a keeper; return False when it has one, or has been made anew as another kind."""
    with exclusive():
        if not folder.is_dir() or keeper_of(folder) is not None:
            return False
        if (spec_of(folder) or {}).get("kind", LocalKind.name) != LocalKind.name:
            return False
        sweep_folder(folder)
        return True


def _with_temporary_files_in(work: Path) -> Iterator[ProcessIdentity]:
    """Yield this user's processes whose environment was made for a work folder."""
    mark = b"TMPDIR=" + os.fsencode(work / TMP)
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                process = ProcessIdentity.of(int(entry.name))
                if process is not None:
                    yield process


def release(folder: Path, report: Callable[[str], None] | None = None) -> None:
    """Take a machine down, whoever holds it.

    Args:
        report: gets a line while another process makes or takes down a machine.
    """
    with exclusive(report=report):
        take_down(folder)
    reap_own_keepers()


def take_down(folder: Path) -> None:
    """Have the keeper take its machine down; when it is gone or does not, end it and do so from here."""
    if keeper_of(folder) is not None:
        with contextlib.suppress(MachineError):
            ask(folder, {"do": "release"})
    if folder.is_dir():
        end_keeper(folder)
        sweep_folder(folder)
