"""The machines that exist, of every kind: obtain one, attach to one, list them, take them down, sweep what is left."""

import contextlib
import json
from pathlib import Path
from typing import Any

from picolab.errors import MachineError, MachineKept
from picolab.host.processes import ProcessIdentity, this_process
from picolab.jupyter import kernel_folders
from picolab.machines.base import Holder, Machine, MachineWish
from picolab.machines.folders import (
    TRIAL_FILE,
    exclusive,
    folder_of,
    keeper_of,
    machine_folders,
    machines_dir,
    refuse_if_held,
    spec_of,
)
from picolab.machines.local import machine as local
from picolab.machines.local.machine import LocalMachine
from picolab.machines.vagrant import machine as vagrant
from picolab.machines.vagrant.machine import VagrantMachine


def _is_virtual(folder: Path) -> bool:
    spec = spec_of(folder)
    return spec is not None and spec.get("kind") == "vagrant"


def obtain(wish: MachineWish, holder: Holder) -> Machine:
    """Return the wanted machine: the one of that name if it fits and nobody else holds it, else a new one.

    Raises:
        MachineBusy: somebody who is alive holds it.
        HostUnfit: this host cannot make such a machine.
        MachineError: it could not be made.
    """
    folder = folder_of(wish.name)
    spec = spec_of(folder)
    if spec is not None and spec.get("kind") != wish.kind:
        check_free(wish.name)
        release_by_name(wish.name)
    return VagrantMachine.obtain(wish, holder) if wish.kind == "vagrant" else LocalMachine.obtain(wish, holder)


def attach(name: str) -> Machine | None:
    """Return the machine of that name if it exists and is looked after, without taking hold of it."""
    folder = folder_of(name)
    return VagrantMachine.attach(folder) if _is_virtual(folder) else LocalMachine.attach(name)


def check_free(name: str) -> None:
    """Do nothing if a machine of that name may be taken.

    Raises:
        MachineBusy: it exists, and a process that is alive and no ancestor of this one holds it.
    """
    folder = folder_of(name)
    spec = spec_of(folder)
    # A virtual machine runs without its keeper too.
    if spec is not None and (_is_virtual(folder) or keeper_of(folder) is not None):
        refuse_if_held(spec)


def check_not_kept(name: str) -> None:
    """Do nothing if no machine of that name was left up for debugging.

    Raises:
        MachineKept: one was, and nobody has come back for it yet; the message names its trial and the ways on.
    """
    machine = attach(name)
    if machine is None or not machine.kept:
        return
    spec = spec_of(machine.folder)
    if spec is not None and ProcessIdentity.from_json(spec["holder"]) == this_process():
        # Whoever works in this kernel is the one who looks at it.
        return
    trial = trial_folder_of(machine.folder)
    of_whom = f" by the trial {trial.name}" if trial else ""
    look = f"look at it by opening {trial / 'trial.ipynb'}; " if trial else ""
    raise MachineKept(
        f"the machine {name!r} was kept for debugging{of_whom}, and this would destroy it: {look}take it down with: "
        f"picolab machines remove {name}; or choose another machine_name"
    )


def trial_folder_of(folder: Path) -> Path | None:
    """Return the folder of the trial that used a machine last, as far as that is known."""
    try:
        return Path(json.loads((folder / TRIAL_FILE).read_text())["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def existing() -> list[dict[str, Any]]:
    """Return the machines that exist now: name, kind, ram_mb, holder, whether it is held, server, way in, folder."""
    machines = []
    for folder in machine_folders():
        spec = spec_of(folder)
        if spec is None or (not _is_virtual(folder) and keeper_of(folder) is None):
            continue
        with contextlib.suppress(MachineError):
            holder = ProcessIdentity.from_json(spec["holder"])
            machines.append(
                {
                    "name": spec["name"],
                    "kind": spec.get("kind", "local"),
                    "ram_mb": spec["ram_mb"],
                    "held": holder.alive,
                    "holder": f"pid {holder.pid} ({holder.command})" if holder.alive else "nobody",
                    "server": vagrant.server_of(folder) if _is_virtual(folder) else _local_server(folder),
                    "way_in": vagrant.way_in(folder) if _is_virtual(folder) else None,
                    "folder": str(folder),
                }
            )
    return machines


def _local_server(folder: Path) -> str:
    pid = local.server_of(folder)
    return f"pid {pid}" if pid is not None else "none"


def release_by_name(name: str) -> bool:
    """Take a machine down, whoever holds it; return False when there is none of that name."""
    folder = folder_of(name)
    if not folder.is_dir():
        return False
    if _is_virtual(folder):
        vagrant.release(folder)
    else:
        local.release(folder)
    return True


def sweep() -> list[str]:
    """Remove what dead kernels and machines without a keeper have left, and return the names of the machines."""
    swept = []
    # Here, so that a state folder that cannot be used is found out before anything is done.
    machines_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    kernel_folders.sweep()
    for folder in machine_folders():
        if _is_virtual(folder):
            # What libvirt does not let go now is tried again at the next start; nobody else shall wait for it.
            with contextlib.suppress(MachineError):
                if vagrant.sweep_folder(folder):
                    swept.append(folder.name)
            continue
        with exclusive():
            if folder.is_dir() and not _is_virtual(folder) and keeper_of(folder) is None:
                local.sweep_folder(folder)
                swept.append(folder.name)
    with contextlib.suppress(MachineError):
        swept += vagrant.sweep_lost()
    return swept
